"""What a store can do: the interface of the layout on disk (oci_layout.py) and of a registry (oci_registry.py).

A store has repositories, one for each student's name; a repository has tags, manifests and blobs as in OCI's
distribution spec. What they mean is decided in artifact.py, lookup.py and publish.py.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from schemas.errors import InputError, StageError
from schemas.json_schema import Schema

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# A content descriptor: {"mediaType", "digest", "size", "artifactType"?, "annotations"?}.
Descriptor = dict[str, Any]

# Called with (bytes done, bytes in total, the file's name in the artifact).
Progress = Callable[[int, int, str], None]

IMAGE_INDEX = "application/vnd.oci.image.index.v1+json"
IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"  # of the blob {}, the config of what has none

CHUNK = 4 << 20  # bytes of one read
LARGEST_DOCUMENT = 16 << 20  # bytes; a manifest or a JSON file of a student is far smaller

DESCRIPTOR = {
    "type": "object",
    "required": ["mediaType", "digest", "size"],
    "properties": {
        "mediaType": {"type": "string", "maxLength": 255},
        # A blob's path is made from it, so it must not contain anything else.
        "digest": {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"},
        "size": {"type": "integer", "minimum": 0},
        "artifactType": {"type": "string", "maxLength": 255},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}

_INDEX_PARTS = {
    "type": "object",
    "required": ["manifests"],
    "properties": {"manifests": {"type": "array", "items": DESCRIPTOR}},
}
_MANIFEST_PARTS = {
    "type": "object",
    "required": ["config", "layers"],
    "properties": {"config": DESCRIPTOR, "layers": {"type": "array", "items": DESCRIPTOR}},
}


def descriptor_of(media_type: str, digest: str, size: int) -> Descriptor:
    """Returns the descriptor of a blob. digest: sha256 in hex."""
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}


def check_schema(document: Any, schema: dict[str, Any], label: str) -> None:
    """Raises InputError where the document does not match the JSON Schema. label: names it."""
    if violation := Schema(schema).problem(document):
        raise InputError(f"{label}: {violation.text}")


def parts_of(
    descriptor: Descriptor, document: Any, label: str
) -> tuple[list[Descriptor], list[Descriptor]]:
    """Returns the blobs and the manifests that a manifest or an index names.

    Args:
        document: what the descriptor leads to. label: names it in messages.

    Raises:
        InputError: the document is broken.
    """
    if descriptor["mediaType"] == IMAGE_INDEX:
        check_schema(document, _INDEX_PARTS, label)
        return [], list(document["manifests"])
    check_schema(document, _MANIFEST_PARTS, label)
    return [document["config"], *document["layers"]], []


class Stopped(StageError):
    """A copy that was stopped, because another file of the set failed."""


class Counter:
    """The bytes done of a copy, which several threads add to."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total, self._progress = total, progress
        self._done, self._lock = 0, threading.Lock()
        self._stopped = False

    def stop(self) -> None:
        """Makes every copy end at its next bytes."""
        self._stopped = True

    def add(self, count: int, name: str) -> None:
        """Adds bytes, negative where a copy starts over. name: of the file.

        Raises:
            Stopped: `stop` was called.
        """
        if self._stopped and count > 0:
            raise Stopped(f"{name}: stopped")
        with self._lock:
            self._done += count
            if self._progress:
                self._progress(self._done, self._total, name)


def in_parallel(
    workers: int, work: Callable[[_Item], _Result], items: Sequence[_Item], counter: Counter
) -> list[_Result]:
    """Returns the results of `work` for each item, some at a time.

    When one fails, or Ctrl-C comes, the others end at their next bytes, and the first error is raised.
    """
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for done in as_completed(futures):
                done.result()
        except BaseException:
            counter.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]


def _ignore(count: int) -> None:
    pass


class Repository(Protocol):
    """The versions of one student in a store.

    Attributes:
        location: where it is, for messages.
        parallel: how many blobs to copy at the same time.
    """

    name: str
    location: str
    parallel: int

    def tags(self) -> list[str]:
        """Lists the tags; none where nothing was published. Those that only this interface uses are left out."""

    def find(self, tag: str) -> Descriptor | None:
        """Returns the descriptor of the manifest that a tag names, or None."""

    def document(self, descriptor: Descriptor, label: str) -> Any:
        """Returns the JSON of a manifest or of a small blob, whose digest was checked.

        Raises:
            InputError: it is missing, corrupted, too large or not JSON. label: names it in messages.
        """

    def read(self, descriptor: Descriptor, start: int, label: str) -> Iterator[bytes]:
        """Yields the bytes of a blob from the byte `start` on, at most as many as the descriptor says, unchecked.

        Raises:
            InputError: the blob is missing.
            StageError: it cannot be read.
        """

    def where(self, descriptor: Descriptor) -> str:
        """Returns where a blob is, for messages."""

    def check_blob(self, descriptor: Descriptor, label: str) -> None:
        """Raises InputError where a blob is known to be missing."""

    def add_file(
        self, media_type: str, path: Path, advance: Callable[[int], None] = _ignore
    ) -> Descriptor:
        """Adds a file as a blob, unless it is there, and returns its descriptor.

        advance: called with a number of bytes that are done.
        """

    def add_text(self, media_type: str, text: str) -> Descriptor:
        """Adds a small blob and returns its descriptor."""

    def add_manifest(self, media_type: str, text: str) -> Descriptor:
        """Adds a manifest without a tag and returns its descriptor."""

    def referrers(self, digest: str) -> list[Descriptor]:
        """Returns the manifests that refer to a manifest, such as its signatures."""

    def publishing(self) -> AbstractContextManager[None]:
        """Holds off the removal of blobs that no manifest names yet."""

    def locked(self) -> AbstractContextManager[None]:
        """Admits one change of tags at a time, where the store can do that."""

    def claim(self, at_least: int) -> AbstractContextManager[int]:
        """Yields a version number that no other publisher gets, and that is above all that exist."""

    def set_tags(self, tags: dict[str, Descriptor]) -> None:
        """Makes each tag name its manifest, in the order given; in a directory all at the same time."""

    def remove(self, manifests: Sequence[Descriptor], report: Callable[[str], None]) -> None:
        """Removes manifests, every tag that names one of them, and what is then used by nothing."""


def referrers_tag(digest: str) -> str:
    """Returns the tag of the index of what refers to a manifest."""
    return digest.replace(":", "-")


def referrers_by_tag(repository: Repository, digest: str) -> list[Descriptor]:
    """Returns what that index lists.

    Raises:
        InputError: it is broken.
    """
    tag = referrers_tag(digest)
    entry = repository.find(tag)
    if entry is None:
        return []
    label = f"{repository.name}:{tag}"
    return parts_of(entry, repository.document(entry, label), label)[1]


class Store(Protocol):
    """A directory or a registry that holds students. location: as a person would write it."""

    location: str

    def names(self) -> list[str]:
        """Lists the names of the students.

        Raises:
            InputError: not a store, or the registry does not list its repositories.
        """

    def repository(self, name: str) -> Repository:
        """Returns the versions of a student; it may have none yet.

        Raises:
            InputError: registries would not accept the name.
        """

    def check_writable(self, name: str) -> None:
        """Raises InputError where a student could not be published under this name, before anything is spent on it."""
