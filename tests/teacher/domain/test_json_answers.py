"""Answers in JSON: what is wrong with one is named by its JSON pointer, from the episode to the filter's verdict."""

import dataclasses
import json
import random
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_model import LOOP, Model, play, solution

from schemas.filter import FilterSettings, check_trace
from schemas.task import Task
from teacher.domain import Answer, Blueprint, Domain, Environment, Template
from teacher.domain.json_answers import json_problem
from teacher.domain.tasks import prove
from teacher.rollout.guidance import Constrained

pytest_plugins = ["stock_tasks"]

SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["item", "shelf", "lines"],
    "properties": {
        "item": {"type": "string", "pattern": "^S-[0-9]+$"},
        "shelf": {"enum": ["A1", "B2", None]},
        "lines": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["count", "due"],
                "properties": {
                    "count": {"type": "integer"},
                    "due": {"type": ["string", "null"], "format": "date"},
                },
            },
        },
    },
}
VALUE = {"item": "S-1", "shelf": None, "lines": [{"count": 3, "due": "2026-03-02"}]}


def changed(**fields: Any) -> str:
    return json.dumps({**VALUE, **fields})


@pytest.mark.parametrize(
    "text, problem",
    [
        (changed(), None),
        (f"  {json.dumps(VALUE, indent=2)}\n", None),
        (changed(lines=[{"count": 3.0, "due": "2026-03-02"}]), None),
        (changed(shelf="A1"), "/shelf: found 'A1', expected null"),
        (changed(shelf="C3"), "/shelf: not valid: "),
        (changed(lines=[{"count": 4, "due": "2026-03-02"}]), "/lines/0/count: found 4, expected 3"),
        (changed(lines=[{"count": "3", "due": None}]), "/lines/0/count: not valid: "),
        (changed(lines=[{"count": 3, "due": "2 March"}]), "/lines/0/due: not valid: "),
        (changed(lines=[]), "/lines: found 0 items, expected 1"),
        (changed(note="x"), "the object: not valid: "),
        (json.dumps({"item": "S-1"}), "the object: not valid: "),
        ("[]", "the object: not valid: "),
        (f"```json\n{changed()}\n```", "the text is not JSON: "),
        (f"{changed()} That is all.", "the text is not JSON: "),
        ("", "the text is not JSON: "),
        ("[" * 5000, "the text is not JSON: nested too deeply"),
        ('{"item": "S-1", "item": "S-1"}', "the text is not JSON: the key 'item' is given twice"),
        ("1" * 30_000, "30,000 characters, at most 20,000"),
    ],
)
def test_a_wrong_answer_is_named_by_its_pointer(text: str, problem: str | None) -> None:
    found = json_problem(SCHEMA, VALUE, text)
    assert found is None if problem is None else str(found).startswith(problem), found


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("a/~", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("a/~", max_size=2), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.text("a/~", max_size=2), json_values), json_values)
def test_only_an_equal_object_has_no_problem(value: dict[str, Any], other: Any) -> None:
    schema = {"type": "object"}
    assert json_problem(schema, value, json.dumps(value)) is None
    # True is no 1 in JSON, though it is in Python.
    is_equal = json.dumps(other, sort_keys=True) == json.dumps(value, sort_keys=True)
    assert (json_problem(schema, value, json.dumps(other)) is None) == is_equal


@pytest.mark.parametrize(
    "schema, value, message",
    [
        (None, {}, "schema: expected a JSON Schema of the type object"),
        ({"type": "array"}, [], "schema: expected a JSON Schema of the type object"),
        ({"type": "object", "required": "x"}, {}, "schema: "),
        (SCHEMA, {**VALUE, "item": "1"}, "/item"),
    ],
)
def test_an_answer_whose_value_its_schema_refuses_is_a_fault_of_the_template(
    schema: Any, value: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Answer("json", value, schema=schema)


def answer_of(task: Task) -> dict[str, Any]:
    return cast(dict[str, Any], task["checks"]["answer"])


@pytest.fixture
def extraction(stock: Domain) -> Task:
    """A task that wants the record of an item as JSON."""
    schema = {
        "type": "object",
        "additionalProperties": False,
        "required": ["name", "count"],
        "properties": {"name": {"type": "string"}, "count": {"type": "integer"}},
    }

    def record(world: Environment, rng: random.Random) -> Blueprint:
        number, item = rng.choice(list(cast(Any, world)._items.items()))
        value = {"name": item["name"], "count": item["count"]}
        return Blueprint(
            request=f"The record of {number}, please.",
            plan=[("get_item", {"item": number})],
            reply=json.dumps(value),
            answer=Answer("json", value, schema=schema),
        )

    template = Template("record", "lookup", False, record, Path(__file__))
    stock.templates["record"] = template
    world = stock.environment()
    world.reset(seed=1, split="train")
    return prove(stock, "record", "train", 1, (None, record(world, random.Random(1))))


def test_the_request_states_the_schema_and_the_filter_names_the_pointer(
    stock: Domain, extraction: Task
) -> None:
    assert json.dumps(answer_of(extraction)["schema"]) in extraction["request"]
    trace = play(stock, extraction, solution(extraction))
    assert "answer_problem" not in trace["outcome"]
    assert check_trace(trace, FilterSettings())["kept"]
    value = json.loads(extraction["reply"])
    wrong = json.dumps({**value, "count": value["count"] + 1})
    trace = play(stock, extraction, [*solution(extraction)[:-1], wrong])
    verdict = check_trace(trace, FilterSettings())
    assert (verdict["reason"], verdict["message_index"]) == ("wrong_answer", 4)
    assert str(verdict["detail"]).startswith("/count: found ")


def test_the_final_turn_of_a_constrained_teacher_is_decoded_under_the_schema(
    stock: Domain, extraction: Task, move: Task
) -> None:
    def parameters(task: Task) -> list[Any]:
        model = Model(solution(task))
        settings = dataclasses.replace(LOOP, guidance=Constrained())
        play(stock, task, model, settings, hinted=True)
        return [each.get("response_format") for each in model.parameters]

    first, last = parameters(extraction)
    assert first is None
    assert last["json_schema"]["schema"] == answer_of(extraction)["schema"]
    assert parameters(move) == [None, None, None]
