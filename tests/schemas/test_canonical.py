"""The canonical form of a call's arguments (schemas/canonical.py). That llama.cpp agrees: tests/student/export."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.canonical import arguments_text, canonical, number_problem
from schemas.tool_calls import arguments_problem

_NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
_VALUES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('aé"\n'), inner),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"hours": 15.0}', '{"hours": 15}'),
        ('{"a": 1.5e1, "b": 1E11, "c": -0.0}', '{"a": 15, "b": 100000000000, "c": 0}'),
        ('{"a": 2.50, "b": 0.1, "c": 1e-3}', '{"a": 2.5, "b": 0.1, "c": 0.001}'),
        ('{"b":1,"a":{"y":[1.0,null,true],"x":{}}}', '{"b": 1, "a": {"y": [1, null, true], "x": {}}}'),
        ('{"name": "M\\u00fcller \\n\\u2028"}', '{"name": "Müller \\n\u2028"}'),
        ('{"big": 1e22, "bigger": 9223372036854775807}', '{"big": 1e+22, "bigger": 9223372036854775807}'),
        ('{"text": "15.0", "15.0": 15.00}', '{"text": "15.0", "15.0": 15}'),
    ],
)  # fmt: skip
def test_whole_numbers_lose_their_fraction_and_all_else_keeps_order_and_value(text, expected):
    assert arguments_text(text) == expected
    assert arguments_text(json.loads(text)) == expected


@pytest.mark.parametrize("text", ['{"a": ', '{"a": NaN}', '{"a": 1, "a": 2}', '{"a": 1e999}'])
def test_text_that_is_no_json_is_left_for_the_checks(text):
    assert arguments_text(text) == text


@given(_VALUES)
def test_the_form_is_stable_and_equal_to_what_it_was_made_of(value):
    text = arguments_text({"a": value})
    assert arguments_text(text) == text
    assert json.loads(text) == {"a": value}
    assert list(json.loads(text)) == ["a"]


@given(_NUMBERS, st.sampled_from(["integer", "number"]))
def test_json_schema_judges_a_number_and_its_canonical_form_alike(number, kind):
    schema = {"type": kind, "minimum": 3}
    assert arguments_problem(schema, number) is None or arguments_problem(schema, canonical(number))
    assert arguments_problem(schema, canonical(number)) is None or arguments_problem(schema, number)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"fee": 1234567.89}, "fee: found 1234567.89, expected a decimal of at most 6 significant"),
        ({"rates": [0.5, {"x": 0.1 + 0.2}]}, "rates[1].x: found 0.30000000000000004"),
        ({"id": 2**63}, "id: found 9223372036854775808, expected an integer of 64 bits"),
        ({"small": 1e-07}, "small: found 1e-07"),
        ({"large": 1e22}, "large: found 1e+22"),
    ],
)
def test_a_number_that_llama_cpp_prints_otherwise_is_named_with_its_place(value, problem):
    assert (number_problem(value) or "").startswith(problem)


@pytest.mark.parametrize(
    "value", [0, 15, -(2**63), 2**63 - 1, 2.5, -0.0001, 123456.5 // 1 + 0.0, 99999.9, True, "1e400"]
)
def test_other_numbers_are_no_problem(value):
    assert number_problem(canonical({"a": value})) is None
