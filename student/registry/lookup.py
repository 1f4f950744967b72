"""Finds published students: where the store is, what it lists, and what a reference such as legal:2 names.

    model = resolve(store_directory(), "legal")

A reference is NAME or NAME:TAG. A tag is a version's number, `latest` (the newest version that passed its gate), or a
tag that a recipe chose.
"""

import os
from pathlib import Path
from typing import Any

from schemas.documents import check_document
from schemas.errors import InputError
from schemas.tags import LATEST
from student.registry.artifact import (
    ARTIFACT_SCHEMA,
    ARTIFACT_TYPE,
    FILEPATH,
    GATE,
    MANIFEST,
    Model,
    stored_file,
)
from student.registry.oci_layout import Descriptor, blob_path, check_schema, read_blob, read_index

# The annotation of an index entry that holds its reference, NAME:TAG.
REFERENCE = "org.opencontainers.image.ref.name"


def store_directory(setting: str = "store") -> Path:
    """Returns the store's directory: STILLHOUSE_STORE where that is set, else `setting` (a recipe's publish.store).

    Raises:
        InputError: it is a URL.
    """
    from_environment = os.environ.get("STILLHOUSE_STORE")
    location = from_environment or setting
    if "://" in location:
        source = "STILLHOUSE_STORE" if from_environment else "publish.store"
        raise InputError(
            f"{source}: found {location}, expected a directory: registries are not supported"
        )
    return Path(location)


def list_models(store: Path) -> list[Model]:
    """Lists every version in the store, by name, the newest first. A store that does not exist is empty."""
    index = read_index(store)
    versions = [d for d in index["manifests"] if split_reference(reference_of(d))[1].isdecimal()]
    models = [
        read_model(store, index, d) for d in versions if d.get("artifactType") == ARTIFACT_TYPE
    ]
    return sorted(models, key=lambda model: (model.name, -int(model.tag)))


def resolve(store: Path, reference: str) -> Model:
    """Returns the version that `legal`, `legal:2` or `legal:latest` names; without a tag, `latest`.

    Raises:
        InputError: the store has no such name or tag; the message lists what it has.
    """
    index = read_index(store)
    name, tag = split_reference(reference)
    entries = entries_by_tag(index, name)
    if not entries:
        names = sorted({split_reference(reference_of(d))[0] for d in index["manifests"]} - {""})
        content = f"it holds {', '.join(names)}" if names else "nothing was published there yet"
        raise InputError(f"{name}: no such model in {store}: {content}")
    tag = tag or LATEST
    if tag not in entries:
        reason = "no version of it passed its gate" if tag == LATEST else "no such version"
        existing = ", ".join(f"{name}:{tag}" for tag in entries)
        raise InputError(f"{name}:{tag}: {reason} in {store}: it holds {existing}")
    return read_model(store, index, entries[tag])


def read_model(store: Path, index: dict[str, Any], entry: Descriptor) -> Model:
    """Reads the version that an entry of the index points to.

    Raises:
        InputError: a blob is missing or corrupted, or the artifact is not one of a student.
    """
    reference = reference_of(entry)
    name, _ = split_reference(reference)
    artifact = read_blob(store, entry, reference)
    check_schema(artifact, ARTIFACT_SCHEMA, blob_path(store, entry["digest"]))
    layers = [layer for layer in artifact["layers"] if layer["annotations"][FILEPATH] == MANIFEST]
    if not layers:
        raise InputError(f"{store}: {reference}: found no layer {MANIFEST}, expected one")
    manifest = read_blob(store, layers[0], f"{reference}/{MANIFEST}")
    check_document(manifest, "manifest", Path(f"{reference}/{MANIFEST}"))
    entries = entries_by_tag(index, name)
    tags = [tag for tag, other in entries.items() if other["digest"] == entry["digest"]]
    return Model(
        name=name,
        tag=next((tag for tag in tags if tag.isdecimal()), tags[0]),
        tags=tuple(tags),
        digest=entry["digest"],
        gate_passed=artifact.get("annotations", {}).get(GATE) == "passed",
        manifest=manifest,
        files=tuple(stored_file(layer) for layer in artifact["layers"]),
    )


def reference_of(entry: Descriptor) -> str:
    """Returns NAME:TAG of an index entry, or an empty text where it has none."""
    return str(entry.get("annotations", {}).get(REFERENCE, ""))


def split_reference(reference: str) -> tuple[str, str]:
    """Returns name and tag; the tag is empty where the reference has none."""
    name, _, tag = reference.partition(":")
    return name, tag


def tag_for(entry: Descriptor, name: str) -> str:
    """Returns the tag of an index entry that belongs to `name`, or an empty text where it belongs to another."""
    owner, tag = split_reference(reference_of(entry))
    return tag if owner == name else ""


def entries_by_tag(index: dict[str, Any], name: str) -> dict[str, Descriptor]:
    """Returns the index entries of `name` by their tags."""
    return {tag_for(d, name): d for d in index["manifests"] if tag_for(d, name)}
