"""Replies of a model, on disk before anything uses them.

A directory of append-only segments, one writer each, one line a reply: {"key", "reply"}. A line that a crash cut
short is dropped on load; everything before it counts. What a request is remembered by is decided in `key`, nowhere
else. Only the places of the replies are held in memory, so a journal of millions of replies loads.
"""

import contextlib
import json
import os
import time
from pathlib import Path
from typing import IO, Any

from schemas.files import dumps, sha256_text


def key(request: dict[str, Any]) -> str:
    """sha256 over everything that may change the reply, and nothing that may not.

    Args:
        request: model, revision, messages (images by hash), tools, sampling parameters, template arguments and the
            index of the sample. Time-outs and addresses are not in it: they change how a reply travels, not what it
            says.
    """
    return sha256_text(dumps(request))


class Journal:
    """The replies under a directory, and one segment of it to append to."""

    def __init__(self, directory: Path) -> None:
        self._places: dict[str, tuple[Path, int]] = {}
        directory.mkdir(parents=True, exist_ok=True)
        for segment in sorted(directory.glob("*.jsonl")):
            self._load(segment)
        self._segment = directory / f"{time.time_ns()}-{os.getpid()}.jsonl"
        self._file: IO[bytes] | None = None

    def __len__(self) -> int:
        return len(self._places)

    def _load(self, segment: Path) -> None:
        with segment.open("rb") as file:
            offset = 0
            for line in file:
                if line.endswith(b"\n"):
                    # A line cut short by a full disk and then written on: only this line is lost.
                    with contextlib.suppress(ValueError, KeyError, TypeError):
                        self._places.setdefault(json.loads(line)["key"], (segment, offset))
                offset += len(line)

    def get(self, key: str) -> dict[str, Any] | None:
        if key not in self._places:
            return None
        segment, offset = self._places[key]
        with segment.open("rb") as file:
            file.seek(offset)
            return json.loads(file.readline())["reply"]

    def put(self, key: str, reply: dict[str, Any]) -> None:
        """Writes a reply through to the operating system: a killed process loses nothing that returned from here."""
        if self._file is None:
            self._file = self._segment.open("ab")
        offset = self._file.tell()
        self._file.write(
            json.dumps({"key": key, "reply": reply}, ensure_ascii=False).encode() + b"\n"
        )
        self._file.flush()
        self._places[key] = (self._segment, offset)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
