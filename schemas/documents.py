"""Checks a file that a person wrote against its JSON Schema in this directory.

The error is one line that names the file, the field, and what was found and expected.
"""

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema
from jsonschema.exceptions import best_match
from jsonschema_specifications import REGISTRY as SPECIFICATIONS
from referencing import Registry, Resource

from schemas.error_text import brief, describe, dotted
from schemas.errors import InputError

HERE = Path(__file__).resolve().parent


@functools.cache
def validator(schema_name: str) -> Any:
    """The compiled validator of `<schema_name>.schema.json` beside this module.

    A schema refers to another by its file name: `{"$ref": "teacher.schema.json#/$defs/source"}`.
    """
    schema = _schema_beside(f"{schema_name}.schema.json").contents
    registry: Registry[Any] = Registry(retrieve=_schema_beside)  # type: ignore[call-arg]
    return jsonschema.Draft202012Validator(
        schema, registry=registry.combine(SPECIFICATIONS), format_checker=jsonschema.FormatChecker()
    )


def _schema_beside(uri: str) -> Resource[Any]:
    return Resource.from_contents(json.loads((HERE / Path(uri).name).read_text(encoding="utf-8")))


def check_document(document: Any, schema_name: str, path: Path | str) -> None:
    """Checks a document that was read from `path` against `<schema_name>.schema.json`.

    Raises:
        InputError: "PATH: FIELD: found ..., expected ...", for the deepest error.
    """
    try:
        _check_keys(document, "")
        error = best_match(validator(schema_name).iter_errors(document))
    except _KeyIsNotText as error:
        raise InputError(f"{path}: {error}") from None
    except RecursionError:  # a YAML alias can make a document contain itself
        raise InputError(f"{path}: top level: nested too deeply, or refers to itself") from None
    if error is not None:
        raise InputError(f"{path}: {describe(error)}")


class _KeyIsNotText(Exception):
    """YAML reads the keys in `1:`, `on:` and `2026-01-01:` as a number, a bool, a date; JSON has only text keys."""


def _check_keys(value: Any, field: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise _KeyIsNotText(
                    f"{field or 'top level'}: found the key {brief(key)}, expected text"
                )
            _check_keys(inner, dotted([field, key]))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check_keys(inner, dotted([field, index]))
