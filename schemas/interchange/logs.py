"""Reads conversations from files of any of the formats: a file, or all .json and .jsonl files of a directory.

The format is seen from the content. A .json file has one document or a list of them, a .jsonl file one a line; a file
of STS has one session, or several one after the other. A document that is not of its format, or that a chat cannot
express, is counted with its reason and not returned: logs are whatever a program wrote.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.errors import InputError
from schemas.files import numbered_lines, read_text
from schemas.interchange import atif, openai_chat, sharegpt, sts
from schemas.interchange.conversation import Conversation, NotRead
from schemas.json_text import parse_json

# Written beside documents, and none itself.
_NOT_DOCUMENTS = {"dataset_info.json"}


@dataclass
class Logs:
    """conversations: in the order of the files. formats: of how many documents each. refused: [(place, reason)]."""

    conversations: list[Conversation] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[str, str]] = field(default_factory=list)


def load(path: Path) -> Logs:
    """Reads the conversations of a file or a directory.

    Raises:
        InputError: there is no such file, or no document in it is of any format; the message has the first reason.
    """
    logs = Logs()
    sessions: list[tuple[str, list[Any]]] = []
    for place, document in _documents(path):
        if isinstance(document, NotRead):
            logs.refused.append((place, str(document)))
        elif isinstance(document, dict) and document.get("type") == "session":
            sessions.append((place, [document]))
        elif isinstance(document, dict) and document.get("type") == "message" and sessions:
            sessions[-1][1].append(document)
        else:
            _add(logs, place, document)
    _add_sessions(logs, sessions)
    if not logs.conversations:
        place, reason = logs.refused[0] if logs.refused else (str(path), "no documents")
        raise InputError(
            f"{place}: {reason}: expected conversations as OpenAI chat rows, ShareGPT rows, ATIF or STS"
        )
    return logs


def _add(logs: Logs, place: str, document: Any) -> None:
    """Adds the conversation of a document that is complete by itself."""
    for name, mark, read in (
        ("atif", "schema_version", atif.read),
        ("sharegpt", "conversations", sharegpt.read),
        ("openai", "messages", openai_chat.read),
    ):
        if isinstance(document, dict) and mark in document:
            try:
                logs.conversations.append(read(document))
                logs.formats[name] += 1
            except NotRead as error:
                logs.refused.append((place, f"{name}: {error}"))
            return
    logs.refused.append((place, "of no known format"))


def _add_sessions(logs: Logs, sessions: list[tuple[str, list[Any]]]) -> None:
    """Adds sessions together: one may be a sub-agent of another. If that fails, each counts by itself."""
    if not sessions:
        return
    try:
        logs.conversations += sts.read(lines for _, lines in sessions)
        logs.formats["sts"] += len(sessions)
        return
    except NotRead:
        pass
    for place, lines in sessions:
        try:
            logs.conversations += sts.read([lines])
            logs.formats["sts"] += 1
        except NotRead as error:
            logs.refused.append((place, f"sts: {error}"))


def _documents(path: Path) -> Iterator[tuple[str, Any]]:
    """Yields each document with its place; NotRead in its stead where it is not JSON."""
    if path.is_dir():
        for file in sorted(path.iterdir()):
            if file.suffix in (".json", ".jsonl") and file.name not in _NOT_DOCUMENTS:
                yield from _documents(file)
        return
    if path.suffix != ".json":
        for number, line in numbered_lines(path):
            yield f"{path}: line {number}", _parse(line)
        return
    document = _parse(read_text(path))
    documents = document if isinstance(document, list) else [document]
    for number, each in enumerate(documents, 1):
        yield f"{path}: document {number}", each


def _parse(text: str | bytes) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        return NotRead(f"not JSON: {error}")
