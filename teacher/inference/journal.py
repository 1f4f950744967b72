"""The journal of a model's replies: each reply is on disk before anything uses it.

A journal is a directory of append-only segments with one writer each and one line per reply: {"key", "reply"}. Loading
drops a line that a crash cut short and keeps all lines before it. Only `key` decides which requests are the same.
Memory holds only the position of each reply, so that a journal with millions of replies can be loaded.
"""

import contextlib
import io
import json
import os
import time
from pathlib import Path
from typing import Any

from schemas.errors import StageError
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
        self._failures: set[str] = set()  # keys whose request got no reply
        directory.mkdir(parents=True, exist_ok=True)
        for segment in sorted(directory.glob("*.jsonl")):
            self._load(segment)
        self._segment = directory / f"{time.time_ns()}-{os.getpid()}.jsonl"
        self._file: io.FileIO | None = None
        self._is_torn = False  # whether the last line was cut by a full disk

    def __len__(self) -> int:
        return len(self._positions)

    def _load(self, segment: Path) -> None:
        with segment.open("rb") as file:
            offset = 0
            for line in file:
                if line.endswith(b"\n"):
                    # A full disk may leave a cut line.
                    with contextlib.suppress(ValueError, KeyError, TypeError):
                        row = json.loads(line)
                        self._note(row["key"], row["reply"], segment, offset)
                offset += len(line)

    def _note(self, key: str, reply: dict[str, Any], segment: Path, offset: int) -> None:
        """Notes where a reply is. The first reply to a request stays; a failure is replaced by what came later."""
        if key not in self._positions or key in self._failures:
            self._positions[key] = (segment, offset)
            if "error" in reply:
                self._failures.add(key)
            else:
                self._failures.discard(key)

    def get(self, key: str) -> dict[str, Any] | None:
        """The reply stored under a key, or None."""
        if key not in self._positions:
            return None
        segment, offset = self._positions[key]
        with segment.open("rb") as file:
            file.seek(offset)
            return json.loads(file.readline())["reply"]

    def put(self, key: str, reply: dict[str, Any]) -> None:
        """Stores a reply. When this returns, the operating system has it, so killing the process does not lose it.

        Raises:
            StageError: the disk is full or the segment cannot be written.
        """
        line = json.dumps({"key": key, "reply": reply}, ensure_ascii=False).encode() + b"\n"
        try:
            if self._file is None:
                # Unbuffered, so that a failed write leaves nothing behind that a later one would repeat.
                self._file = self._segment.open("ab", buffering=0)
            offset = self._file.tell()
            if self._is_torn:
                line, offset = b"\n" + line, offset + 1
            self._is_torn = True
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise StageError(
                f"{self._segment}: a reply cannot be written: {error.strerror}: make room, then run the same command"
            ) from error
        self._is_torn = False
        self._note(key, reply, self._segment, offset)

    def close(self) -> None:
        """Writes the segment through to the disk, because the receipt of a stage relies on it.

        Raises:
            StageError: the disk does not take it.
        """
        if self._file is None:
            return
        file, self._file = self._file, None
        with file:
            try:
                os.fsync(file.fileno())
            except OSError as error:
                raise StageError(f"{self._segment}: cannot be written: {error.strerror}") from error
