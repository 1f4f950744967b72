"""How often a registry is asked, and how long for: each thing once, and briefly by what can do without it."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from oci_server import Gate, needs_registry, oci_server
from published_student import Q8, publish_legal

from schemas.errors import StageError
from student.registry import oci_http
from student.registry.lookup import find_version, list_models, resolve
from student.registry.open_store import open_store


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with oci_server(tmp_path / "registry") as running:
        gate = Gate(running.host)
        yield gate
        gate.close()


@needs_registry
def test_listing_and_resolving_ask_for_the_tags_once_and_for_no_manifest_twice(
    gate: Gate, tmp_path: Path
) -> None:
    publish_legal(gate.store(), tmp_path / "1")
    publish_legal(gate.store(), tmp_path / "2", Q8 + b"2")
    for look, versions in (
        (lambda: list_models(gate.store(), ["legal"]), 2),
        (lambda: [resolve(gate.store(), "legal")], 1),
        (lambda: [find_version(gate.store(), "legal")], 1),
    ):
        gate.requests.clear()
        assert len(look()) == versions
        paths = [path for method, path, _ in gate.requests if method == "GET"]
        assert sum("/tags/list" in path for path in paths) == 1
        manifests = [path for path in paths if "/manifests/" in path]
        assert len(set(manifests)) == len(manifests), manifests


def test_what_can_do_without_a_registry_asks_one_that_does_not_answer_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(oci_http, "_SHORT", httpx.Timeout(0.3))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        store = open_store(f"http://{host}/students", patient=False)
        with pytest.raises(StageError, match="cannot be reached"):
            resolve(store, "legal")
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):  # no second connection
            silent.accept()
