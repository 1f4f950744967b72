"""Upkeep of a store in a directory: what is removed, what stays, and how a store of the old shape goes on."""

import fcntl
from pathlib import Path

import pytest
from published_student import (
    Q4,
    Q8,
    blob_of,
    make_files,
    names_in,
    old_store,
    publish_legal,
)

from schemas.errors import InputError
from schemas.files import read_json
from student.registry.lookup import list_models, resolve
from student.registry.oci_layout import DirectoryStore
from student.registry.pull import pull
from student.registry.upkeep import keep, promote, push, remove, rollback


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store")


def versions(store: DirectoryStore, where: Path, count: int) -> None:
    for number in range(1, count + 1):
        publish_legal(store, where, q8=f"weights {number} ".encode() * 100)


def blobs(store: DirectoryStore) -> set[str]:
    return {path.name for path in (store.directory / "legal" / "blobs" / "sha256").iterdir()}


def test_what_no_version_needs_is_removed_and_what_one_shares_stays(
    store: DirectoryStore, tmp_path: Path
) -> None:
    publish_legal(store, tmp_path / "run", q8=b"only the first")
    first = blobs(store)
    publish_legal(store, tmp_path / "run", q8=b"only the second")
    alone = blob_of(store, "legal-Q8_0.gguf", "legal:1").name
    assert remove(store, "legal:1", print) == [1]
    assert alone not in blobs(store)
    assert blob_of(store, "legal-Q4_K_M.gguf").name in first & blobs(store)
    pull(store, "legal", tmp_path / "out", ["Q8_0", "Q4_K_M", "vllm"])
    # All that is left belongs to the version that is left.
    other = DirectoryStore(tmp_path / "other")
    push(store, "legal", other)
    assert blobs(store) == blobs(other)


def test_the_newest_stay_and_those_with_a_tag(store: DirectoryStore, tmp_path: Path) -> None:
    versions(store, tmp_path / "run", 5)
    promote(store, "legal:2", "audited")
    assert rollback(store, "legal") == (5, 4)
    assert rollback(store, "legal") == (4, 3)
    assert keep(store, "legal", 1, print) == [1, 4]
    assert sorted(model.tag for model in list_models(store)) == ["2", "3", "5"]
    assert keep(store, "legal", 9, print) == []
    with pytest.raises(InputError, match="legal:3: is legal:latest too"):
        remove(store, "legal:3", print)
    for reference in ("legal", "legal:7", "legal:audited", "legal:2-q8_0"):
        with pytest.raises(InputError, match="expected a version such as legal:3"):
            remove(store, reference, print)
    with pytest.raises(InputError, match="tax: no such model"):
        keep(store, "tax", 1, print)


def test_a_publisher_at_work_loses_no_blob(store: DirectoryStore, tmp_path: Path) -> None:
    versions(store, tmp_path / "run", 2)
    before = blobs(store)
    lines: list[str] = []
    with (store.directory / "legal" / ".publishers").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert remove(store, "legal:1", lines.append) == [1]
    assert blobs(store) == before and "a publisher is at work" in lines[0]
    # The next call frees what this one left, also when it removes no version.
    assert keep(store, "legal", 1, lines.append) == []
    other = DirectoryStore(tmp_path / "other")
    push(store, "legal", other)
    assert blobs(store) == blobs(other)


def test_a_broken_version_keeps_the_others_blobs(store: DirectoryStore, tmp_path: Path) -> None:
    versions(store, tmp_path / "run", 3)
    broken = resolve(store, "legal:2").digest
    store.repository("legal").blob_path(broken).write_text("{}")
    lines: list[str] = []
    remove(store, "legal:1", lines.append)
    assert "no blob was removed" in lines[-1] and "legal:2" in lines[-1]
    assert remove(store, "legal:2", lines.append) == [2]
    pull(store, "legal", tmp_path / "out", ["Q8_0", "Q4_K_M", "vllm"])
    assert len(list_models(store)) == 1


def test_a_store_of_the_old_shape_is_read_as_it_is(store: DirectoryStore, tmp_path: Path) -> None:
    old_store(store.directory, make_files(tmp_path / "run"), ("legal", "medical"))
    before = names_in(store.directory)
    assert [(m.name, m.tag, m.tags) for m in list_models(store)] == [
        ("legal", "1", ("1", "latest")),
        ("medical", "1", ("1", "latest")),
    ]
    pull(store, "legal", tmp_path / "out")
    pull(store, "medical:1", tmp_path / "all", ["Q4_K_M", "vllm"])
    assert (tmp_path / "out" / "legal-Q8_0.gguf").read_bytes() == Q8
    assert (tmp_path / "all" / "legal-Q4_K_M.gguf").read_bytes() == Q4
    assert names_in(store.directory) == before
    with pytest.raises(InputError, match="tax: no such model in .*: it holds legal, medical"):
        resolve(store, "tax")


def test_the_first_change_of_a_student_moves_it_out_of_an_old_store(
    store: DirectoryStore, tmp_path: Path
) -> None:
    old_store(store.directory, make_files(tmp_path / "run"), ("legal", "medical"))
    # The same files are the same version, new files the next one.
    assert publish_legal(store, tmp_path / "run").tag == "1"
    assert publish_legal(store, tmp_path / "run", q8=b"new").tag == "2"
    assert [(m.name, m.tag) for m in list_models(store)] == [
        ("legal", "2"),
        ("legal", "1"),
        ("medical", "1"),
    ]
    pull(store, "legal:1", tmp_path / "out")
    assert (tmp_path / "out" / "legal-Q8_0.gguf").read_bytes() == Q8
    left = read_json(store.directory / "index.json")["manifests"]
    assert {d["annotations"]["org.opencontainers.image.ref.name"] for d in left} == {
        "medical:1",
        "medical:latest",
    }
    assert rollback(store, "legal") == (2, 1)
    promote(store, "medical:1", "audited")
    assert resolve(store, "medical:audited").tag == "1"
    assert sorted(path.name for path in store.directory.iterdir() if path.is_dir()) == [
        "legal",
        "medical",
    ]
    assert not (store.directory / "index.json").exists()


def test_a_version_of_the_old_shape_is_pushed_in_the_new_one(
    store: DirectoryStore, tmp_path: Path
) -> None:
    old_store(store.directory, make_files(tmp_path / "run"), ("legal",))
    other = DirectoryStore(tmp_path / "other")
    assert push(store, "legal", other).tag == "1"
    assert list(resolve(other, "legal").manifests) == ["1-q8_0", "1-q4_k_m", "1-vllm"]
