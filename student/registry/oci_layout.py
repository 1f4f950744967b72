"""An OCI image layout on disk (image-spec v1.1): oci-layout, index.json and blobs/sha256/.

Written with hashlib and json: the oras package only writes a layout by pulling it from a registry. What the blobs
are and how they are named is student/registry/publish.py's business.

What it promises: a blob is whole under its digest or not there; index.json changes at once; both are on the disk
before the call returns. One publisher at a time (`locked`), and whatever moment it is killed at, the next one
goes on. Readers need no lock.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from schemas.error_text import describe
from schemas.errors import InputError, StageError
from schemas.files import dumps, read_json, sha256, whole

IMAGE_INDEX = "application/vnd.oci.image.index.v1+json"

CHUNK = 4 << 20
_INCOMING = ".incoming"  # the one file being written, by the publisher who holds the lock

DESCRIPTOR = {
    "type": "object",
    "required": ["mediaType", "digest", "size"],
    "properties": {
        "mediaType": {"type": "string"},
        # What makes a blob's path: nothing else may.
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
    """The store for one publisher at a time; the lock ends with its process. Readers need none."""
    if not _is_new(store):
        # Refuses a directory that is something else before a file is put into it.
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
    """Nothing was published here yet: no directory, an empty one, or one whose first publisher was killed."""
    if not store.exists():
        return True
    if not store.is_dir():
        return False
    visible = {path.name for path in store.iterdir() if not path.name.startswith(".")}
    return visible <= {"oci-layout", "blobs"} and not any(store.glob("blobs/sha256/*"))


def read_index(store: Path) -> dict[str, Any]:
    if _is_new(store):
        return _empty()
    path = store / "index.json"
    if not path.is_file():
        raise InputError(f"{store}: not a store: expected an OCI image layout with an index.json")
    index = read_json(path)
    check(index, _INDEX, path)
    return index


def _empty() -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": []}


def write_index(store: Path, index: dict[str, Any]) -> None:
    _write(store / "index.json", json.dumps(index, indent=2) + "\n")


def add_file(store: Path, media_type: str, source: Path) -> dict[str, Any]:
    """The descriptor of a file, its blob being in the store.

    It is a copy, not a hard link: an edit of the source must not reach what is published.
    """
    size = source.stat().st_size
    blobs = _blobs(store)
    # Only a blob of the same size can be this file: then reading alone tells, and nothing is written twice.
    if any(blob.stat().st_size == size for blob in blobs.iterdir()):
        found = sha256(source)
        if (blobs / found).exists() and (blobs / found).stat().st_size == size:
            return _descriptor(media_type, found, size)
    with whole(store / _INCOMING) as temporary:
        digest = _copy(source, temporary)
        if temporary.stat().st_size != size:
            raise StageError(f"{source}: changed while it was published")
    _accept(store, digest)
    return _descriptor(media_type, digest, size)


def add_text(store: Path, media_type: str, text: str) -> dict[str, Any]:
    digest = hashlib.sha256(text.encode()).hexdigest()
    _write(store / _INCOMING, text)
    _accept(store, digest)
    return _descriptor(media_type, digest, len(text.encode()))


def read_blob(store: Path, descriptor: dict[str, Any], what: str) -> Any:
    """The JSON in a small blob, its digest checked."""
    path = blob_path(store, descriptor["digest"])
    if not path.is_file():
        raise InputError(f"{path}: {what}: this blob is missing from the store")
    content = path.read_bytes()
    found = "sha256:" + hashlib.sha256(content).hexdigest()
    if found != descriptor["digest"]:
        raise InputError(
            f"{path}: {what}: corrupted: its sha256 is {found.removeprefix('sha256:')}"
        )
    return read_json(path)


def _blobs(store: Path) -> Path:
    return store / "blobs" / "sha256"


def blob_path(store: Path, digest: str) -> Path:
    return _blobs(store) / digest.removeprefix("sha256:")


def check(document: Any, schema: dict[str, Any], path: Path) -> None:
    error = best_match(Draft202012Validator(schema).iter_errors(document))
    if error is not None:
        raise InputError(f"{path}: {describe(error)}")


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}


def _accept(store: Path, digest: str) -> None:
    """Names what was written to `.incoming`: a killed publisher leaves nothing half written among the blobs."""
    os.replace(store / _INCOMING, blob_path(store, digest))
    sync(_blobs(store))


def _copy(source: Path, target: Path) -> str:
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(CHUNK):
            digest.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def _write(path: Path, text: str) -> None:
    """As schemas.files.write_text, and on the disk when it returns."""
    with whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)


def sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
