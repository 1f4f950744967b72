"""The operations of an OpenAPI 3.0 or 3.1 file as tools.

A tool's parameters are those in path and query and the fields of a JSON body, beside each other; a body that is no
object is the parameter `body`. Headers and cookies belong to the connection, not to what a model decides.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from schemas.error_text import brief, one_line
from schemas.errors import InputError
from schemas.files import read_json
from schemas.yaml_text import read_yaml
from teacher.domain.tool_import.functions import Imported, chosen
from teacher.domain.tool_import.plain_schema import plain_schema, resolve

_METHODS = ("get", "head", "post", "put", "patch", "delete")
_READS = {"get", "head"}
_MOST_BYTES = 20_000_000


def read_openapi(file: Path, only: Sequence[str] = ()) -> Imported:
    """Returns the operations of an OpenAPI file, JSON or YAML, as tools.

    only: patterns of operationIds, such as `*Order`; none for all.

    Raises:
        InputError: it is not OpenAPI 3, or a schema in it is refused; the message names the operation.
    """
    if file.is_file() and file.stat().st_size > _MOST_BYTES:
        raise InputError(f"{file}: expected at most {_MOST_BYTES // 1_000_000} MB")
    document = read_json(file) if file.suffix == ".json" else read_yaml(file)
    version = document.get("openapi") if isinstance(document, dict) else None
    if not isinstance(version, str) or not re.match(r"3\.[01]\b", version):
        actual = version or (document.get("swagger") if isinstance(document, dict) else None)
        raise InputError(f"{file}: openapi: found {brief(actual)}, expected 3.0 or 3.1")
    paths = document.get("paths")
    if not isinstance(paths, dict):
        raise InputError(f"{file}: paths: found {brief(paths)}, expected an object")
    imported = Imported()
    for path, item in paths.items():
        if isinstance(item, dict) and "$ref" in item:
            item = resolve(item["$ref"], document, f"{file}: paths: {path}")
        if not isinstance(item, dict):
            raise InputError(f"{file}: paths: {path}: found {brief(item)}, expected an object")
        for method in _METHODS:
            if not isinstance(operation := item.get(method), dict):
                continue
            note = one_line(f"{method.upper()} {path}")
            name = operation.get("operationId")
            name = (
                name if isinstance(name, str) and name else re.sub(r"\W+", "_", f"{method} {path}")
            )
            if not chosen(name, only):
                continue
            place = f"{file}: {note}"
            imported.add(
                re.sub(r"\W+", "_", name).strip("_"),
                _text(operation) or note,
                _parameters(document, item, operation, place),
                place=place,
                reads=method in _READS,
                note=note,
            )
    imported.names = {}  # a mock world is called by the names of its tools
    return imported


def _text(operation: dict[str, Any]) -> str:
    texts = [operation.get("summary"), operation.get("description")]
    return "\n\n".join(dict.fromkeys(text.strip() for text in texts if isinstance(text, str)))


def _parameters(
    document: Any, item: dict[str, Any], operation: dict[str, Any], place: str
) -> dict[str, Any]:
    """Returns the schema of an operation's arguments."""
    properties: dict[str, Any] = {}
    required: list[str] = []
    by_place: dict[tuple[str, str], dict[str, Any]] = {}
    for row in [*_list(item.get("parameters")), *_list(operation.get("parameters"))]:
        row = (
            resolve(row["$ref"], document, place)
            if isinstance(row, dict) and "$ref" in row
            else row
        )
        if not isinstance(row, dict) or not isinstance(row.get("name"), str):
            raise InputError(f"{place}: parameters: found {brief(row)}, expected one with a name")
        by_place[row["name"], str(row.get("in"))] = row
    for (name, where), row in by_place.items():
        if where not in ("path", "query"):
            continue
        schema = row.get("schema") or _json_content(row.get("content")) or {"type": "string"}
        properties[name] = _described(
            plain_schema(schema, document, one_line(f"{place}: {name}")), row.get("description")
        )
        if row.get("required") is True or where == "path":
            required.append(name)
    body = operation.get("requestBody")
    if isinstance(body, dict):
        body = resolve(body["$ref"], document, place) if "$ref" in body else body
        _add_body(properties, required, body, document, place)
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _add_body(
    properties: dict[str, Any], required: list[str], body: Any, document: Any, place: str
) -> None:
    schema = _json_content(body.get("content") if isinstance(body, dict) else None)
    is_required = isinstance(body, dict) and body.get("required") is True
    plain = plain_schema(schema or {"type": "string"}, document, f"{place}: body")
    plain = _merged(plain)
    fields = plain.get("properties")
    if plain.get("type") != "object" or not fields or set(fields) & set(properties):
        properties["body"] = plain
        required += ["body"] if is_required else []
        return
    properties |= fields
    if is_required:
        required += [name for name in _list(plain.get("required")) if name in fields]


def _merged(schema: dict[str, Any]) -> dict[str, Any]:
    """An object that is put together by allOf, as one object."""
    parts = schema.get("allOf")
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        return schema
    merged: dict[str, Any] = {"type": "object", "properties": {}, "required": []}
    for part in [*map(_merged, parts), {k: v for k, v in schema.items() if k != "allOf"}]:
        if set(part) - {"type", "properties", "required", "description"}:
            return schema
        merged["properties"] |= part.get("properties", {})
        merged["required"] += part.get("required", [])
    return merged


def _json_content(content: Any) -> Any:
    """The schema of a body in JSON or of a form, or None."""
    for kind, media in content.items() if isinstance(content, dict) else ():
        if isinstance(media, dict) and re.search("json|x-www-form-urlencoded", str(kind)):
            return media.get("schema")
    return None


def _described(schema: dict[str, Any], description: Any) -> dict[str, Any]:
    is_text = isinstance(description, str) and description.strip()
    return {**schema, "description": description.strip()} if is_text else schema


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
