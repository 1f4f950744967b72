"""How publishers in a registry, which has no locks, take different version numbers.

A publisher writes the tag claim-NUMBER-RANDOM and then lists the tags. If it finds another claim of the number, or the
number itself, it withdraws its claim and begins again. Of two publishers with the same number the later writer sees the
claim of the earlier, so at most one goes on. A claim that stays behind, because its publisher was killed or the
registry allows no deletes, keeps its number from being used, and no more.
"""

import contextlib
import random
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Protocol

from schemas.errors import InputError, StageError
from schemas.files import dumps
from schemas.tags import CLAIM_TAG, is_version
from student.registry.artifact import CREATED
from student.registry.store import EMPTY_TYPE, IMAGE_MANIFEST, Descriptor

_CLAIM_TYPE = "application/vnd.stillhouse.claim.v1+json"
# How long a claim of a publisher that was killed stays: a publisher that is at work holds one for seconds.
_LIFE_S = 24 * 3600


class _Tags(Protocol):
    """What this module needs of a repository in a registry (oci_registry.py)."""

    def all_tags(self) -> list[str]: ...
    def find(self, tag: str) -> Descriptor | None: ...
    def document(self, descriptor: Descriptor, label: str) -> Any: ...
    def add_text(self, media_type: str, text: str) -> Descriptor: ...
    def add_manifest(self, media_type: str, text: str) -> Descriptor: ...
    def set_tags(self, tags: dict[str, Descriptor]) -> None: ...
    def delete(self, descriptor: Descriptor) -> bool: ...


@contextlib.contextmanager
def claim(repository: _Tags, at_least: int) -> Iterator[int]:
    """Yields a number, `at_least` or above, whose tag no other publisher sets."""
    attempt = 0
    while True:
        number = max([at_least, *(n + 1 for n in _taken(repository.all_tags()))])
        tag = f"claim-{number}-{secrets.token_hex(8)}"
        own = write(repository, tag)
        try:
            rivals = number in _taken([t for t in repository.all_tags() if t != tag])
            if not rivals:
                yield number
                return
        finally:
            with contextlib.suppress(StageError):  # a claim that stays does no harm
                repository.delete(own)
        attempt += 1
        time.sleep(random.uniform(0, min(0.2 * 2**attempt, 10)))


def write(repository: _Tags, tag: str) -> Descriptor:
    """Writes a claim and returns its descriptor."""
    empty = repository.add_text(EMPTY_TYPE, "{}")
    manifest = {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "artifactType": _CLAIM_TYPE,
        "config": empty,
        "layers": [empty],
        # The tag makes its digest its own: deleting it deletes no other claim.
        "annotations": {CREATED: datetime.now(UTC).isoformat(), "stillhouse.claim": tag},
    }
    own = repository.add_manifest(IMAGE_MANIFEST, dumps(manifest))
    repository.set_tags({tag: own})
    return own


def remove_old(repository: _Tags) -> None:
    """Removes claims of publishers that were killed."""
    for tag in repository.all_tags():
        if not CLAIM_TAG.fullmatch(tag) or not (old := repository.find(tag)):
            continue
        # What is broken stays: nobody knows how old it is.
        with contextlib.suppress(InputError, AttributeError, LookupError, ValueError, TypeError):
            created = repository.document(old, tag)["annotations"].get(CREATED, "")
            age = datetime.now(UTC) - datetime.fromisoformat(created)
            if age.total_seconds() > _LIFE_S:
                repository.delete(old)


def _taken(tags: list[str]) -> list[int]:
    """Returns the numbers of versions and of claims among tags."""
    claims = [int(m["version"]) for tag in tags if (m := CLAIM_TAG.fullmatch(tag))]
    return claims + [int(tag) for tag in tags if is_version(tag)]
