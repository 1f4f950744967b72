"""A small student named legal, as files to publish, and what the tests of the registry do with its store."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from schemas.files import read_json, write_json
from student.registry.artifact import (
    ARTIFACT_TYPE,
    CONFIG_TYPE,
    GATE,
    LAYER_TYPES,
    PublishFile,
    annotations,
    files_under,
)
from student.registry.lookup import resolve
from student.registry.oci_layout import REFERENCE, DirectoryStore
from student.registry.publish import Published, publish
from student.registry.store import IMAGE_MANIFEST, Store

Q8, Q4 = b"q8 weights " * 5000, b"q4 weights " * 2000


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
    store: Store, where: Path, q8: bytes = Q8, gate_passed: bool = True, name: str = "legal"
) -> Published:
    return publish(store, name, make_files(where, q8), make_manifest(), gate_passed=gate_passed)


def names_in(directory: Path) -> set[str]:
    return {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()}


def blob_of(store: DirectoryStore, path: str, reference: str = "legal") -> Path:
    model = resolve(store, reference)
    file = next(file for file in model.files if file.path == path)
    return store.repository(model.name).blob_path(file.sha256)


def document(store: DirectoryStore, digest: str, name: str = "legal") -> Any:
    return read_json(store.repository(name).blob_path(digest))


def put(store: DirectoryStore, content: dict[str, Any]) -> dict[str, Any]:
    """Writes a manifest of legal under its digest, and returns digest and size."""
    text = json.dumps(content).encode()
    digest = hashlib.sha256(text).hexdigest()
    store.repository("legal").blob_path(digest).write_bytes(text)
    return {"digest": f"sha256:{digest}", "size": len(text)}


def tamper(store: DirectoryStore, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the manifest of legal:1's first variant as an attacker would: every digest is right again."""
    file = store.directory / "legal" / "index.json"
    index = read_json(file)
    old = resolve(store, "legal:1").digest
    version = document(store, old)
    artifact = document(store, version["manifests"][0]["digest"])
    change(artifact)
    version["manifests"][0].update(put(store, artifact))
    new = put(store, version)
    for descriptor in index["manifests"]:
        if descriptor["digest"] == old:
            descriptor.update(new)
    write_json(file, index)


def old_store(directory: Path, files: list[PublishFile], names: tuple[str, ...]) -> None:
    """Writes a store of the old shape: one layout for all names, one manifest with all variants for each version."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def add(media_type: str, content: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    entries = []
    for name in names:
        layers = [
            add(LAYER_TYPES[file.kind], file.path.read_bytes())
            | {"annotations": annotations(file.name, file.variant)}
            for file in files
        ]
        listed = [
            {
                "path": file.name,
                "sha256": layer["digest"].removeprefix("sha256:"),
                "bytes": layer["size"],
                "variant": file.variant,
            }
            for file, layer in zip(files, layers, strict=True)
        ]
        manifest = make_manifest() | {"name": name, "tag": "1", "files": listed}
        last = add(LAYER_TYPES["doc"], json.dumps(manifest).encode())
        layers.append(last | {"annotations": annotations("manifest.json", "manifest")})
        artifact = {
            "schemaVersion": 2,
            "mediaType": IMAGE_MANIFEST,
            "artifactType": ARTIFACT_TYPE,
            "config": add(CONFIG_TYPE, b"{}"),
            "layers": layers,
            "annotations": {"org.opencontainers.image.version": "1", GATE: "passed"},
        }
        entry = add(IMAGE_MANIFEST, json.dumps(artifact).encode()) | {"artifactType": ARTIFACT_TYPE}
        entries += [
            {**entry, "annotations": {REFERENCE: f"{name}:{tag}"}} for tag in ("1", "latest")
        ]
    write_json(directory / "index.json", {"schemaVersion": 2, "manifests": entries})
    write_json(directory / "oci-layout", {"imageLayoutVersion": "1.0.0"})
