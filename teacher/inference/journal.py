"""The journal of a model's replies: each reply is on disk before anything uses it.

A journal is a directory of append-only segments with one writer each and one line per reply: {"key", "reply"}. Loading
drops a line that a crash cut short and keeps all lines before it. Only `key` decides which requests are the same.
The index of where each reply is lies in a temporary database of SQLite, so memory does not grow with the replies. It is
made anew by each reader, because nothing but the segments may decide what was asked.
"""

import contextlib
import io
import json
import os
import sqlite3
import time
import uuid
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
    """The replies in a directory, and a new segment for the replies of this writer.

    Args:
        name: begins the names of segments. With one, only the segments of that name are loaded.
        base: a journal of the same directory that is asked for what those lack.
    """

    def __init__(self, directory: Path, name: str = "", base: "Journal | None" = None) -> None:
        self._base = base
        # A database without a name is a private file that SQLite removes.
        self._index = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._index.execute(
            "CREATE TABLE replies (key TEXT PRIMARY KEY, segment, start, failed) WITHOUT ROWID"
        )
        self._segments: list[Path] = []
        directory.mkdir(parents=True, exist_ok=True)
        self._index.execute("BEGIN")  # one transaction for ever: nobody else reads it
        for segment in sorted(directory.glob(f"{name}*.jsonl")):
            self._load(segment)
        unique = f"{time.time_ns()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._segment = directory / f"{name}{unique}.jsonl"
        self._segments.append(self._segment)
        self._file: io.FileIO | None = None
        self._is_torn = False  # whether the last line was cut by a full disk

    def __len__(self) -> int:
        return int(self._index.execute("SELECT count(*) FROM replies").fetchone()[0])

    def _load(self, segment: Path) -> None:
        self._segments.append(segment)
        with segment.open("rb") as file:
            offset = 0
            for line in file:
                if line.endswith(b"\n"):
                    # A full disk may leave a cut line.
                    with contextlib.suppress(ValueError, KeyError, TypeError, sqlite3.Error):
                        row = json.loads(line)
                        self._note(row["key"], row["reply"], offset)
                offset += len(line)

    def _note(self, key: str, reply: dict[str, Any], offset: int) -> None:
        """Notes where in the last segment a reply is. The first to a request stays, unless it is a failure.

        Raises:
            StageError: the disk of temporary files is full.
        """
        failed = isinstance(reply, dict) and "error" in reply
        try:
            self._index.execute(
                "INSERT INTO replies VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET"
                " segment = excluded.segment, start = excluded.start, failed = excluded.failed"
                " WHERE failed",
                (key, len(self._segments) - 1, offset, failed),
            )
        except sqlite3.OperationalError as error:
            raise StageError(
                f"{self._segments[-1].parent}: the index of its replies cannot be written: {error}: make room where"
                " temporary files lie (TMPDIR), then run the same command"
            ) from error

    def get(self, key: str) -> dict[str, Any] | None:
        """The reply stored under a key, or None."""
        row = self._index.execute(
            "SELECT segment, start, failed FROM replies WHERE key = ?", (key,)
        ).fetchone()
        if (row is None or row[2]) and self._base is not None:
            earlier = self._base.get(key)
            if row is None or (earlier is not None and "error" not in earlier):
                return earlier
        if row is None:
            return None
        with self._segments[row[0]].open("rb") as file:
            file.seek(row[1])
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
        self._note(key, reply, offset)

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
