"""Kept traces in the form in which data sets are published: one Parquet file, pictures embedded.

A row is {"messages", "tools", "images"}, as TRL and Unsloth read it: the n-th image part of the messages is images[n].
Content is always a list of parts, {"type": "text", "text"} or {"type": "image", "text": null}, so that all rows have
one type; calls have their arguments, and rows their tools, as JSON text, because each tool has fields of its own.
LLaMA-Factory wants `<image>` in text in place of the parts, and plain texts as contents.
"""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from schemas.files import whole
from teacher.pictures import Album

# Rows that are held in memory, with their pictures; a row group of the file.
_AT_ONCE = 100


def write(traces: Iterable[dict[str, Any]], album: Album, to: Path) -> int:
    """Writes kept traces to a Parquet file and returns how many.

    Raises:
        StageError: a picture is missing or damaged.
    """
    import datasets
    from datasets import Features, Image, List, Value
    from pyarrow.parquet import ParquetWriter

    text = Value("string")
    call = {"id": text, "type": text, "function": {"name": text, "arguments": text}}
    message = {
        "role": text,
        "content": List({"type": text, "text": text}),
        "reasoning_content": text,
        "tool_calls": List(call),
        "tool_call_id": text,
    }
    features = Features({"messages": List(message), "tools": text, "images": List(Image())})
    left, written = iter(traces), 0
    with (
        whole(to) as temporary,
        ParquetWriter(temporary, features.arrow_schema, compression="zstd") as file,
    ):
        while rows := [_row(trace, album) for trace in itertools.islice(left, _AT_ONCE)]:
            table = datasets.Dataset.from_list(rows, features=features).data.table
            file.write_table(table.cast(features.arrow_schema))
            written += len(rows)
    return written


def _row(trace: dict[str, Any], album: Album) -> dict[str, Any]:
    return {
        "messages": [
            {
                "role": message["role"],
                "content": _parts(message.get("content")),
                "reasoning_content": message.get("reasoning_content"),
                "tool_calls": message.get("tool_calls"),
                "tool_call_id": message.get("tool_call_id"),
            }
            for message in trace["messages"]
        ],
        "tools": json.dumps(trace["tools"], ensure_ascii=False),
        "images": [
            {"bytes": album.png(name), "path": f"{name}.png"} for name in trace.get("images") or []
        ],
    }


def _parts(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, list):
        return [{"type": part["type"], "text": part.get("text")} for part in content]
    return [{"type": "text", "text": content}] if content else []
