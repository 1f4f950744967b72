"""The store is an OCI image layout that other tools read."""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from published_student import (
    document,
    names_in,
    publish_legal,
)

from schemas.errors import InputError, StageError
from schemas.files import read_json, sha256, write_json
from student.registry.lookup import list_models, resolve
from student.registry.oci_layout import DirectoryStore
from student.registry.pull import pull

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store")


def test_the_layout_is_what_the_oci_image_layout_spec_asks_for(
    store: DirectoryStore, tmp_path: Path
) -> None:
    published = publish_legal(store, tmp_path / "run")

    layout = store.directory / "legal"
    assert read_json(layout / "oci-layout") == {"imageLayoutVersion": "1.0.0"}
    index = read_json(layout / "index.json")
    assert index["schemaVersion"] == 2
    assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"
    tags = {
        d["annotations"]["org.opencontainers.image.ref.name"]: d["digest"]
        for d in index["manifests"]
    }
    assert set(tags) == {"1", "latest", "1-q8_0", "1-q4_k_m", "1-vllm"}
    assert tags["1"] == tags["latest"] == published.digest

    version = document(store, published.digest)
    assert version["mediaType"] == "application/vnd.oci.image.index.v1+json"
    artifacts = [document(store, d["digest"]) for d in version["manifests"]]
    descriptors = [*index["manifests"], *version["manifests"]]
    for artifact in artifacts:
        assert artifact["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
        assert artifact["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
        assert artifact["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
        descriptors += [artifact["config"], *artifact["layers"]]
    for descriptor in descriptors:
        assert DIGEST.fullmatch(descriptor["digest"])
        blob = layout / "blobs" / "sha256" / descriptor["digest"].removeprefix("sha256:")
        assert blob.stat().st_size == descriptor["size"]
        assert f"sha256:{sha256(blob)}" == descriptor["digest"]
    # Nothing else lies among the blobs, and every blob is called by its digest.
    used = {descriptor["digest"] for descriptor in descriptors}
    assert {f"sha256:{p.name}" for p in (layout / "blobs" / "sha256").iterdir()} == used


def test_oras_reads_the_layout(store: DirectoryStore, tmp_path: Path) -> None:
    layout = pytest.importorskip("oras.layout")
    publish_legal(store, tmp_path / "run")

    read = layout.NewLayout(str(store.directory / "legal"))
    for tag in ["1-q8_0", "1-vllm"]:
        blobs = read.get_ordered_blobs(tag)
        assert blobs[-1] == resolve(store, f"legal:{tag}").digest
        assert all(read.blob_exists(digest) for digest in blobs)


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_skopeo_reads_and_copies_a_variant(store: DirectoryStore, tmp_path: Path) -> None:
    publish_legal(store, tmp_path / "run")
    where, copy = f"oci:{store.directory}/legal:1-q4_k_m", tmp_path / "copy"

    raw = subprocess.run(
        ["skopeo", "inspect", "--raw", where], capture_output=True, check=True
    ).stdout
    model = resolve(store, "legal:1-q4_k_m")
    assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == model.digest

    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", where, f"oci:{copy}:1"],
        capture_output=True,
        check=True,
    )
    config = document(store, model.digest)["config"]["digest"]
    digests = {model.digest, config, *(f"sha256:{file.sha256}" for file in model.files)}
    assert {f"sha256:{p.name}" for p in (copy / "blobs" / "sha256").iterdir()} == digests


@pytest.mark.parametrize(
    ("text", "message"),
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
    store: DirectoryStore, tmp_path: Path, text: str | None, message: str
) -> None:
    publish_legal(store, tmp_path / "run")
    if text is None:
        (store.directory / "legal" / "index.json").unlink()
    else:
        (store.directory / "legal" / "index.json").write_text(text)
    for act in [
        lambda: list_models(store),
        lambda: resolve(store, "legal"),
        lambda: pull(store, "legal", tmp_path / "out"),
        lambda: publish_legal(store, tmp_path / "run", q8=b"new"),
    ]:
        with pytest.raises(InputError, match=message) as raised:
            act()
        assert "\n" not in str(raised.value)


def test_a_directory_that_is_something_else_is_not_made_a_store(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="not a store"):
        publish_legal(DirectoryStore(tmp_path / "home"), tmp_path / "run")
    assert names_in(tmp_path / "home") == {"letter.txt"}


def test_other_artifacts_in_the_layout_are_left_alone(
    store: DirectoryStore, tmp_path: Path
) -> None:
    publish_legal(store, tmp_path / "run")
    index = read_json(store.directory / "legal" / "index.json")
    foreign = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 1}
    foreign |= {
        "digest": "sha256:" + "0" * 64,
        "annotations": {"org.opencontainers.image.ref.name": "web:1"},
    }
    index["manifests"].append(foreign)
    write_json(store.directory / "legal" / "index.json", index)

    publish_legal(store, tmp_path / "run", q8=b"new")
    assert [model.tag for model in list_models(store)] == ["2", "1"]
    assert foreign in read_json(store.directory / "legal" / "index.json")["manifests"]


def test_a_store_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StageError, match="cannot be written"):
        publish_legal(DirectoryStore(tmp_path / "file" / "store"), tmp_path / "run")
