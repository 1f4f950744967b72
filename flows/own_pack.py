"""Writes a domain pack for tools that people have: tools.json, a world, and templates with gaps for their author.

In: tools (teacher/domain/tool_import) and conversations of one's own. Out: the text of each file of the pack. The
conversations give requests as users wrote them; their answers and calls are never taken for right ones.
"""

import json
import keyword
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from schemas.error_text import one_line
from schemas.messages import text_of
from teacher.domain.check.gaps import MARK
from teacher.domain.tool_import.functions import Imported

_TEMPLATES = Path(__file__).with_name("starter_tools")
# Templates of each kind that are begun.
_BEGUN = 4
_MOST_REQUESTS, _LONGEST = 200, 500


@dataclass(frozen=True)
class _Row:
    """A tool as the templates show it. method: its name in Python."""

    name: str
    method: str
    note: str
    reads: bool
    requests: list[str]


def files(
    name: str,
    imported: Imported,
    source: str,
    *,
    server: str | None = None,
    conversations: Sequence[dict[str, Any]] = (),
) -> dict[str, str]:
    """Returns the files of a pack by their names.

    Args:
        name: of the domain. source: where its tools are from, for comments.
        server: the MCP server that runs the tools; None for a mock world.
        conversations: of one's own, as schemas/interchange reads them.
    """
    requests = seeds(conversations)
    called = requests_by_tool(conversations)
    names = {called_name: shown for shown, called_name in imported.names.items()}
    by_tool = {names.get(tool, tool): texts for tool, texts in called.items()}
    methods: set[str] = set()
    rows = []
    for tool in imported.tools:
        shown = tool["function"]["name"]
        rows.append(
            _Row(
                shown,
                _method(shown, methods),
                _safe(imported.notes.get(shown, shown)),
                shown in imported.reads,
                [_safe(text) for text in by_tool.get(shown, [])[:3]],
            )
        )
    # Tools that users caused to be called come first.
    ranked = sorted(rows, key=lambda row: -len(by_tool.get(row.name, [])))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), undefined=jinja2.StrictUndefined
    )
    context = {
        "name": name,
        "class_name": "".join(part.capitalize() for part in name.split("-")),
        "source": _safe(source),
        "description": f"An assistant with the tools of {_safe(source)}.",
        "server": json.dumps(server, ensure_ascii=False),
        "tools": rows,
        "asking": [row for row in ranked if row.reads][:_BEGUN],
        "changing": [row for row in ranked if not row.reads][:_BEGUN],
    }
    world = environment.get_template("mcp.py.jinja" if server else "mock.py.jinja")
    text = re.sub(r"\n{4,}", "\n\n\n", world.render(context))
    written = {
        "domain.yaml": environment.get_template("domain.yaml.jinja").render(context) + "\n",
        "environment.py": text.rstrip() + "\n",
        "tools.json": json.dumps(imported.document(source), indent=2, ensure_ascii=False) + "\n",
    }
    if requests:
        lines = [json.dumps({"request": text}, ensure_ascii=False) for text in requests]
        written["requests.jsonl"] = "\n".join(lines) + "\n"
    return written


def seeds(conversations: Sequence[dict[str, Any]]) -> list[str]:
    """Returns distinct requests that users wrote, in the order of the logs."""
    texts = [
        " ".join(text_of(message["content"]).split())[:_LONGEST]
        for conversation in conversations
        for message in conversation["messages"]
        if message["role"] == "user"
    ]
    return list(dict.fromkeys(text for text in texts if text))[:_MOST_REQUESTS]


def requests_by_tool(conversations: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Returns the requests after which a tool was called first, by its name. Only the name of the call is read."""
    found: dict[str, list[str]] = {}
    for conversation in conversations:
        request = ""
        for message in conversation["messages"]:
            if message["role"] == "user":
                request = " ".join(text_of(message["content"]).split())[:_LONGEST]
            for call in message.get("tool_calls", []) if request else []:
                texts = found.setdefault(call["function"]["name"], [])
                if request not in texts:
                    texts.append(request)
    return found


def _method(name: str, taken: set[str]) -> str:
    """A tool's name as one of Python that is not taken."""
    plain = re.sub(r"\W", "_", name)
    if keyword.iskeyword(plain) or plain in ("reset", "get_reward", "errors"):
        plain += "_"
    while plain in taken:
        plain += "_"
    taken.add(plain)
    return plain


def _safe(text: str) -> str:
    """A text of others for a comment: one line, and no word of it is taken for a gap."""
    text = "".join(each if each.isprintable() else " " for each in text)
    text = text.replace(MARK, MARK.lower()).replace('"""', "'''").replace("\\", "/")
    return one_line(text, limit=100)
