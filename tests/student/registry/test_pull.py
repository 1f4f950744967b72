"""Pulling: what arrives is what was published, and nothing is written elsewhere."""

import fcntl
import shutil
import types
from pathlib import Path

import pytest
from published_student import (
    Q8,
    blob_of,
    make_files,
    make_manifest,
    names_in,
    publish_legal,
    tamper,
)

from schemas.errors import InputError, StageError
from schemas.files import read_json, sha256, sha256_text, write_json
from student.registry.artifact import PublishFile
from student.registry.oci_layout import DirectoryStore
from student.registry.publish import publish
from student.registry.pull import pull


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store")


def test_a_pull_brings_the_examined_gguf_and_the_small_files(
    store: DirectoryStore, tmp_path: Path
) -> None:
    publish_legal(store, tmp_path / "run")
    pulled = pull(store, "legal", tmp_path / "out")

    small = {"chat_template.jinja", "README.md", "scorecard.json", "manifest.json"}
    assert names_in(tmp_path / "out") == {"legal-Q8_0.gguf"} | small
    assert {path.relative_to(tmp_path / "out").as_posix() for path in pulled} == names_in(
        tmp_path / "out"
    )
    assert (tmp_path / "out" / "legal-Q8_0.gguf").read_bytes() == Q8
    manifest = read_json(tmp_path / "out" / "manifest.json")
    assert (manifest["name"], manifest["tag"]) == ("legal", "1")
    for file in manifest["files"]:
        if (tmp_path / "out" / file["path"]).exists():
            assert sha256(tmp_path / "out" / file["path"]) == file["sha256"]


def test_without_an_examined_gguf_the_smallest_is_pulled(
    store: DirectoryStore, tmp_path: Path
) -> None:
    files = make_files(tmp_path / "run", examined=b"something else")
    publish(store, "legal", files, make_manifest(), gate_passed=True)
    pull(store, "legal", tmp_path / "out")
    assert {p.suffix: p.name for p in (tmp_path / "out").iterdir()}[".gguf"] == "legal-Q4_K_M.gguf"


def test_a_student_that_was_evaluated_on_vllm_is_pulled_as_its_directory(
    store: DirectoryStore, tmp_path: Path
) -> None:
    files = make_files(tmp_path / "run")
    scorecard = tmp_path / "run" / "scorecard.json"
    scores = read_json(scorecard)
    scores["models"]["student"]["engine"] = "vllm"
    write_json(scorecard, scores)
    publish(store, "legal", files, make_manifest(), gate_passed=True)
    pull(store, "legal", tmp_path / "out")
    weights = {n for n in names_in(tmp_path / "out") if n.endswith((".gguf", ".safetensors"))}
    assert weights == {"vllm/model.safetensors"}


def test_a_vllm_variant_is_a_directory(store: DirectoryStore, tmp_path: Path) -> None:
    publish_legal(store, tmp_path / "run")
    pull(store, "legal:1", tmp_path / "out", ["vllm", "Q4_K_M"])
    weights = {
        name for name in names_in(tmp_path / "out") if name.endswith((".gguf", ".safetensors"))
    }
    assert weights == {"legal-Q4_K_M.gguf", "vllm/model.safetensors"}


def test_an_unknown_variant_names_those_that_exist(store: DirectoryStore, tmp_path: Path) -> None:
    publish_legal(store, tmp_path / "run")
    with pytest.raises(InputError, match="no variant 'Q5_K_M': it has Q8_0, Q4_K_M, vllm"):
        pull(store, "legal", tmp_path / "out", ["Q5_K_M"])
    assert not (tmp_path / "out").exists()


def test_progress_ends_at_the_whole(store: DirectoryStore, tmp_path: Path) -> None:
    publish_legal(store, tmp_path / "run")
    steps: list[tuple[int, int, str]] = []
    paths = pull(store, "legal", tmp_path / "out", progress=lambda *step: steps.append(step))
    total = sum(path.stat().st_size for path in paths)
    assert steps[-1][:2] == (total, total)
    assert [done for done, _, _ in steps] == sorted(done for done, _, _ in steps)


def test_what_is_there_and_right_is_left_alone_and_what_is_wrong_replaced(
    store: DirectoryStore, tmp_path: Path
) -> None:
    publish_legal(store, tmp_path / "run")
    pull(store, "legal", tmp_path / "out")
    right, wrong = tmp_path / "out" / "legal-Q8_0.gguf", tmp_path / "out" / "README.md"
    inode = right.stat().st_ino
    wrong.write_text("# LEGAL\n")
    pull(store, "legal", tmp_path / "out")
    assert right.stat().st_ino == inode
    assert wrong.read_text() == "# legal\n"


def staged(store: DirectoryStore, out: Path) -> Path:
    """Returns where an interrupted pull has the Q8_0."""
    path = "legal-Q8_0.gguf"
    (out / ".pull").mkdir(parents=True)
    return out / ".pull" / f"{blob_of(store, path).name}-{sha256_text(path)[:8]}"


def test_a_torn_pull_is_continued(store: DirectoryStore, tmp_path: Path) -> None:
    publish_legal(store, tmp_path / "run")
    out = tmp_path / "out"
    partial = staged(store, out)
    partial.write_bytes(Q8[:30_000])
    inode = partial.stat().st_ino
    pull(store, "legal", out)
    assert (out / "legal-Q8_0.gguf").stat().st_ino == inode
    assert (out / "legal-Q8_0.gguf").read_bytes() == Q8
    assert not (out / ".pull").exists()


@pytest.mark.parametrize("torn", [b"from another version", Q8 + b"and more", b""])
def test_a_torn_file_that_is_no_prefix_is_begun_again(
    store: DirectoryStore, tmp_path: Path, torn: bytes
) -> None:
    publish_legal(store, tmp_path / "run")
    out = tmp_path / "out"
    staged(store, out).write_bytes(torn)
    pull(store, "legal", out)
    assert (out / "legal-Q8_0.gguf").read_bytes() == Q8
    assert not (out / ".pull").exists()


def test_no_file_gets_its_name_before_all_are_there(store: DirectoryStore, tmp_path: Path) -> None:
    publish_legal(store, tmp_path / "run")
    pull(store, "legal", tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    publish_legal(store, tmp_path / "run", q8=b"two" * 100)
    blob = blob_of(store, "legal-Q4_K_M.gguf")
    blob.write_bytes(b"x" * blob.stat().st_size)  # the last of the set is corrupted
    with pytest.raises(StageError, match="corrupted"):
        pull(store, "legal", tmp_path / "out", ["Q8_0", "Q4_K_M"])
    after = {p: p.read_bytes() for p in (tmp_path / "out").iterdir() if p.name != ".pull"}
    assert after == before


def test_two_pulls_into_one_directory_are_not_mixed(store: DirectoryStore, tmp_path: Path) -> None:
    publish_legal(store, tmp_path / "run")
    (tmp_path / "out" / ".pull").mkdir(parents=True)
    with (tmp_path / "out" / ".pull" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process pulls into this directory"):
            pull(store, "legal", tmp_path / "out")
    pull(store, "legal", tmp_path / "out")


def test_a_disk_without_room_is_told_before_anything_is_written(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_legal(store, tmp_path / "run")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=60_000))
    with pytest.raises(StageError, match="the disk has 0.0 GB free, expected 0.1 GB"):
        pull(store, "legal", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_variant_is_pulled_by_its_own_tag(store: DirectoryStore, tmp_path: Path) -> None:
    publish_legal(store, tmp_path / "run")
    pull(store, "legal:1-q4_k_m", tmp_path / "out")
    weights = [name for name in names_in(tmp_path / "out") if name.endswith(".gguf")]
    assert weights == ["legal-Q4_K_M.gguf"]
    with pytest.raises(InputError, match="no variant 'Q8_0': it has Q4_K_M"):
        pull(store, "legal:1-q4_k_m", tmp_path / "out", ["Q8_0"])


def test_a_corrupted_blob_is_named_and_nothing_of_it_is_left(
    store: DirectoryStore, tmp_path: Path
) -> None:
    publish_legal(store, tmp_path / "run")
    blob = blob_of(store, "legal-Q8_0.gguf")
    with blob.open("r+b") as file:
        file.seek(1000)
        file.write(b"\0")
    with pytest.raises(StageError) as raised:
        pull(store, "legal", tmp_path / "out")
    message = str(raised.value)
    assert "\n" not in message
    for part in [str(blob), "legal-Q8_0.gguf", blob.name, sha256(blob)]:
        assert part in message
    assert not [name for name in names_in(tmp_path / "out") if "Q8_0" in name]


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/etc/x",
        "a/../../x",
        "..\\x",
        "C:\\x",
        "a//x",
        "./x",
        "",
        "x\0y",
        "a/",
        ".bashrc",
        "a\nb",
    ],
)
def test_a_path_that_leads_elsewhere_is_refused_before_anything_is_written(
    store: DirectoryStore, tmp_path: Path, path: str
) -> None:
    publish_legal(store, tmp_path / "run")
    tamper(
        store,
        lambda artifact: artifact["layers"][0]["annotations"].update(
            {"org.cncf.model.filepath": path}
        ),
    )
    with pytest.raises(InputError, match="expected a relative path of plain names"):
        pull(store, "legal", tmp_path / "deep" / "out")
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("path", ["README.md", "README.md/x", "vllm"])
def test_a_path_that_hides_another_is_refused(
    store: DirectoryStore, tmp_path: Path, path: str
) -> None:
    publish_legal(store, tmp_path / "run")
    tamper(
        store,
        lambda artifact: artifact["layers"][0]["annotations"].update(
            {"org.cncf.model.filepath": path}
        ),
    )
    with pytest.raises(InputError, match="expected once"):
        pull(store, "legal", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_digest_that_is_a_path_is_refused(store: DirectoryStore, tmp_path: Path) -> None:
    publish_legal(store, tmp_path / "run")
    tamper(store, lambda artifact: artifact["layers"][0].update(digest="sha256:../../../secret"))
    with pytest.raises(InputError, match=r"layers\[0\].digest: found 'sha256:../../../secret'"):
        pull(store, "legal", tmp_path / "out")


@pytest.mark.parametrize("link", ["vllm", "README.md"])
def test_a_link_in_the_target_is_not_followed(
    store: DirectoryStore, tmp_path: Path, link: str
) -> None:
    publish_legal(store, tmp_path / "run")
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / link).symlink_to(outside)
    with pytest.raises(InputError, match="is a symbolic link"):
        pull(store, "legal", tmp_path / "out", ["vllm"])
    assert names_in(outside) == set()
    assert names_in(tmp_path / "out") == set()


def test_a_link_under_the_partial_name_is_not_written_through(
    store: DirectoryStore, tmp_path: Path
) -> None:
    publish_legal(store, tmp_path / "run")
    precious = tmp_path / "precious"
    precious.write_text("precious")
    staged(store, tmp_path / "out").symlink_to(precious)
    with pytest.raises(StageError, match="cannot be written"):
        pull(store, "legal", tmp_path / "out")
    assert precious.read_text() == "precious"


def test_the_vision_tower_comes_with_each_gguf_and_data_only_where_asked_for(
    store: DirectoryStore, tmp_path: Path
) -> None:
    where = tmp_path / "run"
    files = make_files(where)
    (where / "legal-mmproj.gguf").write_bytes(b"tower")  # smaller than any weights
    (where / "train.parquet").write_bytes(b"rows")
    files.append(PublishFile(where / "legal-mmproj.gguf", "legal-mmproj.gguf", "mmproj", "weight"))
    files.append(PublishFile(where / "train.parquet", "data/train.parquet", "data", "dataset"))
    publish(store, "legal", files, make_manifest(), gate_passed=True)
    pull(store, "legal", tmp_path / "default")
    weights = {name for name in names_in(tmp_path / "default") if name.endswith(".gguf")}
    assert weights == {"legal-Q8_0.gguf", "legal-mmproj.gguf"}
    assert "data/train.parquet" not in names_in(tmp_path / "default")
    pull(store, "legal", tmp_path / "vllm", variants=["vllm"])
    assert not [name for name in names_in(tmp_path / "vllm") if name.endswith(".gguf")]
    pull(store, "legal", tmp_path / "data", variants=["data"])
    assert (tmp_path / "data" / "data" / "train.parquet").read_bytes() == b"rows"
    assert not [name for name in names_in(tmp_path / "data") if name.endswith(".gguf")]


def test_a_missing_blob_is_named_before_anything_is_written(
    store: DirectoryStore, tmp_path: Path
) -> None:
    publish_legal(store, tmp_path / "run")
    blob = blob_of(store, "legal-Q8_0.gguf")
    blob.unlink()
    with pytest.raises(InputError, match=f"{blob.name}.*legal-Q8_0.gguf: this blob is missing"):
        pull(store, "legal", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_blob_comes_back_when_it_is_published_again(
    store: DirectoryStore, tmp_path: Path
) -> None:
    first = publish_legal(store, tmp_path / "run")
    blob_of(store, "legal-Q8_0.gguf").unlink()
    assert publish_legal(store, tmp_path / "run").tag == first.tag
    pull(store, "legal", tmp_path / "out")
