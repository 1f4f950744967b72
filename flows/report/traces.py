"""Reads the traces of a run, one after the other, by the model that made them.

`rows` is the only function that knows the files. A run of 50,000 traces is some hundred MB, so nothing here holds more
than one trace of each file.
"""

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from schemas.files import read_jsonl
from schemas.trace import Trace, failure_reason

TEACHER = "teacher"
_LARGEST = 2**53  # above it, a browser rounds whole numbers


def makers(directory: Path) -> list[str]:
    """Returns who has traces in a run: "teacher", then the models of the exam ("base", "student", others)."""
    exam = sorted(path.stem for path in (directory / "evaluate").glob("*.jsonl"))
    known = [name for name in ("base", "student") if name in exam]
    has_teacher = any(path.is_file() for path in _teacher_files(directory))
    others = [name for name in exam if name not in known]
    return [*([TEACHER] if has_teacher else []), *known, *others]


def rows(directory: Path, maker: str) -> Iterator[Trace]:
    """Yields the traces of one maker, ordered by id where their files are.

    The teacher's are those that the filter judged, or, before it has run, those of traces/. A rejected trace may
    lack any field.

    Raises:
        InputError: a file is broken; the message names the line.
    """
    if maker != TEACHER:
        yield from read_jsonl(directory / "evaluate" / f"{maker}.jsonl")
        return
    streams = [read_jsonl(path) for path in _teacher_files(directory) if path.is_file()]
    yield from heapq.merge(*streams, key=trace_id)


def _teacher_files(directory: Path) -> list[Path]:
    judged = [directory / "filter" / f"{name}.jsonl" for name in ("kept", "rejected")]
    if any(path.is_file() for path in judged):
        return judged
    return sorted((directory / "traces").glob("*.jsonl.zst"))


# ------------------------------------------------------------------------------------- fields of a trace


def trace_id(trace: Any) -> str:
    """Returns the id of a trace, or "" where it has none."""
    value = trace.get("id") if isinstance(trace, dict) else None
    return value if isinstance(value, str) else ""


def part(trace: Any, name: str) -> dict[str, Any]:
    """Returns a field of a trace that should be an object: an empty one where it is not."""
    value = trace.get(name) if isinstance(trace, dict) else None
    return value if isinstance(value, dict) else {}


def items(holder: Any, name: str) -> list[Any]:
    """Returns a field that should be a list: an empty one where it is not."""
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if isinstance(value, list) else []


def word(holder: Any, name: str) -> str:
    """Returns a field that should be a text: an empty one where it is not."""
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if isinstance(value, str) else ""


def number(holder: Any, name: str) -> float:
    """Returns a field that should be a number: zero where it is not, or is too large."""
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if isinstance(value, int | float) and abs(value) < _LARGEST else 0


def judge(trace: Any) -> tuple[str, str]:
    """Returns a trace's state and, where it failed, the reason.

    The state is kept or rejected by the filter's verdict; of a trace that was not judged, passed or failed by how its
    episode ended and by its checks. The exam's traces are never judged by the filter.
    """
    verdict = part(trace, "verdict")
    if verdict:
        return (
            ("kept", "") if verdict.get("kept") is True else ("rejected", word(verdict, "reason"))
        )
    reason = failure_reason(part(trace, "outcome"))
    return ("failed", reason) if reason else ("passed", "")
