"""An MCP server of the official SDK, which keeps notes: `python notes_server.py [FILE] [--http PORT]`.

Notes are in memory, or in FILE, so that a new process finds those of the last one.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

server = MCPServer("notes")
file = next((Path(word) for word in sys.argv[1:2] if word != "--http"), None)
notes: dict[str, str] = json.loads(file.read_text()) if file and file.exists() else {}


def _save() -> None:
    if file:
        file.write_text(json.dumps(notes))


@server.tool()
def add_note(title: str, text: str) -> str:
    """Add a note.

    Args:
        title: The note's title.
        text: What it says.
    """
    if title in notes:
        raise ToolError(f"there is a note {title!r}")
    notes[title] = text
    _save()
    return f"added {title}"


@server.tool(name="notes.get", annotations=ToolAnnotations(read_only_hint=True))
def get_note(title: str) -> dict[str, Any]:
    """Get a note by its title."""
    if title not in notes:
        raise ToolError(f"no note {title!r}")
    return {"title": title, "text": notes[title]}


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def list_notes() -> list[str]:
    """List the titles of all notes."""
    return sorted(notes)


@server.tool()
def remove_note(title: str) -> str:
    """Remove a note."""
    if title not in notes:
        raise ToolError(f"no note {title!r}")
    del notes[title]
    _save()
    return f"removed {title}"


@server.tool()
def crash() -> str:
    """End the server."""
    print("out of memory", file=sys.stderr, flush=True)
    os._exit(3)


if __name__ == "__main__":
    if "--http" in sys.argv:
        server.run("streamable-http", port=int(sys.argv[-1]))
    else:
        server.run()
