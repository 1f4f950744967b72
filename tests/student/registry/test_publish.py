"""The store: what is published is an OCI layout that others read, and what is pulled is what was published."""

import hashlib
import json
import multiprocessing
import os
import re
import resource
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import InputError, StageError
from schemas.files import read_json, sha256, write_json
from student.registry.artifact import PublishFile, files_under
from student.registry.lookup import list_models, resolve, store_directory
from student.registry.publish import Published, publish
from student.registry.pull import pull

Q8, Q4 = b"q8 weights " * 5000, b"q4 weights " * 2000
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def make_manifest(created: str = "2026-11-24T10:00:00Z") -> dict[str, Any]:
    return {
        "version": 1,
        "created": created,
        "domain": "legal",
        "recipe": {"teacher": "large", "student": "small-135m"},
        "student": {"name": "small-135m", "base": "example/small-135m", "licence": "Apache-2.0"},
        "teacher": {"name": "large", "licence": "MIT", "source": "example/large"},
        "data": {"kept": 120, "sha256": "a" * 64, "licence": "MIT"},
        "scorecard": {"base": 3, "student": 81, "tasks": 100},
    }


def make_scorecard(student_sha256: str) -> dict[str, Any]:
    share = {"tasks": 100, "passed": 81}
    student = {
        "name": "legal",
        "file": "legal-Q8_0.gguf",
        "sha256": student_sha256,
        **share,
        "by_kind": {"lookup": share},
        "by_calls": {"1": share},
        "by_template": {"notice_deadline": share},
        "turns": {"total": 210, "well_formed": 205},
        "seconds": 61.5,
    }
    return {
        "version": 1,
        "domain": "legal",
        "recipe": "local",
        "created": "2026-11-24T09:00:00Z",
        "exam": {"tasks": 100, "sha256": "b" * 64},
        "models": {
            "base": {**student, "name": "base", "file": "base-Q8_0.gguf"},
            "student": student,
        },
        "gate": {"passed": True, "checks": [{"name": "gain", "passed": True, "detail": "+78"}]},
    }


def make_files(where: Path, q8: bytes = Q8, examined: bytes = Q8) -> list[PublishFile]:
    (where / "vllm").mkdir(parents=True, exist_ok=True)
    (where / "legal-Q8_0.gguf").write_bytes(q8)
    (where / "legal-Q4_K_M.gguf").write_bytes(Q4)
    (where / "chat_template.jinja").write_text("{{ messages }}")
    (where / "README.md").write_text("# legal\n")
    (where / "vllm" / "config.json").write_text("{}")
    (where / "vllm" / "model.safetensors").write_bytes(b"safetensors " * 3000)
    write_json(where / "scorecard.json", make_scorecard(hashlib.sha256(examined).hexdigest()))
    return [
        PublishFile(where / "legal-Q8_0.gguf", "legal-Q8_0.gguf", "Q8_0", "weight"),
        PublishFile(where / "legal-Q4_K_M.gguf", "legal-Q4_K_M.gguf", "Q4_K_M", "weight"),
        *files_under(where / "vllm", "vllm", "vllm"),
        PublishFile(where / "chat_template.jinja", "chat_template.jinja", "template", "config"),
        PublishFile(where / "README.md", "README.md", "card", "doc"),
        PublishFile(where / "scorecard.json", "scorecard.json", "scorecard", "doc"),
    ]


def publish_legal(
    store: Path, where: Path, q8: bytes = Q8, gate_passed: bool = True, name: str = "legal"
) -> Published:
    return publish(store, name, make_files(where, q8), make_manifest(), gate_passed=gate_passed)


def names_in(directory: Path) -> set[str]:
    return {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()}


def blob_of(store: Path, path: str, reference: str = "legal") -> Path:
    file = next(file for file in resolve(store, reference).files if file.path == path)
    return store / "blobs" / "sha256" / file.sha256


def tamper(store: Path, change: Any) -> None:
    """Rewrites legal:1's artifact as an attacker would: changed, and every digest right again."""
    index = read_json(store / "index.json")
    old = index["manifests"][0]["digest"]
    artifact = read_json(store / "blobs" / "sha256" / old.removeprefix("sha256:"))
    change(artifact)
    content = json.dumps(artifact).encode()
    digest = hashlib.sha256(content).hexdigest()
    (store / "blobs" / "sha256" / digest).write_bytes(content)
    for descriptor in index["manifests"]:
        if descriptor["digest"] == old:
            descriptor.update(digest=f"sha256:{digest}", size=len(content))
    write_json(store / "index.json", index)


# What is written


def test_the_layout_is_what_the_oci_image_layout_spec_asks_for(store: Path, tmp_path: Path) -> None:
    published = publish_legal(store, tmp_path / "run")

    assert read_json(store / "oci-layout") == {"imageLayoutVersion": "1.0.0"}
    index = read_json(store / "index.json")
    assert index["schemaVersion"] == 2
    assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"
    refs = {d["annotations"]["org.opencontainers.image.ref.name"] for d in index["manifests"]}
    assert refs == {"legal:1", "legal:latest"}
    assert {d["digest"] for d in index["manifests"]} == {published.digest}

    artifact = read_json(store / "blobs" / "sha256" / published.digest.removeprefix("sha256:"))
    assert artifact["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert artifact["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert artifact["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    for descriptor in [*index["manifests"], artifact["config"], *artifact["layers"]]:
        assert DIGEST.fullmatch(descriptor["digest"])
        blob = store / "blobs" / "sha256" / descriptor["digest"].removeprefix("sha256:")
        assert blob.stat().st_size == descriptor["size"]
        assert f"sha256:{sha256(blob)}" == descriptor["digest"]
    # Nothing else lies among the blobs, and every blob is called by its digest.
    used = {d["digest"] for d in [index["manifests"][0], artifact["config"], *artifact["layers"]]}
    assert {f"sha256:{p.name}" for p in (store / "blobs" / "sha256").iterdir()} == used


def test_the_artifact_has_the_modelpack_shape(store: Path, tmp_path: Path) -> None:
    published = publish_legal(store, tmp_path / "run")
    artifact = read_json(store / "blobs" / "sha256" / published.digest.removeprefix("sha256:"))

    types = {
        layer["annotations"]["org.cncf.model.filepath"]: layer["mediaType"]
        for layer in artifact["layers"]
    }
    assert types["legal-Q8_0.gguf"] == "application/vnd.cncf.model.weight.v1.raw"
    assert types["vllm/model.safetensors"] == "application/vnd.cncf.model.weight.v1.raw"
    assert types["vllm/config.json"] == "application/vnd.cncf.model.weight.config.v1.raw"
    assert types["README.md"] == "application/vnd.cncf.model.doc.v1.raw"

    config = read_json(
        store / "blobs" / "sha256" / artifact["config"]["digest"].removeprefix("sha256:")
    )
    assert set(config) == {"descriptor", "config", "modelfs"}
    assert config["descriptor"]["name"] == "legal"
    assert config["descriptor"]["version"] == "1"
    assert config["modelfs"]["type"] == "layers"
    assert config["modelfs"]["diffIds"] == [layer["digest"] for layer in artifact["layers"]]


def test_oras_reads_the_layout(store: Path, tmp_path: Path) -> None:
    layout = pytest.importorskip("oras.layout")
    published = publish_legal(store, tmp_path / "run")

    read = layout.NewLayout(str(store))
    for tag in ["legal:1", "legal:latest"]:
        blobs = read.get_ordered_blobs(tag)
        assert blobs[-1] == published.digest
        assert all(read.blob_exists(digest) for digest in blobs)


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_skopeo_reads_and_copies_the_layout(store: Path, tmp_path: Path) -> None:
    published = publish_legal(store, tmp_path / "run")

    raw = subprocess.run(
        ["skopeo", "inspect", "--raw", f"oci:{store}:legal:1"], capture_output=True, check=True
    ).stdout
    assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == published.digest

    copy = tmp_path / "copy"
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", f"oci:{store}:legal:1", f"oci:{copy}:legal:1"],
        capture_output=True,
        check=True,
    )
    assert names_in(copy / "blobs") == names_in(store / "blobs")


def test_versions_count_up_and_old_ones_stay(store: Path, tmp_path: Path) -> None:
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
    assert models[0].variants() == {"Q8_0": 100, "Q4_K_M": len(Q4), "vllm": 36002}
    assert models[0].manifest["scorecard"] == make_manifest()["scorecard"]


def test_latest_moves_only_when_the_gate_passed(store: Path, tmp_path: Path) -> None:
    publish_legal(store, tmp_path / "run", q8=b"one", gate_passed=False)
    with pytest.raises(InputError, match="no version of it passed its gate.*it holds legal:1"):
        resolve(store, "legal")
    publish_legal(store, tmp_path / "run", q8=b"two", gate_passed=True)
    publish_legal(store, tmp_path / "run", q8=b"three", gate_passed=False)

    assert resolve(store, "legal").tag == "2"
    assert resolve(store, "legal:latest").gate_passed
    assert not resolve(store, "legal:3").gate_passed


def test_the_same_files_published_again_are_the_same_version(store: Path, tmp_path: Path) -> None:
    first = publish_legal(store, tmp_path / "run")
    before = {p.name: p.stat().st_mtime_ns for p in (store / "blobs" / "sha256").iterdir()}

    again = publish(
        store,
        "legal",
        make_files(tmp_path / "other"),
        make_manifest("2027-01-01T00:00:00Z"),
        gate_passed=True,
    )

    assert again == first
    assert {p.name: p.stat().st_mtime_ns for p in (store / "blobs" / "sha256").iterdir()} == before
    assert len(read_json(store / "index.json")["manifests"]) == 2


def test_publishing_an_old_version_again_does_not_move_latest_back(
    store: Path, tmp_path: Path
) -> None:
    publish_legal(store, tmp_path / "run", q8=b"one")
    publish_legal(store, tmp_path / "run", q8=b"two")
    assert publish_legal(store, tmp_path / "run", q8=b"one").tag == "1"
    assert resolve(store, "legal").tag == "2"


def test_a_tag_of_ones_own_names_a_version_and_moves_on(store: Path, tmp_path: Path) -> None:
    def tagged(q8: bytes, tag: str | None, gate_passed: bool = True) -> str:
        files = make_files(tmp_path / "run", q8)
        return publish(store, "legal", files, make_manifest(), gate_passed=gate_passed, tag=tag).tag

    assert [tagged(b"one", "2026-03"), tagged(b"two", None)] == ["1", "2"]
    publish_legal(store, tmp_path / "run", name="medical")
    assert resolve(store, "legal:2026-03").tag == "1"
    assert list_models(store)[1].tags == ("1", "2026-03")

    # A version that did not pass takes the name too, as it was asked for; latest stays.
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
    for taken in ("2", "latest"):
        with pytest.raises(InputError, match=f"tag: found {taken}, expected one that the store"):
            tagged(b"four", taken)
    assert len(list_models(store)) == 4


def test_an_edit_of_a_published_file_does_not_reach_the_store(store: Path, tmp_path: Path) -> None:
    publish_legal(store, tmp_path / "run")
    with (tmp_path / "run" / "legal-Q8_0.gguf").open("r+b") as file:
        file.write(b"EDITED")
    blob = blob_of(store, "legal-Q8_0.gguf")
    assert sha256(blob) == blob.name


def _publish_one(store: Path, where: Path, number: int) -> None:
    publish_legal(store, where, q8=f"weights {number}".encode() * 10_000)


def test_concurrent_publishers_all_land(store: Path, tmp_path: Path) -> None:
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


def _die_at(rename: int, store: Path, where: Path) -> None:
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


# Two to begin the layout, two for each of seven files, two for each of three documents, one for the index.
@pytest.mark.parametrize("rename", range(1, 24))
def test_a_publisher_killed_at_any_moment_leaves_a_store_that_works(
    store: Path, tmp_path: Path, rename: int
) -> None:
    make_files(tmp_path / "run")
    context = multiprocessing.get_context("fork")
    killed = context.Process(target=_die_at, args=(rename, store, tmp_path / "run"))
    killed.start()
    killed.join()
    assert killed.exitcode == 9

    assert list_models(store) == []
    assert publish_legal(store, tmp_path / "run").tag == "1"
    assert names_in(store) - {"oci-layout", "index.json", ".lock"} == {
        f"blobs/sha256/{path.name}" for path in (store / "blobs" / "sha256").iterdir()
    }
    assert all(sha256(blob) == blob.name for blob in (store / "blobs" / "sha256").iterdir())


def test_a_full_disk_is_one_clear_line_and_what_was_published_stays(
    store: Path, tmp_path: Path
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
    assert (tmp_path / "out" / "legal-Q8_0.gguf.partial").stat().st_size == 50_000
    pull(store, "legal", tmp_path / "out")
    assert (tmp_path / "out" / "legal-Q8_0.gguf").read_bytes() == Q8


@pytest.mark.parametrize("name", ["../legal", "Legal", "", "legal:1", "a/b", "legal\n"])
def test_a_name_that_no_registry_would_take_is_refused(
    store: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(InputError, match="expected a name"):
        publish_legal(store, tmp_path / "run", name=name)
    assert not store.exists()


def test_a_file_that_is_missing_is_refused_before_anything_is_written(
    store: Path, tmp_path: Path
) -> None:
    files = make_files(tmp_path / "run")
    files[0].path.unlink()
    with pytest.raises(InputError, match="legal-Q8_0.gguf: no such file to publish"):
        publish(store, "legal", files, make_manifest(), gate_passed=True)
    assert not store.exists()


def test_two_files_of_one_name_are_refused(store: Path, tmp_path: Path) -> None:
    files = make_files(tmp_path / "run")
    with pytest.raises(InputError, match="expected once"):
        publish(store, "legal", [*files, files[0]], make_manifest(), gate_passed=True)


# What is pulled


def test_a_pull_brings_the_examined_gguf_and_the_small_files(store: Path, tmp_path: Path) -> None:
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


def test_without_an_examined_gguf_the_smallest_is_pulled(store: Path, tmp_path: Path) -> None:
    files = make_files(tmp_path / "run", examined=b"something else")
    publish(store, "legal", files, make_manifest(), gate_passed=True)
    pull(store, "legal", tmp_path / "out")
    assert {p.suffix: p.name for p in (tmp_path / "out").iterdir()}[".gguf"] == "legal-Q4_K_M.gguf"


def test_a_vllm_variant_is_a_directory(store: Path, tmp_path: Path) -> None:
    publish_legal(store, tmp_path / "run")
    pull(store, "legal:1", tmp_path / "out", ["vllm", "Q4_K_M"])
    weights = {
        name for name in names_in(tmp_path / "out") if name.endswith((".gguf", ".safetensors"))
    }
    assert weights == {"legal-Q4_K_M.gguf", "vllm/model.safetensors"}


def test_an_unknown_variant_names_those_that_exist(store: Path, tmp_path: Path) -> None:
    publish_legal(store, tmp_path / "run")
    with pytest.raises(InputError, match="no variant 'Q5_K_M': it has Q8_0, Q4_K_M, vllm"):
        pull(store, "legal", tmp_path / "out", ["Q5_K_M"])
    assert not (tmp_path / "out").exists()


def test_progress_ends_at_the_whole(store: Path, tmp_path: Path) -> None:
    publish_legal(store, tmp_path / "run")
    heard: list[tuple[int, int, str]] = []
    paths = pull(store, "legal", tmp_path / "out", progress=lambda *step: heard.append(step))
    total = sum(path.stat().st_size for path in paths)
    assert heard[-1][:2] == (total, total)
    assert [done for done, _, _ in heard] == sorted(done for done, _, _ in heard)


def test_what_is_there_and_right_is_left_alone_and_what_is_wrong_replaced(
    store: Path, tmp_path: Path
) -> None:
    publish_legal(store, tmp_path / "run")
    pull(store, "legal", tmp_path / "out")
    right, wrong = tmp_path / "out" / "legal-Q8_0.gguf", tmp_path / "out" / "README.md"
    kept = right.stat().st_ino
    wrong.write_text("# LEGAL\n")
    pull(store, "legal", tmp_path / "out")
    assert right.stat().st_ino == kept
    assert wrong.read_text() == "# legal\n"


def test_a_torn_pull_is_continued(store: Path, tmp_path: Path) -> None:
    publish_legal(store, tmp_path / "run")
    out = tmp_path / "out"
    out.mkdir()
    partial = out / "legal-Q8_0.gguf.partial"
    partial.write_bytes(Q8[:30_000])
    inode = partial.stat().st_ino
    pull(store, "legal", out)
    assert (out / "legal-Q8_0.gguf").stat().st_ino == inode
    assert (out / "legal-Q8_0.gguf").read_bytes() == Q8
    assert not partial.exists()


@pytest.mark.parametrize("torn", [b"from another version", Q8 + b"and more", b""])
def test_a_torn_file_that_is_no_prefix_is_begun_again(
    store: Path, tmp_path: Path, torn: bytes
) -> None:
    publish_legal(store, tmp_path / "run")
    out = tmp_path / "out"
    out.mkdir()
    (out / "legal-Q8_0.gguf.partial").write_bytes(torn)
    pull(store, "legal", out)
    assert (out / "legal-Q8_0.gguf").read_bytes() == Q8
    assert not (out / "legal-Q8_0.gguf.partial").exists()


def test_a_corrupted_blob_is_named_and_nothing_of_it_is_left(store: Path, tmp_path: Path) -> None:
    publish_legal(store, tmp_path / "run")
    blob = blob_of(store, "legal-Q8_0.gguf")
    with blob.open("r+b") as file:
        file.seek(1000)
        file.write(b"\0")
    with pytest.raises(StageError) as raised:
        pull(store, "legal", tmp_path / "out")
    message = str(raised.value)
    assert "\n" not in message
    for said in [str(blob), "legal-Q8_0.gguf", blob.name, sha256(blob)]:
        assert said in message
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
    store: Path, tmp_path: Path, path: str
) -> None:
    publish_legal(store, tmp_path / "run")
    tamper(
        store,
        lambda artifact: artifact["layers"][1]["annotations"].update(
            {"org.cncf.model.filepath": path}
        ),
    )
    with pytest.raises(InputError, match="expected a relative path of plain names"):
        pull(store, "legal", tmp_path / "deep" / "out")
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("path", ["README.md", "README.md/x", "vllm"])
def test_a_path_that_hides_another_is_refused(store: Path, tmp_path: Path, path: str) -> None:
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


def test_a_digest_that_is_a_path_is_refused(store: Path, tmp_path: Path) -> None:
    publish_legal(store, tmp_path / "run")
    tamper(store, lambda artifact: artifact["layers"][0].update(digest="sha256:../../../secret"))
    with pytest.raises(InputError, match=r"layers\[0\].digest: found 'sha256:../../../secret'"):
        pull(store, "legal", tmp_path / "out")


@pytest.mark.parametrize("link", ["vllm", "README.md"])
def test_a_link_in_the_target_is_not_followed(store: Path, tmp_path: Path, link: str) -> None:
    publish_legal(store, tmp_path / "run")
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / link).symlink_to(outside)
    with pytest.raises(InputError, match="is a symbolic link"):
        pull(store, "legal", tmp_path / "out", ["vllm"])
    assert names_in(outside) == set()
    assert names_in(tmp_path / "out") == set()


def test_a_link_under_the_partial_name_is_not_written_through(store: Path, tmp_path: Path) -> None:
    publish_legal(store, tmp_path / "run")
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "legal-Q8_0.gguf.partial").symlink_to(precious)
    with pytest.raises(StageError, match="cannot be written"):
        pull(store, "legal", tmp_path / "out")
    assert precious.read_text() == "precious"


# What is broken or not there


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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "index.json: not JSON"),
        ("[]", "index.json: top level: "),
        ("{}", "index.json: "),
        ('{"schemaVersion": 2, "manifests": [{"digest": 5}]}', r"index.json: manifests\[0\]"),
        ('{"schemaVersion": 2, "manifests": "none"}', "index.json: manifests: "),
        (None, "not a store: expected an OCI image layout with an index.json"),
    ],
)
def test_a_broken_index_is_one_clear_line(
    store: Path, tmp_path: Path, text: str | None, said: str
) -> None:
    publish_legal(store, tmp_path / "run")
    if text is None:
        (store / "index.json").unlink()
    else:
        (store / "index.json").write_text(text)
    for act in [
        lambda: list_models(store),
        lambda: resolve(store, "legal"),
        lambda: pull(store, "legal", tmp_path / "out"),
        lambda: publish_legal(store, tmp_path / "run", q8=b"new"),
    ]:
        with pytest.raises(InputError, match=said) as raised:
            act()
        assert "\n" not in str(raised.value)


def test_a_directory_that_is_something_else_is_not_made_a_store(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="not a store"):
        publish_legal(tmp_path / "home", tmp_path / "run")
    assert names_in(tmp_path / "home") == {"letter.txt"}


def test_a_missing_blob_is_named_before_anything_is_written(store: Path, tmp_path: Path) -> None:
    published = publish_legal(store, tmp_path / "run")
    blob = blob_of(store, "legal-Q8_0.gguf")
    blob.unlink()
    with pytest.raises(InputError, match=f"{blob.name}.*legal-Q8_0.gguf: this blob is missing"):
        pull(store, "legal", tmp_path / "out")
    assert not (tmp_path / "out").exists()

    (store / "blobs" / "sha256" / published.digest.removeprefix("sha256:")).unlink()
    with pytest.raises(InputError, match="this blob is missing"):
        list_models(store)


def test_a_missing_blob_comes_back_when_it_is_published_again(store: Path, tmp_path: Path) -> None:
    first = publish_legal(store, tmp_path / "run")
    blob_of(store, "legal-Q8_0.gguf").unlink()
    assert publish_legal(store, tmp_path / "run") == first
    pull(store, "legal", tmp_path / "out")


def test_a_corrupted_manifest_is_one_clear_line(store: Path, tmp_path: Path) -> None:
    published = publish_legal(store, tmp_path / "run")
    (store / "blobs" / "sha256" / published.digest.removeprefix("sha256:")).write_text("{}")
    with pytest.raises(InputError, match="legal:1: corrupted"):
        list_models(store)


def test_other_artifacts_in_the_layout_are_left_alone(store: Path, tmp_path: Path) -> None:
    publish_legal(store, tmp_path / "run")
    index = read_json(store / "index.json")
    foreign = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 1}
    foreign |= {
        "digest": "sha256:" + "0" * 64,
        "annotations": {"org.opencontainers.image.ref.name": "web:1"},
    }
    index["manifests"].append(foreign)
    write_json(store / "index.json", index)

    publish_legal(store, tmp_path / "run", q8=b"new")
    assert [model.tag for model in list_models(store)] == ["2", "1"]
    assert foreign in read_json(store / "index.json")["manifests"]


def test_a_store_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StageError, match="cannot be written"):
        publish_legal(tmp_path / "file" / "store", tmp_path / "run")


def test_only_a_directory_is_a_store_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STILLHOUSE_STORE", raising=False)
    assert store_directory() == Path("store")
    monkeypatch.setenv("STILLHOUSE_STORE", "oci://registry.example/students")
    with pytest.raises(InputError, match="STILLHOUSE_STORE: found oci://.*, expected a directory"):
        store_directory("elsewhere")
    monkeypatch.delenv("STILLHOUSE_STORE")
    with pytest.raises(InputError, match="publish.store: found oci://"):
        store_directory("oci://registry.example/students")


# Students that see, and published data


def test_the_vision_tower_comes_with_each_gguf_and_data_only_where_asked_for(
    store: Path, tmp_path: Path
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
