"""Which files other clients of registries get from each tag of a student, and what its config says of the weights."""

import copy
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from published_student import document, make_files, make_manifest, old_store
from registry_clients import CLIENTS, Refused, docker_model_pull, kit_pull
from safetensors.numpy import save_file

from student.registry.artifact import PublishFile
from student.registry.oci_layout import DirectoryStore
from student.registry.publish import publish

DOCS = {"README.md", "chat_template.jinja", "scorecard.json", "manifest.json"}


def write_gguf(path: Path, *shapes: tuple[int, ...]) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    for number, shape in enumerate(shapes):
        writer.add_tensor(f"blk.{number}.weight", np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> DirectoryStore:
    """legal:1, a vision-language student with real files: two GGUF with a vision tower, two shards, data."""
    where = tmp_path_factory.mktemp("student")
    files = make_files(where)
    write_gguf(where / "legal-Q8_0.gguf", (64, 1000), (64,))
    write_gguf(where / "legal-Q4_K_M.gguf", (64, 1000), (64,))
    write_gguf(where / "legal-mmproj.gguf", (8, 8))
    (where / "vllm" / "model.safetensors").unlink()
    for shard in ("1", "2"):
        name = f"model-0000{shard}-of-00002.safetensors"
        save_file({f"w{shard}": np.zeros((600, 1000), np.float16)}, where / "vllm" / name)
        files.append(PublishFile(where / "vllm" / name, f"vllm/{name}", "vllm", "weight"))
    files = [file for file in files if file.name != "vllm/model.safetensors"]
    # The vision tower comes first here, and must come after the weights there.
    tower = where / "legal-mmproj.gguf"
    files.insert(0, PublishFile(tower, "legal-mmproj.gguf", "mmproj", "weight"))
    (where / "train.parquet").write_bytes(b"rows")
    files.append(PublishFile(where / "train.parquet", "data/train.parquet", "data", "dataset"))
    modelfile = where / "Modelfile"
    modelfile.write_text("FROM ./legal-Q4_K_M.gguf\n")
    files.append(PublishFile(modelfile, "Modelfile", "Q4_K_M", "doc"))
    store = DirectoryStore(where / "store")
    manifest = make_manifest() | {
        "requests": {"personas": ["a clerk"], "languages": ["en", "de-CH", "de", "gsw"]}
    }
    publish(store, "legal", files, manifest, gate_passed=True)
    return store


def pulled(store: DirectoryStore, tag: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns what a registry replies for a tag: the manifest and its config; {} for an index."""
    entry = store.repository("legal").find(tag)
    assert entry
    manifest = document(store, entry["digest"])
    config = document(store, manifest["config"]["digest"]) if "config" in manifest else {}
    return manifest, config


GGUF_8 = {"legal-Q8_0.gguf", "legal-mmproj.gguf", *DOCS}
GGUF_4 = {"legal-Q4_K_M.gguf", "legal-mmproj.gguf", "Modelfile", *DOCS}
SHARDS = {f"vllm/model-0000{n}-of-00002.safetensors" for n in (1, 2)}
VLLM = {*SHARDS, "vllm/config.json", *DOCS}
DATA = {"data/train.parquet", *DOCS}


@pytest.mark.parametrize(
    ("client", "tag", "expected"),
    [
        ("docker", "1-q8_0", {"legal-Q8_0.gguf", "legal-mmproj.gguf"}),
        ("docker", "1-q4_k_m", {"legal-Q4_K_M.gguf", "legal-mmproj.gguf"}),
        ("docker", "1-vllm", SHARDS),
        ("docker", "1-data", None),
        ("docker", "1", None),
        ("docker", "latest", None),
        ("kit", "1-q8_0", GGUF_8),
        ("kit", "1-q4_k_m", GGUF_4),
        ("kit", "1-vllm", VLLM),
        ("kit", "1-data", DATA),
        ("kit", "1", None),
        ("oras", "1-q8_0", GGUF_8),
        ("oras", "1-q4_k_m", GGUF_4),
        ("oras", "1-vllm", VLLM),
        ("oras", "1-data", DATA),
        ("oras", "1", set()),  # an index whose entries have no title: nothing is written
    ],
)
def test_each_client_gets_the_files_of_one_variant(
    store: DirectoryStore, client: str, tag: str, expected: set[str] | None
) -> None:
    manifest, config = pulled(store, tag)
    if expected is None:
        with pytest.raises(Refused):
            CLIENTS[client](manifest, config)
    else:
        assert set(CLIENTS[client](manifest, config).values()) == expected


@pytest.mark.parametrize("tag", ["1-q8_0", "1-q4_k_m", "1-vllm", "1-data"])
def test_a_plain_client_gets_every_blob(store: DirectoryStore, tag: str) -> None:
    manifest, config = pulled(store, tag)
    repository = store.repository("legal")
    assert all(repository.blob_path(d).is_file() for d in CLIENTS["plain"](manifest, config))


def test_docker_starts_the_weights_and_not_the_vision_tower(store: DirectoryStore) -> None:
    manifest, config = pulled(store, "1-q4_k_m")
    started = docker_model_pull(manifest, config)
    assert started == {"model": "legal-Q4_K_M.gguf", "mmproj": "legal-mmproj.gguf"}
    paths = [layer["annotations"]["org.cncf.model.filepath"] for layer in manifest["layers"]]
    assert paths[:2] == ["legal-Q4_K_M.gguf", "legal-mmproj.gguf"]


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        (
            "1-q8_0",
            {
                "format": "gguf",
                "quantization": "q8_0",
                "architecture": "llama",
                "paramSize": "64.1k",
            },
        ),
        ("1-vllm", {"format": "safetensors", "precision": "float16", "paramSize": "1.2m"}),
        ("1-data", {}),
    ],
)
def test_the_config_says_what_the_weights_are(
    store: DirectoryStore, tag: str, expected: dict[str, str]
) -> None:
    manifest, config = pulled(store, tag)
    facts = dict(config["config"])
    capabilities = facts.pop("capabilities")
    assert facts == expected
    assert capabilities["toolUsage"] is True and capabilities["languages"] == ["en", "de"]
    sees = ["text", "image"] if tag == "1-q8_0" else ["text"]
    assert capabilities["inputTypes"] == sees
    assert config["descriptor"] == {
        "createdAt": "2026-11-24T10:00:00Z",
        "name": "legal",
        "version": "1",
        "title": "small-135m for legal",
        "licenses": ["Apache-2.0"],
    }
    assert config["modelfs"]["diffIds"] == [layer["digest"] for layer in manifest["layers"]]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("artifactType",), "application/vnd.example+json"),
        (("config", "mediaType"), "application/vnd.oci.image.config.v1+json"),
    ],
)
def test_the_clients_rules_refuse_what_differs_in_one_field(
    store: DirectoryStore, path: tuple[str, ...], value: str
) -> None:
    manifest, config = pulled(store, "1-q8_0")
    manifest = copy.deepcopy(manifest)
    at = manifest
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    for client in (docker_model_pull, kit_pull):
        with pytest.raises(Refused):
            client(manifest, config)


def test_of_the_old_shape_docker_gets_the_first_variant_whichever_was_meant(
    tmp_path: Path,
) -> None:
    """Why a manifest has one variant."""
    old = DirectoryStore(tmp_path / "store")
    old_store(old.directory, make_files(tmp_path / "run"), ("legal",))
    manifest, _ = pulled(old, "1")
    weights = [
        layer["annotations"]["stillhouse.variant"]
        for layer in manifest["layers"]
        if layer["mediaType"].endswith("weight.v1.raw")
    ]
    assert weights == ["Q8_0", "Q4_K_M", "vllm"]
