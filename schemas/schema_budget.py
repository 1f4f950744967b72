"""Judges a value by a schema of unknown origin within a budget, whatever the two contain.

Where the work is known to be small, the schema is evaluated here. The rest goes to a process that can be ended
(schemas/schema_worker.py): patterns that backtrack, a schema that contains itself, references that double at each step.
"""

import functools
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from schemas.json_schema import Schema, SchemaNotSupported
from schemas.schema_worker import SECONDS, SchemaWorker, WorkerDied

# Subschemas, counted once for each way that leads to one, times the value's characters: about a second.
_WORK = 10**8
# After so many values that exceeded the budget, a schema's further values are not tried.
_ATTEMPTS = 3

# Keywords whose schemas apply to a value or to its parts.
_ONE = ("not", "if", "then", "else", "contains", "propertyNames", "items", "additionalItems")
_ONE += ("additionalProperties", "unevaluatedItems", "unevaluatedProperties")
_SEVERAL = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_NAMED = ("properties", "patternProperties", "dependentSchemas", "dependencies")

_worker = SchemaWorker()
_exceeded: Counter[str] = Counter()


def problem_within_budget(document: Any, value: Any) -> str | None:
    """What is wrong with a value by a schema, in one line, or None where it is valid.

    Raises:
        SchemaNotSupported: the schema is invalid or cannot be evaluated, or the value exceeds the budget.
    """
    try:
        schema_text, value_text = json.dumps(document), json.dumps(value)
    except (ValueError, TypeError) as error:
        raise SchemaNotSupported(f"cannot be written as JSON: {error}") from None
    except RecursionError:
        raise SchemaNotSupported("nested too deeply") from None
    size = _size(schema_text)
    if size is not None and size * len(value_text) <= _WORK:
        schema = _compiled(schema_text)
        if not schema.backtracks:
            violation = schema.problem(value)
            return violation.text if violation else None
    too_much = f"judging a value by it takes more than {SECONDS} s"
    if _exceeded[schema_text] >= _ATTEMPTS:
        raise SchemaNotSupported(too_much)
    try:
        return _worker.judge(schema_text, value_text)
    except WorkerDied:
        _exceeded[schema_text] += 1
        raise SchemaNotSupported(too_much) from None


@functools.lru_cache(maxsize=4096)
def _compiled(schema_text: str) -> Schema:
    return Schema(json.loads(schema_text))


@functools.lru_cache(maxsize=4096)
def _size(schema_text: str) -> int | None:
    """How many subschemas may apply to one value, each counted once for each way to it; None where that has no bound."""
    root = json.loads(schema_text)
    has_references = '"$ref"' in schema_text
    sizes: dict[int, int | None] = {}

    def size(schema: Any) -> int | None:
        if not isinstance(schema, dict):
            return 1
        if id(schema) not in sizes:
            # An id inside a schema starts another document for the references in it.
            if has_references and schema is not root and _identified(schema):
                raise _NoBound
            sizes[id(schema)] = None  # as long as it is being counted: a schema that contains itself
            total = 1 + (len(schema["enum"]) if isinstance(schema.get("enum"), list) else 0)
            for part in _applied(schema, root):
                inner = size(part)
                if inner is None:
                    return None
                total += inner
            sizes[id(schema)] = total
        return sizes[id(schema)]

    try:
        return size(root)
    except (_NoBound, RecursionError):
        return None


class _NoBound(Exception):
    """A reference leads somewhere that is found only by evaluating the schema."""


def _identified(schema: dict[str, Any]) -> bool:
    return isinstance(schema.get("$id", schema.get("id")), str)


def _applied(schema: dict[str, Any], root: Any) -> Iterator[Any]:
    """The schemas that a schema applies to the same value or to a part of it."""
    if schema.keys() & {"$dynamicRef", "$recursiveRef"}:
        raise _NoBound
    for keyword in _ONE:
        if isinstance(schema.get(keyword), dict):
            yield schema[keyword]
    for keyword in _SEVERAL:
        if isinstance(schema.get(keyword), list):
            yield from schema[keyword]
    for keyword in _NAMED:
        if isinstance(schema.get(keyword), dict):
            yield from schema[keyword].values()
    if "$ref" in schema:
        yield _target(schema["$ref"], root)


def _target(reference: Any, root: Any) -> Any:
    if not isinstance(reference, str) or not re.fullmatch(r"#(/[^%]*)?", reference):
        raise _NoBound
    target = root
    for part in reference.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        try:
            target = target[int(name) if isinstance(target, list) else name]
        except (KeyError, IndexError, ValueError, TypeError):
            raise _NoBound from None
    return target
