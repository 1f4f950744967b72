"""Reads and writes the project's files. A file is complete or does not exist: writes go to a temporary name first."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from schemas.errors import InputError, StageError


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which is renamed to `path` when the block succeeds.

    The block creates a file or a directory there. When the block raises, the temporary is removed.

    Raises:
        StageError: the disk is full or the path cannot be written.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
        yield temporary
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            _remove(temporary)
        raise StageError(f"{path}: cannot be written: {error.strerror or error}") from error
    except BaseException:
        _remove(temporary)
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def dumps(value: Any) -> str:
    """Canonical JSON: sorted keys, no spaces. Everything that is hashed or compared as JSON is written by this."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text. Raises StageError where it cannot be written."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON. Raises StageError where it cannot be written."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Writes JSON Lines. Raises StageError where it cannot be written."""
    with whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises InputError where the file is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not JSON: {error}") from None


def read_jsonl(path: Path) -> Iterator[Any]:
    """Yields the rows of a JSON Lines file. Raises InputError that names the line."""
    try:
        file = path.open(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    with file:
        for number, line in enumerate(file, start=1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{path}: line {number}: not JSON: {error}") from None


def sha256(path: Path) -> str:
    """Hex digest of a file; of a directory, the digest over the sorted names and digests of its files."""
    if path.is_dir():
        names = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
        return sha256_text(dumps([[name, sha256(path / name)] for name in names]))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """Hex digest of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()
