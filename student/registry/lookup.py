"""Finds published students in a store: what it lists, and what a reference such as legal:2 names.

    model = resolve(open_store(), "legal")

A reference is NAME or NAME:TAG. A tag is a version's number, a variant of it such as 2-q8_0, `latest`, or one that a
recipe or `promote` set. What a store says is checked against JSON Schemas before it is used.
"""

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from schemas.documents import check_document
from schemas.errors import InputError
from schemas.tags import LATEST, is_variant_tag, is_version, variant_tag
from student.registry.artifact import (
    ARTIFACT_SCHEMA,
    GATE,
    MANIFEST,
    SCORECARD_FILE,
    VARIANT,
    VERSION,
    VERSION_SCHEMA,
    Model,
    StoredFile,
    stored_file,
)
from student.registry.location import split_reference
from student.registry.store import IMAGE_INDEX, Descriptor, Repository, Store, check_schema


def list_models(
    store: Store, names: list[str] | None = None, report: Callable[[str], None] = print
) -> list[Model]:
    """Lists every version in the store, by name, the newest first.

    Args:
        names: only these. Without it, a registry must be able to list its repositories.
        report: called with a line for each version that is broken, which is left out.
    """
    models = []
    for name in names if names is not None else store.names():
        repository = store.repository(name)
        tags = repository.tags()
        others = moving_tags(repository, tags)
        for number in sorted((int(tag) for tag in tags if is_version(tag)), reverse=True):
            try:
                models.append(read_version(repository, str(number), others))
            except InputError as error:
                report(f"left out: {error}")
    return models


def resolve(store: Store, reference: str) -> Model:
    """Returns the version, or the variant of it, that a reference names; without a tag, `latest`.

    Raises:
        InputError: the store has no such name or tag; the message lists what it has.
    """
    name, tag = split_reference(reference)
    repository = store.repository(name)
    tag = tag or LATEST
    entry, tags = repository.find(tag), repository.tags()
    if entry is not None:
        return read_version(repository, tag, moving_tags(repository, tags, {tag: entry}), entry)
    if not tags:
        raise InputError(f"{name}: no such model in {store.location}: {_content(store)}")
    reason = "no version of it passed its gate" if tag == LATEST else "no such version"
    shown = [t for t in tags if not is_variant_tag(t)] or tags
    existing = ", ".join(f"{name}:{tag}" for tag in shown[-20:])
    raise InputError(f"{name}:{tag}: {reason} in {store.location}: it holds {existing}")


def _content(store: Store) -> str:
    try:
        names = store.names()
    except InputError:
        return "it does not list what it holds"
    return f"it holds {', '.join(names)}" if names else "nothing was published there yet"


def version_numbers(repository: Repository) -> list[int]:
    """Lists the numbers of the versions."""
    return [int(tag) for tag in repository.tags() if is_version(tag)]


def newest_passed(repository: Repository, numbers: Iterable[int]) -> tuple[int, Descriptor] | None:
    """Returns number and descriptor of the newest of these versions whose gate passed; a broken one did not."""
    for number in sorted(numbers, reverse=True):
        with contextlib.suppress(InputError, AttributeError):
            if (entry := repository.find(str(number))) is None:
                continue
            document = repository.document(entry, f"{repository.name}:{number}")
            if document.get("annotations", {}).get(GATE) == "passed":
                return number, entry
    return None


def moving_tags(
    repository: Repository, tags: Iterable[str], known: dict[str, Descriptor] | None = None
) -> dict[str, Descriptor]:
    """Returns the manifests that `latest` and the tags of people name.

    tags: all tags of the repository. known: what some of them name.
    """
    found = {}
    for tag in tags:
        if tag.isdecimal() or is_variant_tag(tag):
            continue
        if entry := (known or {}).get(tag) or repository.find(tag):
            found[tag] = entry
    return found


def read_version(
    repository: Repository,
    tag: str,
    others: dict[str, Descriptor],
    entry: Descriptor | None = None,
) -> Model:
    """Reads the version or the variant that a tag names.

    others: as `moving_tags` returns it. entry: what the tag names, where that is known.

    Raises:
        InputError: there is no such tag, a part is missing or corrupted, or it is not a student.
    """
    label = f"{repository.name}:{tag}"
    entry = entry or repository.find(tag)
    if entry is None:
        raise InputError(f"{label}: no such tag in {repository.location}")
    where = f"{repository.location}: {label}"
    document = repository.document(entry, label)
    parts: list[tuple[Descriptor, dict[str, Any]]] = []
    if entry["mediaType"] == IMAGE_INDEX:
        check_schema(document, VERSION_SCHEMA, where)
        for part in document["manifests"]:
            manifest = repository.document(part, f"{label}/{part['annotations'][VARIANT]}")
            check_schema(manifest, ARTIFACT_SCHEMA, where)
            parts.append((part, manifest))
    else:
        check_schema(document, ARTIFACT_SCHEMA, where)
        parts.append((entry, document))
    # Files that belong to every variant are listed once.
    layers = [layer for _, manifest in parts for layer in manifest["layers"]]
    files = list(dict.fromkeys(stored_file(layer) for layer in layers))
    manifest = _manifest(repository, files, label)
    notes = document.get("annotations", {})
    number = tag if is_version(tag) else str(notes.get(VERSION, manifest["tag"]))
    if not is_version(number):
        raise InputError(f"{where}: {VERSION}: found {number[:40]!r}, expected a number")
    named = [other for other, named in others.items() if named["digest"] == entry["digest"]]
    manifests = {}
    if entry["mediaType"] == IMAGE_INDEX:
        manifests = {variant_tag(number, p["annotations"][VARIANT]): p for p, _ in parts}
    return Model(
        name=repository.name,
        tag=number,
        tags=(tag if is_variant_tag(tag) else number, *named),
        digest=entry["digest"],
        gate_passed=notes.get(GATE) == "passed",
        manifest=manifest,
        files=tuple(files),
        manifests=manifests,
    )


def read_scorecard(repository: Repository, model: Model) -> dict[str, Any] | None:
    """Returns scorecard.json of a version, or None where it has none.

    Raises:
        InputError: it is missing, corrupted or broken.
    """
    file = next((file for file in model.files if file.path == SCORECARD_FILE), None)
    if file is None:
        return None
    label = f"{model.name}:{model.tag}/{SCORECARD_FILE}"
    scorecard: dict[str, Any] = repository.document(file.descriptor(), label)
    check_document(scorecard, "scorecard", Path(label))
    return scorecard


def _manifest(repository: Repository, files: list[StoredFile], label: str) -> dict[str, Any]:
    """Reads manifest.json."""
    file = next((file for file in files if file.path == MANIFEST), None)
    if file is None:
        raise InputError(f"{repository.location}: {label}: found no layer {MANIFEST}, expected one")
    manifest: dict[str, Any] = repository.document(file.descriptor(), f"{label}/{MANIFEST}")
    check_document(manifest, "manifest", Path(f"{label}/{MANIFEST}"))
    return manifest
