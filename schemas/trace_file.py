"""Judges any file of chat-format conversations; this is `stillhouse validate`.

Every line gets a verdict, whatever it contains; only a file that cannot be read is an error.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from schemas.errors import InputError
from schemas.files import numbered_lines, whole
from schemas.json_text import parse_json
from schemas.messages import MESSAGE_REASONS, check_messages, rejected
from schemas.trace import Verdict


class RowVerdict(Verdict):
    """The verdict of one row. id: the row's own, or line-<number> where it has no usable one."""

    id: str | int


class FileReport(TypedDict):
    """rejected: rows by reason. verdicts: in the order of the file."""

    rows: int
    kept: int
    rejected: dict[str, int]
    verdicts: list[RowVerdict]


@dataclass(frozen=True)
class Row:
    """A line that is not blank. number: its line number, from 1. value: its JSON value, None where it is not JSON."""

    number: int
    line: bytes
    value: Any
    verdict: RowVerdict


def judge_file(path: Path, kept_path: Path | None = None) -> FileReport:
    """Judges the rows {"id"?, "messages", "tools", "images"?} of a JSON Lines file; other fields are allowed.

    Args:
        path: the file, read line by line. Blank lines are skipped.
        kept_path: receives the kept rows, byte for byte; it is replaced as a whole or not at all.

    Raises:
        InputError: `path` cannot be read, or `kept_path` is a directory.
        StageError: `kept_path` cannot be written.
    """
    if kept_path is not None and kept_path.is_dir():
        raise InputError(f"{kept_path}: found a directory, expected the name of a file to write")
    verdicts: list[RowVerdict] = []
    with ExitStack() as stack:
        kept_file = None
        if kept_path is not None:
            temporary = stack.enter_context(whole(kept_path))
            kept_file = stack.enter_context(temporary.open("wb"))
        for row in judge_rows(path):
            verdicts.append(row.verdict)
            if kept_file is not None and row.verdict["kept"]:
                kept_file.write(row.line + b"\n")
    counts = Counter(verdict["reason"] for verdict in verdicts if not verdict["kept"])
    return {
        "rows": len(verdicts),
        "kept": len(verdicts) - counts.total(),
        "rejected": {reason: counts[reason] for reason in MESSAGE_REASONS if counts[reason]},
        "verdicts": verdicts,
    }


def judge_rows(path: Path) -> Iterator[Row]:
    """Yields each row of a file with its verdict, as it is read.

    Raises:
        InputError: `path` cannot be read; raised by this call, before the first row.
    """
    return (_judge(number, line) for number, line in numbered_lines(path))


def _judge(number: int, line: bytes) -> Row:
    name: str | int = f"line-{number}"
    try:
        value = parse_json(line)
    except ValueError as error:
        verdict = rejected("malformed_trace", f"not JSON: {error}")
        return Row(number, line, None, {"id": name, **verdict})
    if not isinstance(value, dict):
        verdict = rejected(
            "malformed_trace", "found a value that is not an object, expected one object a line"
        )
        return Row(number, line, value, {"id": name, **verdict})
    row_id = value.get("id")
    # In Python a bool is an int, but it does not identify a row.
    if isinstance(row_id, str | int) and not isinstance(row_id, bool):
        name = row_id
    verdict = check_messages(
        value.get("messages"), value.get("tools"), value.get("images"), is_parsed=True
    )
    return Row(number, line, value, {"id": name, **verdict})
