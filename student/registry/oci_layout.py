"""Reads and writes an OCI image layout on disk (image-spec v1.1): oci-layout, index.json and blobs/sha256/.

Uses hashlib and json, because the oras package writes a layout only by pulling it from a registry. What the blobs
mean and how they are named is decided in student/registry/artifact.py and lookup.py.

What it guarantees: a blob is whole under its digest or absent; index.json changes atomically; both are on the disk
before a call returns. `locked` admits one publisher at a time, and after a kill at any moment the next publisher can
continue. Readers need no lock.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from schemas.errors import InputError, StageError
from schemas.files import dumps, read_json, sha256, whole
from schemas.json_schema import Schema

IMAGE_INDEX = "application/vnd.oci.image.index.v1+json"
IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"

CHUNK = 4 << 20  # bytes of one read
_INCOMING = ".incoming"  # the file that the publisher with the lock is writing

# A content descriptor: {"mediaType", "digest", "size", "artifactType"?, "annotations"?}.
Descriptor = dict[str, Any]

DESCRIPTOR = {
    "type": "object",
    "required": ["mediaType", "digest", "size"],
    "properties": {
        "mediaType": {"type": "string"},
        # A blob's path is made from it, so it must not contain anything else.
        "digest": {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"},
        "size": {"type": "integer", "minimum": 0},
        "artifactType": {"type": "string"},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
_INDEX = {
    "type": "object",
    "required": ["schemaVersion", "manifests"],
    "properties": {
        "schemaVersion": {"const": 2},
        "manifests": {"type": "array", "items": DESCRIPTOR},
    },
}


@contextlib.contextmanager
def locked(store: Path) -> Iterator[None]:
    """Holds the store's lock for one publisher, and creates the layout in a new store. The lock ends with the process.

    Raises:
        InputError: the directory is not a store.
        StageError: the directory cannot be written.
    """
    if not _is_new(store):
        # Raises for a directory that is not a store, before the lock file is written into it.
        read_index(store)
    try:
        store.mkdir(parents=True, exist_ok=True)
        lock = (store / ".lock").open("w")
    except OSError as error:
        raise StageError(f"{store}: cannot be written: {error.strerror}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        new = _is_new(store)
        _blobs(store).mkdir(parents=True, exist_ok=True)
        if new:
            _write(store / "oci-layout", dumps({"imageLayoutVersion": "1.0.0"}) + "\n")
            write_index(store, _empty())
        yield


def _is_new(store: Path) -> bool:
    """Whether nothing was published: no directory, an empty one, or one whose first publisher was killed."""
    if not store.exists():
        return True
    if not store.is_dir():
        return False
    visible = {path.name for path in store.iterdir() if not path.name.startswith(".")}
    return visible <= {"oci-layout", "blobs"} and not any(store.glob("blobs/sha256/*"))


def read_index(store: Path) -> dict[str, Any]:
    """Returns index.json, or an empty index where nothing was published.

    Raises:
        InputError: the directory is not a store, or its index is broken.
    """
    if _is_new(store):
        return _empty()
    path = store / "index.json"
    if not path.is_file():
        raise InputError(f"{store}: not a store: expected an OCI image layout with an index.json")
    index = read_json(path)
    check_schema(index, _INDEX, path)
    return index


def _empty() -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": []}


def write_index(store: Path, index: dict[str, Any]) -> None:
    """Replaces index.json. The caller holds the lock."""
    _write(store / "index.json", json.dumps(index, indent=2) + "\n")


def add_file(store: Path, media_type: str, source: Path) -> Descriptor:
    """Copies a file into the store as a blob and returns its descriptor. The caller holds the lock.

    It makes no hard link: a later edit of the source must not change what is published.

    Raises:
        StageError: the disk is full, or the file changed during the copy.
    """
    size = source.stat().st_size
    blobs = _blobs(store)
    # Hash first where a blob has the same size: if it is this file, nothing needs to be written.
    if any(blob.stat().st_size == size for blob in blobs.iterdir()):
        digest = sha256(source)
        if (blobs / digest).exists() and (blobs / digest).stat().st_size == size:
            return _descriptor(media_type, digest, size)
    with whole(store / _INCOMING) as temporary:
        digest = _copy(source, temporary)
        if temporary.stat().st_size != size:
            raise StageError(f"{source}: changed while it was published: publish it again")
    _accept(store, digest)
    return _descriptor(media_type, digest, size)


def add_text(store: Path, media_type: str, text: str) -> Descriptor:
    """Writes a text into the store as a blob and returns its descriptor. The caller holds the lock."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    _write(store / _INCOMING, text)
    _accept(store, digest)
    return _descriptor(media_type, digest, len(text.encode()))


def read_blob(store: Path, descriptor: Descriptor, label: str) -> Any:
    """Checks the digest of a small blob and returns the JSON in it. label: names the blob in messages.

    Raises:
        InputError: the blob is missing, corrupted, or not JSON.
    """
    path = blob_path(store, descriptor["digest"])
    if not path.is_file():
        raise InputError(f"{path}: {label}: this blob is missing: restore the store from a backup")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    expected = descriptor["digest"].removeprefix("sha256:")
    if digest != expected:
        raise InputError(
            f"{path}: {label}: corrupted: its sha256 is {digest}, expected {expected}:"
            " restore the store from a backup"
        )
    return read_json(path)


def _blobs(store: Path) -> Path:
    return store / "blobs" / "sha256"


def blob_path(store: Path, digest: str) -> Path:
    """Returns the path of a blob. digest: with or without sha256: before it."""
    return _blobs(store) / digest.removeprefix("sha256:")


def check_schema(document: Any, schema: dict[str, Any], path: Path) -> None:
    """Raises InputError where the document, which was read from `path`, does not match the JSON Schema."""
    if violation := Schema(schema).problem(document):
        raise InputError(f"{path}: {violation.text}")


def _descriptor(media_type: str, digest: str, size: int) -> Descriptor:
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}


def _accept(store: Path, digest: str) -> None:
    """Renames `.incoming` to the blob's name, so that a killed publisher leaves no partial blob."""
    os.replace(store / _INCOMING, blob_path(store, digest))
    sync(_blobs(store))


def _copy(source: Path, target: Path) -> str:
    """Copies a file, syncs it to the disk, and returns its sha256."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(CHUNK):
            digest.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def _write(path: Path, text: str) -> None:
    """Writes like schemas.files.write_text, and syncs the file to the disk."""
    with whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)


def sync(directory: Path) -> None:
    """Syncs a directory's entries to the disk, so that a rename in it survives a crash of the machine."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
