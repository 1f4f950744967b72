"""A store in an OCI registry: each student is a repository, oci://host/namespace/NAME (distribution-spec v1.1).

What it guarantees: a tag is set only after all that it leads to is in the registry, whatever happens to the publisher;
no two publishers get the same version number (`claim`). A registry may lack the referrers API, the list of its
repositories and the right to delete: only what needs them fails.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from schemas.errors import InputError, StageError
from schemas.files import sha256
from schemas.tags import is_internal
from student.registry import claims
from student.registry.location import RegistryUrl, check_name, is_name, is_tag
from student.registry.oci_http import WAITS_S, Interrupted, Registry, joined
from student.registry.store import (
    CHUNK,
    DESCRIPTOR,
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    LARGEST_DOCUMENT,
    Descriptor,
    check_schema,
    descriptor_of,
    parts_of,
    referrers_by_tag,
)

_ACCEPT = {"Accept": f"{IMAGE_INDEX}, {IMAGE_MANIFEST}"}
_MOST_TAGS = 100_000


class RegistryStore:
    """The store in a registry; store.py says what the methods promise."""

    def __init__(self, url: RegistryUrl, *, patient: bool = True) -> None:
        self.url = url
        self.location = str(url)
        self._registry = Registry(url, patient=patient)

    def names(self) -> list[str]:
        start = f"{self.url.namespace}/" if self.url.namespace else ""
        names: set[str] = set()
        try:
            for page in self._registry.pages("/v2/_catalog?n=1000", "registry:catalog:*"):
                for repository in _listed(page, "repositories", self.location):
                    if repository.startswith(start) and is_name(repository[len(start) :]):
                        names.add(repository[len(start) :])
        except Interrupted:
            raise
        except (InputError, StageError) as error:
            raise InputError(
                f"{self.location}: does not list its repositories: name a student: {error}"
            ) from error
        return sorted(names)

    def repository(self, name: str) -> "RegistryRepository":
        check_name(name)
        return RegistryRepository(self._registry, self.url, name)

    def check_writable(self, name: str) -> None:
        """Begins an upload and cancels it: the registry, the login and the right to push are then known to be good."""
        self.repository(name).check_writable()


class RegistryRepository:
    """The versions of a student in a registry; store.py says what the methods promise."""

    parallel = 4

    def __init__(self, registry: Registry, url: RegistryUrl, name: str) -> None:
        self.name = name
        self.location = str(url)
        self._registry = registry
        self._path = url.repository(name)
        self._api = f"/v2/{self._path}"
        self._documents: dict[str, str] = {}  # manifests of this process, by digest

    def tags(self) -> list[str]:
        return [tag for tag in self.all_tags() if not is_internal(tag)]

    def find(self, tag: str) -> Descriptor | None:
        response = self._registry.request(
            "GET", f"{self._api}/manifests/{tag}", self._scope("pull"), None, _ACCEPT, (404,)
        )
        if response.status_code == 404:
            return None
        return self._remember(response, tag)

    def document(self, descriptor: Descriptor, label: str) -> Any:
        digest, size = descriptor["digest"], descriptor["size"]
        if digest not in self._documents:
            if size > LARGEST_DOCUMENT:
                raise InputError(f"{label}: expected at most {LARGEST_DOCUMENT:,} bytes")
            is_manifest = descriptor["mediaType"] in (IMAGE_INDEX, IMAGE_MANIFEST)
            kind = "manifests" if is_manifest else "blobs"
            response = self._registry.request(
                "GET",
                f"{self._api}/{kind}/{digest}",
                self._scope("pull"),
                None,
                _ACCEPT,
                (404, 500),
            )
            if response.status_code == 404:
                raise InputError(f"{self.location}: {label}: {digest} is missing: publish it again")
            if response.status_code == 500:  # what docker-registry replies for a damaged manifest
                raise InputError(
                    f"{self.location}: {label}: {digest} cannot be read by the registry"
                )
            actual = f"sha256:{hashlib.sha256(response.content).hexdigest()}"
            if actual != digest:
                raise InputError(
                    f"{self.location}: {label}: corrupted: its digest is {actual}, expected {digest}"
                )
            self._documents[digest] = response.content.decode(errors="replace")
        try:
            return json.loads(self._documents[digest])
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self.location}: {label}: not JSON: {error}") from None

    def where(self, descriptor: Descriptor) -> str:
        return f"{self.location}/{self.name}@{descriptor['digest']}"

    def check_blob(self, descriptor: Descriptor, label: str) -> None:
        pass  # reading it finds out, without one more request for each file

    def read(self, descriptor: Descriptor, start: int, label: str) -> Iterator[bytes]:
        """Continues where the connection broke off, as long as each attempt brings something."""
        at, attempt = start, 0
        while at < descriptor["size"]:
            before = at
            try:
                for chunk in self._range(descriptor, at, label):
                    at += len(chunk)
                    yield chunk
                if at < descriptor["size"]:
                    raise Interrupted(
                        f"{self.location}: {label}: cut short: found {at:,} bytes,"
                        f" expected {descriptor['size']:,}"
                    )
            except Interrupted:
                attempt = 0 if at > before else attempt + 1
                if attempt == len(WAITS_S):
                    raise
                time.sleep(WAITS_S[attempt])

    def add_file(
        self, media_type: str, path: Path, advance: Callable[[int], None] = lambda _: None
    ) -> Descriptor:
        descriptor = descriptor_of(media_type, sha256(path), path.stat().st_size)
        if self._has(descriptor["digest"]):
            advance(descriptor["size"])
            return descriptor
        self._upload(descriptor, _Sent(path, advance).chunks)
        return descriptor

    def add_text(self, media_type: str, text: str) -> Descriptor:
        content = text.encode()
        digest = hashlib.sha256(content).hexdigest()
        descriptor = descriptor_of(media_type, digest, len(content))
        if not self._has(descriptor["digest"]):
            self._upload(descriptor, lambda: iter([content]))
        return descriptor

    def add_manifest(self, media_type: str, text: str) -> Descriptor:
        content = text.encode()
        descriptor = descriptor_of(media_type, hashlib.sha256(content).hexdigest(), len(content))
        self._documents[descriptor["digest"]] = text
        self._put(descriptor, descriptor["digest"])
        return descriptor

    def referrers(self, digest: str) -> list[Descriptor]:
        entries = referrers_by_tag(self, digest)
        path = f"{self._api}/referrers/{digest}"
        try:
            for page in self._registry.pages(path, self._scope("pull")):
                listed = json.loads(page.content)
                entries += parts_of({"mediaType": IMAGE_INDEX}, listed, f"{self.location}: {path}")[
                    1
                ]
        except Interrupted:
            raise
        except (InputError, StageError, ValueError, RecursionError):
            pass  # a registry without the API
        return list({entry["digest"]: entry for entry in entries}.values())

    def publishing(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()  # a registry keeps new blobs for a while

    def locked(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()  # registries have no locks; `claim` does without

    def claim(self, at_least: int) -> contextlib.AbstractContextManager[int]:
        return claims.claim(self, at_least)

    def set_tags(self, tags: dict[str, Descriptor]) -> None:
        for tag, descriptor in tags.items():
            self._put(descriptor, tag)

    def remove(self, manifests: Sequence[Descriptor], report: Callable[[str], None]) -> None:
        for descriptor in manifests:
            if not self.delete(descriptor):
                raise InputError(
                    f"{self.location}/{self.name}: this registry or login does not allow to delete:"
                    " use the registry's own retention rules"
                )
        claims.remove_old(self)
        if manifests:
            report(
                f"{self.location}/{self.name}: the registry frees the space by its own garbage collection"
            )

    def check_writable(self) -> None:
        """Raises InputError or StageError where a push would be refused."""
        response = self._registry.request(
            "POST", f"{self._api}/blobs/uploads/", self._scope("pull,push")
        )
        with contextlib.suppress(StageError, InputError):  # some registries cannot cancel an upload
            self._registry.request(
                "DELETE", self._upload_url(response), self._scope("pull,push"), accept=(404, 405)
            )

    def _scope(self, actions: str) -> str:
        return f"repository:{self._path}:{actions}"

    def all_tags(self) -> list[str]:
        """Lists the tags, those of claims too."""
        tags: list[str] = []
        for page in self._registry.pages(
            f"{self._api}/tags/list?n=1000", self._scope("pull"), accept=(404,)
        ):
            if page.status_code == 404:
                return []
            tags += [tag for tag in _listed(page, "tags", self.location) if is_tag(tag)]
            if len(tags) > _MOST_TAGS:
                raise StageError(
                    f"{self.location}/{self.name}: found more than {_MOST_TAGS:,} tags"
                )
        return tags

    def _remember(self, response: httpx.Response, tag: str) -> Descriptor:
        """Returns the descriptor of a manifest that was fetched by its tag."""
        label = f"{self.location}/{self.name}:{tag}"
        try:
            media_type = response.json()["mediaType"]
        except (ValueError, KeyError, TypeError, RecursionError):
            media_type = response.headers.get("Content-Type", "").partition(";")[0]
        digest = hashlib.sha256(response.content).hexdigest()
        descriptor = descriptor_of(media_type, digest, len(response.content))
        check_schema(descriptor, DESCRIPTOR, label)
        self._documents[descriptor["digest"]] = response.content.decode(errors="replace")
        return descriptor

    def _range(self, descriptor: Descriptor, start: int, label: str) -> Iterator[bytes]:
        """Yields the bytes of a blob from `start` on, at most as many as the descriptor says."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        path = f"{self._api}/blobs/{descriptor['digest']}"
        with self._registry.stream(
            "GET", path, self._scope("pull"), None, headers, (404, 416)
        ) as response:
            if response.status_code == 416:
                raise StageError(
                    f"{self.location}: {label}: the registry has {start:,} bytes, expected"
                    f" {descriptor['size']:,}: publish it again"
                )
            if response.status_code == 404:
                raise InputError(
                    f"{self.location}: {label}: {descriptor['digest']} is missing: publish it again"
                )
            # A registry may ignore the range and send the whole blob.
            skip = start if response.status_code == 200 else 0
            if response.status_code == 206 and not response.headers.get(
                "Content-Range", f"bytes {start}-"
            ).startswith(f"bytes {start}-"):
                raise StageError(f"{self.location}: {label}: sent another range than was asked for")
            left = descriptor["size"] - start
            for chunk in response.iter_raw():
                rest = chunk[skip:]
                skip = max(0, skip - len(chunk))
                if len(rest) > left:
                    raise StageError(
                        f"{self.location}: {label}: longer than the {descriptor['size']:,} bytes"
                        " that its manifest says"
                    )
                left -= len(rest)
                yield rest

    def _has(self, digest: str) -> bool:
        response = self._registry.request(
            "HEAD", f"{self._api}/blobs/{digest}", self._scope("pull,push"), accept=(404,)
        )
        return response.status_code != 404

    def _upload(self, descriptor: Descriptor, content: Callable[[], Iterable[bytes]]) -> None:
        """Uploads a blob, from its beginning again where the transfer breaks off."""
        for wait in (*WAITS_S, None):
            try:
                return self._upload_once(descriptor, content)
            except Interrupted:
                if wait is None:
                    raise
                time.sleep(wait)

    def _upload_once(self, descriptor: Descriptor, content: Callable[[], Iterable[bytes]]) -> None:
        scope = self._scope("pull,push")
        response = self._registry.request("POST", f"{self._api}/blobs/uploads/", scope)
        url = self._upload_url(response)
        joiner = "&" if urlsplit(url).query else "?"
        headers = {
            "Content-Length": str(descriptor["size"]),
            "Content-Type": "application/octet-stream",
        }
        # Not repeated here: a part of it may be in the upload that was begun.
        with self._registry.stream(
            "PUT",
            f"{url}{joiner}digest={descriptor['digest']}",
            scope,
            content,
            headers,
            repeat=False,
        ):
            pass

    def _upload_url(self, response: httpx.Response) -> str:
        location = response.headers.get("Location")
        if not location:
            raise StageError(f"{self.location}: began an upload without saying where")
        return joined(f"{self._api}/blobs/uploads/", location)

    def _put(self, descriptor: Descriptor, reference: str) -> None:
        digest = descriptor["digest"]
        if digest not in self._documents:
            self.document(descriptor, f"{self.name}:{reference}")
        content = self._documents[digest].encode()
        headers = {"Content-Type": descriptor["mediaType"]}
        path, scope = f"{self._api}/manifests/{reference}", self._scope("pull,push")
        # While another publisher tags a manifest that this one names, docker-registry misses it for a moment.
        for wait in WAITS_S:
            reply = self._registry.request("PUT", path, scope, content, headers, (400,))
            if reply.status_code != 400 or b"MANIFEST_BLOB_UNKNOWN" not in reply.content:
                break
            time.sleep(wait)
        if reply.status_code == 400:
            self._registry.request("PUT", path, scope, content, headers)

    def delete(self, descriptor: Descriptor) -> bool:
        """Deletes a manifest with its tags. False where the registry or the login does not allow it.

        Raises:
            StageError: the registry cannot be reached.
        """
        try:
            self._registry.request(
                "DELETE",
                f"{self._api}/manifests/{descriptor['digest']}",
                self._scope("pull,push,delete"),
                accept=(404,),
            )
        except Interrupted:
            raise
        except (InputError, StageError):
            return False
        return True


class _Sent:
    """A file that is sent in chunks. bytes: how many were."""

    def __init__(self, path: Path, advance: Callable[[int], None]) -> None:
        self.bytes = 0
        self._path, self._advance = path, advance

    def chunks(self) -> Iterator[bytes]:
        """Yields the file from its beginning, again where the request is repeated."""
        self._advance(-self.bytes)
        self.bytes = 0
        with self._path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
                self.bytes += len(chunk)
                self._advance(len(chunk))


def _listed(page: httpx.Response, key: str, location: str) -> list[str]:
    """Returns the texts of a list in a reply; null is an empty one."""
    try:
        values = page.json()[key] or []
        return [str(value) for value in values]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise StageError(f"{location}: expected JSON with the list {key!r}") from None
