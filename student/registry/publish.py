"""Publishes a student: its files become the next version of a name in the store.

    published = publish(store, "legal", files, manifest, gate_passed=True)     # legal:1 and legal:latest

The store is a directory in the OCI image layout (student/registry/oci_layout.py). What it guarantees:
- Names are `<domain>:<version>`. Versions count up from 1, and `latest` is the newest version whose gate passed.
- A tag that a recipe chooses is a further name of a version. It moves to the version that is next published under it.
- A version is in the store with all its files or not at all, also when the publisher is killed.
- The same files published again are the same version.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.documents import check_document
from schemas.errors import InputError
from schemas.files import dumps
from schemas.tags import LATEST, is_reserved
from student.registry.artifact import (
    ARTIFACT_TYPE,
    CONFIG_TYPE,
    GATE,
    LAYER_TYPES,
    MANIFEST,
    PROJECTOR,
    PublishFile,
    annotations,
    check_paths,
    stored_file,
)
from student.registry.lookup import REFERENCE, entries_by_tag, read_model, tag_for
from student.registry.oci_layout import (
    IMAGE_MANIFEST,
    Descriptor,
    add_file,
    add_text,
    locked,
    read_index,
    write_index,
)

# A repository name as OCI registries accept it, so that the artifact can be pushed to one later.
_NAME = re.compile(r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*")


@dataclass(frozen=True)
class Published:
    """A version in the store. tag: its number. digest: of the artifact, sha256:<hex>."""

    name: str
    tag: str
    digest: str


def publish(
    store: Path,
    name: str,
    files: list[PublishFile],
    manifest: dict[str, Any],
    *,
    gate_passed: bool,
    tag: str | None = None,
    report_file: Callable[[], None] = lambda: None,
) -> Published:
    """Publishes `files` as the next version of `name`, or finds the version that has these files already.

    Args:
        manifest: the manifest (schemas/manifest.schema.json) without name, tag and files, which are added here. It is
            stored as manifest.json.
        tag: a further name of the version; not a number and not `latest`, which the store assigns itself.
        report_file: called when a file is hashed and in the store.

    Raises:
        InputError: the name or tag is not allowed, a file is missing, or the store is broken.
        StageError: the disk is full, or a file changed while it was copied.
    """
    _check_arguments(name, files, tag)
    with locked(store):
        index = read_index(store)
        layers: list[Descriptor] = []
        for file in files:
            layer = add_file(store, LAYER_TYPES[file.kind], file.path)
            layers.append(layer | {"annotations": annotations(file.name, file.variant)})
            report_file()
        entry = _find_same(
            store,
            index,
            name=name,
            domain=manifest["domain"],
            layers=layers,
            gate_passed=gate_passed,
        )
        if entry is None:
            numbers = [int(tag) for tag in entries_by_tag(index, name) if tag.isdecimal()]
            version = str(max(numbers, default=0) + 1)
            manifest = {**manifest, "name": name, "tag": version}
            entry = _add_artifact(store, manifest, layers, gate_passed)
            index["manifests"].append(_with_reference(entry, name, version))
        else:
            version = tag_for(entry, name)
        moved = [tag] if tag else []
        if gate_passed and int(version) >= _latest_version(index, name):
            moved.append(LATEST)
        others = [d for d in index["manifests"] if tag_for(d, name) not in moved]
        index["manifests"] = [*others, *(_with_reference(entry, name, tag) for tag in moved)]
        write_index(store, index)
    return Published(name, version, entry["digest"])


def _check_arguments(name: str, files: list[PublishFile], tag: str | None) -> None:
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r}: expected a name of lower-case letters, digits and single . _ -"
        )
    if tag is not None and is_reserved(tag):
        raise InputError(
            f"{name}: tag: found {tag}, expected one that the store does not assign itself:"
            f" not a number and not {LATEST}"
        )
    check_paths([*(file.name for file in files), MANIFEST], f"{name}: files")
    for file in files:
        if not file.path.is_file():
            raise InputError(f"{file.path}: no such file to publish as {name}/{file.name}")


def _add_artifact(
    store: Path, manifest: dict[str, Any], layers: list[Descriptor], gate_passed: bool
) -> Descriptor:
    """Writes manifest.json, the ModelPack config and the OCI manifest, and returns the descriptor of the artifact."""
    stored = [stored_file(layer) for layer in layers]
    manifest = {
        **manifest,
        "files": [
            {"path": f.path, "sha256": f.sha256, "bytes": f.bytes, "variant": f.variant}
            for f in stored
        ],
    }
    check_document(manifest, "manifest", Path(MANIFEST))
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    manifest_layer = add_text(store, LAYER_TYPES["doc"], text)
    manifest_layer["annotations"] = annotations(MANIFEST, "manifest")
    layers = [*layers, manifest_layer]
    has_vision = any(f.variant == PROJECTOR for f in stored)
    config = {
        "descriptor": {
            "createdAt": manifest["created"],
            "name": manifest["name"],
            "version": manifest["tag"],
            "title": f"{manifest['student']['name']} for {manifest['domain']}",
            "licenses": [manifest["student"]["licence"]],
        },
        "config": {
            "capabilities": {
                "toolUsage": True,
                "inputTypes": ["text", "image"] if has_vision else ["text"],
                "outputTypes": ["text"],
            }
        },
        "modelfs": {"type": "layers", "diffIds": [layer["digest"] for layer in layers]},
    }
    artifact = {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": add_text(store, CONFIG_TYPE, dumps(config)),
        "layers": layers,
        "annotations": {
            "org.opencontainers.image.created": manifest["created"],
            "org.opencontainers.image.title": manifest["name"],
            "org.opencontainers.image.version": manifest["tag"],
            GATE: "passed" if gate_passed else "failed",
        },
    }
    descriptor = add_text(store, IMAGE_MANIFEST, dumps(artifact))
    return descriptor | {"artifactType": ARTIFACT_TYPE}


def _find_same(
    store: Path,
    index: dict[str, Any],
    *,
    name: str,
    domain: str,
    layers: list[Descriptor],
    gate_passed: bool,
) -> Descriptor | None:
    """Returns the index entry of the version with the same files, domain and gate result; its date may differ."""
    files = {stored_file(layer) for layer in layers}
    for entry in index["manifests"]:
        if not tag_for(entry, name).isdecimal():
            continue
        model = read_model(store, index, entry)
        if (
            {file for file in model.files if file.path != MANIFEST} == files
            and model.manifest["domain"] == domain
            and model.gate_passed == gate_passed
        ):
            return dict(entry)
    return None


def _with_reference(descriptor: Descriptor, name: str, tag: str) -> Descriptor:
    return {**descriptor, "annotations": {REFERENCE: f"{name}:{tag}"}}


def _latest_version(index: dict[str, Any], name: str) -> int:
    """Returns the number of the version that `latest` names, or 0 where there is none."""
    entries = entries_by_tag(index, name)
    if LATEST not in entries:
        return 0
    digest = entries[LATEST]["digest"]
    numbers = [int(tag) for tag, d in entries.items() if tag.isdecimal() and d["digest"] == digest]
    return max(numbers, default=0)
