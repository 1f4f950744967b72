"""What is wrong with a value by its schema, in one line: the field, what was found, what was expected.

Models read these messages in tool results, so they are training data.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from schemas.error_text import brief, dotted, one_line

# Formats whose form is not obvious: a time of RFC 3339 has an offset.
_FORMAT_EXAMPLES = {
    "date": "2026-03-02",
    "time": "10:00:00Z",
    "date-time": "2026-03-02T10:00:00Z",
}
_Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Violation:
    """One violation. path: of the value at fault. text: "FIELD: found ..., expected ..."."""

    path: _Path
    text: str


def most_relevant(errors: Iterable[Any], schema: Any, patterns: Mapping[str, str]) -> Violation:
    """The violation that helps most: the least deep one, then the alternative of an anyOf or oneOf that fits best.

    This is the rule of jsonschema's `best_match`.

    Args:
        errors: of jsonschema-rs, at least one.
        schema: the whole schema as it was compiled. patterns: as their author wrote them, by pattern as compiled.
    """

    def relevance(error: Any) -> tuple[int, list[tuple[bool, str | int]], bool, bool]:
        path = error.instance_path[parent:]
        fits = _has_type(error.instance, _at(schema, error.schema_path[:-1]).get("type"))
        sortable = [(isinstance(part, str), part) for part in path]
        return -len(path), sortable, error.kind.name not in ("anyOf", "oneOf"), not fits

    parent = 0
    # Of errors that are equally relevant, the first by keyword: "one of a, b" says more than "string".
    best = max(sorted(errors, key=lambda error: [*map(str, error.schema_path)]), key=relevance)
    while nested := [inner for branch in getattr(best.kind, "context", []) for inner in branch]:
        parent = len(best.instance_path)
        first, *others = sorted(nested, key=relevance)
        if others and relevance(first) == relevance(others[0]):
            break
        best = first
    return violation(best, schema, patterns)


def violation(error: Any, schema: Any, patterns: Mapping[str, str]) -> Violation:
    """An error of jsonschema-rs as a violation. The arguments are those of `most_relevant`."""
    if error.kind.name == "propertyNames":
        inner = violation(error.kind.error, schema, patterns)
        return Violation(tuple(error.instance_path), inner.text)
    field = dotted(error.instance_path)
    keyword = str(error.schema_path[-1]) if error.schema_path else error.kind.name
    parent = _at(schema, error.schema_path[:-1])
    expected, actual = parent.get(keyword, error.kind.value), error.instance
    match error.kind.name:
        case "required" if (
            keyword != "required"
        ):  # dependentRequired, or dependencies of old drafts
            missing = error.kind.property
            beside = [
                name for name, others in expected.items() if missing in others and name in actual
            ]
            problem = f"found {beside[0]} without {missing}, expected both"
        case "required":
            missing = error.kind.property
            field = dotted([field, missing])
            problem = f"missing, expected {_expectation(parent, missing)}"
        case "additionalProperties":
            unknown = error.kind.unexpected[0]
            names = [*parent.get("properties", {})]
            for key in parent.get("patternProperties", {}):
                names.append(f"the pattern {patterns.get(key, key)}")
            expectation = f"one of {', '.join(names)}" if names else "no fields"
            field, problem = dotted([field, unknown]), f"unknown field, expected {expectation}"
        case "type":
            types = expected if isinstance(expected, str) else " or ".join(expected)
            problem = f"found {brief(actual)}, expected {types}"
        case "enum":
            problem = f"found {brief(actual)}, expected one of {', '.join(map(str, expected))}"
        case "const":
            problem = f"found {brief(actual)}, expected {brief(expected)}"
        case "pattern":
            problem = f"found {brief(actual)}, expected pattern {patterns.get(expected, expected)}"
        case "format" if expected in _FORMAT_EXAMPLES:
            example = _FORMAT_EXAMPLES[expected]
            problem = f"found {brief(actual)}, expected {expected} such as {example}"
        case "format":
            problem = f"found {brief(actual)}, expected format {expected}"
        case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf":
            problem = f"found {brief(actual)}, expected {keyword} {expected}"
        case (
            "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties"
        ):
            problem = f"found {len(actual)}, expected {keyword} {expected}"
        case "oneOf" | "anyOf":
            problem = f"found {brief(actual)}, expected {keyword} {len(error.kind.context)} forms"
        case "contains":
            problem = f"found {brief(actual)}, expected {keyword} {brief(expected)}"
        case "uniqueItems":
            problem = f"found {brief(actual)}, expected no item twice"
        case "not":
            problem = f"found {brief(actual)}, expected no value of {brief(error.kind.schema)}"
        case "falseSchema" if keyword == "additionalProperties":
            problem = f"found a field with {brief(actual)}, expected no fields"
        case "falseSchema":
            problem = f"found {brief(actual)}, expected no value"
        case _:
            problem = error.message
    return Violation(tuple(error.instance_path), one_line(f"{field or 'top level'}: {problem}"))


def _expectation(schema: dict[str, Any], name: str) -> str:
    """The type and description of a property, as in "string: Name of the domain."."""
    properties = schema.get("properties")
    part = properties.get(name) if isinstance(properties, dict) else None
    if not isinstance(part, dict):
        return "a value"
    kind = part.get("type", "a value")
    words = str(kind if isinstance(kind, str) else " or ".join(kind))
    return f"{words}: {part['description']}" if isinstance(part.get("description"), str) else words


def _at(schema: Any, path: list[str | int]) -> dict[str, Any]:
    """The schema at a path, empty where the path leads through another document."""
    for part in path:
        known = isinstance(schema, list) or (isinstance(schema, dict) and part in schema)
        schema = schema[part] if known else None
    return schema if isinstance(schema, dict) else {}


def _has_type(value: Any, types: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    matches = {
        "object": isinstance(value, dict),
        "array": isinstance(value, list),
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "null": value is None,
        "number": number,
        "integer": number and value == value // 1,
    }
    names = [types] if isinstance(types, str) else types if isinstance(types, list) else []
    return any(matches.get(name, False) for name in names)
