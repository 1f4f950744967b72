"""What templates of the kind `extract` have in common: the schemas of a pack, and a task whose answer is JSON."""

import json
from pathlib import Path
from typing import Any

from schemas.errors import InputError
from schemas.files import read_json
from teacher.domain.blueprint import Answer, Blueprint, Solution
from teacher.scenes.scene import Scene


def read_schemas(directory: Path | str) -> dict[str, dict[str, Any]]:
    """Returns the JSON Schemas of a pack, each by its file's name without .json.

    Raises:
        InputError: there is no such file, or one holds no JSON object; the message names it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     _ = Path(directory, "fee.json").write_text('{"type": "object"}')
    ...     read_schemas(directory)
    {'fee': {'type': 'object'}}
    """
    files = sorted(Path(directory).glob("*.json"))
    if not files:
        raise InputError(f"{directory}: no file *.json, expected the schemas of the answers")
    by_name = {file.stem: read_json(file) for file in files}
    for file in files:
        if not isinstance(by_name[file.stem], dict):
            raise InputError(f"{file}: expected a JSON Schema, an object")
    return by_name


def json_task(
    schema: dict[str, Any],
    request: str,
    plan: Solution,
    value: dict[str, Any],
    *,
    pictures: list[Scene] | None = None,
) -> Blueprint:
    """Returns a task whose answer is a JSON object that is valid by a schema.

    value: the answer, null for what is absent. plan, pictures: as of a Blueprint.

    >>> schema = {"type": "object", "properties": {"days": {"type": "integer"}}, "required": ["days"]}
    >>> json_task(schema, "Extract the term of: Net 30 days.", [], {"days": 30}).reply
    '{"days": 30}'
    """
    reply = json.dumps(value, ensure_ascii=False)
    answer = Answer("json", value, schema=schema)
    return Blueprint(request, plan, reply, answer, pictures or [])
