"""Publishing: versions, tags and gates of the store, whatever happens to the publisher."""

import multiprocessing
import os
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from published_student import Q4, Q8, blob_of, make_files, make_manifest, names_in, publish_legal

from schemas.errors import InputError, StageError
from schemas.files import read_json, sha256
from student.registry.lookup import list_models, resolve
from student.registry.oci_layout import DirectoryStore
from student.registry.publish import publish
from student.registry.pull import pull


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store")


def test_versions_count_up_and_old_ones_stay(store: DirectoryStore, tmp_path: Path) -> None:
    tags = [publish_legal(store, tmp_path / "run", q8=bytes([n]) * 100).tag for n in range(3)]
    assert tags == ["1", "2", "3"]
    assert publish_legal(store, tmp_path / "run", name="medical").tag == "1"

    models = list_models(store)
    assert [(model.name, model.tag) for model in models] == [
        ("legal", "3"),
        ("legal", "2"),
        ("legal", "1"),
        ("medical", "1"),
    ]
    assert models[0].tags == ("3", "latest")
    assert list(models[0].manifests) == ["3-q8_0", "3-q4_k_m", "3-vllm"]
    assert models[0].variants() == {"Q8_0": 100, "Q4_K_M": len(Q4), "vllm": 36002}
    assert models[0].manifest["scorecard"] == make_manifest()["scorecard"]


def test_latest_moves_only_when_the_gate_passed(store: DirectoryStore, tmp_path: Path) -> None:
    publish_legal(store, tmp_path / "run", q8=b"one", gate_passed=False)
    with pytest.raises(InputError, match="no version of it passed its gate.*it holds legal:1"):
        resolve(store, "legal")
    publish_legal(store, tmp_path / "run", q8=b"two", gate_passed=True)
    publish_legal(store, tmp_path / "run", q8=b"three", gate_passed=False)

    assert resolve(store, "legal").tag == "2"
    assert resolve(store, "legal:latest").gate_passed
    assert not resolve(store, "legal:3").gate_passed


def test_the_same_files_published_again_are_the_same_version(
    store: DirectoryStore, tmp_path: Path
) -> None:
    first = publish_legal(store, tmp_path / "run")
    before = {
        p.name: p.stat().st_mtime_ns
        for p in (store.directory / "legal" / "blobs" / "sha256").iterdir()
    }

    again = publish(
        store,
        "legal",
        make_files(tmp_path / "other"),
        make_manifest("2027-01-01T00:00:00Z"),
        gate_passed=True,
    )

    assert again == replace(first, new=False)
    assert {
        p.name: p.stat().st_mtime_ns
        for p in (store.directory / "legal" / "blobs" / "sha256").iterdir()
    } == before
    assert len(read_json(store.directory / "legal" / "index.json")["manifests"]) == 5


def test_publishing_an_old_version_again_does_not_move_latest_back(
    store: DirectoryStore, tmp_path: Path
) -> None:
    publish_legal(store, tmp_path / "run", q8=b"one")
    publish_legal(store, tmp_path / "run", q8=b"two")
    assert publish_legal(store, tmp_path / "run", q8=b"one").tag == "1"
    assert resolve(store, "legal").tag == "2"


def test_a_chosen_tag_names_a_version_and_moves_to_the_next_one_under_it(
    store: DirectoryStore, tmp_path: Path
) -> None:
    def tagged(q8: bytes, tag: str | None, gate_passed: bool = True) -> str:
        files = make_files(tmp_path / "run", q8)
        return publish(store, "legal", files, make_manifest(), gate_passed=gate_passed, tag=tag).tag

    assert [tagged(b"one", "2026-03"), tagged(b"two", None)] == ["1", "2"]
    publish_legal(store, tmp_path / "run", name="medical")
    assert resolve(store, "legal:2026-03").tag == "1"
    assert list_models(store)[1].tags == ("1", "2026-03")

    # A version that did not pass takes the tag too, as the recipe asks for it; latest stays.
    assert tagged(b"three", "2026-03", gate_passed=False) == "3"
    assert [resolve(store, f"legal:{tag}").tag for tag in ("2026-03", "latest", "1")] == [
        "3",
        "2",
        "1",
    ]
    # The same files under another name are the same version with one name more.
    assert tagged(b"two", "audited") == "2"
    assert set(resolve(store, "legal").tags) == {"2", "audited", "latest"}
    assert len(list_models(store)) == 4
    for taken in ("2", "latest", "2-q8_0", "7-vllm", "claim-2-0123456789abcdef"):
        with pytest.raises(InputError, match=f"tag: found {taken}, expected one that the store"):
            tagged(b"four", taken)
    assert len(list_models(store)) == 4


def test_an_edit_of_a_published_file_does_not_reach_the_store(
    store: DirectoryStore, tmp_path: Path
) -> None:
    publish_legal(store, tmp_path / "run")
    with (tmp_path / "run" / "legal-Q8_0.gguf").open("r+b") as file:
        file.write(b"EDITED")
    blob = blob_of(store, "legal-Q8_0.gguf")
    assert sha256(blob) == blob.name


def _publish_one(store: DirectoryStore, where: Path, number: int) -> None:
    publish_legal(store, where, q8=f"weights {number}".encode() * 10_000)


def test_concurrent_publishers_all_land(store: DirectoryStore, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    publishers = [
        context.Process(target=_publish_one, args=(store, tmp_path / f"run{n}", n))
        for n in range(6)
    ]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join()

    assert [publisher.exitcode for publisher in publishers] == [0] * 6
    models = list_models(store)
    assert [model.tag for model in models] == ["6", "5", "4", "3", "2", "1"]
    assert len({blob_of(store, "legal-Q8_0.gguf", f"legal:{model.tag}") for model in models}) == 6
    assert resolve(store, "legal").tag == "6"


def _die_at(rename: int, store: DirectoryStore, where: Path) -> None:
    """Publishes, and dies as by SIGKILL where the given file would get its name."""
    replace, count = os.replace, 0

    def counted(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == rename:
            os._exit(9)
        replace(*arguments)

    os.replace = counted  # type: ignore[assignment]
    publish_legal(store, where)


# Two to begin the layout, one for each of eight files, eight documents, one for the index.
@pytest.mark.parametrize("rename", range(1, 20))
def test_a_publisher_killed_at_any_moment_leaves_a_store_that_works(
    store: DirectoryStore, tmp_path: Path, rename: int
) -> None:
    make_files(tmp_path / "run")
    context = multiprocessing.get_context("fork")
    killed = context.Process(target=_die_at, args=(rename, store, tmp_path / "run"))
    killed.start()
    killed.join()
    assert killed.exitcode == 9

    assert list_models(store) == []
    assert publish_legal(store, tmp_path / "run").tag == "1"
    assert names_in(store.directory / "legal") - {
        "oci-layout",
        "index.json",
        ".lock",
        ".publishers",
    } == {
        f"blobs/sha256/{path.name}"
        for path in (store.directory / "legal" / "blobs" / "sha256").iterdir()
    }
    assert all(
        sha256(blob) == blob.name
        for blob in (store.directory / "legal" / "blobs" / "sha256").iterdir()
    )


def test_a_full_disk_is_one_clear_line_and_what_was_published_stays(
    store: DirectoryStore, tmp_path: Path
) -> None:
    publish_legal(store, tmp_path / "run")
    files = make_files(tmp_path / "run", q8=b"more" * 100_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(StageError, match="cannot be written"):
            publish(store, "legal", files, make_manifest(), gate_passed=True)
        with pytest.raises(StageError, match="cannot be written"):
            pull(store, "legal", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [model.tag for model in list_models(store)] == ["1"]
    # What was copied before the disk was full is continued.
    assert 50_000 in [path.stat().st_size for path in (tmp_path / "out" / ".pull").iterdir()]
    pull(store, "legal", tmp_path / "out")
    assert (tmp_path / "out" / "legal-Q8_0.gguf").read_bytes() == Q8


@pytest.mark.parametrize("name", ["../legal", "Legal", "", "legal:1", "a/b", "legal\n"])
def test_a_name_that_registries_do_not_accept_is_refused(
    store: DirectoryStore, tmp_path: Path, name: str
) -> None:
    with pytest.raises(InputError, match="expected a name"):
        publish_legal(store, tmp_path / "run", name=name)
    assert not store.directory.exists()


def test_a_file_that_is_missing_is_refused_before_anything_is_written(
    store: DirectoryStore, tmp_path: Path
) -> None:
    files = make_files(tmp_path / "run")
    files[0].path.unlink()
    with pytest.raises(InputError, match="legal-Q8_0.gguf: no such file to publish"):
        publish(store, "legal", files, make_manifest(), gate_passed=True)
    assert not store.directory.exists()


def test_two_files_of_one_name_are_refused(store: DirectoryStore, tmp_path: Path) -> None:
    files = make_files(tmp_path / "run")
    with pytest.raises(InputError, match="expected once"):
        publish(store, "legal", [*files, files[0]], make_manifest(), gate_passed=True)
