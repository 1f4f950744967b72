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

from schemas.error_text import brief
from schemas.json_schema import Schema, SchemaNotSupported
from schemas.schema_worker import SchemaWorker, WorkerDied

# Subschemas, counted once for each way that leads to one, times the value's characters: about a second.
_WORK = 10**8
_MESSAGE_WORK = 3 * 10**6
# After so many values that exceeded the budget, a schema's further values are not tried.
_ATTEMPTS = 3

# Keywords whose schema applies to parts of a value.
_ONE = (
    *("contains", "propertyNames", "items", "additionalItems", "additionalProperties"),
    *("unevaluatedItems", "unevaluatedProperties"),
)

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
            # Each item of a long list may be wrong in each of many alternatives; the engine lists them all.
            if size * len(value_text) > _MESSAGE_WORK and not schema.is_valid(value):
                return (
                    f"top level: found {brief(value)}, too large a value to say where it is wrong"
                )
            violation = schema.problem(value)
            return violation.text if violation else None
    too_much = f"judging a value by it takes more than {_worker.seconds:g} s"
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
    """How many subschemas may apply to one value, once for each way to it; None without a bound."""
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
            sizes[id(schema)] = (
                None  # as long as it is being counted: a schema that contains itself
            )
            total = 1 + (len(schema["enum"]) if isinstance(schema.get("enum"), list) else 0)
            for part in (*_same_value(schema, root), *_parts(schema)):
                inner = size(part)
                if inner is None:
                    return None
                total += inner
            sizes[id(schema)] = total
        return sizes[id(schema)]

    try:
        if has_references and _endless(root, root, set(), set()):
            raise SchemaNotSupported("refers to itself without end")
        return size(root)
    except (_NoBound, RecursionError):
        return None


class _NoBound(Exception):
    """A reference leads somewhere that is found only by evaluating the schema."""


def _identified(schema: dict[str, Any]) -> bool:
    return isinstance(schema.get("$id", schema.get("id")), str)


def _endless(schema: Any, root: Any, open_: set[int], done: set[int]) -> bool:
    """Whether a schema that a value meets applies itself to the same value."""
    if not isinstance(schema, dict) or id(schema) in done:
        return False
    if id(schema) in open_:
        return True
    open_.add(id(schema))
    if any(_endless(part, root, open_, done) for part in _same_value(schema, root)):
        return True
    open_.remove(id(schema))
    done.add(id(schema))
    return any(_endless(part, root, set(), done) for part in _parts(schema))


def _same_value(schema: dict[str, Any], root: Any) -> Iterator[Any]:
    """The schemas that a schema applies to the value itself."""
    if schema.keys() & {"$dynamicRef", "$recursiveRef"}:
        raise _NoBound
    for keyword in ("not", "if", "then", "else"):
        if keyword in schema:
            yield schema[keyword]
    for keyword in ("allOf", "anyOf", "oneOf"):
        if isinstance(schema.get(keyword), list):
            yield from schema[keyword]
    for keyword in ("dependentSchemas", "dependencies"):
        if isinstance(schema.get(keyword), dict):
            yield from schema[keyword].values()
    if "$ref" in schema:
        yield _target(schema["$ref"], root)


def _parts(schema: dict[str, Any]) -> Iterator[Any]:
    """The schemas that a schema applies to parts of the value."""
    for keyword in _ONE:
        if isinstance(schema.get(keyword), list):  # items, in drafts before 2020-12
            yield from schema[keyword]
        elif keyword in schema:
            yield schema[keyword]
    if isinstance(schema.get("prefixItems"), list):
        yield from schema["prefixItems"]
    for keyword in ("properties", "patternProperties"):
        if isinstance(schema.get(keyword), dict):
            yield from schema[keyword].values()


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
