"""Verdicts of the schema engine: numbers, formats, drafts, and messages."""

import json
import os
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.json_schema import Schema, SchemaNotSupported

SHARED = Path(__file__).parents[3] / "shared"
FORMATS = SHARED / "peers" / "json-schema-test-suite" / "draft2020-12" / "optional" / "format"
MASKBENCH = Path(os.environ.get("STILLHOUSE_MASKBENCH", "maskbench"))


def problem(schema, value):
    violation = Schema(schema).problem(value)
    return violation.text if violation else None


@pytest.mark.parametrize(
    ("step", "value", "valid"),
    [
        (0.01, 4.35, True),
        (0.01, 1234567.89, True),
        (0.05, 0.35, True),
        (0.05, 0.36, False),
        (1e-7, 3.2e-6, True),
        (0.1, 1e22, True),
        (0.01, 4.355, False),
        (3, 3 * 10**30 + 3, True),
        (3, 3 * 10**30 + 1, False),
        (0.5, 10**400 + 1, True),
        (10**20, 10**21, True),
        (2, 2**53 + 1, False),
    ],
)
def test_a_multiple_is_counted_in_decimals_without_rounding(step, value, valid):
    assert (problem({"multipleOf": step}, value) is None) == valid


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 10**6), st.integers(0, 6), st.integers(-(10**9), 10**9))
def test_a_multiple_is_what_fractions_say(step, places, value):
    by, number = (float(f"{digits}e-{places}") for digits in (step, value))
    exact = Fraction(f"{value}e-{places}") % Fraction(f"{step}e-{places}") == 0
    assert (problem({"multipleOf": by}, number) is None) == exact


@pytest.mark.parametrize(
    ("name", "valid", "invalid"),
    [
        (
            "time",
            ["23:15:00Z", "06:00:00.5+05:30", "06:00:00z"],
            ["23:15:00", "23:15Z", "25:00:00Z"],
        ),
        (
            "email",
            ["a.b+c@example.org", '"a b"@x.org'],
            ["a@b@c", "@", "a@", "a b@c.org", "a..b@c.org"],
        ),
        ("date", ["2024-02-29"], ["2026-02-29", "2026-2-1", "2026-03-01\n"]),
        ("date-time", ["1998-12-31T23:59:60Z"], ["2026-03-01 09:30:00", "2026-03-01T09:30:00"]),
        ("uuid", ["2eb8aa08-aa98-11ea-b4aa-73b441d16380"], ["2eb8aa08aa9811eab4aa73b441d16380"]),
        ("duration", ["P4DT12H30M5S"], ["PT1D", "P1Y2D"]),
        ("ipv4", ["127.0.0.1"], ["127.0.0.01", "256.1.1.1"]),
        ("hostname", ["a-b.example"], ["-a.example", "a_b"]),
        ("regex", [r"^(?<y>\d+)$"], ["(?P<y>a)", "^(a"]),
        ("iri", ["http://ƒøø.ßår/?∂éœ=πîx#πîüx"], ["\\\\ƒøø"]),
    ],
)
@pytest.mark.parametrize("draft", ["draft-07/schema#", "draft/2020-12/schema"])
def test_a_format_is_checked_by_its_rfc_in_every_draft(name, valid, invalid, draft):
    host = "https" if "2020" in draft else "http"
    schema = Schema({"$schema": f"{host}://json-schema.org/{draft}", "format": name})
    assert [value for value in valid if schema.problem(value)] == []
    assert [value for value in invalid if not schema.problem(value)] == []


@pytest.mark.skipif(not FORMATS.is_dir(), reason=f"the JSON-Schema-Test-Suite is not at {FORMATS}")
def test_the_formats_of_the_official_suite_pass():
    wrong = [
        (path.name, test["description"])
        for path in sorted(FORMATS.glob("*.json"))
        for case in json.loads(path.read_text())
        for test in case["tests"]
        if (problem(case["schema"], test["data"]) is None) != test["valid"]
    ]
    assert wrong == []


@pytest.mark.slow
@pytest.mark.skipif(
    not MASKBENCH.is_dir(),
    reason=f"no MaskBench at {MASKBENCH}: STILLHOUSE_MASKBENCH names its directory `data`",
)
def test_maskbench_is_judged_as_it_is_labelled():
    refused = 0
    for path in sorted(MASKBENCH.glob("*.json")):
        case = json.loads(path.read_text())
        for test in case.get("tests", []):
            valid = problem(case["schema"], test["data"]) is None
            assert test["valid"] or not valid, path.name
            refused += test["valid"] and not valid
    assert refused <= 4


@pytest.mark.parametrize(
    ("schema", "value", "message"),
    [
        ({"required": ["a"]}, {}, "a: missing, expected a value"),
        (
            {"properties": {"a": {"type": ["string", "null"]}}},
            {"a": 1},
            "a: found 1, expected string or null",
        ),
        ({"enum": ["x", 2], "type": "string"}, 1, "top level: found 1, expected one of x, 2"),
        ({"items": {"minLength": 2}}, ["ab", "a"], "[1]: found 1, expected minLength 2"),
        ({"pattern": r"^\d[]a]"}, "x", r"top level: found 'x', expected pattern ^\d[]a]"),
        ({"uniqueItems": True}, [1, 1.0], "top level: found [1, 1.0], expected no item twice"),
        (
            {"not": {"type": "null"}},
            None,
            "top level: found None, expected no value of {'type': 'null'}",
        ),
        ({"properties": {"a": False}}, {"a": 1}, "a: found 1, expected no value"),
        (
            {"dependentRequired": {"a": ["b"]}},
            {"a": 1},
            "top level: found a without b, expected both",
        ),
        (
            {"additionalProperties": False},
            {"a": 1},
            "top level: found a field with 1, expected no fields",
        ),
        (
            {
                "additionalProperties": False,
                "properties": {"b": {}},
                "patternProperties": {r"^\w$": {}},
            },
            {"aa": 1},
            r"aa: unknown field, expected one of b, the pattern ^\w$",
        ),
        (
            {"propertyNames": {"maxLength": 1}},
            {"ab": 1},
            "top level: found 2, expected maxLength 1",
        ),
        ({"contains": {"const": 1}}, [2], "top level: found [2], expected contains {'const': 1}"),
        (
            {"anyOf": [{"type": "string"}, {"type": "object", "required": ["a"]}]},
            {},
            "a: missing, expected a value",
        ),
    ],
)
def test_a_message_names_the_field_what_was_found_and_what_was_expected(schema, value, message):
    assert problem(schema, value) == message


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "dict"}, "type: "),
        ('{"type": "object"}', "top level: found "),
        ({"pattern": "("}, "pattern: "),
        ({"pattern": r"(?i)a"}, "pattern: "),
        ({"$ref": "file:///etc/passwd"}, ""),
        ({"$ref": "#/nowhere"}, ""),
    ],
)
def test_an_invalid_schema_and_one_that_leads_elsewhere_are_not_supported(schema, message):
    with pytest.raises(SchemaNotSupported, match=f"^{message}"):
        Schema(schema)


def test_an_unknown_draft_is_read_as_the_newest():
    assert problem({"$schema": "http://example.org/mine", "prefixItems": [{"type": "null"}]}, [1])


def test_a_pattern_that_a_reference_reaches_in_an_unknown_keyword_means_the_same():
    schema = {"$ref": "#/components/id", "components": {"id": {"pattern": r"^[\w-\.]$"}}}
    assert problem(schema, "-") is None
    assert problem({"properties": {"pattern": {"const": "[]"}}}, {"pattern": "[]"}) is None
