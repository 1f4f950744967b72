"""Schemas in Moonshot's flavour: moonshot_tool by its rules, looser than the original and never stricter."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from jsonschema import Draft202012Validator

from schemas.json_text import parse_json
from teacher.dialects.kimi_schema import Reducer, moonshot_tool
from teacher.domain import pack as packs

SHARED = Path(__file__).parents[4] / "shared" / "peers"
WALLE, SUITE = SHARED / "walle" / "validator_cases", SHARED / "json-schema-test-suite"
needs_walle = pytest.mark.skipif(not WALLE.is_dir(), reason=f"walle's cases are not at {WALLE}")
needs_suite = pytest.mark.skipif(not SUITE.is_dir(), reason=f"the test suite is not at {SUITE}")
EVERYWHERE = {"type", "description", "title", "default", "enum"}
OF_TYPE = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength"},
    "number": {"minimum", "maximum"},
    "integer": {"minimum", "maximum"},
    "boolean": set[str](),
    "null": set[str](),
}


def refused(node: Any, root: bool = True) -> str | None:
    """Why walle refuses a schema without references (its docs/walle.md, as far as a legal JSON Schema can fail it)."""
    if not isinstance(node, dict):
        return f"{node}: no object"
    if root and not node:
        return None
    if "$id" in node and not (root and isinstance(node["$id"], str)):
        return "$id: of the root, and text"
    if not isinstance(node.get("description", ""), str):
        return "description: no text"
    if "anyOf" in node:
        branches = node["anyOf"]
        if not isinstance(branches, list) or not 0 < len(branches) <= 10:
            return "anyOf: 1 to 10 branches"
        if beside := node.keys() - {"anyOf", "description", "title", "$id"}:
            return f"{beside} beside anyOf"
        return next((bad for b in branches if (bad := refused(b, root=False))), None)
    if "type" not in node and "enum" not in node:
        return "no type"
    kinds = node.get("type", [])
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if "type" in node and (
        not kinds or any(not isinstance(k, str) or k not in OF_TYPE for k in kinds)
    ):
        return f"type: {kinds}"
    allowed = EVERYWHERE | {"$id"} | (OF_TYPE[kinds[0]] if len(kinds) == 1 else set())
    if beyond := node.keys() - allowed:
        return f"{beyond} beside the type {kinds}"
    return _bad_values(node, kinds) or _bad_inside(node)


def _bad_values(node: dict[str, Any], kinds: list[str]) -> str | None:
    for low, high in (("minLength", "maxLength"), ("minItems", "maxItems"), ("minimum", "maximum")):
        for key in (low, high):
            value = node.get(key, 0)
            if isinstance(value, bool) or not isinstance(value, int | float):
                return f"{key}: {value}"
            if value != int(value) and kinds != ["number"]:
                return f"{key}: {value} is not whole"
            if key not in ("minimum", "maximum") and value < 0:
                return f"{key}: {value} is negative"
        if low in node and high in node and node[low] > node[high]:
            return f"{low} above {high}"
    values = node.get("enum", [0])
    if not isinstance(values, list) or not 0 < len(values) <= 1000:
        return "enum: a list of values"
    types = {"string": str, "integer": int, "number": (int, float), "boolean": bool}
    if "enum" in node and kinds:
        scalar = [types[k] for k in kinds if k in types] + [type(None)] * ("null" in kinds)
        if set(kinds) & {"object", "array"}:
            return "enum: of objects or arrays"
        if any(not any(isinstance(v, t) for t in scalar) for v in values):  # type: ignore[arg-type]
            return "enum: of another type"
        if set(kinds) <= {"number", "integer"} and any(isinstance(v, bool) for v in values):
            return "enum: of another type"
    return None


def _bad_inside(node: dict[str, Any]) -> str | None:
    properties = node.get("properties", {})
    if not isinstance(properties, dict):
        return "properties: no object"
    reserved = {
        "",
        "$defs",
        "$ref",
        "anyOf",
        "required",
        "additionalProperties",
    } & properties.keys()
    if reserved:
        return f"{reserved}: reserved"
    required = node.get("required", [])
    if not isinstance(required, list) or any(name not in properties for name in map(str, required)):
        return f"required: {required}"
    others = node.get("additionalProperties", True)
    if not isinstance(others, bool | dict):
        return "additionalProperties: no schema"
    inside = [*properties.values(), *([others] if isinstance(others, dict) and others else [])]
    inside += [node["items"]] if "items" in node else []
    return next((bad for schema in inside if (bad := refused(schema, root=False))), None)


def levels(node: Any) -> int:
    """Schemas inside each other, alternatives not counted."""
    if not isinstance(node, dict):
        return 0
    branches = max((levels(b) for b in node.get("anyOf", [])), default=0)
    inside = [
        *node.get("properties", {}).values(),
        node.get("items"),
        node.get("additionalProperties"),
    ]
    return max(branches, 1 + max(levels(schema) for schema in inside))


def walle_cases(kind: str) -> list[Any]:
    """The schemas of walle's own tests that are JSON objects."""
    rows: list[Any] = []
    for path in sorted(WALLE.glob(f"*/{kind}.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            text = line if kind == "valid" else json.loads(line)["schema"]
            try:
                rows.append(parse_json(text))
            except ValueError:
                continue
    return rows


def legal(schema: Any) -> bool:
    try:
        Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError:
        return False
    return True


def suite() -> list[dict[str, Any]]:
    paths = sorted((SUITE / "draft2020-12").glob("**/*.json"))
    return [case for path in paths for case in json.loads(path.read_text(encoding="utf-8"))]


def refers(schema: Any) -> bool:
    return any(f'"{key}"' in json.dumps(schema) for key in ("$ref", "$defs"))


@needs_walle
def test_our_reading_of_the_rules_agrees_with_walles_own_cases() -> None:
    good = [schema for schema in walle_cases("valid") if not refers(schema)]
    # docs/walle.md refuses `pattern`, one case has it: the stricter of the two is kept to.
    assert [schema for schema in good if refused(schema) and "pattern" not in schema] == []
    bad = [schema for schema in walle_cases("invalid") if not refers(schema)]
    assert [schema for schema in bad if not refused(schema) and levels(schema) <= 5] == []
    assert len(good) > 150 and len(bad) > 80


@needs_walle
def test_every_legal_schema_of_walles_cases_is_accepted_once_reduced() -> None:
    schemas = [s for kind in ("valid", "invalid") for s in walle_cases(kind) if legal(s)]
    assert len(schemas) > 220
    for schema in schemas:
        for reduced in (Reducer(schema).schema(schema), Reducer(schema).arguments()):
            assert not refers(reduced) or refers(schema)
            assert refused(reduced) is None, (schema, reduced)
            assert levels(reduced) <= 5


@needs_walle
def test_a_schema_in_the_flavour_stays_what_it_is() -> None:
    untouched = 0
    for schema in walle_cases("valid"):
        text = json.dumps(schema)
        if not refers(schema) and not any(f'"{w}"' in text for w in ("default", "title", "$id")):
            untouched += Reducer(schema).schema(schema) == schema
    assert untouched > 100


@needs_suite
def test_whatever_a_schema_of_the_official_suite_allows_its_reduced_form_allows() -> None:
    checked = 0
    for case in suite():
        if case["description"].startswith("schema that uses custom metaschema"):
            continue  # its vocabulary makes `minimum` mean nothing
        reduced = Reducer(case["schema"]).schema(case["schema"])
        assert refused(reduced) is None, (case["schema"], reduced)
        judge = Draft202012Validator(reduced)
        for test in case["tests"]:
            if test["valid"]:
                assert judge.is_valid(test["data"]), (case["description"], test, reduced)
                checked += 1
    assert checked > 1000


@pytest.mark.parametrize("name", ["legal"])
def test_the_tools_of_a_domain_pass_as_they_are(name: str) -> None:
    for tool in packs.load(name).tools.values():
        assert moonshot_tool(tool) == tool


def reduced(parameters: Any) -> Any:
    tool = {
        "type": "function",
        "function": {"name": "f", "description": "F.", "parameters": parameters},
    }
    before = json.dumps(tool)
    sent = moonshot_tool(tool)
    assert json.dumps(tool) == before  # the full schema still judges
    assert sent["function"]["name"] == "f" and sent["function"]["description"] == "F."
    return sent["function"]["parameters"]


def of(schema: Any) -> Any:
    """The reduced form of the schema of one property."""
    return reduced({"type": "object", "properties": {"x": schema}})["properties"]["x"]


def test_a_default_is_not_sent() -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "default": 10}},
        "required": ["n"],
    }
    assert reduced(schema) == {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
    }
    # A property may have that name.
    assert reduced({"type": "object", "properties": {"default": {"type": "string"}}})["properties"]


ANY = {"type": ["string", "number", "boolean", "object", "array", "null"]}
NULL = {"type": "null"}


@pytest.mark.parametrize(
    ("full", "sent"),
    [
        ({"const": "a"}, {"type": "string", "enum": ["a"]}),
        ({"type": ["string", "null"], "enum": ["a"]}, {"type": "string", "enum": ["a"]}),
        (
            {"enum": ["a", 1, None]},
            {"anyOf": [NULL, {"type": "string", "enum": ["a"]}, {"type": "number", "enum": [1]}]},
        ),
        (
            {"type": ["integer", "null"], "minimum": 1.5},
            {"anyOf": [NULL, {"type": "integer", "minimum": 2}]},
        ),
        ({"oneOf": [{"type": "string"}, NULL]}, {"type": ["string", "null"]}),
        ({"allOf": [{"type": "string", "minLength": 1}]}, {"type": "string", "minLength": 1}),
        (
            {"type": "string", "format": "date", "description": "Day."},
            {"type": "string", "description": 'Day. (format "date")'},
        ),
        (
            {"type": "number", "exclusiveMinimum": 0},
            {"type": "number", "description": "(exclusiveMinimum 0)"},
        ),
        ({"type": "number", "minimum": 5, "maximum": 1}, {"type": "number"}),
        ({"type": "number", "minimum": 1e-10}, {"type": "number"}),
        ({"type": "array", "prefixItems": [{}], "items": False}, {"type": "array"}),
        ({"type": "array", "items": [{"type": "string"}]}, {"type": "array"}),
        ({"type": "string", "enum": [str(n) for n in range(251)]}, {"type": "string"}),
        ({}, ANY),
        (True, ANY),
        ({"type": "any"}, ANY),
    ],
)
def test_what_the_flavour_lacks_is_said_in_it_or_left_open(full: Any, sent: Any) -> None:
    assert of(full) == sent
    assert refused(of(full)) is None


def test_a_reference_is_written_out_and_one_to_itself_left_open() -> None:
    schema = {
        "type": "object",
        "properties": {"root": {"$ref": "#/$defs/node"}},
        "required": ["root"],
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"value": {"type": "integer"}, "next": {"$ref": "#/$defs/node"}},
                "required": ["value", "next"],
            }
        },
    }
    root = reduced(schema)["properties"]["root"]
    assert root["properties"]["value"] == {"type": "integer"}
    assert root["properties"]["next"] == of({})
    assert of({"$ref": "https://example.com/other.json"}) == of({})


def test_a_property_that_may_not_be_named_is_still_allowed() -> None:
    schema = {
        "type": "object",
        "properties": {"required": {"type": "boolean"}, "x": {"type": "string"}},
        "required": ["required", "x"],
        "additionalProperties": False,
    }
    assert reduced(schema) == {
        "type": "object",
        "properties": {"x": {"type": "string"}},
        "required": ["x"],
    }


@pytest.mark.parametrize(
    "parameters", [None, {}, {"type": "object"}, {"anyOf": [{"type": "string"}]}, True]
)
def test_arguments_are_always_an_object(parameters: Any) -> None:
    assert reduced(parameters)["type"] == "object" and "properties" in reduced(parameters)


def test_references_that_multiply_do_not_grow_without_end() -> None:
    defs: dict[str, Any] = {
        f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 8} for n in range(30)
    }
    defs["d30"] = {"type": "string"}
    sent = reduced({"type": "object", "properties": {"x": {"$ref": "#/$defs/d0"}}, "$defs": defs})
    assert len(json.dumps(sent)) < 1_000_000
