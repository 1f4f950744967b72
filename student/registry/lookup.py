"""Finds published students in a store: what it lists, and what a reference such as legal:2 names.

    model = resolve(open_store(), "legal")

A reference is NAME or NAME:TAG. A tag is a version's number, a variant of it such as 2-q8_0, `latest`, or one that a
recipe or `promote` set. What a store says is checked against JSON Schemas before it is used.
"""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from schemas.documents import check_document
from schemas.errors import InputError
from schemas.scorecard import PartScore, Score, part_score
from schemas.tags import LATEST, is_variant_tag, is_version, variant_tag
from student.registry.artifact import (
    ARTIFACT_SCHEMA,
    GATE,
    MANIFEST,
    PROJECTOR,
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


@dataclass(frozen=True)
class Version:
    """A version in a store. scorecard: as it was published; None where it has none."""

    model: Model
    scorecard: dict[str, Any] | None

    @property
    def reference(self) -> str:
        return f"{self.model.name}:{self.model.tag}"

    @property
    def created(self) -> str:
        return str(self.model.manifest["created"])

    @property
    def headline(self) -> PartScore:
        """The student's result in the exam's headline."""
        score = self.model.manifest["scorecard"]
        return part_score(score["student"], score["tasks"])

    def score_on(self, exam: dict[str, Any]) -> Score | None:
        """Returns its published score, if it was evaluated on this exam (a scorecard's `exam`) and names its tasks."""
        if self.scorecard is None or self.scorecard["exam"] != exam:
            return None
        score = cast(Score, self.scorecard["models"]["student"])
        return score if "passed_tasks" in score else None

    def evaluated_files(self) -> tuple[StoredFile, StoredFile | None]:
        """Returns the GGUF on which its published score was measured, and its vision tower if it has one.

        Raises:
            InputError: it has no scorecard, or not the file.
        """
        if self.scorecard is None:
            raise InputError(f"{self.reference} has no scorecard, which names the file to evaluate")
        digest = self.scorecard["models"]["student"]["sha256"]
        weights = next((file for file in self.model.files if file.sha256 == digest), None)
        if weights is None:
            raise InputError(f"{self.reference} has no file {digest}, which its scorecard names")
        towers = (file for file in self.model.files if file.variant == PROJECTOR)
        return weights, next(towers, None)


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
    if (model := _find(repository, reference)) is not None:
        return model
    tag, tags = tag or LATEST, repository.tags()
    if not tags:
        raise InputError(f"{name}: no such model in {store.location}: {_content(store)}")
    reason = "no version of it passed its gate" if tag == LATEST else "no such version"
    shown = [t for t in tags if not is_variant_tag(t)] or tags
    existing = ", ".join(f"{name}:{tag}" for tag in shown[-20:])
    raise InputError(f"{name}:{tag}: {reason} in {store.location}: it holds {existing}")


def find_version(store: Store, reference: str) -> Version | None:
    """Returns the version that a reference names, with its scorecard; None where there is none of that name or tag.

    Raises:
        InputError: it is broken.
        StageError: the registry cannot be reached.
    """
    repository = store.repository(split_reference(reference)[0])
    model = _find(repository, reference)
    return with_scorecard(repository, model) if model else None


def _find(repository: Repository, reference: str) -> Model | None:
    tag = split_reference(reference)[1] or LATEST
    entry = repository.find(tag)
    if entry is None:
        return None
    others = moving_tags(repository, repository.tags(), {tag: entry})
    return read_version(repository, tag, others, entry)


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


def with_scorecard(repository: Repository, model: Model) -> Version:
    """Returns a version with its scorecard.json.

    Raises:
        InputError: it is missing, corrupted or broken.
    """
    file = next((file for file in model.files if file.path == SCORECARD_FILE), None)
    if file is None:
        return Version(model, None)
    label = f"{model.name}:{model.tag}/{SCORECARD_FILE}"
    scorecard = repository.document(file.descriptor(), label)
    check_document(scorecard, "scorecard", Path(label))
    return Version(model, scorecard)


def _manifest(repository: Repository, files: list[StoredFile], label: str) -> dict[str, Any]:
    """Reads manifest.json."""
    file = next((file for file in files if file.path == MANIFEST), None)
    if file is None:
        raise InputError(f"{repository.location}: {label}: found no layer {MANIFEST}, expected one")
    manifest: dict[str, Any] = repository.document(file.descriptor(), f"{label}/{MANIFEST}")
    check_document(manifest, "manifest", Path(f"{label}/{MANIFEST}"))
    return manifest
