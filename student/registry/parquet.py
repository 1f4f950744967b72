"""Writes kept traces as a Parquet file with embedded images, the form in which data sets are published.

A row is {"messages", "tools", "images", "llama_factory"}. TRL and Unsloth read the messages: their n-th image part is
images[n]. All rows have one type: content is always a list of parts, {"type": "text", "text"} or {"type": "image",
"text": null}; the arguments of calls and the tools are JSON text, because each tool has fields of its own.
LLaMA-Factory reads the same conversation from "llama_factory", with <image> in the texts where an image is; the
dataset_info.json beside the file describes the form (`llama_factory_info`).
"""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from schemas.files import whole
from schemas.trace import Message, Trace
from teacher.scenes.images import ImageStore

# Rows of a row group; so many are in memory at once, with their images.
_ROW_GROUP = 100
_IMAGE_PLACEHOLDER = "<image>"  # in LLaMA-Factory's texts
_LLAMA_FACTORY_ROLES = {"user": "human", "assistant": "gpt", "tool": "observation"}


def llama_factory_info(name: str, file: str) -> dict[str, Any]:
    """Returns LLaMA-Factory's dataset_info.json for the Parquet file beside it. name: of the data set."""
    columns = {"messages": "llama_factory", "tools": "tools", "images": "images"}
    return {name: {"file_name": file, "formatting": "sharegpt", "columns": columns}}


def write(traces: Iterable[Trace], image_store: ImageStore, to: Path) -> int:
    """Writes traces to a Parquet file and returns how many. image_store: has the images that the traces name.

    Raises:
        StageError: an image is missing or damaged, or the file cannot be written.
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
    remaining, written = iter(traces), 0
    with (
        whole(to) as temporary,
        ParquetWriter(temporary, features.arrow_schema, compression="zstd") as file,
    ):
        while rows := [
            _row(trace, image_store) for trace in itertools.islice(remaining, _ROW_GROUP)
        ]:
            table = datasets.Dataset.from_list(rows, features=features).data.table
            file.write_table(table.cast(features.arrow_schema))
            written += len(rows)
    return written


def _row(trace: Trace, image_store: ImageStore) -> dict[str, Any]:
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
            {"bytes": image_store.png(name), "path": f"{name}.png"}
            for name in trace.get("images") or []
        ],
        "llama_factory": _turns(trace["messages"]),
    }


def _turns(messages: list[Message]) -> list[dict[str, str]]:
    """Returns the conversation in LLaMA-Factory's form.

    The results of one turn's calls are one turn, as its templates write them. Of a turn with calls it holds the calls
    and the reasoning, but not the text beside the calls.
    """
    turns: list[dict[str, str]] = []
    for message in messages:
        role: str = message["role"]
        value = _as_text(message.get("content"))
        if role == "tool" and turns[-1]["from"] == "observation":
            turns[-1]["value"] += f"\n</tool_response>\n<tool_response>\n{value}"
            continue
        if calls := message.get("tool_calls"):
            functions = [call["function"] for call in calls]
            parsed = [{**f, "arguments": json.loads(f["arguments"])} for f in functions]
            role, value = "function_call", json.dumps(parsed, ensure_ascii=False)
        if reasoning := message.get("reasoning_content"):
            value = f"<think>\n{reasoning}\n</think>\n\n{value}"
        turns.append({"from": _LLAMA_FACTORY_ROLES.get(role, role), "value": value})
    return turns


def _as_text(content: Any) -> str:
    """Returns content as one text, with a placeholder for each image.

    A literal <image> in a text becomes <image >: LLaMA-Factory would take it for an image.
    """
    return "".join(
        _IMAGE_PLACEHOLDER
        if part["type"] == "image"
        else part["text"].replace(_IMAGE_PLACEHOLDER, "<image >")
        for part in _parts(content)
    )


def _parts(content: Any) -> list[dict[str, Any]]:
    """Returns content, which may be a text, a list of parts or None, as a list of parts."""
    if isinstance(content, list):
        return [{"type": part["type"], "text": part.get("text")} for part in content]
    return [{"type": "text", "text": content}] if content else []
