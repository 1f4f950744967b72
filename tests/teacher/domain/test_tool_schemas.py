"""Tools' schemas: those that authors' types give, arguments as these types, and what is refused with what to write."""

import collections.abc
import dataclasses
import datetime as dt
import decimal
import enum
import json
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, NotRequired, Optional, TypedDict

import pydantic
import pytest
import typing_extensions
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InputError
from schemas.tool_calls import check_arguments
from teacher.dialects.kimi_schema import moonshot_tool
from teacher.domain import Environment, load
from teacher.domain.tool_schemas import make_tools
from teacher.domain.tool_types import NotSupported, convert, make_schema
from teacher.domain.worlds import run_tool


class Status(enum.Enum):
    OPEN = "open"
    ON_HOLD = "on_hold"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Party(TypedDict):
    """A party of a claim."""

    name: str
    since: NotRequired[dt.date]


@dataclasses.dataclass
class Item:
    price: float
    due: dt.date | None = None
    tags: list[str] = dataclasses.field(default_factory=list)


class Order(pydantic.BaseModel):
    title: str
    items: list[Item] = pydantic.Field(min_length=1, description="What is ordered.")
    status: Status = Status.OPEN


class Node(pydantic.BaseModel):
    children: "list[Node]"


class Tagged(pydantic.BaseModel):
    tags: set[str]


class Plain:
    pass


@dataclasses.dataclass
class Wraps:
    party: Party


class Point(typing.NamedTuple):
    x: int


ClaimId = NewType("ClaimId", str)
ITEM = {
    "type": "object",
    "properties": {
        "price": {"type": "number"},
        "due": {"type": ["string", "null"], "format": "date"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["price"],
    "additionalProperties": False,
}
PARTY = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "since": {"type": "string", "format": "date"}},
    "required": ["name"],
    "additionalProperties": False,
    "description": "A party of a claim.",
}
NOON = dt.datetime(2026, 3, 2, 12, tzinfo=dt.UTC)

# A type, its schema, an argument as a model sends it, and what the tool gets.
TYPES: list[tuple[Any, dict[str, Any], Any, Any]] = [
    (str, {"type": "string"}, "a", "a"),
    (int, {"type": "integer"}, 3, 3),
    (int, {"type": "integer"}, 3.0, 3),
    (float, {"type": "number"}, 2.5, 2.5),
    (float, {"type": "number"}, 15, 15),
    (bool, {"type": "boolean"}, True, True),
    (Status, {"type": "string", "enum": ["open", "on_hold"]}, "on_hold", Status.ON_HOLD),
    (Level, {"type": "integer", "enum": [1, 2]}, 2, Level.HIGH),
    (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}, "b", "b"),
    (Literal["a"], {"type": "string", "enum": ["a"]}, "a", "a"),
    (dt.date, {"type": "string", "format": "date"}, "2026-03-02", dt.date(2026, 3, 2)),
    (dt.datetime, {"type": "string", "format": "date-time"}, "2026-03-02T12:00:00Z", NOON),
    (
        pydantic.NaiveDatetime,
        {
            "type": "string",
            "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?$",
        },
        "2026-03-02T12:00",
        NOON.replace(tzinfo=None),
    ),
    (
        dt.time,
        {"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?$"},
        "09:30",
        dt.time(9, 30),
    ),
    (str | None, {"type": ["string", "null"]}, None, None),
    (Optional[Status], {"type": ["string", "null"], "enum": ["open", "on_hold", None]}, None, None),  # noqa: UP045
    (int | str, {"type": ["integer", "string"]}, "7", "7"),
    (list[str], {"type": "array", "items": {"type": "string"}}, ["a"], ["a"]),
    (list[dict], {"type": "array", "items": {"type": "object"}}, [{"a": 1}], [{"a": 1}]),
    (dict, {"type": "object"}, {"a": [1]}, {"a": [1]}),
    (dict[str, Any], {"type": "object"}, {"a": [1]}, {"a": [1]}),
    (
        dict[str, Status],
        {
            "type": "object",
            "additionalProperties": {"type": "string", "enum": ["open", "on_hold"]},
        },
        {"C-1": "open"},
        {"C-1": Status.OPEN},
    ),
    (
        tuple[float, float],
        {
            "type": "array",
            "maxItems": 2,
            "minItems": 2,
            "prefixItems": [{"type": "number"}, {"type": "number"}],
        },
        [1, 2.5],
        (1, 2.5),
    ),
    (collections.abc.Sequence[int], {"type": "array", "items": {"type": "integer"}}, [1], [1]),
    (
        Party,
        PARTY,
        {"name": "Ada", "since": "2026-03-02"},
        {"name": "Ada", "since": dt.date(2026, 3, 2)},
    ),
    (Item, ITEM, {"price": 2, "due": None}, Item(2)),
    (
        Order,
        {
            "type": "object",
            "properties": {
                "title": {"type": "string"},
                "items": {
                    "type": "array",
                    "items": ITEM,
                    "minItems": 1,
                    "description": "What is ordered.",
                },
                "status": {"type": "string", "enum": ["open", "on_hold"], "default": "open"},
            },
            "required": ["title", "items"],
            "additionalProperties": False,
        },
        {"title": "Desk", "items": [{"price": 2.5, "due": "2026-03-02"}]},
        Order(title="Desk", items=[Item(2.5, dt.date(2026, 3, 2))]),
    ),
    (
        Annotated[float, pydantic.Field(gt=0, description="A price.")],
        {"type": "number", "exclusiveMinimum": 0, "description": "A price."},
        5,
        5,
    ),
    (Annotated[str, "The city"], {"type": "string", "description": "The city"}, "Bern", "Bern"),
    (ClaimId, {"type": "string"}, "K-1", "K-1"),
    (
        typing_extensions.TypeAliasType("Ids", list[int]),
        {"type": "array", "items": {"type": "integer"}},
        [1],
        [1],
    ),
]


def function_of(hint: Any) -> Callable[..., Any]:
    def tool(value: Any) -> None: ...

    tool.__annotations__ = {"value": hint}
    return tool


@pytest.mark.parametrize(("hint", "schema", "argument", "value"), TYPES)
def test_a_type_has_a_schema_and_an_argument_becomes_its_value(
    hint: Any, schema: dict[str, Any], argument: Any, value: Any
) -> None:
    made = make_schema(hint, "value")
    assert made == schema
    assert next(iter(made)) == "type"
    tool = {"function": {"parameters": {"properties": {"value": made}}}}
    assert check_arguments(tool, {"value": argument}) is None
    (converted,) = convert(function_of(hint), {"value": argument}).values()
    assert converted == value and type(converted) is type(value)


@pytest.mark.parametrize(
    ("hint", "argument"),
    [
        (int, 2.5),
        (int, "3"),
        (Status, "closed"),
        (Level, 3),
        (dt.date, "2026-02-30"),
        (dt.date, "2 March 2026"),
        (dt.datetime, "2026-03-02T12:00:00"),
        (pydantic.NaiveDatetime, "2026-03-02T12:00:00Z"),
        (dt.time, "24:00"),
        (str | None, 3),
        (tuple[float, float], [1, 2, 3]),
        (Party, {"since": "2026-03-02"}),
        (Party, {"name": "Ada", "until": "2026-03-02"}),
        (Item, {"price": "2"}),
        (Order, {"title": "Desk", "items": []}),
        (Order, {"title": "Desk", "items": [{"price": 1, "due": "soon"}]}),
        (Annotated[float, pydantic.Field(gt=0)], 0),
        (dict[str, int], {"a": "1"}),
    ],
)
def test_an_argument_that_is_nearly_right_is_refused_by_the_schema(
    hint: Any, argument: Any
) -> None:
    tool = {"function": {"parameters": {"properties": {"value": make_schema(hint, "value")}}}}
    assert check_arguments(tool, {"value": argument})


def test_an_argument_in_another_form_of_date_is_told_the_form_by_an_example() -> None:
    tool = {"function": {"parameters": {"properties": {"at": make_schema(dt.datetime, "at")}}}}
    assert check_arguments(tool, {"at": "2026-03-02T10:00"}) == (
        "at: found '2026-03-02T10:00', expected date-time such as 2026-03-02T10:00:00Z"
    )


def test_what_the_schema_cannot_say_is_an_error_of_the_argument() -> None:
    @dataclasses.dataclass
    class Span:
        first: int
        last: int

        def __post_init__(self) -> None:
            if self.last < self.first:
                raise ValueError("last is before first")

    with pytest.raises(ValueError, match="^value: Value error, last is before first$"):
        convert(function_of(Span), {"value": {"first": 2, "last": 1}})
    with pytest.raises(ValueError, match="^value: "):
        convert(function_of(pydantic.NaiveDatetime), {"value": "2026-02-30T12:00"})


@pytest.mark.parametrize(
    ("hint", "message"),
    [
        (Any, "value: found Any, expected the type of what the model sends"),
        (object, "value: found object, expected the type of what the model sends"),
        (set[int], "value: found set[int], expected list[...]"),
        (bytes, "value: found bytes, expected str"),
        (decimal.Decimal, "value: found Decimal, expected float"),
        (Path, "value: found Path, expected str"),
        (
            dt.timedelta,
            "value: found timedelta, expected int, with the unit in the parameter's name",
        ),
        (list, "value: found list, expected list[str]"),
        (list[Any], "value[]: found Any, expected "),
        (dict[str, list], "value[]: found list, expected list[str]"),
        (
            dict[int, str],
            "value: found dict[int, str], expected dict[str, ...]: JSON has only text keys",
        ),
        (Callable[[int], int], "value: found Callable[[int], int], expected a value that JSON has"),
        (
            Plain,
            "value: found Plain, expected a dataclass, a TypedDict, a pydantic model or an Enum",
        ),
        (Point, "value: found Point, expected a dataclass"),
        (list[Plain | None], "value[]: found Plain, expected a dataclass"),
        (Tagged, "value.tags: found set[str], expected list[...]"),
        (Node, "value.children[]: found Node, expected a type that does not contain itself"),
        (
            Wraps,
            "value.party: found Party, expected a TypedDict that is imported from typing_extensions",
        ),
        (
            enum.Flag("Flags", "A B"),
            "value: found Flags, expected an Enum with values that are text",
        ),
        (
            Literal[Status.OPEN],
            "value: found Literal[<Status.OPEN: 'open'>], expected a Literal of texts",
        ),
    ],
)
def test_a_type_that_is_not_supported_is_refused_by_its_place_with_what_to_write(
    hint: Any, message: str
) -> None:
    with pytest.raises(NotSupported) as raised:
        make_schema(hint, "value")
    assert str(raised.value).startswith(message)


# ------------------------------------------------------------------------------------- methods


class Desk(Environment):
    """A world with one tool of each form."""

    clock = dt.datetime.now

    def plain(self, claim: str, status: Status = Status.OPEN, note: str | None = None) -> dict:
        """Set a claim's status.

        A claim has one status.

        Args:
            claim (str): The claim's number,
                such as K-1.
            status: The new status. Note: it stays.
            note: Why.

        Returns:
            The claim.
        """
        return {"claim": claim, "status": status, "note": note}

    @staticmethod
    def add(first: float, second: float) -> float:
        """Add two numbers.

        Args:
            first: One.
            second: The other.
        """
        return first + second

    @classmethod
    def name_of(cls) -> str:
        """Get the desk's name."""
        return cls.__name__

    @property
    def claims(self) -> list[str]:
        return []


class FrontDesk(Desk):
    """Inherits its tools."""


def test_tools_are_the_public_methods_inherited_static_and_of_the_class_and_no_properties() -> None:
    tools = make_tools(FrontDesk, Path("environment.py"))
    assert sorted(tools) == ["add", "name_of", "plain"]
    assert tools["name_of"]["function"]["parameters"]["properties"] == {}
    world = FrontDesk()
    assert run_tool(world, "add", {"first": 1, "second": 2}) == 3
    assert run_tool(world, "name_of", {}) == "FrontDesk"


def test_a_default_is_shown_is_not_required_and_reaches_the_tool() -> None:
    tool = make_tools(Desk, Path("environment.py"))["plain"]
    assert tool["function"] == {
        "name": "plain",
        "description": "Set a claim's status.\n\nA claim has one status.",
        "parameters": {
            "type": "object",
            "properties": {
                "claim": {"type": "string", "description": "The claim's number, such as K-1."},
                "status": {
                    "type": "string",
                    "enum": ["open", "on_hold"],
                    "description": "The new status. Note: it stays.",
                    "default": "open",
                },
                "note": {"type": ["string", "null"], "description": "Why."},
            },
            "required": ["claim"],
            "additionalProperties": False,
        },
    }
    result = run_tool(Desk(), "plain", {"claim": "K-1"})
    assert result == {"claim": "K-1", "status": "open", "note": None}


def test_a_description_ends_at_the_arguments_and_keeps_its_examples() -> None:
    def tool(self: Any) -> None:
        """List days.

        Example:
            The next 3 days.

        Returns:
            The days.
        """

    world = type("World", (Environment,), {"tool": tool})
    made = make_tools(world, Path("environment.py"))["tool"]["function"]
    assert made["description"] == "List days.\n\nExample:\n    The next 3 days."


def test_every_schema_of_a_type_can_be_written_for_kimi() -> None:
    for hint, schema, _, _ in TYPES:
        function = {"name": "tool", "parameters": {"type": "object", "properties": {"x": schema}}}
        reduced = moonshot_tool({"type": "function", "function": function})
        assert '"default"' not in json.dumps(reduced), hint


ARGS = "\n\nArgs:\n    "
REFUSED: list[tuple[str, str]] = [
    (
        "def tool(self): return 1",
        "no docstring: a public method is a tool; start a helper's name with _",
    ),
    (
        f"def tool(self, x):\n  '''Do it.{ARGS}x: The x.'''",
        "parameter x: no type hint: expected one",
    ),
    ("def tool(self, x: int):\n  '''Do it.'''", "parameter x: no description in the docstring: "),
    (
        f"def tool(self, *x: int):\n  '''Do it.{ARGS}x: The x.'''",
        "parameter *x: expected named",
    ),
    (
        f"def tool(self, **x: int):\n  '''Do it.{ARGS}x: The x.'''",
        "parameter **x: expected named",
    ),
    (f"def tool(self, x: int, /):\n  '''Do it.{ARGS}x: The x.'''", "parameter x: found /, which"),
    (
        f"def tool(self, x: Unknown):\n  '''Do it.{ARGS}x: The x.'''",
        "its annotations cannot be read: ",
    ),
    (
        f"def tool(self, x: int = '5'):\n  '''Do it.{ARGS}x: The x.'''",
        "parameter x: default: found '5', expected integer",
    ),
    (
        f"def tool(self, x: str = None):\n  '''Do it.{ARGS}x: The x.'''",
        "parameter x: default: found None, expected string: write x: ... | None",
    ),
    (
        f"def tool(self, x: int):\n  '''Do it.{ARGS}y: The x.'''",
        "its docstring describes y, which is no",
    ),
    (
        "def tool(self, x: int):\n  '''Do it.\n\n  :param x: The x.\n  '''",
        "its docstring is in the style REST, expected Google's",
    ),
    (
        "def tool(self, x: int):\n  '''Do it.\n\n  Parameters\n  ----------\n  x : int\n    The x.\n  '''",
        "its docstring is in the style NUMPYDOC, expected Google's",
    ),
    (
        f"def tool(self, x: int):\n  '''Do it.{ARGS}x - The x.'''",
        "its docstring is not in Google's style",
    ),
    ("def tool(self):\n  '''\n  Returns:\n    int: One.\n  '''", "its docstring has no first line"),
    (
        "def tool():\n  '''Do it.'''",
        "found no parameters, expected self, or @staticmethod above it",
    ),
    (
        "def tool(self, x: int = Field(1)):\n  '''Do it.\n\n  Args:\n    x: The x.\n  '''",
        "parameter x: found Field(...) as its default: write Annotated[..., Field(...)]",
    ),
    (
        "def tool(self, x: int):\n  '''Do it.\n\n  Args:\n    x: The x\n    that is.\n  '''",
        "its docstring is not in Google's style: Expected a colon in 'that is.'. A line below `Args:` is",
    ),
    ("async def tool(self):\n  '''Do it.'''", "found an async method, expected a plain one"),
    ("def tool(self):\n  '''Do it.'''\n  yield 1", "found a generator (yield), expected a method"),
]


@pytest.mark.parametrize(("code", "message"), REFUSED)
def test_a_method_that_cannot_be_a_tool_is_refused_with_what_to_write(
    code: str, message: str
) -> None:
    names: dict[str, Any] = {"__name__": "environment", "Field": pydantic.Field}
    exec(f"from __future__ import annotations\n{code}", names)
    world = type("World", (Environment,), {"tool": names["tool"]})
    with pytest.raises(InputError) as raised:
        make_tools(world, Path("environment.py"))
    assert str(raised.value).startswith(f"environment.py: World.tool: {message}")


@pytest.mark.parametrize("name", ["größe", "x" * 65])
def test_a_name_that_apis_refuse_is_refused(name: str) -> None:
    world = type("World", (Environment,), {name: Desk.plain})
    with pytest.raises(InputError, match="expected a name of 1 to 64 letters, digits"):
        make_tools(world, Path("environment.py"))


def test_a_world_without_tools_is_refused() -> None:
    with pytest.raises(InputError, match=r"^environment.py: World: no public method, so no tool$"):
        make_tools(type("World", (Environment,), {}), Path("environment.py"))


# ------------------------------------------------------------------------------------- get_json_schema


def _dict_of(hint: Any) -> Any:
    return dict.__class_getitem__((str, hint))


BASIC = st.sampled_from(
    [str, int, float, bool, dict, Literal["a", "b"], Literal[1, 2], Literal["x"]]
)
HINTS = st.recursive(
    BASIC,
    lambda inner: inner.map(list.__class_getitem__) | inner.map(_dict_of),
    max_leaves=4,
)
WORD = st.text("abc", min_size=1, max_size=6)


def as_transformers_writes(function: Callable[..., Any]) -> dict[str, Any]:
    from transformers.utils import get_json_schema

    schema = get_json_schema(function)
    schema["function"].pop("return", None)
    schema["function"]["parameters"]["additionalProperties"] = False
    schema["function"]["parameters"].setdefault("required", [])
    return schema


@pytest.mark.parametrize("name", ["legal", "code-review", "tech-research"])
def test_the_schemas_of_the_packs_are_byte_for_byte_those_of_transformers(name: str) -> None:
    domain = load(name)
    for tool, schema in domain.tools.items():
        method = getattr(domain.environment, tool)
        assert json.dumps(schema) == json.dumps(as_transformers_writes(method))


@given(st.dictionaries(st.sampled_from("pqrs"), st.tuples(HINTS, WORD), max_size=4), WORD)
def test_of_json_types_the_schemas_are_byte_for_byte_those_of_transformers(
    parameters: dict[str, tuple[Any, str]], first_line: str
) -> None:
    names: dict[str, Any] = {}
    exec(f"def tool({', '.join(['self', *parameters])}): ...", names)
    tool = names["tool"]
    tool.__annotations__ = {name: hint for name, (hint, _) in parameters.items()}
    lines = "".join(f"\n    {name}: {text}" for name, (_, text) in parameters.items())
    tool.__doc__ = first_line + (f"\n\nArgs:{lines}" if lines else "")
    world = type("World", (Environment,), {"tool": tool})
    made = make_tools(world, Path("environment.py"))["tool"]
    assert json.dumps(made) == json.dumps(as_transformers_writes(tool))
