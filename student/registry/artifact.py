"""The files of a published student, and how an artifact of OCI describes them.

A version is an OCI image index, legal:3, that lists one manifest for each variant, which has a tag too, legal:3-q8_0.
A manifest has the shape of the CNCF ModelPack model-spec v1 (github.com/modelpack/model-spec): each file is one raw
layer, named by the annotation org.cncf.model.filepath, the weights first, because `docker model pull` takes the first
GGUF for the model. So docker, kit, oras and skopeo each pull one variant without stillhouse. Versions of the old shape
are one manifest with the files of all variants.
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from schemas.errors import InputError
from student.registry.store import DESCRIPTOR, IMAGE_MANIFEST, Descriptor, descriptor_of

FileKind = Literal["weight", "config", "doc", "dataset"]

VERSION_TYPE = "application/vnd.stillhouse.student.v1+json"  # of the index
ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
LAYER_TYPES: dict[FileKind, str] = {
    "weight": "application/vnd.cncf.model.weight.v1.raw",
    "config": "application/vnd.cncf.model.weight.config.v1.raw",
    "doc": "application/vnd.cncf.model.doc.v1.raw",
    "dataset": "application/vnd.cncf.model.dataset.v1.raw",
}

# Keys of annotations.
FILEPATH = "org.cncf.model.filepath"
TITLE = "org.opencontainers.image.title"  # of a layer: the name under which `oras pull` writes it
VARIANT = "stillhouse.variant"
GATE = "stillhouse.gate"
CONTENT = "stillhouse.content"  # what the version consists of, as publish.content_key
CREATED = "org.opencontainers.image.created"
VERSION = "org.opencontainers.image.version"

MANIFEST = "manifest.json"
SCORECARD_FILE = "scorecard.json"
# The variant of the vision tower (llama.cpp's mmproj) of a vision-language student; it comes with each GGUF.
PROJECTOR = "mmproj"

# One part of a path. It begins with no dot and has no backslash, colon, space or control character, so that it means
# the same on every system and cannot leave the directory that it is pulled into.
_PATH_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@-]*")

# Printed in tables and part of tags, so it has no other characters.
_VARIANT_PATTERN = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"

# JSON Schema of the index of a version.
VERSION_SCHEMA = {
    "type": "object",
    "required": ["schemaVersion", "manifests"],
    "properties": {
        "schemaVersion": {"const": 2},
        "artifactType": {"const": VERSION_TYPE},  # some tools leave it out when they copy
        "manifests": {
            "type": "array",
            "minItems": 1,
            "maxItems": 100,
            "items": {
                "allOf": [
                    DESCRIPTOR,
                    {
                        "required": ["annotations"],
                        "properties": {
                            "mediaType": {"const": IMAGE_MANIFEST},
                            "annotations": {
                                "required": [VARIANT],
                                "properties": {VARIANT: {"pattern": _VARIANT_PATTERN}},
                            },
                        },
                    },
                ]
            },
        },
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}

# JSON Schema of the OCI manifest of a variant, and of a version of the old shape.
ARTIFACT_SCHEMA = {
    "type": "object",
    "required": ["schemaVersion", "artifactType", "config", "layers"],
    "properties": {
        "schemaVersion": {"const": 2},
        "artifactType": {"const": ARTIFACT_TYPE},
        "config": DESCRIPTOR,
        "layers": {
            "type": "array",
            "maxItems": 10_000,
            "items": {
                "allOf": [
                    DESCRIPTOR,
                    {
                        "required": ["annotations"],
                        "properties": {
                            "annotations": {
                                "required": [FILEPATH, VARIANT],
                                "properties": {VARIANT: {"pattern": _VARIANT_PATTERN}},
                            }
                        },
                    },
                ]
            },
        },
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}


@dataclass(frozen=True)
class PublishFile:
    """A file to publish.

    Attributes:
        path: where it is now.
        name: its path in the artifact: relative, with slashes, such as vllm/config.json.
        variant: Q8_0, Q4_K_M, vllm, ... Files of a variant without weights or data, such as the model card, are part
            of every variant.
        sha256: what its digest must be, for a file that comes from another store.
    """

    path: Path
    name: str
    variant: str
    kind: FileKind
    sha256: str | None = None


@dataclass(frozen=True)
class StoredFile:
    """A file of a published student. path: in the artifact, as PublishFile.name."""

    path: str
    sha256: str
    bytes: int
    variant: str
    media_type: str

    def descriptor(self) -> Descriptor:
        return descriptor_of(self.media_type, self.sha256, self.bytes)


@dataclass(frozen=True)
class Model:
    """One published version of a student.

    Attributes:
        tag: the version's number. tags: all its tags, the number first.
        digest: of the index, sha256:<hex>; of the manifest, where one variant or a version of the old shape is meant.
        manifests: of the variants, by their tags; none for a version of the old shape.
        manifest: manifest.json (schemas/manifest.schema.json).
    """

    name: str
    tag: str
    tags: tuple[str, ...]
    digest: str
    gate_passed: bool
    manifest: dict[str, Any]
    files: tuple[StoredFile, ...]
    manifests: dict[str, Descriptor]

    def variants(self) -> dict[str, int]:
        """Returns the bytes of each variant with weights or data, in the order of publishing."""
        with_content = (LAYER_TYPES["weight"], LAYER_TYPES["dataset"])
        sizes = {file.variant: 0 for file in self.files if file.media_type in with_content}
        for file in self.files:
            if file.variant in sizes:
                sizes[file.variant] += file.bytes
        return sizes

    def check_variants(self, variants: list[str] | None, label: str) -> None:
        """Raises InputError for a variant that it does not have. label: begins the message."""
        sizes = self.variants()
        for variant in variants or []:
            if variant not in sizes:
                existing = ", ".join(sizes) or "none"
                raise InputError(f"{label}: no variant {variant!r}: it has {existing}")


def files_under(directory: Path, name: str, variant: str) -> list[PublishFile]:
    """Lists every file under `directory`, to be published under `name`/, such as the directory for vLLM."""
    files = []
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
        kind: FileKind = "weight" if path.suffix == ".safetensors" else "config"
        inner = path.relative_to(directory).as_posix()
        files.append(PublishFile(path, f"{name}/{inner}", variant, kind))
    return files


def annotations(path: str, variant: str) -> dict[str, str]:
    """Returns the annotations of a file's layer."""
    return {FILEPATH: path, TITLE: path, VARIANT: variant}


def stored_file(layer: Descriptor) -> StoredFile:
    """Returns the file that a layer describes."""
    return StoredFile(
        path=layer["annotations"][FILEPATH],
        sha256=layer["digest"].removeprefix("sha256:"),
        bytes=layer["size"],
        variant=layer["annotations"][VARIANT],
        media_type=layer["mediaType"],
    )


def check_paths(paths: list[str], where: str) -> None:
    """Checks that files under these paths stay in one directory and do not overwrite each other.

    Raises:
        InputError: a path is not relative and made of plain names, occurs twice, or is also the directory of another.
    """
    for path in paths:
        if not all(_PATH_PART.fullmatch(part) for part in path.split("/")):
            raise InputError(f"{where}: found {path!r}, expected a relative path of plain names")
    taken = {parent.as_posix() for path in paths for parent in PurePosixPath(path).parents}
    for path in paths:
        if path in taken:
            raise InputError(
                f"{where}: found {path!r} twice or also as a directory, expected once and as a file"
            )
        taken.add(path)
