"""Checks a file that a person wrote against its JSON Schema in this directory.

The error is one line that names the file, the field, and what was found and expected.
"""

import functools
import json
from pathlib import Path
from typing import Any

from schemas.error_text import brief, dotted
from schemas.errors import InputError
from schemas.json_schema import Schema, SchemaNotSupported
from schemas.violation import Violation

HERE = Path(__file__).resolve().parent


@functools.cache
def document_schema(name: str) -> Schema:
    """The compiled `<name>.schema.json` beside this module.

    A schema refers to another by its file name: `{"$ref": "teacher.schema.json#/$defs/source"}`.
    """
    return Schema(_read(f"{name}.schema.json"), _resources())


@functools.cache
def _resources() -> dict[str, Any]:
    return {path.name: _read(path.name) for path in sorted(HERE.glob("*.schema.json"))}


def _read(file_name: str) -> Any:
    return json.loads((HERE / file_name).read_text(encoding="utf-8"))


def document_problem(document: Any, schema_name: str) -> Violation | None:
    """What is wrong with a JSON value by `<schema_name>.schema.json`, or None."""
    try:
        return document_schema(schema_name).problem(document)
    except SchemaNotSupported as error:  # the value is not JSON
        return Violation((), f"top level: {error}")


def check_document(document: Any, schema_name: str, path: Path | str) -> None:
    """Checks a document that was read from `path` against `<schema_name>.schema.json`.

    Raises:
        InputError: "PATH: FIELD: found ..., expected ...", for the deepest error.
    """
    try:
        _check_json(document, "")
        violation = document_problem(document, schema_name)
    except _NotJson as error:
        raise InputError(f"{path}: {error}") from None
    except RecursionError:  # a YAML alias can make a document contain itself
        raise InputError(f"{path}: top level: nested too deeply, or refers to itself") from None
    if violation is not None:
        raise InputError(f"{path}: {violation.text}")


class _NotJson(Exception):
    """YAML has what JSON lacks: keys that are no text (`1:`, `on:`, `2026-01-01:`), and dates."""


def _check_json(value: Any, field: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise _NotJson(f"{field or 'top level'}: found the key {brief(key)}, expected text")
            _check_json(inner, dotted([field, key]))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _check_json(inner, dotted([field, index]))
    elif not isinstance(value, str | int | float | None):
        found = brief(value)
        raise _NotJson(f"{field or 'top level'}: found {found}, expected JSON: write it in quotes")
