"""Judges any file of chat-format traces: what `stillhouse validate` does.

Every line gets a verdict, whatever is in it; only a file that cannot be read is an error.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from schemas.errors import InputError
from schemas.files import whole
from schemas.json_text import parse_json
from schemas.messages import MESSAGE_REASONS, Verdict, check_messages, rejected

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Row:
    """A line that is not blank, by its number in the file; value: the JSON on it, None where there is none."""

    number: int
    line: bytes
    value: Any
    verdict: Verdict


def judge_file(path: Path, kept_path: Path | None = None) -> dict[str, Any]:
    """Judges the rows {"id"?, "messages", "tools", "images"?} of a JSON Lines file; other fields are allowed.

    Args:
        path: the file, read a line at a time. Blank lines are no rows.
        kept_path: where the kept rows go, byte for byte as they were; whole or not there at all.

    Returns:
        {"rows", "kept", "rejected": {reason: count}, "verdicts": [{"id", "kept", "reason", "detail",
        "message_index"}]} in the order of the file. A row without an id is called line-<its number>.

    Raises:
        InputError: `path` cannot be read, or `kept_path` is a directory.
        StageError: `kept_path` cannot be written.
    """
    if kept_path is not None and kept_path.is_dir():
        raise InputError(f"{kept_path}: found a directory, expected the name of a file to write")
    verdicts: list[Verdict] = []
    with ExitStack() as stack:
        kept_rows = None
        if kept_path is not None:
            temporary = stack.enter_context(whole(kept_path))
            kept_rows = stack.enter_context(temporary.open("wb"))
        for row in judged(path):
            verdicts.append(row.verdict)
            if kept_rows is not None and row.verdict["kept"]:
                kept_rows.write(row.line + b"\n")
    counts = Counter(verdict["reason"] for verdict in verdicts if not verdict["kept"])
    return {
        "rows": len(verdicts),
        "kept": len(verdicts) - counts.total(),
        "rejected": {reason: counts[reason] for reason in MESSAGE_REASONS if counts[reason]},
        "verdicts": verdicts,
    }


def judged(path: Path) -> Iterator[Row]:
    """Each row of a file, judged as it is read.

    Raises:
        InputError: `path` cannot be read; before the first row is asked for.
    """
    return _judged(_open(path))


def _judged(file: IO[bytes]) -> Iterator[Row]:
    with file:
        for number, line in enumerate(file, start=1):
            line = (line.removeprefix(_BOM) if number == 1 else line).rstrip(b"\r\n")
            if line.strip():
                yield _judge(line, number)


def _open(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _judge(line: bytes, number: int) -> Row:
    name = f"line-{number}"
    try:
        value = parse_json(line)
    except ValueError as error:
        verdict = rejected("malformed_trace", f"not JSON: {error}")
        return Row(number, line, None, {"id": name, **verdict})
    if not isinstance(value, dict):
        verdict = rejected("malformed_trace", "found no object, expected one a line")
        return Row(number, line, value, {"id": name, **verdict})
    row_id = value.get("id")
    # A bool is an int to Python, and no name to anyone.
    named = isinstance(row_id, str | int) and not isinstance(row_id, bool)
    verdict = check_messages(value.get("messages"), value.get("tools"), value.get("images"))
    return Row(number, line, value, {"id": row_id if named else name, **verdict})
