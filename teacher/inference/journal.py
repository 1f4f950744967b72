"""The journal of a model's replies: each reply is on disk before anything uses it.

A journal is a directory of append-only segments with one writer each and one line per reply: {"key", "reply"}. Loading
drops a line that a crash cut short and keeps all lines before it. Only `key` decides which requests are the same.
Memory holds only the position of each reply, so that a journal with millions of replies can be loaded.
"""

import contextlib
import json
import os
import time
from pathlib import Path
from typing import IO, Any

from schemas.files import dumps, sha256_text


def key(request: dict[str, Any]) -> str:
    """sha256 over everything that can change the reply, and nothing else.

    Args:
        request: model, revision, messages (images by hash), tools, sampling parameters, template arguments and the
            index of the sample. Timeouts and addresses are left out, because they do not change the reply.
    """
    return sha256_text(dumps(request))


class Journal:
    """The replies in a directory, and a new segment for the replies of this process."""

    def __init__(self, directory: Path) -> None:
        self._positions: dict[str, tuple[Path, int]] = {}
        directory.mkdir(parents=True, exist_ok=True)
        for segment in sorted(directory.glob("*.jsonl")):
            self._load(segment)
        self._segment = directory / f"{time.time_ns()}-{os.getpid()}.jsonl"
        self._file: IO[bytes] | None = None

    def __len__(self) -> int:
        return len(self._positions)

    def _load(self, segment: Path) -> None:
        with segment.open("rb") as file:
            offset = 0
            for line in file:
                if line.endswith(b"\n"):
                    # A full disk may leave a cut line that the next write continues: only that line is lost.
                    with contextlib.suppress(ValueError, KeyError, TypeError):
                        self._positions.setdefault(json.loads(line)["key"], (segment, offset))
                offset += len(line)

    def get(self, key: str) -> dict[str, Any] | None:
        """The reply stored under a key, or None."""
        if key not in self._positions:
            return None
        segment, offset = self._positions[key]
        with segment.open("rb") as file:
            file.seek(offset)
            return json.loads(file.readline())["reply"]

    def put(self, key: str, reply: dict[str, Any]) -> None:
        """Stores a reply. When this returns, the operating system has it, so killing the process does not lose it."""
        if self._file is None:
            self._file = self._segment.open("ab")
        offset = self._file.tell()
        self._file.write(
            json.dumps({"key": key, "reply": reply}, ensure_ascii=False).encode() + b"\n"
        )
        self._file.flush()
        self._positions[key] = (self._segment, offset)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
