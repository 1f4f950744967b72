"""Functions in the forms of OpenAI, Anthropic and MCP as a pack's tools, and the tools of an MCP server."""

import fnmatch
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.documents import check_document
from schemas.error_text import brief, one_line
from schemas.errors import InputError
from schemas.files import read_json
from schemas.trace import Tool
from teacher.domain.tool_import.plain_schema import plain_schema

# OpenAI's API takes as many.
MOST_TOOLS = 128
_MOST_DESCRIPTION = 8_000
# How a tool is called that changes nothing, where nobody says so.
_READS = re.compile(
    r"(?:\w+[./])?(?:get|list|find|search|read|show|look_?up|fetch|count|describe|query|check)(?![a-z])"
)


@dataclass
class Imported:
    """Tools for a pack. reads, names: as tools.json has them. notes: where a tool comes from, in a line, by name."""

    tools: list[Tool] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def add(
        self,
        called: str,
        description: str,
        parameters: dict[str, Any],
        *,
        place: str,
        reads: bool,
        note: str,
    ) -> None:
        """Adds a tool under a name that a model may call. called: its name on the server, or in the file."""
        text = (description or called).strip()
        if len(text) > _MOST_DESCRIPTION:
            raise InputError(
                f"{place}: a description of {len(text):,} characters, expected at most {_MOST_DESCRIPTION:,}"
            )
        name = self._free_name(called)
        if name != called:
            self.names[name] = called
        if reads:
            self.reads.append(name)
        self.notes[name] = one_line(note, limit=100)
        function = {"name": name, "description": text, "parameters": parameters}
        self.tools.append({"type": "function", "function": function})

    def _free_name(self, called: str) -> str:
        plain = re.sub(r"[^a-zA-Z0-9_-]+", "_", called).strip("_-")
        plain = plain if plain[:1].isalpha() else f"tool_{plain}"
        taken = {tool["function"]["name"] for tool in self.tools}
        names = (f"{plain[:58]}_{number}" for number in itertools.count(2))
        return next(name for name in itertools.chain([plain[:60]], names) if name not in taken)

    def document(self, place: str) -> dict[str, Any]:
        """Returns the content of tools.json.

        Raises:
            InputError: there is no tool, or more than a model is offered.
        """
        if not 0 < len(self.tools) <= MOST_TOOLS:
            raise InputError(
                f"{place}: found {len(self.tools)} tools, expected 1 to {MOST_TOOLS}: choose with --only"
            )
        document = {"tools": self.tools, "reads": self.reads, "names": self.names}
        check_document(document, "tools", place)
        return document


def chosen(name: str, only: Sequence[str]) -> bool:
    """Returns whether a tool's name matches one of the patterns, such as `*_order`; none at all choose every tool."""
    return not only or any(fnmatch.fnmatchcase(name, pattern) for pattern in only)


def read_functions(file: Path, only: Sequence[str] = ()) -> Imported:
    """Returns the functions of a JSON file: a list, or an object with the list `tools`.

    A function is as OpenAI's API has it ({"type": "function", "function": {...}}, or the function alone), as
    Anthropic's ("input_schema"), or as MCP's ("inputSchema").

    Raises:
        InputError: the file or a function in it has another form; the message names it.
    """
    document = read_json(file)
    listed = document.get("tools") if isinstance(document, dict) else document
    if not isinstance(listed, list):
        raise InputError(f"{file}: expected a list of functions, or an object with the list tools")
    return import_functions(listed, str(file), only)


def import_functions(listed: Iterable[Any], place: str, only: Sequence[str] = ()) -> Imported:
    """Returns functions as tools. place: how errors call where they come from."""
    imported = Imported()
    for index, row in enumerate(listed):
        function = row.get("function", row) if isinstance(row, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or not name.strip():
            raise InputError(
                f"{place}: tools[{index}]: found {brief(row)}, expected a function with a name"
            )
        if not chosen(name, only):
            continue
        assert isinstance(function, dict)
        where = f"{place}: {one_line(name, limit=60)}"
        forms = [
            function[key]
            for key in ("parameters", "input_schema", "inputSchema")
            if key in function
        ]
        schema = forms[0] if forms else {}
        plain = object_schema(plain_schema(schema, schema, where), where)
        annotations = row.get("annotations")
        hints = annotations if isinstance(annotations, dict) else {}
        imported.add(
            name,
            str(function.get("description") or function.get("title") or ""),
            plain,
            place=where,
            reads=bool(hints.get("readOnlyHint", _READS.match(name))),
            note=str(function.get("description") or name),
        )
    return imported


def object_schema(schema: dict[str, Any], place: str) -> dict[str, Any]:
    """Returns a schema of a tool's arguments, with `properties` in any case."""
    if schema.get("type", "object") != "object":
        raise InputError(f"{place}: found the type {brief(schema['type'])}, expected object")
    return {"type": "object", "properties": {}, **schema}
