"""Tool calls against the schemas of their tools."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.tool_calls import SchemaNotSupported, arguments_problem, check_arguments

SHARED = Path(__file__).parents[3] / "shared"
SUITE = SHARED / "peers" / "json-schema-test-suite" / "draft2020-12"

TOOL = {
    "type": "function",
    "function": {
        "name": "get_contract",
        "parameters": {
            "type": "object",
            "properties": {
                "contract_id": {"type": "string"},
                "on": {"type": "string", "format": "date"},
                "limit": {"type": "integer", "minimum": 1},
            },
            "required": ["contract_id"],
            "additionalProperties": False,
        },
    },
}


def test_arguments_are_checked_by_their_tool_before_it_runs():
    assert check_arguments(TOOL, {"contract_id": "C-1"}) is None
    assert check_arguments(TOOL, {}) == "contract_id: missing, expected string"
    assert check_arguments(TOOL, ["C-1"]) == "found ['C-1'], expected a JSON object"
    broken = {"function": {"name": "x", "parameters": {"type": "dict"}}}
    assert str(check_arguments(broken, {})).startswith("schema not supported: type: ")


def test_a_schema_that_names_its_draft_is_read_by_it():
    pair = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "properties": {"pair": {"items": [{"type": "string"}, {"type": "integer"}]}},
    }
    assert arguments_problem(pair, {"pair": ["a", 1]}) is None
    assert arguments_problem(pair, {"pair": ["a", "b"]}) == "pair[1]: found 'b', expected integer"
    with pytest.raises(SchemaNotSupported):
        arguments_problem({**pair, "$schema": "https://json-schema.org/draft/2020-12/schema"}, {})


@pytest.mark.parametrize("name", ["iri", "iri-reference"])
def test_an_iri_is_checked_by_its_grammar(name):
    schema = {"type": "string", "format": name}
    assert arguments_problem(schema, "http://ƒøø.ßår/?∂éœ=πîx#πîüx") is None
    assert "ƒ" in (arguments_problem(schema, "\\\\ƒøø") or "")


def suite_files():
    return sorted(path.relative_to(SUITE).as_posix() for path in SUITE.glob("*.json"))


# Parts of the suite that are left out on purpose: `format` as an annotation only (here an invalid date is a wrong
# argument), remote schemas (never fetched), and schemas that replace the vocabulary.
@pytest.mark.skipif(not SUITE.is_dir(), reason=f"the JSON-Schema-Test-Suite is not at {SUITE}")
@pytest.mark.parametrize("name", suite_files())
def test_the_official_suite_passes_or_is_reported_as_not_supported(name):
    if name in ("format.json", "vocabulary.json"):
        pytest.skip("left out on purpose")
    for case in json.loads((SUITE / name).read_text()):
        text = json.dumps(case["schema"])
        for test in case["tests"]:
            try:
                valid = arguments_problem(case["schema"], test["data"]) is None
            except SchemaNotSupported:
                assert "\\\\p{" in text or "$ref" in text, (case["description"], test)
                assert "\\\\p{" in text or "localhost:1234" in text, (case["description"], test)
            else:
                assert valid == test["valid"], (case["description"], test)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(json_values, json_values)
def test_any_json_as_a_schema_is_evaluated_or_reported(schema, instance):
    try:
        problem = arguments_problem(schema, instance)
    except SchemaNotSupported:
        return
    assert problem is None or "\n" not in problem
