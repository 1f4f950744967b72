"""Templates that write each argument of a call as a text of its own between tags, as Qwen3-Coder's and Qwen3.5's do.

A string has no quotes there, so a server knows by the tool's schema alone what a value is. llama.cpp's parser
(common/parsers/qwen3-coder.cpp) reads required arguments before optional ones, those of the schema only, and a text as
a number, boolean, null, list or object where it is one and the schema allows it. Of what it does not read so, it
returns no call or another one.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from schemas.error_text import brief
from schemas.trace import Tool
from student.rendering import probe

_TYPES = frozenset({"string", "number", "boolean", "null", "array", "object"})


@dataclass(frozen=True)
class BareValues:
    """How a template writes arguments.

    Attributes:
        tags: what it writes around values and calls, such as </parameter>.
        writes_json: whether a boolean and null are written as in JSON, not as in Python.
    """

    tags: tuple[str, ...]
    writes_json: bool


def find(apply: Callable[..., str]) -> BareValues | None:
    """Returns how a template writes arguments, or None where it writes them as JSON.

    Args: as of `probe.renders`.
    """
    call = probe.written_call(apply, probe.MARK)
    if call is None or probe.MARK not in call or f'"{probe.MARK}"' in call:
        return None
    writes_json = all(
        probe.written_call(apply, value) == call.replace(probe.MARK, json.dumps(value))
        for value in (True, None)
    )
    return BareValues(probe.tags(call), writes_json)


def problem(tool: Tool, arguments: dict[str, Any], bare: BareValues) -> str | None:
    """Returns the first argument of a valid call that a server reads otherwise than it was written; None if none is."""
    parameters = tool["function"].get("parameters") or {}
    properties = parameters.get("properties") or {}
    for name, value in arguments.items():
        if name not in properties:
            return f"{name}: is not among the tool's properties"
        if (isinstance(value, bool) or value is None) and not bare.writes_json:
            return f"{name}: found {value}, as the template writes it, expected {json.dumps(value)}"
        if isinstance(value, str):
            if tag := next((tag for tag in bare.tags if tag in value), None):
                return f"{name}: found {tag} in a text"
            if (other := _read_as(value)) and other in allowed_types(properties[name]):
                return f"{name}: the text {brief(value)} is read as {other}"
    return None


def in_order(tool: Tool, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments with the required ones first, else in their order."""
    required = (tool["function"].get("parameters") or {}).get("required") or []
    return dict(sorted(arguments.items(), key=lambda item: item[0] not in required))


def constants(tool: Tool) -> dict[str, bool]:
    """The parameters that take a boolean or null, each with whether every call has one, so that none can be written."""
    parameters = tool["function"].get("parameters") or {}
    required = parameters.get("required") or []
    types = {
        name: allowed_types(schema) for name, schema in (parameters.get("properties") or {}).items()
    }
    named = {name: found for name, found in types.items() if found & {"boolean", "null"}}
    return {
        name: name in required and found <= {"boolean", "null"}
        for name, found in named.items()
        if found != _TYPES
    }


def allowed_types(schema: Any) -> frozenset[str]:
    """The JSON types that a schema allows, integers as numbers; all of them where it does not say so itself."""
    if not isinstance(schema, dict) or "$ref" in schema or "allOf" in schema:
        return _TYPES
    if "enum" in schema or "const" in schema:
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        return frozenset(map(_type_of, values))
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return frozenset().union(*map(allowed_types, schema[key]))
    types = schema.get("type", [])
    named = {types} if isinstance(types, str) else set(types)
    return frozenset("number" if name == "integer" else name for name in named) or _TYPES


def _read_as(text: str) -> str | None:
    """The type of the JSON value that a text is, unless it is none or a string."""
    try:
        kind = _type_of(json.loads(text))
    except (ValueError, RecursionError):
        return None
    return None if kind == "string" else kind


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", list: "array", dict: "object"}
    return next((name for kind, name in names.items() if isinstance(value, kind)), "number")
