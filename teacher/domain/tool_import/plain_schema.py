"""One schema of others as a plain one: without references, noise, and what would make it dangerous to judge by."""

import json
from typing import Any

from schemas.error_text import brief
from schemas.errors import InputError
from schemas.json_schema import Schema, SchemaNotSupported

MOST_NODES, MOST_DEPTH, MOST_CHARACTERS = 5_000, 32, 60_000
# They say nothing that a caller of a tool needs, or belong to OpenAPI alone.
_NOISE = {
    *("$schema", "$id", "id", "$comment", "$defs", "definitions", "$anchor", "title"),
    *("example", "examples", "externalDocs", "xml", "discriminator", "deprecated"),
}
_BY_NAME = {"properties", "patternProperties", "dependentSchemas"}
_DATA = {"enum", "const", "default", "required"}


def plain_schema(schema: Any, root: Any, place: str, *, is_request: bool = True) -> dict[str, Any]:
    """Returns a schema in which every local reference is written out.

    Args:
        schema: in the document `root`. place: how an error calls it.
        is_request: leave out properties that are readOnly.

    Raises:
        InputError: it contains itself, refers to another document, is too large, or cannot be judged by.
    """
    if not isinstance(schema, dict):
        raise InputError(f"{place}: found {brief(schema)}, expected a JSON Schema")
    plain = _Plain(root, place, is_request).of(schema, 0, ())
    size = len(json.dumps(plain))
    if size > MOST_CHARACTERS:
        raise InputError(f"{place}: {size:,} characters, expected at most {MOST_CHARACTERS:,}")
    try:
        if Schema(plain).backtracks:
            raise InputError(
                f"{place}: a pattern looks around or refers back, which may take exponential time"
            )
    except SchemaNotSupported as error:
        raise InputError(f"{place}: {error}") from None
    return plain


class _Plain:
    def __init__(self, root: Any, place: str, is_request: bool) -> None:
        self.root, self.place, self.is_request = root, place, is_request
        self.nodes = 0

    def of(self, schema: Any, depth: int, open_: tuple[str, ...]) -> Any:
        """open_: the references that are being written out."""
        self._count(depth)
        if not isinstance(schema, dict):
            return schema if isinstance(schema, bool) else {}
        if (reference := schema.get("$ref")) is not None:
            if reference in open_:
                raise InputError(f"{self.place}: {brief(reference)} contains itself")
            target = self.of(resolve(reference, self.root, self.place), depth, (*open_, reference))
            others = {key: value for key, value in schema.items() if key != "$ref"}
            return {**target, **self.of(others, depth, open_)} if others else target
        result: dict[str, Any] = {}
        for key, value in schema.items():
            if key in _NOISE or not isinstance(key, str) or key.startswith("x-"):
                continue
            if key in ("$dynamicRef", "$recursiveRef"):
                raise InputError(f"{self.place}: found {key}, expected $ref")
            if key in _BY_NAME and isinstance(value, dict):
                result[key] = {
                    str(name): self.of(inner, depth + 1, open_)
                    for name, inner in value.items()
                    if not (self.is_request and isinstance(inner, dict) and inner.get("readOnly"))
                }
            elif key in _DATA or isinstance(value, str | int | float | None):
                result[key] = self._data(value, depth)
            elif isinstance(value, list):
                result[key] = [self.of(inner, depth + 1, open_) for inner in value]
            else:
                result[key] = self.of(value, depth + 1, open_)
        return _of_openapi_30(result)

    def _data(self, value: Any, depth: int) -> Any:
        """A value as JSON: YAML also has dates, keys that are no text, and aliases, a few of which are a huge value."""
        self._count(depth)
        if isinstance(value, dict):
            return {str(name): self._data(inner, depth + 1) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._data(inner, depth + 1) for inner in value]
        return value if isinstance(value, str | int | float | None) else str(value)

    def _count(self, depth: int) -> None:
        self.nodes += 1
        if self.nodes > MOST_NODES or depth > MOST_DEPTH:
            raise InputError(
                f"{self.place}: expected at most {MOST_NODES:,} parts, {MOST_DEPTH} deep, with its references"
            )


def resolve(reference: Any, root: Any, place: str) -> Any:
    """Returns what a local reference names.

    Raises:
        InputError: it leads to another document, or nowhere.
    """
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise InputError(
            f"{place}: $ref {brief(reference)}: expected one of this document, as #/..."
        )
    value = root
    for part in reference.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~").replace("%7B", "{").replace("%7D", "}")
        try:
            value = value[int(name) if isinstance(value, list) else name]
        except (KeyError, IndexError, ValueError, TypeError):
            raise InputError(f"{place}: $ref {brief(reference)}: no such place") from None
    return value


def _of_openapi_30(schema: dict[str, Any]) -> dict[str, Any]:
    """What OpenAPI 3.0 writes otherwise than JSON Schema: nullable, and bounds that are exclusive by a flag."""
    schema = {key: value for key, value in schema.items() if key not in ("readOnly", "writeOnly")}
    if schema.pop("nullable", False) is True and isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
        if isinstance(schema.get("enum"), list) and None not in schema["enum"]:
            schema["enum"] = [*schema["enum"], None]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(schema.get(exclusive), bool) and schema.pop(exclusive) and bound in schema:
            schema[exclusive] = schema.pop(bound)
    return schema
