"""Kept traces in the form in which data sets are published: one Parquet file, pictures embedded.

A row is {"messages", "tools", "images", "llama_factory"}. TRL and Unsloth read the messages: the n-th image part of
them is images[n]. Content is always a list of parts, {"type": "text", "text"} or {"type": "image", "text": null}, so
that all rows have one type; calls have their arguments, and rows their tools, as JSON text, because each tool has
fields of its own. LLaMA-Factory reads the same conversation in its own form, `<image>` in the texts where a picture is,
by the dataset_info.json beside the file.
"""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from schemas.files import whole
from teacher.scenes.images import Album

# Rows that are held in memory, with their pictures; a row group of the file.
_AT_ONCE = 100
_PICTURE = "<image>"  # LLaMA-Factory's, in a text


def llama_factory_info(name: str, file: str) -> dict[str, Any]:
    """What LLaMA-Factory's dataset_info.json says of such a file beside it; `name` is what its user calls it by."""
    columns = {"messages": "llama_factory", "tools": "tools", "images": "images"}
    return {name: {"file_name": file, "formatting": "sharegpt", "columns": columns}}


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
    features = Features(
        {
            "messages": List(message),
            "tools": text,
            "images": List(Image()),
            "llama_factory": List({"from": text, "value": text}),
        }
    )
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
        "llama_factory": _turns(trace["messages"]),
    }


def _turns(messages: list[dict[str, Any]]) -> list[dict[str, str]]:
    """LLaMA-Factory's form: the results of one turn's calls are one turn, as its templates write them; of a turn with
    calls it takes those and the reasoning, not the words beside them."""
    turns: list[dict[str, str]] = []
    for message in messages:
        role, value = message["role"], _in_text(message.get("content"))
        if role == "tool" and turns[-1]["from"] == "observation":
            turns[-1]["value"] += f"\n</tool_response>\n<tool_response>\n{value}"
            continue
        if calls := message.get("tool_calls"):
            functions = [call["function"] for call in calls]
            read = [{**f, "arguments": json.loads(f["arguments"])} for f in functions]
            role, value = "function_call", json.dumps(read, ensure_ascii=False)
        if reasoning := message.get("reasoning_content"):
            value = f"<think>\n{reasoning}\n</think>\n\n{value}"
        turns.append({"from": _NAMES.get(role, role), "value": value})
    return turns


_NAMES = {"user": "human", "assistant": "gpt", "tool": "observation"}


def _in_text(content: Any) -> str:
    """Content as one text. The placeholder itself, where a text has it, is spelled otherwise: it would be a picture."""
    return "".join(
        _PICTURE if part["type"] == "image" else part["text"].replace(_PICTURE, "<image >")
        for part in _parts(content)
    )


def _parts(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, list):
        return [{"type": part["type"], "text": part.get("text")} for part in content]
    return [{"type": "text", "text": content}] if content else []
