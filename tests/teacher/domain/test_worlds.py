"""Tools are run with typed arguments, their results are JSON, and a fault of a tool is told from an error of a call."""

import dataclasses
import datetime as dt
import enum
from typing import Any, TypedDict

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.files import dumps
from teacher.domain import Environment
from teacher.domain.json_values import NotJson, to_json
from teacher.domain.worlds import PackFault, ToolError, hash_world, run_tool, start_world


class Colour(enum.StrEnum):
    RED = "red"


@dataclasses.dataclass
class Alert:
    title: str
    until: dt.datetime


class Weather(pydantic.BaseModel):
    city: str
    alerts: list[Alert]
    colour: Colour = Colour.RED


class Summary(TypedDict):
    day: dt.date


class Desk(Environment):
    errors = (LookupError,)

    def reset(self, **task: Any) -> str | None:
        self._days: list[dt.date] = []
        return None

    def _state(self) -> Any:
        return {"days": self._days}

    def book(self, day: dt.date) -> dict:
        self._days.append(day)
        return {"day": day, "weekday": day.strftime("%A")}

    def weather(self, city: str) -> Weather:
        return Weather(city=city, alerts=[Alert("Heat", dt.datetime(2026, 7, 15, 18))])

    def days(self) -> list[Summary]:
        return [{"day": day} for day in self._days]

    def fails(self, how: str) -> dict:
        match how:
            case "value":
                raise ValueError("no such day")
            case "empty":
                raise ValueError
            case "key":
                return vars(Colour)[how]
            case "type":
                return how + 1  # type: ignore[operator]
        return None  # type: ignore[return-value]

    def clear(self) -> None:
        self._days = []


@pytest.fixture
def desk() -> Environment:
    return start_world(Desk, seed=1, split="train")[0]


def test_a_tool_gets_the_annotated_type_and_its_result_is_json(desk: Environment) -> None:
    before = hash_world(desk)
    result = run_tool(desk, "book", {"day": "2026-03-02"})
    assert result == {"day": "2026-03-02", "weekday": "Monday"}
    assert run_tool(desk, "days", {}) == [{"day": "2026-03-02"}]
    assert run_tool(desk, "weather", {"city": "Bern"}) == {
        "city": "Bern",
        "alerts": [{"title": "Heat", "until": "2026-07-15T18:00:00"}],
        "colour": "red",
    }
    assert hash_world(desk) != before


@pytest.mark.parametrize(
    ("how", "message"),
    [("value", "no such day"), ("empty", "ValueError"), ("key", "KeyError: 'key'")],
)
def test_value_errors_and_declared_exceptions_are_errors_of_the_call(
    desk: Environment, how: str, message: str
) -> None:
    with pytest.raises(ToolError) as raised:
        run_tool(desk, "fails", {"how": how})
    assert str(raised.value) == message


def test_any_other_exception_is_a_fault_with_its_line(desk: Environment) -> None:
    with pytest.raises(PackFault) as raised:
        run_tool(desk, "fails", {"how": "type"})
    assert raised.value.detail.startswith("Desk.fails raised TypeError: can only concatenate str")
    assert "(test_worlds.py:" in raised.value.detail
    assert str(raised.value) == f"{__file__}: {raised.value.detail}"


def test_none_is_a_result_only_where_the_annotation_says_so(desk: Environment) -> None:
    assert run_tool(desk, "clear", {}) is None
    with pytest.raises(PackFault, match=r"Desk\.fails: returned None, which tells a model nothing"):
        run_tool(desk, "fails", {"how": "nothing"})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, {2}]}, "result.a[1]: found a set ({2}), expected a list in a fixed order"),
        ({"a": float("nan")}, "result.a: found nan, which is no number in JSON"),
        ([float("inf")], "result[0]: found inf, which is no number in JSON"),
        (b"a", "result: found a bytes (b'a'), expected text"),
        ({"a": object}, "result.a: found a type"),
        ({(1, 2): 3}, "result: found the key (1, 2), expected text"),
        ({None: 3}, "result: found the key None, expected text"),
        ("\ud800", "result: found half of a surrogate pair"),
        ([len], "result[0]: found a builtin_function_or_method"),
        (
            object(),
            "result: found an object (<object object>), expected text, a number, a list or a dict",
        ),
        (Alert("Heat", {1}), "result.until: found a set"),  # type: ignore[arg-type]
    ],
)
def test_what_has_no_form_in_json_is_named_by_its_place_and_type(value: Any, message: str) -> None:
    with pytest.raises(NotJson) as raised:
        to_json(value, name="result")
    assert str(raised.value).startswith(message)


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(NotJson, match="^result: contains itself, or is nested too deeply$"):
        to_json(value, name="result")


def test_keys_that_are_numbers_dates_or_members_become_text() -> None:
    value = {1: "a", dt.date(2026, 3, 2): "b", Colour.RED: "c"}
    assert to_json(value, name="result") == {"1": "a", "2026-03-02": "b", "red": "c"}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_json_stays_as_it_is(value: Any) -> None:
    assert dumps(to_json(value, name="result")) == dumps(value)
