"""Schemas as servers take them that decode under one: without the keywords that they refuse.

In: a JSON Schema, or tools. Out: the same without those keywords. Values are judged by the whole schema all the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from schemas.json_schema import DATA_KEYWORDS, NAMED_KEYWORDS
from schemas.trace import Tool

# What vLLM 0.26 to 0.32 refuses and takes with xgrammar (vllm/v1/structured_output/backend_xgrammar.py).
_NOT_DECODED = frozenset(
    (
        "multipleOf",
        "uniqueItems",
        "contains",
        "minContains",
        "maxContains",
        "patternProperties",
        "propertyNames",
    )
)
_DECODED_FORMATS = frozenset(
    (
        "email",
        "date",
        "time",
        "date-time",
        "duration",
        "ipv4",
        "ipv6",
        "hostname",
        "uuid",
        "uri",
        "uri-reference",
    )
)


def decodable(schema: Any) -> Any:
    """Returns a schema without the keywords that xgrammar cannot decode under; vLLM answers a request with 400 else."""
    if isinstance(schema, list):
        return [decodable(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    left_out = _NOT_DECODED
    if "patternProperties" in schema:
        left_out |= {"additionalProperties"}  # it would forbid what the patterns allow
    if "pattern" in schema or "format" in schema:
        left_out |= {"minLength", "maxLength"}
    if schema.get("format") not in _DECODED_FORMATS:
        left_out |= {"format"}
    if len(schema.get("allOf", [])) > 1:
        left_out |= {"allOf"}
    return {
        key: value
        if key in DATA_KEYWORDS
        else {name: decodable(each) for name, each in value.items()}
        if key in NAMED_KEYWORDS
        else decodable(value)
        for key, value in schema.items()
        if key not in left_out
    }


def decodable_tools(tools: Sequence[Tool]) -> list[Tool]:
    """Returns tools whose parameters a server can decode a forced call under."""
    return [
        {
            **tool,
            "function": {
                **tool["function"],
                "parameters": decodable(tool["function"]["parameters"]),
            },
        }
        for tool in tools
    ]
