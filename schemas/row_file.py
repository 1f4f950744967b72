"""The rows of a JSON Lines file as a sequence that reads a row when it is asked for: `RowFile`."""

import json
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Generic, TypeVar, cast, overload

from schemas.errors import InputError
from schemas.files import BOM, open_bytes

Row = TypeVar("Row")
_CHUNK = 1 << 20


class RowFile(Sequence[Row], Generic[Row]):
    """The rows of a file. Memory holds 8 bytes a row: where it begins.

    The file must not change while it is in use.

    Raises:
        InputError: the file is missing or cannot be read; a row that is not JSON is named when it is read.
    """

    def __init__(self, path: Path, starts: Iterable[int] | None = None) -> None:
        self._path = path
        self._starts = array("Q", _starts_of(path) if starts is None else starts)

    @property
    def starts(self) -> Sequence[int]:
        """Where each row begins, in bytes."""
        return self._starts

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> "RowFile[Row]": ...
    def __getitem__(self, index: int | slice) -> "Row | RowFile[Row]":
        if isinstance(index, slice):
            return RowFile(self._path, self._starts[index])
        start = self._starts[index]
        with open_bytes(self._path) as file:
            file.seek(start)
            line = file.readline()
        try:
            return cast(Row, json.loads(line.decode()))
        except (ValueError, RecursionError) as error:
            line_number = self._line_number(start)
            raise InputError(f"{self._path}: line {line_number}: not JSON: {error}") from None

    def _line_number(self, start: int) -> int:
        """The number of the line that begins at a byte. A slice has other indexes, and blank lines have none."""
        with open_bytes(self._path) as file:
            return 1 + sum(
                file.read(min(_CHUNK, start - at)).count(b"\n") for at in range(0, start, _CHUNK)
            )

    def select(self, indexes: Iterable[int]) -> "RowFile[Row]":
        """The rows at the indexes, in their order."""
        return RowFile(self._path, (self._starts[index] for index in indexes))


def _starts_of(path: Path) -> Iterable[int]:
    """Where each line that is not blank begins, in bytes."""
    with open_bytes(path) as file:
        start = 0
        for line in file:
            if start == 0 and line.startswith(BOM):
                start, line = len(BOM), line.removeprefix(BOM)
            if line.strip():
                yield start
            start += len(line)
