"""Writes traces in one of the formats; what is written loads back equal, or is left out and counted.

A format carries what its module's docstring says: ATIF and STS the whole trace, ShareGPT and OpenAI's chat the
conversation. The traces of sub-agents are inside their orchestrator's document or beside it in ATIF and STS, and rows
of their own in the others. A directory is written:

    atif      DIR/NAME.json, one document a trace
    sts       DIR/NAME.jsonl, one session a file; sub-agents in DIR/NAME.NUMBER.jsonl
    sharegpt  DIR/traces.jsonl, and DIR/dataset_info.json, by which LLaMA-Factory finds it
    openai    DIR/traces.jsonl
    images    DIR/images/<sha256>.png where the format names files
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from schemas.errors import InputError
from schemas.files import open_jsonl, whole, write_json, write_jsonl
from schemas.interchange import atif, openai_chat, sharegpt, sts
from schemas.interchange.conversation import Conversation, NotCarried, NotRead, settled_messages

Format = Literal["atif", "sts", "sharegpt", "openai"]
FORMATS: tuple[str, ...] = get_args(Format)
_ROWS = "traces.jsonl"


class Export(TypedDict):
    """traces = written + the sum of left_out, which counts by what the format has no place for.

    written: also counts the traces of sub-agents that are written with their orchestrator's.
    """

    format: str
    out: str
    traces: int
    written: int
    left_out: dict[str, int]


def export(traces: Iterable[Any], format: str, out: Path, images: Path) -> Export:
    """Writes traces to a new directory.

    Args:
        traces: that of an orchestrator comes before those of its sub-agents, as the filter writes them.
        format: one of FORMATS.
        images: the directory that has the traces' images, <sha256>.png.

    Raises:
        InputError: `out` exists and is not empty, or an image is missing.
        StageError: the directory cannot be written.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: exists already, expected a new or an empty directory")
    left_out: Counter[str] = Counter()
    copied: set[str] = set()
    inside: set[str] = set()  # ids of the sub-agents in the documents that were written
    count = 0
    with ExitStack() as stack:
        directory = stack.enter_context(whole(out))
        directory.mkdir()
        is_rows = format in ("sharegpt", "openai")
        write_row = stack.enter_context(open_jsonl(directory / _ROWS)) if is_rows else None
        for trace in traces:
            count += 1
            if "agent" in trace and trace["id"] in inside:
                continue
            try:
                document = make_document(trace, format, images)
                if write_row is not None:
                    write_row(document)
                else:
                    _write_files(directory, trace["id"], document)
                    inside |= {child["id"] for child in trace.get("children", [])}
            except NotCarried as error:
                left_out[str(error)] += 1
                continue
            if format != "openai":
                copied |= _copy_images(trace, images, directory / "images")
        if format == "sharegpt":
            write_json(directory / "dataset_info.json", _dataset_info(has_images=bool(copied)))
    return {
        "format": format,
        "out": str(out),
        "traces": count,
        "written": count - left_out.total(),
        "left_out": dict(left_out.most_common()),
    }


def carried(trace: Conversation, format: str) -> Conversation:
    """What a format carries of a trace, in one form: this is what loads back."""
    match format:
        case "sharegpt":
            return sharegpt.carried(trace)
        case "openai":
            return openai_chat.carried(trace)
    children = trace.get("children", [])
    return {
        **trace,
        "messages": settled_messages(trace["messages"]),
        "children": [carried(child, format) for child in children],
    }


def make_document(trace: Conversation, format: str, images: Path) -> Any:
    """A trace in a format: an ATIF document, the sessions of STS, or a row.

    Raises:
        NotCarried: the format has no place for something in it, or it would load back otherwise.
    """
    document: Any
    read: Callable[[Any], Conversation]
    match format:
        case "atif":
            document, read = atif.write(trace), atif.read
        case "sts":
            document, read = sts.write(trace), lambda sessions: sts.read(sessions)[0]
        case "sharegpt":
            document, read = sharegpt.write(trace), sharegpt.read
        case _:
            document, read = openai_chat.write(trace, partial(_png, images)), openai_chat.read
    try:
        is_equal = read(document) == carried(trace, format)
    except NotRead as error:
        raise NotCarried(f"not valid: {error}") from None
    if not is_equal:
        raise NotCarried("a text that would be read otherwise")
    return document


def _png(images: Path, name: str) -> bytes:
    path = images / f"{name}.png"
    if not path.is_file():
        raise InputError(f"{path}: no such image")
    return path.read_bytes()


def _write_files(directory: Path, name: str, document: Any) -> None:
    """Writes an ATIF document or the sessions of a trace, in files named by its id.

    Raises:
        NotCarried: another trace has this name.
    """
    stem = re.sub(r"[^\w.-]", "-", name)
    is_atif = isinstance(document, dict)
    path = directory / f"{stem}.{'json' if is_atif else 'jsonl'}"
    if path.exists():
        raise NotCarried("an id that another trace has")
    if is_atif:
        write_json(path, document)
        return
    for number, session in enumerate(document):
        write_jsonl(path if not number else directory / f"{stem}.{number:03}.jsonl", session)


def _copy_images(trace: Conversation, images: Path, directory: Path) -> set[str]:
    """Copies the images of a trace and of its sub-agents; returns their names."""
    names = set(trace["images"])
    for name in names:
        target = directory / f"{name}.png"
        if not target.exists():
            directory.mkdir(exist_ok=True)
            target.write_bytes(_png(images, name))
    for child in trace.get("children", []):
        names |= _copy_images(child, images, directory)
    return names


def _dataset_info(*, has_images: bool) -> dict[str, Any]:
    columns = {"messages": "conversations", "system": "system", "tools": "tools"}
    columns |= {"images": "images"} if has_images else {}
    return {"traces": {"file_name": _ROWS, "formatting": "sharegpt", "columns": columns}}
