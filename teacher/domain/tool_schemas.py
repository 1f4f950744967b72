"""Makes the tools' schemas of a world's public methods, from their signatures and Google-style docstrings.

Every public method is a tool: inherited ones, static methods and class methods too. A property is none. What has no
schema is refused with the file, the method, the parameter, and what to write instead.
"""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docstring_parser
from docstring_parser import DocstringStyle
from pydantic.fields import FieldInfo

from schemas.errors import InputError
from schemas.tool_calls import arguments_problem
from schemas.trace import Tool
from teacher.domain.blueprint import Environment
from teacher.domain.given_tools import tool_of
from teacher.domain.json_values import NotJson, to_json
from teacher.domain.tool_types import NotSupported, hints_of, make_schema

_NOT_TOOLS = {"reset", "get_reward"}
# What OpenAI's API accepts as the name of a function.
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
# Where the description of a Google-style docstring ends.
_SECTION = re.compile(r"^(?:Args|Arguments|Parameters|Params|Returns|Raises|Yields):", re.MULTILINE)
_HELPER = "a public method is a tool; start a helper's name with _"


def make_tools(environment: type[Environment], file: Path) -> dict[str, Tool]:
    """Returns the OpenAI functions of a world's tools, by name.

    Raises:
        InputError: a public method cannot be a tool, or there is none.
    """
    tools = {}
    for name, value in inspect.getmembers(environment, _is_method):
        if name.startswith("_") or name in _NOT_TOOLS:
            continue
        try:
            if tool := tool_of(value):
                tools[tool["function"]["name"]] = tool
            else:
                tools[name] = _make_tool(name, value, inspect.getattr_static(environment, name))
        except (NotSupported, NotJson) as error:
            raise InputError(f"{file}: {environment.__name__}.{name}: {error}") from None
    if not tools:
        raise InputError(f"{file}: {environment.__name__}: no public method, so no tool")
    return tools


def _is_method(value: Any) -> bool:
    return inspect.isfunction(value) or inspect.ismethod(value)


def _make_tool(name: str, value: Callable[..., Any], static: Any) -> Tool:
    if not _NAME.fullmatch(name):
        raise NotSupported("expected a name of 1 to 64 letters, digits, _ and - of ASCII")
    function = inspect.unwrap(value)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise NotSupported(
            "found an async method, expected a plain one: a world runs in one thread"
        )
    if inspect.isgeneratorfunction(function):
        raise NotSupported("found a generator (yield), expected a method that returns a list")
    if not inspect.getdoc(function):
        raise NotSupported(f"no docstring: {_HELPER}, or give it a Google-style docstring")
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    if not isinstance(static, staticmethod) and not inspect.ismethod(function):
        if not parameters:
            raise NotSupported("found no parameters, expected self, or @staticmethod above it")
        parameters = parameters[1:]  # self
    description, documented = _read_docstring(inspect.getdoc(function) or "")
    if unknown := sorted(documented.keys() - {parameter.name for parameter in parameters}):
        raise NotSupported(f"its docstring describes {unknown[0]}, which is no parameter")
    hints = hints_of(function)
    properties = {}
    for parameter in parameters:
        try:
            properties[parameter.name] = _property(parameter, hints, documented)
        except (NotSupported, NotJson) as error:
            raise NotSupported(f"parameter {error}") from None
    required = [p.name for p in parameters if p.default is inspect.Parameter.empty]
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    # The order of the keys is part of the prompt; this is that of transformers' get_json_schema.
    schema |= {"required": required} if required else {}
    schema |= {"additionalProperties": False, "required": required}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": schema},
    }


def _property(
    parameter: inspect.Parameter, hints: dict[str, Any], documented: dict[str, str]
) -> dict[str, Any]:
    """Returns the schema of one parameter."""
    name = parameter.name
    match parameter.kind:
        case inspect.Parameter.VAR_POSITIONAL | inspect.Parameter.VAR_KEYWORD:
            star = "*" if parameter.kind == inspect.Parameter.VAR_POSITIONAL else "**"
            raise NotSupported(f"{star}{name}: expected named parameters: {_HELPER}")
        case inspect.Parameter.POSITIONAL_ONLY:
            raise NotSupported(
                f"{name}: found /, which makes it positional: a call names each argument"
            )
    if not _NAME.fullmatch(name):
        raise NotSupported(f"{name}: expected a name of 1 to 64 letters, digits and _ of ASCII")
    if name not in hints:
        raise NotSupported(f"{name}: no type hint: expected one such as {name}: str")
    schema = make_schema(hints[name], name)
    own_description = schema.pop("description", None)
    schema.pop("default", None)
    schema["description"] = documented.get(name) or own_description
    if not schema["description"]:
        raise NotSupported(
            f"{name}: no description in the docstring: expected a line `{name}: ...` in its section `Args:`"
        )
    if parameter.default is inspect.Parameter.empty:
        return schema
    if isinstance(parameter.default, FieldInfo):
        raise NotSupported(
            f"{name}: found Field(...) as its default: write Annotated[..., Field(...)]"
        )
    default = to_json(parameter.default, name=f"{name}: its default")
    wrapper = {"properties": {"default": schema}}
    if problem := arguments_problem(wrapper, {"default": default}):
        fix = f": write {name}: ... | None" if default is None else ""
        raise NotSupported(f"{name}: {problem}{fix}")
    return schema if default is None else {**schema, "default": default}


def _read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """Returns the description of a Google-style docstring, and that of each parameter in one line.

    Raises:
        NotSupported: it has another style, or no description.
    """
    try:
        parsed = docstring_parser.parse(text, style=DocstringStyle.GOOGLE)
    except docstring_parser.ParseError as error:
        raise NotSupported(
            f"its docstring is not in Google's style: {error} A line below `Args:` is `name: ...`, and a line"
            " that continues it is indented deeper"
        ) from None
    other = docstring_parser.parse(text) if not parsed.params else parsed
    if other.params and other.style != DocstringStyle.GOOGLE:
        style = str(other.style).rsplit(".", 1)[-1]
        raise NotSupported(
            f"its docstring is in the style {style}, expected Google's: a section `Args:` with a line"
            f" `{other.params[0].arg_name}: ...` for each parameter"
        )
    description = _SECTION.split(text, maxsplit=1)[0].strip()
    if not description:
        raise NotSupported("its docstring has no first line that says what the tool does")
    return description, {
        parameter.arg_name.lstrip("*"): " ".join((parameter.description or "").split())
        for parameter in parsed.params
        if parameter.args[0] == "param"
    }
