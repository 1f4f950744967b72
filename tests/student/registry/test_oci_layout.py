"""The store is an OCI image layout that other tools read."""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from published_student import (
    names_in,
    publish_legal,
)

from schemas.errors import InputError, StageError
from schemas.files import read_json, sha256, write_json
from student.registry.lookup import list_models, resolve
from student.registry.pull import pull

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


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
    store: Path, tmp_path: Path, text: str | None, message: str
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
        with pytest.raises(InputError, match=message) as raised:
            act()
        assert "\n" not in str(raised.value)


def test_a_directory_that_is_something_else_is_not_made_a_store(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="not a store"):
        publish_legal(tmp_path / "home", tmp_path / "run")
    assert names_in(tmp_path / "home") == {"letter.txt"}


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
