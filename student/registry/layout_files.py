"""Files of an OCI image layout: index.json, blobs, locks. oci_layout.py decides what they mean."""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from schemas.errors import InputError, StageError
from schemas.files import dumps, lacks_locks, read_json, sync_one, whole
from student.registry.store import CHUNK, DESCRIPTOR, IMAGE_INDEX, Descriptor, check_schema

_INCOMING = ".incoming-"  # begins the name of a file that a publisher is writing
_INDEX = {
    "type": "object",
    "required": ["schemaVersion", "manifests"],
    "properties": {
        "schemaVersion": {"const": 2},
        "manifests": {"type": "array", "items": DESCRIPTOR},
    },
}


def read_index(layout: Path) -> dict[str, Any]:
    """Returns index.json.

    Raises:
        InputError: it is missing or broken.
    """
    path = layout / "index.json"
    if not path.is_file():
        raise InputError(f"{layout}: not a store: expected an OCI image layout with an index.json")
    index = read_json(path)
    check_schema(index, _INDEX, str(path))
    return index


def write_index(layout: Path, manifests: list[Descriptor]) -> None:
    """Replaces index.json. The caller holds the lock."""
    index = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": manifests}
    _write(layout / "index.json", json.dumps(index, indent=2) + "\n")


def write_version(layout: Path) -> None:
    """Writes oci-layout, which makes the directory a layout."""
    _write(layout / "oci-layout", dumps({"imageLayoutVersion": "1.0.0"}) + "\n")


def add_blob(layout: Path, source: Path, advance: Callable[[int], None]) -> str:
    """Copies a file to the blobs and returns its sha256.

    Raises:
        StageError: the disk is full, or the file changed during the copy.
    """
    size = source.stat().st_size
    with _incoming(layout) as temporary:
        digest = hashlib.sha256()
        with source.open("rb") as reader, temporary.open("wb") as writer:
            while chunk := reader.read(CHUNK):
                digest.update(chunk)
                writer.write(chunk)
                advance(len(chunk))
            writer.flush()
            os.fsync(writer.fileno())
        if temporary.stat().st_size != size:
            raise StageError(f"{source}: changed while it was published: publish it again")
        os.replace(temporary, blobs(layout) / digest.hexdigest())
        sync_one(blobs(layout))
    return digest.hexdigest()


def add_small_blob(layout: Path, content: bytes) -> str:
    """Writes bytes to the blobs and returns their sha256."""
    digest = hashlib.sha256(content).hexdigest()
    with _incoming(layout) as temporary:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, blobs(layout) / digest)
        sync_one(blobs(layout))
    return digest


def blobs(layout: Path) -> Path:
    """Returns the directory of the blobs."""
    return layout / "blobs" / "sha256"


def remove_blobs(layout: Path, used: set[str]) -> None:
    """Removes the blobs that are not among `used` (sha256 in hex), and half-written ones.

    The caller knows that no publisher is at work.
    """
    for path in blobs(layout).iterdir():
        if path.name not in used:
            path.unlink()
    remove_incoming(layout)


def remove_incoming(layout: Path) -> None:
    """Removes what killed publishers left half written.

    The caller holds the lock and knows that no publisher is at work.
    """
    for pattern in (f"{_INCOMING}*", ".*.partial"):
        for path in layout.glob(pattern):
            path.unlink()


@contextlib.contextmanager
def flock(path: Path, how: int) -> Iterator[None]:
    """Holds a lock of the operating system on a file, which ends with the process.

    Raises:
        BlockingIOError: another has it, and `how` contains LOCK_NB.
        StageError: the file cannot be written, or its file system has no locks.
    """
    try:
        file = path.open("a")
    except OSError as error:
        raise StageError(f"{path.parent}: cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, how)
        except OSError as error:
            if not lacks_locks(error):
                raise
            raise StageError(
                f"{path.parent}: its file system has no locks, so two publishers could lose each other's version:"
                " expected a directory of another one, or a registry (publish.store=oci://HOST/NAMESPACE)"
            ) from None
        yield


@contextlib.contextmanager
def _incoming(layout: Path) -> Iterator[Path]:
    """Yields the path of a file of this publisher alone, and removes it where the block did not move it away."""
    temporary = layout / f"{_INCOMING}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        yield temporary
    except OSError as error:
        raise StageError(f"{layout}: cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    """Writes like schemas.files.write_text, and syncs the file to the disk."""
    with whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    sync_one(path.parent)
