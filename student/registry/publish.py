"""The store: students as OCI artifacts in an image layout on disk, published by name and found by name again.

A store is a directory in the OCI image layout, which student/registry/oci_layout.py reads and writes. What it holds is fetched by
student/registry/pull.py. A student is one artifact in the shape of the CNCF ModelPack model-spec v1
(github.com/modelpack/model-spec): every file is one raw layer, named by the annotation org.cncf.model.filepath. So
skopeo and oras read the store as it is.

    published = publish(store, "legal", files, manifest, gate_passed=True)     # legal:1, and legal:latest
    model = resolve(store, "legal")

What it promises: names are `<domain>:<version>`, versions count up from 1, and `latest` is the newest version
whose gate passed. A tag of one's own is a further name of a version, and moves to the one that is published under it
next; the version keeps its number. A version is there with all its files or not at all, also when its publisher is
killed. The same files published again are the same version.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from schemas.documents import check_document
from schemas.errors import InputError
from schemas.files import dumps
from schemas.tags import LATEST, is_reserved
from student.registry.oci_layout import (
    DESCRIPTOR,
    add_file,
    add_text,
    blob_path,
    check,
    locked,
    read_blob,
    read_index,
    write_index,
)

ARTIFACT = "application/vnd.cncf.model.manifest.v1+json"
CONFIG = "application/vnd.cncf.model.config.v1+json"
KINDS = {
    "weight": "application/vnd.cncf.model.weight.v1.raw",
    "config": "application/vnd.cncf.model.weight.config.v1.raw",
    "doc": "application/vnd.cncf.model.doc.v1.raw",
    "dataset": "application/vnd.cncf.model.dataset.v1.raw",
}
IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"

FILEPATH = "org.cncf.model.filepath"
TITLE = "org.opencontainers.image.title"  # what `oras pull` names a file by
REF = "org.opencontainers.image.ref.name"
VARIANT = "stillhouse.variant"
PROJECTOR = "mmproj"  # the variant that comes with each GGUF of a model that sees: its vision tower
GATE = "stillhouse.gate"

MANIFEST = "manifest.json"

# A repository name as OCI registries accept it, so that what is published here can be pushed later.
_NAME = re.compile(r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*")
# A file's name: no leading dot, no backslash, colon, space or control character, so that it means the same
# everywhere and cannot leave the directory it is pulled into.
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@-]*")

_ARTIFACT = {
    "type": "object",
    "required": ["schemaVersion", "config", "layers"],
    "properties": {
        "schemaVersion": {"const": 2},
        "config": DESCRIPTOR,
        "layers": {
            "type": "array",
            "items": {
                "allOf": [
                    DESCRIPTOR,
                    {
                        "required": ["annotations"],
                        "properties": {"annotations": {"required": [FILEPATH, VARIANT]}},
                    },
                ]
            },
        },
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}


@dataclass(frozen=True)
class PublishFile:
    """A file to publish: where it is, its name in the artifact, and what it belongs to."""

    path: Path
    name: str  # relative, with slashes: vllm/config.json
    variant: str  # Q8_0, Q4_K_M, vllm; what has no weights (card, template, ...) comes with each of these
    kind: Literal["weight", "config", "doc", "dataset"]


@dataclass(frozen=True)
class Published:
    name: str
    tag: str
    digest: str


@dataclass(frozen=True)
class StoredFile:
    path: str
    sha256: str
    bytes: int
    variant: str
    media_type: str


@dataclass(frozen=True)
class Model:
    """One published version, as the store holds it. `manifest` is schemas/manifest.schema.json."""

    name: str
    tag: str
    tags: tuple[str, ...]
    digest: str
    gate_passed: bool
    manifest: dict[str, Any]
    files: tuple[StoredFile, ...]

    def variants(self) -> dict[str, int]:
        """Bytes of each variant that can be asked for: those with weights or data, as they were published."""
        asked = (KINDS["weight"], KINDS["dataset"])
        sizes = {file.variant: 0 for file in self.files if file.media_type in asked}
        for file in self.files:
            if file.variant in sizes:
                sizes[file.variant] += file.bytes
        return sizes


def store_directory(setting: str = "store") -> Path:
    """Where the store is: STILLHOUSE_STORE where that is set, else `setting`, which is a recipe's publish.store."""
    own = os.environ.get("STILLHOUSE_STORE")
    found = own or setting
    if "://" in found:
        name = "STILLHOUSE_STORE" if own else "publish.store"
        raise InputError(f"{name}: found {found}, expected a directory: a registry cannot be one")
    return Path(found)


def files_under(directory: Path, name: str, variant: str) -> list[PublishFile]:
    """Every file under `directory`, to be published under `name`/: a vLLM variant, for instance."""
    found = []
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
        kind: Literal["weight", "config"] = "weight" if path.suffix == ".safetensors" else "config"
        inner = path.relative_to(directory).as_posix()
        found.append(PublishFile(path, f"{name}/{inner}", variant, kind))
    return found


# --- publishing --------------------------------------------------------------------------------


def publish(
    store: Path,
    name: str,
    files: list[PublishFile],
    manifest: dict[str, Any],
    gate_passed: bool,
    tag: str | None = None,
) -> Published:
    """Publishes `files` as the next version of `name`, or finds the version that already is these files.

    `tag` is a further name for that version: no number and not `latest`, which the store gives itself.

    `manifest` is completed here: name, tag and files are known only now. It is stored, and pulled, as
    manifest.json.

    Raises:
        InputError: a name or a tag that cannot be stored, a file that is missing, or a store that is broken.
        StageError: the disk is full, or a file changed while it was copied.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r}: expected a name of lower-case letters, digits and single . _ -"
        )
    if tag is not None and is_reserved(tag):
        raise InputError(f"{name}: tag: found {tag}, expected one that the store does not give")
    names = [file.name for file in files]
    check_paths([*names, MANIFEST], f"{name}: files")
    for file in files:
        if not file.path.is_file():
            raise InputError(f"{file.path}: no such file to publish as {name}/{file.name}")

    with locked(store):
        index = read_index(store)
        layers = [
            add_file(store, KINDS[file.kind], file.path)
            | {"annotations": _annotations(file.name, file.variant)}
            for file in files
        ]
        descriptor = _same(store, index, name, manifest, layers, gate_passed)
        versions = [int(tag) for tag in _tags(index, name) if tag.isdecimal()]
        if descriptor is None:
            version = str(max(versions, default=0) + 1)
            descriptor = _add_artifact(store, name, version, manifest, layers, gate_passed)
            index["manifests"].append(_tagged(descriptor, name, version))
        else:
            version = _own(descriptor, name)
        moved = [tag] if tag else []
        if gate_passed and int(version) >= _latest_version(index, name):
            moved.append(LATEST)
        others = [d for d in index["manifests"] if _own(d, name) not in moved]
        index["manifests"] = [*others, *(_tagged(descriptor, name, further) for further in moved)]
        write_index(store, index)
    return Published(name, version, descriptor["digest"])


def _annotations(path: str, variant: str) -> dict[str, str]:
    return {FILEPATH: path, TITLE: path, VARIANT: variant}


def _add_artifact(
    store: Path,
    name: str,
    tag: str,
    manifest: dict[str, Any],
    layers: list[dict[str, Any]],
    gate_passed: bool,
) -> dict[str, Any]:
    """Writes manifest.json, the ModelPack config and the OCI manifest; gives the artifact's descriptor."""
    stored = [_stored_file(layer) for layer in layers]
    files = [
        {"path": f.path, "sha256": f.sha256, "bytes": f.bytes, "variant": f.variant} for f in stored
    ]
    manifest = {**manifest, "name": name, "tag": tag, "files": files}
    check_document(manifest, "manifest", Path(MANIFEST))
    own = add_text(store, KINDS["doc"], json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    own["annotations"] = _annotations(MANIFEST, "manifest")
    layers = [*layers, own]
    read = ["text", "image"] if any(f.variant == PROJECTOR for f in stored) else ["text"]
    config = {
        "descriptor": {
            "createdAt": manifest["created"],
            "name": name,
            "version": tag,
            "title": f"{manifest['student']['name']} for {manifest['domain']}",
            "licenses": [manifest["student"]["licence"]],
        },
        "config": {
            "capabilities": {"toolUsage": True, "inputTypes": read, "outputTypes": ["text"]}
        },
        "modelfs": {"type": "layers", "diffIds": [layer["digest"] for layer in layers]},
    }
    artifact = {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "artifactType": ARTIFACT,
        "config": add_text(store, CONFIG, dumps(config)),
        "layers": layers,
        "annotations": {
            "org.opencontainers.image.created": manifest["created"],
            "org.opencontainers.image.title": name,
            "org.opencontainers.image.version": tag,
            GATE: "passed" if gate_passed else "failed",
        },
    }
    return add_text(store, IMAGE_MANIFEST, dumps(artifact)) | {"artifactType": ARTIFACT}


def _same(
    store: Path,
    index: dict[str, Any],
    name: str,
    manifest: dict[str, Any],
    layers: list[dict[str, Any]],
    gate_passed: bool,
) -> dict[str, Any] | None:
    """The version that already is this: the same files, domain and gate. When it was made does not count."""
    files = sorted((_stored_file(layer) for layer in layers), key=lambda file: file.path)
    for descriptor in index["manifests"]:
        if not _own(descriptor, name).isdecimal():
            continue
        model = _read_model(store, index, descriptor)
        theirs = sorted((f for f in model.files if f.path != MANIFEST), key=lambda file: file.path)
        if (theirs, model.manifest["domain"], model.gate_passed) == (
            files,
            manifest["domain"],
            gate_passed,
        ):
            return dict(descriptor)
    return None


# --- reading -----------------------------------------------------------------------------------


def list_models(store: Path) -> list[Model]:
    """Every version in the store, by name, the newest first. A store that does not exist yet is empty."""
    index = read_index(store)
    versions = [d for d in index["manifests"] if _split(_ref(d))[1].isdecimal()]
    models = [_read_model(store, index, d) for d in versions if d.get("artifactType") == ARTIFACT]
    return sorted(models, key=lambda model: (model.name, -int(model.tag)))


def resolve(store: Path, reference: str) -> Model:
    """The version that `legal`, `legal:2` or `legal:latest` names. Without a tag it is `latest`.

    Raises:
        InputError: there is none; the message names what there is.
    """
    index = read_index(store)
    name, tag = _split(reference)
    tags = _tags(index, name)
    if not tags:
        names = sorted({_split(_ref(d))[0] for d in index["manifests"]} - {""})
        holds = f"it holds {', '.join(names)}" if names else "nothing was published there yet"
        raise InputError(f"{name}: no such model in {store}: {holds}")
    wanted = tag or LATEST
    if wanted not in tags:
        why = "no version of it passed its gate" if wanted == LATEST else "no such version"
        asked = ", ".join(f"{name}:{tag}" for tag in tags)
        raise InputError(f"{name}:{wanted}: {why} in {store}: it holds {asked}")
    return _read_model(store, index, tags[wanted])


def _read_model(store: Path, index: dict[str, Any], descriptor: dict[str, Any]) -> Model:
    reference = _ref(descriptor)
    name, _ = _split(reference)
    artifact = read_blob(store, descriptor, reference)
    check(artifact, _ARTIFACT, blob_path(store, descriptor["digest"]))
    files = tuple(_stored_file(layer) for layer in artifact["layers"])
    own = [layer for layer in artifact["layers"] if layer["annotations"][FILEPATH] == MANIFEST]
    if not own:
        raise InputError(f"{store}: {reference}: expected a layer {MANIFEST}, found none")
    manifest = read_blob(store, own[0], f"{reference}/{MANIFEST}")
    check_document(manifest, "manifest", Path(f"{reference}/{MANIFEST}"))
    tags = [tag for tag, d in _tags(index, name).items() if d["digest"] == descriptor["digest"]]
    version = next((tag for tag in tags if tag.isdecimal()), tags[0])
    return Model(
        name=name,
        tag=version,
        tags=tuple(tags),
        digest=descriptor["digest"],
        gate_passed=artifact.get("annotations", {}).get(GATE) == "passed",
        manifest=manifest,
        files=files,
    )


# --- names and tags ------------------------------------------------------------------


def _tagged(descriptor: dict[str, Any], name: str, tag: str) -> dict[str, Any]:
    return {**descriptor, "annotations": {REF: f"{name}:{tag}"}}


def _stored_file(layer: dict[str, Any]) -> StoredFile:
    annotations = layer["annotations"]
    digest = layer["digest"].removeprefix("sha256:")
    return StoredFile(
        annotations[FILEPATH], digest, layer["size"], annotations[VARIANT], layer["mediaType"]
    )


def _ref(descriptor: dict[str, Any]) -> str:
    return str(descriptor.get("annotations", {}).get(REF, ""))


def _split(reference: str) -> tuple[str, str]:
    name, _, tag = reference.partition(":")
    return name, tag


def _own(descriptor: dict[str, Any], name: str) -> str:
    """The tag under which an entry of the index belongs to `name`; empty when it does not."""
    theirs, tag = _split(_ref(descriptor))
    return tag if theirs == name else ""


def _tags(index: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    return {_own(d, name): d for d in index["manifests"] if _own(d, name)}


def _latest_version(index: dict[str, Any], name: str) -> int:
    tags = _tags(index, name)
    if LATEST not in tags:
        return 0
    digest = tags[LATEST]["digest"]
    same = [int(tag) for tag, d in tags.items() if tag.isdecimal() and d["digest"] == digest]
    return max(same, default=0)


def check_paths(paths: list[str], where: str) -> None:
    """Refuses paths that could be written outside of the directory they belong to, or over each other."""
    for path in paths:
        if not all(_PART.fullmatch(part) for part in path.split("/")):
            raise InputError(f"{where}: {path!r}: expected a relative path of plain names")
    taken = {parent.as_posix() for path in paths for parent in PurePosixPath(path).parents}
    for path in paths:
        if path in taken:
            raise InputError(f"{where}: {path!r}: expected once, and not also as a directory")
        taken.add(path)
