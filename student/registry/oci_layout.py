"""A store in a directory: an OCI image layout (image-spec v1.1) for each student, store/NAME.

Uses hashlib and json, because the oras package writes a layout only by pulling it from a registry. One layout for each
name, because oras takes the last colon of a reference for the tag: `oras pull --oci-layout store/legal:3-q8_0`.

What it guarantees: a blob is whole under its digest or absent; index.json changes atomically; both are on the disk
before a call returns. Copies hold no lock that another publisher waits for. After a kill at any moment the next
publisher can continue. Readers need no lock.

A store of the old shape is one layout for all names, whose tags are NAME:TAG. It is read as it is; the first change of
a name moves it into a layout of its own.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from schemas.errors import InputError, StageError
from schemas.files import read_json, sha256
from schemas.tags import is_internal, is_version
from student.registry import layout_files
from student.registry.layout_files import blobs, flock, read_index, write_index
from student.registry.location import check_name, is_name, is_tag
from student.registry.store import (
    CHUNK,
    LARGEST_DOCUMENT,
    Descriptor,
    descriptor_of,
    parts_of,
    referrers_by_tag,
)

# The annotation of an index entry that holds its tag; in the old shape NAME:TAG.
REFERENCE = "org.opencontainers.image.ref.name"


class DirectoryStore:
    """The store in a directory; store.py says what the methods promise."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.location = str(directory)

    def names(self) -> list[str]:
        _check_store(self.directory)
        names = {path.parent.name for path in self.directory.glob("*/oci-layout")}
        if _has_old_shape(self.directory):
            names |= {
                _reference(d).partition(":")[0] for d in read_index(self.directory)["manifests"]
            }
        return sorted(name for name in names if is_name(name))

    def repository(self, name: str) -> "LayoutRepository":
        check_name(name)
        return LayoutRepository(self.directory, name)

    def check_writable(self, name: str) -> None:
        _check_store(self.directory)


class LayoutRepository:
    """The versions of a student in a directory; store.py says what the methods promise."""

    parallel = 1  # a disk copies faster one file after the other

    def __init__(self, store: Path, name: str) -> None:
        self.name = name
        self.location = str(store)
        self._store = store
        self._own = store / name

    def tags(self) -> list[str]:
        return [tag for tag in self._by_tag() if not is_internal(tag)]

    def find(self, tag: str) -> Descriptor | None:
        return self._by_tag().get(tag)

    def document(self, descriptor: Descriptor, label: str) -> Any:
        path = self._existing(descriptor, label)
        if path.stat().st_size > LARGEST_DOCUMENT:
            raise InputError(f"{path}: {label}: expected at most {LARGEST_DOCUMENT:,} bytes")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != path.name:
            raise InputError(
                f"{path}: {label}: corrupted: its sha256 is {digest}, expected {path.name}:"
                " restore the store from a backup"
            )
        return read_json(path)

    def read(self, descriptor: Descriptor, start: int, label: str) -> Iterator[bytes]:
        path = self._existing(descriptor, label)
        try:
            with path.open("rb") as file:
                file.seek(start)
                left = descriptor["size"] - start
                while left > 0 and (chunk := file.read(min(CHUNK, left))):
                    left -= len(chunk)
                    yield chunk
        except OSError as error:
            raise StageError(f"{path}: {label}: cannot be read: {error.strerror}") from error

    def where(self, descriptor: Descriptor) -> str:
        return str(self.blob_path(descriptor["digest"]))

    def check_blob(self, descriptor: Descriptor, label: str) -> None:
        self._existing(descriptor, label)

    def add_file(
        self, media_type: str, path: Path, advance: Callable[[int], None] = lambda _: None
    ) -> Descriptor:
        # No hard link: a later edit of the source must not change what is published.
        size = path.stat().st_size
        # Hash first where a blob has the same size: if it is this file, nothing needs to be written.
        if any(blob.stat().st_size == size for blob in blobs(self._own).iterdir()):
            digest = sha256(path)
            blob = blobs(self._own) / digest
            if blob.exists() and blob.stat().st_size == size:
                advance(size)
                return descriptor_of(media_type, digest, size)
        return descriptor_of(media_type, layout_files.add_blob(self._own, path, advance), size)

    def add_text(self, media_type: str, text: str) -> Descriptor:
        content = text.encode()
        digest = layout_files.add_small_blob(self._own, content)
        return descriptor_of(media_type, digest, len(content))

    def add_manifest(self, media_type: str, text: str) -> Descriptor:
        return self.add_text(media_type, text)

    def referrers(self, digest: str) -> list[Descriptor]:
        return referrers_by_tag(self, digest)

    @contextlib.contextmanager
    def publishing(self) -> Iterator[None]:
        """Creates the layout where there is none, and keeps `remove` from deleting blobs of this publisher."""
        self._create()
        publishers = self._own / ".publishers"
        alone = flock(publishers, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with self.locked(), contextlib.suppress(BlockingIOError), alone:
            layout_files.remove_incoming(self._own)
        with flock(publishers, fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        self._create()
        with flock(self._own / ".lock", fcntl.LOCK_EX):
            yield

    @contextlib.contextmanager
    def claim(self, at_least: int) -> Iterator[int]:
        """Yields the next number. The caller holds the lock."""
        yield max([at_least, *(int(tag) + 1 for tag in self.tags() if is_version(tag))])

    def set_tags(self, tags: dict[str, Descriptor]) -> None:
        others = [d for d in read_index(self._own)["manifests"] if _reference(d) not in tags]
        named = [{**d, "annotations": {REFERENCE: tag}} for tag, d in tags.items()]
        write_index(self._own, others + named)

    def remove(self, manifests: Sequence[Descriptor], report: Callable[[str], None]) -> None:
        with self.locked():
            gone = {descriptor["digest"] for descriptor in manifests}
            kept = [d for d in read_index(self._own)["manifests"] if d["digest"] not in gone]
            write_index(self._own, kept)
            try:
                with flock(self._own / ".publishers", fcntl.LOCK_EX | fcntl.LOCK_NB):
                    layout_files.remove_blobs(self._own, self._reachable(kept))
            except BlockingIOError:
                report(f"{self._own}: a publisher is at work: the next `rm` frees the disk")
            except InputError as error:
                # What a broken version consists of is not known, so nothing can be said to be unused.
                report(f"no blob was removed: {error}")

    def blob_path(self, digest: str) -> Path:
        """Returns the path of a blob. digest: with or without sha256: before it."""
        return blobs(self._layout()) / digest.removeprefix("sha256:")

    def _existing(self, descriptor: Descriptor, label: str) -> Path:
        path = self.blob_path(descriptor["digest"])
        if not path.is_file():
            raise InputError(f"{path}: {label}: this blob is missing: publish the student again")
        return path

    def _reachable(self, manifests: list[Descriptor]) -> set[str]:
        """Returns the sha256 of every blob that these manifests and what they name consist of.

        Raises:
            InputError: a manifest is broken.
        """
        used: set[str] = set()
        todo = list(manifests)
        while todo:
            descriptor = todo.pop()
            digest = descriptor["digest"].removeprefix("sha256:")
            if digest not in used:
                used.add(digest)
                label = f"{self.name}:{_reference(descriptor) or digest[:12]}"
                parts, documents = parts_of(descriptor, self.document(descriptor, label), label)
                used |= {part["digest"].removeprefix("sha256:") for part in parts}
                todo += documents
        return used

    def _layout(self) -> Path:
        """Returns the layout that is read: the store itself while it has this name in the old shape."""
        own = (self._own / "oci-layout").is_file()
        return self._own if own or not _has_old_shape(self._store) else self._store

    def _by_tag(self) -> dict[str, Descriptor]:
        if self._layout() == self._store:
            return _old_entries(self._store, self.name)
        if (self._own / "oci-layout").is_file():
            entries = read_index(self._own)["manifests"]
            return {_reference(d): d for d in entries if is_tag(_reference(d))}
        _check_store(self._store)
        return {}

    def _create(self) -> None:
        """Creates the layout, with what a store of the old shape has under this name."""
        _check_store(self._store)
        if (self._own / "oci-layout").is_file():
            read_index(self._own)
            return
        try:
            blobs(self._own).mkdir(parents=True, exist_ok=True)
            with flock(self._store / ".lock", fcntl.LOCK_EX):
                if not (self._own / "oci-layout").is_file():
                    self._write_layout()
                if _has_old_shape(self._store):
                    _forget(self._store, self.name)
        except OSError as error:
            raise StageError(f"{self._store}: cannot be written: {error.strerror}") from error

    def _write_layout(self) -> None:
        """Writes the layout; oci-layout is last, so that a killed publisher leaves none by half."""
        old = _old_entries(self._store, self.name) if _has_old_shape(self._store) else {}
        if old:
            # Links cost no space; `remove` later drops those that belong to other names.
            for blob in blobs(self._store).iterdir():
                with contextlib.suppress(FileExistsError):
                    os.link(blob, blobs(self._own) / blob.name)
        named = [{**d, "annotations": {REFERENCE: tag}} for tag, d in old.items()]
        write_index(self._own, named)
        layout_files.write_version(self._own)


def _check_store(directory: Path) -> None:
    """Raises InputError where the directory is something else than a store."""
    if not directory.exists() or _has_old_shape(directory):
        return
    inside = _visible(directory) if directory.is_dir() else None
    if inside is None or (inside and not any(_is_layout(path) for path in inside)):
        raise InputError(
            f"{directory}: not a store: expected a directory with an OCI image layout for each student"
        )


def _has_old_shape(store: Path) -> bool:
    return (store / "index.json").is_file() and (store / "oci-layout").is_file()


def _visible(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if not path.name.startswith(".")]


def _is_layout(directory: Path) -> bool:
    """Whether a directory is a layout, or one whose first publisher was killed."""
    if not directory.is_dir() or not is_name(directory.name):
        return False
    return {path.name for path in _visible(directory)} <= {"oci-layout", "index.json", "blobs"}


def _reference(entry: Descriptor) -> str:
    """Returns the tag of an index entry, in the old shape NAME:TAG, or an empty text."""
    return str(entry.get("annotations", {}).get(REFERENCE, ""))


def _old_entries(store: Path, name: str) -> dict[str, Descriptor]:
    """Returns what a store of the old shape has under a name, by tag."""
    entries = {}
    for entry in read_index(store)["manifests"]:
        owner, _, tag = _reference(entry).partition(":")
        if owner == name and is_tag(tag):
            entries[tag] = entry
    return entries


def _forget(store: Path, name: str) -> None:
    """Takes a name out of a store of the old shape, and the old layout away with its last entry."""
    entries = read_index(store)["manifests"]
    left = [d for d in entries if _reference(d).partition(":")[0] != name]
    if left:
        write_index(store, left)
        return
    (store / "index.json").unlink()
    (store / "oci-layout").unlink()
    for blob in blobs(store).iterdir():
        blob.unlink()
    blobs(store).rmdir()
    blobs(store).parent.rmdir()
