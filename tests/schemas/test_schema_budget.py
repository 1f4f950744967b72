"""Schemas and values that would take for ever get their verdict, or are named."""

import json

import pytest

from schemas import schema_budget
from schemas.json_schema import SchemaNotSupported
from schemas.json_text import parse_json
from schemas.messages import check_messages
from schemas.schema_budget import problem_within_budget
from schemas.schema_worker import SchemaWorker

TOO_MUCH = "judging a value by it takes more than {} s"


@pytest.fixture(scope="module")
def quick_worker():
    worker = SchemaWorker(seconds=0.2)
    yield worker
    worker._stop()


def doubled(keyword, levels):
    steps = {f"s{i}": {keyword: [{"$ref": f"#/$defs/s{i + 1}"}] * 2} for i in range(levels)}
    return {"$ref": "#/$defs/s0", "$defs": {**steps, f"s{levels}": {"type": "string"}}}


def nested(levels):
    value: dict = {}
    for _ in range(levels):
        value = {"c": value}
    return value


@pytest.mark.parametrize(
    "pattern", ["^(b+)+$", r"^(([a-z])+.)+[A-Z]([a-z])+$", "(x+x+)+y", r"^(\s?\w+)*$"]
)
def test_a_pattern_without_look_around_is_judged_whatever_its_text(pattern):
    assert "expected pattern" in (
        problem_within_budget({"pattern": pattern}, "b" * 5000 + "!") or ""
    )


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"pattern": "^((?=b)b+)+$"}, "b" * 50 + "!"),
        ({"items": {"pattern": r"^(?!y)(?:(?=.*x)x+)+y"}}, ["x" * 60]),
        (doubled("anyOf", 60), 1),
        (doubled("oneOf", 60), "x"),
        (
            {
                "$defs": {
                    "n": {
                        "anyOf": [{"properties": {"c": {"$ref": "#/$defs/n"}}}] * 2,
                        "type": "array",
                    }
                }
            }
            | {"$ref": "#/$defs/n"},
            nested(60),
        ),
    ],
    ids=["lookahead", "lookaheads", "anyOf", "oneOf", "recursive"],
)
def test_what_takes_too_long_is_named_and_the_next_value_judged(
    schema, value, quick_worker, monkeypatch
):
    monkeypatch.setattr(schema_budget, "_worker", quick_worker)
    with pytest.raises(SchemaNotSupported, match=TOO_MUCH.format(0.2)):
        problem_within_budget(schema, value)
    assert problem_within_budget({"pattern": "^(?=a)a"}, "b") == (
        "top level: found 'b', expected pattern ^(?=a)a"
    )


def test_a_schema_that_took_too_long_three_times_is_not_tried_again(monkeypatch):
    schema = {"pattern": "^((?=c)c+)+$"}
    monkeypatch.setitem(schema_budget._exceeded, json.dumps(schema), 3)
    monkeypatch.setattr(schema_budget._worker, "judge", lambda *_: pytest.fail("it was tried"))
    with pytest.raises(SchemaNotSupported, match=TOO_MUCH.format(2)):
        problem_within_budget(schema, "c")


@pytest.mark.parametrize(
    "schema",
    [
        {
            "$ref": "#/$defs/a",
            "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}},
        },
        {"properties": {"x": {"anyOf": [{"not": {"$ref": "#/properties/x"}}]}}},
    ],
)
def test_a_schema_that_refers_to_itself_without_end_is_named(schema):
    with pytest.raises(SchemaNotSupported, match="refers to itself without end"):
        problem_within_budget(schema, {"x": 1})


def test_a_schema_of_trees_is_no_endless_one():
    tree = {"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}, "required": ["name"]}
    leaf = {"name": "a"}
    assert problem_within_budget(tree, {"name": "b", "left": leaf, "right": leaf}) is None
    assert (
        problem_within_budget(tree, {"name": "b", "left": {}})
        == "left.name: missing, expected a value"
    )


def test_large_values_are_judged():
    items = [{"number": number, "of": {"pages": [number]}} for number in range(10_000)]
    assert problem_within_budget({"uniqueItems": True}, items) is None
    assert problem_within_budget({"uniqueItems": True}, [*items, items[7]])
    wrong = problem_within_budget(
        {"items": {"oneOf": [{"type": "string"}] * 9}}, list(range(100_000))
    )
    assert wrong == "top level: found [0, 1, 2, 3, ...], too large a value to say where it is wrong"


def test_values_that_are_no_json_and_deep_ones_are_named():
    for value in (10**5000, nested(5000), {1, 2}):
        with pytest.raises(SchemaNotSupported):
            problem_within_budget({}, value)
    assert problem_within_budget({"additionalProperties": {"$ref": "#"}}, nested(500)) is None


@pytest.mark.parametrize(
    "text",
    [
        "{" + ",".join(f'"k{i}": 1' for i in range(10_000)) + ', "k9999": 2}',
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        '{"n": ' + "7" * 100_000 + "}",
        '{"n": 1e400}',
    ],
    ids=["10,000 keys", "deep", "digits", "overflow"],
)
def test_a_text_that_costs_too_much_to_read_is_no_json(text):
    with pytest.raises(ValueError, match="given twice|nested|digits|out of range"):
        parse_json(text)


def test_a_conversation_with_such_a_tool_is_rejected_by_name(quick_worker, monkeypatch):
    monkeypatch.setattr(schema_budget, "_worker", quick_worker)
    tool = {"name": "search", "parameters": {"properties": {"q": {"pattern": "^((?=d)d+)+$"}}}}
    call = {"name": "search", "arguments": json.dumps({"q": "d" * 50 + "!"})}
    messages = [
        {"role": "user", "content": "Please search."},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "a", "function": call}]},
    ]
    verdict = check_messages(messages, [{"type": "function", "function": tool}])
    assert verdict["reason"] == "malformed_trace"
    assert verdict["detail"] == f"search: schema not supported: {TOO_MUCH.format(0.2)}"
