"""Lookup: what a store holds, what a reference names, and what is missing or broken."""

from pathlib import Path

import pytest
from published_student import publish_legal

from schemas.errors import InputError
from student.registry.lookup import list_models, resolve, store_directory


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_a_store_that_does_not_exist_is_empty(store: Path) -> None:
    assert list_models(store) == []
    with pytest.raises(
        InputError, match="legal: no such model in .*: nothing was published there yet"
    ):
        resolve(store, "legal")


def test_an_unknown_name_or_version_names_what_exists(store: Path, tmp_path: Path) -> None:
    publish_legal(store, tmp_path / "run")
    publish_legal(store, tmp_path / "run", name="medical")
    with pytest.raises(InputError, match="tax: no such model in .*: it holds legal, medical"):
        resolve(store, "tax")
    with pytest.raises(
        InputError, match="legal:7: no such version in .*: it holds legal:1, legal:latest"
    ):
        resolve(store, "legal:7")


def test_a_corrupted_manifest_is_one_clear_line(store: Path, tmp_path: Path) -> None:
    published = publish_legal(store, tmp_path / "run")
    (store / "blobs" / "sha256" / published.digest.removeprefix("sha256:")).write_text("{}")
    with pytest.raises(InputError, match="legal:1: corrupted"):
        list_models(store)


def test_a_store_must_be_a_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STILLHOUSE_STORE", raising=False)
    assert store_directory() == Path("store")
    monkeypatch.setenv("STILLHOUSE_STORE", "oci://registry.example/students")
    with pytest.raises(InputError, match="STILLHOUSE_STORE: found oci://.*, expected a directory"):
        store_directory("elsewhere")
    monkeypatch.delenv("STILLHOUSE_STORE")
    with pytest.raises(InputError, match="publish.store: found oci://"):
        store_directory("oci://registry.example/students")
