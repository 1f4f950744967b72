"""Answers in JSON: whether a text is a value of the task's schema that equals the planted one, field by field.

A task of the kind `extract` states its schema in the request, as an API without constrained decoding is told it, and
its row has the same schema as `response_format` has it. The value must be the whole text. What is absent is null.
"""

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from schemas.canonical import canonical
from schemas.decodable import decodable
from schemas.error_text import brief
from schemas.files import dumps
from schemas.json_schema import Schema, SchemaNotSupported
from schemas.json_text import parse_json
from schemas.task import Answer

MOST_CHARACTERS = 20_000
_INSTRUCTION = "Reply with one JSON object and nothing else. It must be valid by this JSON Schema:"


def stated_schema(schema: Mapping[str, Any]) -> str:
    """Returns how a request states the schema of its answer."""
    return f"{_INSTRUCTION}\n{json.dumps(schema, ensure_ascii=False)}"


def response_format(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns the parameter of an API that makes the server decode under a schema.

    vLLM refuses a request whose schema has a keyword that xgrammar cannot decode under, so those are left out here.
    The answer is judged by the whole schema.

    name: letters, digits, _ and -, at most 64.
    """
    form = {"name": name[:64], "schema": decodable(schema), "strict": True}
    return {"type": "json_schema", "json_schema": form}


def schema_problem(schema: Any, value: Any) -> str | None:
    """Returns what is wrong with a schema, or with a planted value by it; None if nothing is."""
    if not isinstance(schema, dict) or schema.get("type") != "object":
        return "schema: expected a JSON Schema of the type object"
    try:
        violation = _compiled(dumps(schema)).problem(value)
    except SchemaNotSupported as error:
        return f"schema: {error}"
    if violation:
        return f"value: not valid by the schema: {_pointer(violation.path)}: {violation.text}"
    return None


def answer_problem(answer: Answer | None, text: str) -> str | None:
    """Returns what is wrong with the final text of an episode, "" if it has none, where the task wants JSON."""
    if not text or answer is None or answer["type"] != "json":
        return None
    return json_problem(answer["schema"], answer["value"], text)


def json_problem(schema: Mapping[str, Any], value: Any, text: str) -> str | None:
    """Returns what is wrong with a text as the answer, with the JSON pointer of the value; None if it is right.

    Lists are compared in order, those with `uniqueItems` without. 15.0 is 15.

    >>> schema = {
    ...     "type": "object",
    ...     "properties": {"fee": {"type": ["number", "null"]}, "days": {"type": "array", "uniqueItems": True}},
    ...     "required": ["fee", "days"],
    ...     "additionalProperties": False,
    ... }
    >>> planted = {"fee": None, "days": ["Mon", "Tue"]}
    >>> json_problem(schema, planted, '{"days": ["Tue", "Mon"], "fee": null}')
    >>> json_problem(schema, planted, '{"fee": 120, "days": ["Mon", "Tue"]}')
    '/fee: found 120, expected null'
    >>> json_problem(schema, planted, '{"fee": null, "days": ["Mon"]}')
    '/days: found 1 item, expected 2'
    >>> json_problem(schema, planted, '{"fee": "none", "days": ["Mon"]}')
    "/fee: not valid: fee: found 'none', expected number or null"
    >>> json_problem(schema, planted, 'The fee is not stated.')[:40]
    'the text is not JSON: Expecting value: l'
    """
    if len(text) > MOST_CHARACTERS:
        return f"{len(text):,} characters, at most {MOST_CHARACTERS:,}"
    try:
        found = parse_json(text.strip())
    except ValueError as error:
        return f"the text is not JSON: {error}"
    violation = _compiled(dumps(schema)).problem(found)
    if violation:
        return f"{_pointer(violation.path)}: not valid: {violation.text}"
    return next(_differences(canonical(found), canonical(value), schema, ()), None)


@functools.lru_cache(maxsize=256)
def _compiled(schema_text: str) -> Schema:
    return Schema(json.loads(schema_text))


def _pointer(path: tuple[Any, ...]) -> str:
    """A JSON pointer (RFC 6901); the whole document is called by a word, as its pointer is empty."""
    parts = [str(part).replace("~", "~0").replace("/", "~1") for part in path]
    return "".join(f"/{part}" for part in parts) or "the object"


def _quote(value: Any) -> str:
    return brief(value) if value is not None else "null"


def _differences(found: Any, planted: Any, schema: Any, path: tuple[Any, ...]) -> Iterator[str]:
    """Yields where two values differ. schema: of the value, as far as it is followed: properties and items."""
    schema = schema if isinstance(schema, dict) else {}
    if isinstance(found, dict) and isinstance(planted, dict):
        for key in planted:
            inner = schema.get("properties", {}).get(key)
            if key not in found:
                yield f"{_pointer((*path, key))}: missing, expected {_quote(planted[key])}"
            else:
                yield from _differences(found[key], planted[key], inner, (*path, key))
        for key in found.keys() - planted.keys():
            yield f"{_pointer((*path, key))}: found {_quote(found[key])}, expected no such field"
    elif isinstance(found, list) and isinstance(planted, list):
        if len(found) != len(planted):
            items = f"{len(found)} item{'s' * (len(found) != 1)}"
            yield f"{_pointer(path)}: found {items}, expected {len(planted)}"
            return
        if schema.get("uniqueItems"):
            found, planted = sorted(found, key=dumps), sorted(planted, key=dumps)
        for index, (one, other) in enumerate(zip(found, planted, strict=True)):
            yield from _differences(one, other, schema.get("items"), (*path, index))
    elif dumps(found) != dumps(planted):
        yield f"{_pointer(path)}: found {_quote(found)}, expected {_quote(planted)}"
