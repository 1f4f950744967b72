"""Error messages in one line: where a value is, what was found, what was expected."""

import re
import reprlib
from collections.abc import Iterable
from typing import Any

from jsonschema.exceptions import ValidationError

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 60
_repr.maxlist = _repr.maxdict = 4
_repr.maxlevel = 2

# Formats whose form is not obvious: a date-time of RFC 3339 has an offset.
_FORMAT_EXAMPLES = {"date": "2026-03-02", "date-time": "2026-03-02T10:00:00Z"}


def one_line(text: str, limit: int = 300) -> str:
    """`text` as one line of valid Unicode, cut to `limit` characters."""
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def brief(value: Any) -> str:
    """The repr of a value, shortened where it is long."""
    return _repr.repr(value)


def last_line(text: str) -> str:
    """The last line of a program's output that mentions an error, else its last line; 300 characters at most."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error", line, re.IGNORECASE)]
    return (errors or lines or ["no output"])[-1][:300]


def dotted(path: Iterable[Any]) -> str:
    """A path such as ["a", "b", 0, "c"] as a.b[0].c."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part != "":
            text += f".{part}" if text else str(part)
    return text


def describe(error: ValidationError) -> str:
    """The message of a validation error: the field, what was found, what was expected."""
    field = dotted(error.absolute_path)
    expected, actual = error.validator_value, error.instance
    match error.validator:
        case "required":
            missing = next(name for name in expected if name not in actual)
            expectation = _expectation(error.schema, missing)
            return one_line(f"{dotted([field, missing])}: missing, expected {expectation}")
        case "additionalProperties" if expected is False:
            known = error.schema.get("properties", {})
            patterns = error.schema.get("patternProperties", {})
            if known and not patterns:
                unknown = next(name for name in actual if name not in known)
                return (
                    f"{dotted([field, unknown])}: unknown field, expected one of {', '.join(known)}"
                )
            problem = error.message
        case "type":
            types = expected if isinstance(expected, str) else " or ".join(expected)
            problem = f"found {brief(actual)}, expected {types}"
        case "enum":
            problem = f"found {brief(actual)}, expected one of {', '.join(map(str, expected))}"
        case "const":
            problem = f"found {brief(actual)}, expected {brief(expected)}"
        case "format" if expected in _FORMAT_EXAMPLES:
            example = _FORMAT_EXAMPLES[expected]
            problem = f"found {brief(actual)}, expected {expected} such as {example}"
        case "pattern" | "format":
            problem = f"found {brief(actual)}, expected {error.validator} {expected}"
        case (
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" as bound
        ):
            problem = f"found {brief(actual)}, expected {bound} {expected}"
        case (
            "minLength"
            | "maxLength"
            | "minItems"
            | "maxItems"
            | "minProperties"
            | "maxProperties" as bound
        ):
            problem = f"found {len(actual)}, expected {bound} {expected}"
        case "oneOf" | "anyOf" as keyword:
            problem = f"found {brief(actual)}, expected {keyword} {len(expected)} forms"
        case _:
            problem = error.message
    return one_line(f"{field or 'top level'}: {problem}")


def _expectation(schema: dict[str, Any], name: str) -> str:
    """The type and description of a property, as in "string: Name of the domain."."""
    part = schema.get("properties", {}).get(name, {})
    if not isinstance(part, dict):
        return "a value"
    kind = part.get("type", "a value")
    words = str(kind if isinstance(kind, str) else " or ".join(kind))
    return f"{words}: {part['description']}" if isinstance(part.get("description"), str) else words
