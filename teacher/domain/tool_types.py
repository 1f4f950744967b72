"""The types that a tool's parameters may have: their JSON Schemas, and JSON values made into them.

pydantic does both. This module decides which types a model can fill in and says what to write instead of the others;
it writes the schemas without references, in the form that the chat templates of models were trained on.

| type | schema | what the tool gets |
|---|---|---|
| str, int, float, bool, X or None | the JSON type | the value; a float may be an int |
| Literal, Enum | enum | the value; the Enum's member |
| date | string, format date | datetime.date |
| datetime | string, format date-time, with an offset (RFC 3339) | an aware datetime |
| pydantic.NaiveDatetime, time | string, with a pattern | a datetime or time without an offset |
| list[X], tuple[X, Y], dict[str, X], dict | array, object | list, tuple, dict |
| TypedDict, dataclass, pydantic model | object | a dict; an instance |

>>> from teacher.domain import Environment
>>> from teacher.domain.tool_schemas import make_tools
>>> @dataclasses.dataclass
... class Line:
...     item: str
...     due: dt.date
...     count: int = 1
>>> class Desk(Environment):
...     def order(self, lines: list[Line], speed: Literal["normal", "fast"] = "normal") -> dict:
...         '''Order items.
...
...         Args:
...             lines: What is ordered.
...             speed: How soon it is needed.
...         '''
>>> order = make_tools(Desk, Path("environment.py"))["order"]["function"]["parameters"]["properties"]
>>> order["speed"]["enum"], order["lines"]["items"]["properties"]["due"]
(['normal', 'fast'], {'type': 'string', 'format': 'date'})
>>> class Shelf(Environment):
...     def tag(self, labels: set[str]) -> dict:
...         '''Tag a shelf.
...
...         Args:
...             labels: The labels.
...         '''
>>> make_tools(Shelf, Path("environment.py"))
Traceback (most recent call last):
schemas.errors.InputError: environment.py: Shelf.tag: parameter labels: found set[str], expected list[...]
"""

import collections.abc
import dataclasses
import datetime as dt
import enum
import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, NotRequired, Required, Union
from uuid import UUID

import pydantic
import typing_extensions
from pydantic.json_schema import GenerateJsonSchema

# Without \d, which not every grammar of a server knows.
_DATE = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK = "([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?"
_PLAIN = (str, int, float, bool, type(None), dt.date, dt.datetime, dt.time)
_PLAIN_PYDANTIC = (pydantic.NaiveDatetime, pydantic.AwareDatetime)
_SEQUENCES = (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_INSTEAD: dict[Any, str] = {
    Any: "the type of what the model sends, such as str, list[str] or a dataclass",
    object: "the type of what the model sends, such as str, list[str] or a dataclass",
    list: "list[str], or another type of its items",
    tuple: "tuple[float, float], or other types of its items",
    set: "list[...]",
    frozenset: "list[...]",
    collections.abc.Set: "list[...]",
    bytes: "str",
    bytearray: "str",
    collections.abc.Callable: "a value that JSON has: a model sends no code",
    complex: "float",
    Decimal: "float",
    Path: "str",
    UUID: "str",
    dt.timedelta: "int, with the unit in the parameter's name, such as minutes",
}
_OWN_CLASS = "a dataclass, a TypedDict, a pydantic model or an Enum"


class NotSupported(Exception):
    """A type that no schema is made of. The message names the place inside the type, and what to write instead."""


class _Schemas(GenerateJsonSchema):
    """pydantic's schemas, with patterns for times without an offset: `format` demands one (RFC 3339)."""

    def time_schema(self, schema: Any) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{_CLOCK}$"}

    def datetime_schema(self, schema: Any) -> dict[str, Any]:
        if schema.get("tz_constraint") == "naive":
            return {"type": "string", "pattern": f"^{_DATE}T{_CLOCK}$"}
        return {"type": "string", "format": "date-time"}


def make_schema(hint: Any, name: str) -> dict[str, Any]:
    """Returns the JSON Schema of a parameter's type, without references and titles.

    name: the parameter's name, for errors. A text in Annotated is the description.

    Raises:
        NotSupported: the type, or one inside it, is not supported.
    """
    adapter = _adapter(hint, name)
    try:
        schema = adapter.json_schema(schema_generator=_Schemas)
    except pydantic.errors.PydanticInvalidForJsonSchema as error:
        raise NotSupported(f"{name}: {str(error).splitlines()[0]}") from None
    schema = _tidy(schema, schema.get("$defs", {}))
    for text in getattr(hint, "__metadata__", ()):
        if isinstance(text, str):
            schema.setdefault("description", text)
    return schema


def convert(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns a call's arguments as the types that the function's parameters are annotated with.

    Raises:
        ValueError: a value is valid by its schema and not for its type; the message names parameter and field.
    """
    converted = {}
    for name, value in arguments.items():
        try:
            converted[name] = _parameter(
                getattr(function, "__func__", function), name
            ).validate_python(value)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in (name, *first["loc"]))
            raise ValueError(f"{place}: {first['msg']}") from None
    return converted


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Returns the annotations of a function's parameters, in their order; "return" is the result's.

    Raises:
        NotSupported: an annotation is text that names something unknown.
    """
    try:
        return typing.get_type_hints(inspect.unwrap(function), include_extras=True)
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise NotSupported(f"its annotations cannot be read: {error}") from None


@functools.cache
def _parameter(function: Callable[..., Any], name: str) -> pydantic.TypeAdapter[Any]:
    return _adapter(hints_of(function)[name], name)


def _adapter(hint: Any, name: str) -> pydantic.TypeAdapter[Any]:
    try:
        return pydantic.TypeAdapter(_supported(hint, name, ()))
    except (pydantic.PydanticUserError, NameError) as error:
        raise NotSupported(f"{name}: {str(error).splitlines()[0]}") from None


def _keep_int(value: Any, validate: Callable[[Any], Any]) -> Any:
    # An int is a float to Python's type system, and 15 stays 15 in what the tool returns.
    return value if type(value) is int else validate(value)


_KEEP_INT = pydantic.WrapValidator(_keep_int)


def _supported(hint: Any, place: str, within: tuple[Any, ...]) -> Any:
    """Returns a type as pydantic gets it, or raises NotSupported.

    place: where it is, such as "order.items[].price". within: the classes around it.
    """
    if isinstance(hint, typing_extensions.TypeAliasType):
        return _supported(hint.__value__, place, within)
    if isinstance(hint, NewType):
        return _supported(hint.__supertype__, place, within)
    if hint is float:
        return Annotated[float, _KEEP_INT]
    if hint in (dict, typing.Dict):  # noqa: UP006
        return dict[str, Any]
    if hint in _PLAIN or hint in _PLAIN_PYDANTIC:
        return hint
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        if arguments[0] is float:
            return Annotated[float, *arguments[1:], _KEEP_INT]
        inner = _supported(arguments[0], place, within)
        return Annotated[inner, *arguments[1:]]
    if origin in (Required, NotRequired, typing_extensions.ReadOnly):
        return origin[_supported(arguments[0], place, within)]
    if origin in (Union, types.UnionType):
        return Union[tuple(_supported(each, place, within) for each in arguments)]  # noqa: UP007
    if origin is Literal:
        return _literal(hint, arguments, place)
    if origin in _SEQUENCES and arguments:
        return list[_supported(arguments[0], f"{place}[]", within)]  # type: ignore[misc]
    if origin is tuple and arguments and arguments != ((),):
        parts = [a if a is ... else _supported(a, f"{place}[]", within) for a in arguments]
        return tuple[tuple(parts)]  # type: ignore[misc]
    if origin in _MAPPINGS and arguments:
        if arguments[0] is not str:
            raise _refusal(hint, place, "dict[str, ...]: JSON has only text keys")
        values = arguments[1]
        return dict[str, values if values is Any else _supported(values, f"{place}[]", within)]  # type: ignore[misc,valid-type]
    if inspect.isclass(origin or hint):
        return _class(hint, place, within)
    raise _refusal(
        hint, place, _INSTEAD.get(hint, "a type such as str, int, list[str] or a dataclass")
    )


def _class(hint: Any, place: str, within: tuple[Any, ...]) -> Any:
    """Returns an Enum, a TypedDict, a dataclass or a pydantic model whose fields are supported."""
    if hint in within:
        raise _refusal(
            hint, place, "a type that does not contain itself: a schema would have no end"
        )
    inner = (*within, hint)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        values = [member.value for member in hint]
        if (
            issubclass(hint, enum.Flag)
            or not values
            or not all(type(v) in (str, int) for v in values)
        ):
            raise _refusal(hint, place, "an Enum with values that are text or whole numbers")
        return hint
    if typing_extensions.is_typeddict(hint):
        hints = typing_extensions.get_type_hints(hint, include_extras=True)
        fields = {name: _supported(each, f"{place}.{name}", inner) for name, each in hints.items()}
        if type(hint).__module__ != "typing" or sys.version_info >= (3, 12):
            return hint
        # pydantic takes only this class of Python 3.11, which is the same in all else.
        named = {
            name: each
            if typing.get_origin(each) in (Required, NotRequired)
            else (Required if name in hint.__required_keys__ else NotRequired)[each]
            for name, each in fields.items()
        }
        made = typing_extensions.TypedDict(hint.__name__, named)  # type: ignore[misc]
        made.__doc__ = hint.__doc__
        return made
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint, include_extras=True)
        for each in dataclasses.fields(hint):
            _inside_class(hints[each.name], f"{place}.{each.name}", inner)
        return hint
    if isinstance(hint, type) and issubclass(hint, pydantic.BaseModel):
        for name, info in hint.model_fields.items():
            _inside_class(info.annotation, f"{place}.{name}", inner)
        return hint
    raise _refusal(hint, place, _INSTEAD.get(typing.get_origin(hint) or hint, _OWN_CLASS))


def _inside_class(hint: Any, place: str, within: tuple[Any, ...]) -> None:
    """Checks the type of a field of a class, which pydantic reads as it is."""
    supported = _supported(hint, place, within)
    if typing_extensions.is_typeddict(hint) and supported is not hint:
        raise _refusal(hint, place, "a TypedDict that is imported from typing_extensions")


def _literal(hint: Any, values: tuple[Any, ...], place: str) -> Any:
    if not all(type(value) in (str, int, bool, type(None)) for value in values):
        raise _refusal(
            hint, place, "a Literal of texts, whole numbers or booleans, or the Enum itself"
        )
    return hint


def _refusal(hint: Any, place: str, instead: str) -> NotSupported:
    name = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    name = name.replace("typing.", "").replace("collections.abc.", "")
    return NotSupported(f"{place}: found {name}, expected {instead}")


def _tidy(node: Any, definitions: dict[str, Any]) -> Any:
    """Returns a schema of pydantic's without references and titles, its type first and its description last."""
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = definitions[node["$ref"].rsplit("/", 1)[-1]]
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    node = {k: v for k, v in node.items() if k not in ("title", "$defs", "discriminator")}
    for key in ("items", "additionalProperties"):
        if key in node:
            node[key] = _tidy(node[key], definitions)
    for key in ("anyOf", "oneOf", "prefixItems"):
        if key in node:
            node[key] = [_tidy(each, definitions) for each in node[key]]
    if "properties" in node:
        node["properties"] = {k: _tidy(v, definitions) for k, v in node["properties"].items()}
        node.setdefault("required", [])
        node.setdefault("additionalProperties", False)
    if node.get("additionalProperties") is True and "properties" not in node:
        del node["additionalProperties"]
    if "const" in node:
        node["enum"] = [node.pop("const")]
    if "enum" in node:
        kinds = list(dict.fromkeys(_JSON_TYPES[type(value)] for value in node["enum"]))
        node["type"] = kinds[0] if len(kinds) == 1 else kinds
    if node.get("default", ...) is None:
        del node["default"]
    node = _merged(node)
    first = [key for key in ("type", "enum") if key in node]
    last = [key for key in ("description", "default") if key in node]
    rest = [key for key in node if key not in (*first, *last)]
    return {key: node[key] for key in (*first, *rest, *last)}


_JSON_TYPES = {str: "string", int: "integer", bool: "boolean", type(None): "null", float: "number"}


def _merged(node: dict[str, Any]) -> dict[str, Any]:
    """Returns alternatives as one schema with a list of types, if they are plain types, or one schema and null."""
    branches = node.get("anyOf", [])
    others = [branch for branch in branches if branch != {"type": "null"}]
    outer = {key: value for key, value in node.items() if key != "anyOf"}
    names = [branch.get("type") for branch in others]
    if not branches or not all(isinstance(name, str) for name in names):
        return node
    null = ["null"] if len(others) < len(branches) else []
    if len(others) == 1:
        merged = {**others[0], "type": [*names, *null], **outer}
        return {**merged, "enum": [*merged["enum"], None]} if "enum" in merged else merged
    if all(branch.keys() == {"type"} for branch in others):
        return {"type": [*dict.fromkeys(names), *null], **outer}
    return node
