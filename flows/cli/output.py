"""How commands print: JSON results, tables, sizes, shortened texts."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

JsonOut = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="OUT", help="Write the result as JSON to this file; - writes to stdout."
    ),
]


def write_result(value: Any, out: Path | None) -> None:
    """Writes the JSON of a result where --json asks for it: nowhere (None), to stdout (-) or to a file."""
    from schemas.files import write_json

    if out is None:
        return
    if str(out) == "-":
        print(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        write_json(out, value)


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """Prints left-aligned columns."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def plain(text: str) -> str:
    """A text of others without the characters that would steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def shorten(text: str | None) -> str:
    """A text as one line of at most 160 characters."""
    text = " ".join((text or "").split())
    return text if len(text) <= 160 else f"{text[:157]}..."
