"""Publishes a student: its files become the next version of a name in a store.

    published = publish(open_store(), "legal", files, manifest, gate_passed=True)   # legal:1 and legal:latest

What it guarantees, in a directory and in a registry:
- Names are `<domain>:<version>`. Versions count up from 1, and no two publishers get the same number.
- `latest` moves to a new version whose gate passed, and otherwise only by upkeep.py.
- A tag that a recipe chooses is a further name of a version. It moves to the version that is next published under it.
- A version is in the store with all its files or not at all, also when the publisher is killed.
- The same files published again are the same version; what a killed publisher left undone is then done.
- A version that is broken is no obstacle.
- With a key, a version is signed before a tag names it (signatures.py).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.documents import check_document
from schemas.errors import InputError, StageError
from schemas.files import dumps, read_json, sha256_text
from schemas.tags import LATEST, is_reserved, variant_tag
from student.registry.artifact import (
    ARTIFACT_TYPE,
    CONFIG_TYPE,
    CONTENT,
    CREATED,
    GATE,
    LAYER_TYPES,
    MANIFEST,
    PROJECTOR,
    SCORECARD_FILE,
    TITLE,
    VARIANT,
    VERSION,
    VERSION_TYPE,
    Model,
    PublishFile,
    annotations,
    check_paths,
    stored_file,
)
from student.registry.attestations import attestations
from student.registry.location import check_name
from student.registry.lookup import newest_passed, read_version, version_numbers
from student.registry.modelpack import config
from student.registry.signatures import sign, signing_key
from student.registry.store import (
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    Counter,
    Descriptor,
    Progress,
    Repository,
    Store,
    in_parallel,
)

Layers = list[tuple[PublishFile, Descriptor]]


class LatestMoved(StageError):
    """`latest` does not name the version any more with which the student was compared."""


@dataclass(frozen=True)
class Published:
    """A version in the store. tag: its number. digest: of its index, sha256:<hex>. new: whether it was added now."""

    name: str
    tag: str
    digest: str
    new: bool = True


def publish(
    store: Store,
    name: str,
    files: list[PublishFile],
    manifest: dict[str, Any],
    *,
    gate_passed: bool,
    tag: str | None = None,
    at_least: int = 1,
    compared_with: str | None = None,
    progress: Progress | None = None,
) -> Published:
    """Publishes `files` as the next version of `name`, or finds the version that has these files already.

    Args:
        manifest: the manifest (schemas/manifest.schema.json) without name, tag and files, which are added here. It is
            stored as manifest.json.
        tag: a further name of the version; none that the store assigns itself.
        at_least: the lowest number of a new version.
        compared_with: the digest of the version that `latest` must still name when it is moved; "" for none. Between
            that look and the move, a directory admits no other publisher; a registry has no locks.

    Raises:
        LatestMoved: it does not. Nothing but blobs was added.
        InputError: the name or tag is not allowed, a file is missing, or the store is broken or refuses the login.
        StageError: the disk is full, a file changed while it was copied, or the registry cannot be reached.
    """
    _check_arguments(name, files, tag)
    key = signing_key()
    repository = store.repository(name)
    with repository.publishing():
        layers = _add_files(repository, files, progress)
        content = content_key(layers, manifest["domain"], gate_passed)
        statements = attestations(manifest, _scorecard(files), gate_passed=gate_passed)
        with repository.locked():
            found = _find_same(repository, content)
            if compared_with is not None and gate_passed:
                latest = (repository.find(LATEST) or {}).get("digest", "")
                if latest not in (compared_with, found and found[1]["digest"]):
                    raise LatestMoved(f"{name}: latest was moved by another publisher")
            if found is None:
                with repository.claim(at_least) as number:
                    version, tags = _add_version(
                        repository,
                        {**manifest, "name": name, "tag": str(number)},
                        layers,
                        content,
                        gate_passed,
                    )
                    if key:
                        sign(repository, key, [version, *tags.values()], statements)
                    tags = _with_names(repository, number, version, tags, gate_passed, tag)
                    repository.set_tags(tags)
                    _settle_latest(repository, number, gate_passed)
                return Published(name, str(number), version["digest"])
            number, version = found
            model = read_version(repository, str(number), {})
            if key:
                sign(repository, key, [version, *model.manifests.values()], statements)
            _finish(repository, number, version, model, gate_passed, tag)
    return Published(name, str(number), version["digest"], new=False)


def _check_arguments(name: str, files: list[PublishFile], tag: str | None) -> None:
    check_name(name)
    if tag is not None and is_reserved(tag):
        raise InputError(
            f"{name}: tag: found {tag}, expected one that the store does not assign itself:"
            f" not a number, not that of a variant and not {LATEST}"
        )
    check_paths([*(file.name for file in files), MANIFEST], f"{name}: files")
    for file in files:
        if not file.path.is_file():
            raise InputError(f"{file.path}: no such file to publish as {name}/{file.name}")


def _scorecard(files: list[PublishFile]) -> dict[str, Any] | None:
    """Returns what is published as scorecard.json."""
    file = next((file for file in files if file.name == SCORECARD_FILE), None)
    if file is None:
        return None
    scorecard: dict[str, Any] = read_json(file.path)
    check_document(scorecard, "scorecard", file.path)
    return scorecard


def _add_files(
    repository: Repository, files: list[PublishFile], progress: Progress | None
) -> Layers:
    """Adds the files as blobs, several at a time where the store is a registry, and returns their layers."""
    total = sum(file.path.stat().st_size for file in files)
    counter = Counter(total, progress)

    def add(file: PublishFile) -> Descriptor:
        def advance(count: int) -> None:
            counter.add(count, file.name)

        layer = repository.add_file(LAYER_TYPES[file.kind], file.path, advance)
        if file.sha256 not in (None, layer["digest"].removeprefix("sha256:")):
            raise StageError(
                f"{file.path}: corrupted: {file.name}: found {layer['digest']}, expected sha256:{file.sha256}"
            )
        return {**layer, "annotations": annotations(file.name, file.variant)}

    layers = in_parallel(repository.parallel, add, files, counter)
    return list(zip(files, layers, strict=True))


def content_key(layers: Layers, domain: str, gate_passed: bool) -> str:
    """Returns a digest of all that makes a version; its number and date may differ."""
    files = [stored_file(layer) for _, layer in layers]
    return _key(files, domain, gate_passed)


def _key(files: list[Any], domain: str, gate_passed: bool) -> str:
    rows = sorted([f.path, f.sha256, f.variant, f.media_type] for f in files if f.path != MANIFEST)
    return sha256_text(dumps([rows, domain, gate_passed]))


def _find_same(repository: Repository, content: str) -> tuple[int, Descriptor] | None:
    """Returns number and descriptor of the newest version with this content; a broken one is passed over."""
    for number in sorted(version_numbers(repository), reverse=True):
        entry = repository.find(str(number))
        if entry is None:
            continue
        try:
            document = repository.document(entry, f"{repository.name}:{number}")
            key = document.get("annotations", {}).get(CONTENT)
            if key is None:  # a version of the old shape
                model = read_version(repository, str(number), {})
                key = _key(list(model.files), model.manifest["domain"], model.gate_passed)
        except (InputError, AttributeError):
            continue
        if key == content:
            return number, entry
    return None


def _add_version(
    repository: Repository,
    manifest: dict[str, Any],
    layers: Layers,
    content: str,
    gate_passed: bool,
) -> tuple[Descriptor, dict[str, Descriptor]]:
    """Adds the manifests of the variants and the index of a version.

    Returns:
        The index's descriptor, and the manifests' by their tags.
    """
    stored = [stored_file(layer) for _, layer in layers]
    files = [
        {"path": f.path, "sha256": f.sha256, "bytes": f.bytes, "variant": f.variant} for f in stored
    ]
    manifest = {**manifest, "files": files}
    check_document(manifest, "manifest", Path(MANIFEST))
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    last = repository.add_text(LAYER_TYPES["doc"], text)
    last["annotations"] = annotations(MANIFEST, "manifest")
    notes = {
        CREATED: manifest["created"],
        TITLE: manifest["name"],
        VERSION: manifest["tag"],
        GATE: "passed" if gate_passed else "failed",
    }
    entries: dict[str, Descriptor] = {}
    for variant in _variants(layers):
        chosen = _of_variant(layers, variant)
        all_layers = [*(layer for _, layer in chosen), last]
        document = config(manifest, variant, [file for file, _ in chosen], all_layers)
        artifact = {
            "schemaVersion": 2,
            "mediaType": IMAGE_MANIFEST,
            "artifactType": ARTIFACT_TYPE,
            "config": repository.add_text(CONFIG_TYPE, dumps(document)),
            "layers": all_layers,
            "annotations": {**notes, VARIANT: variant},
        }
        entry = repository.add_manifest(IMAGE_MANIFEST, dumps(artifact))
        entry |= {"artifactType": ARTIFACT_TYPE, "annotations": {VARIANT: variant}}
        entries[variant_tag(manifest["tag"], variant)] = entry
    index = {
        "schemaVersion": 2,
        "mediaType": IMAGE_INDEX,
        "artifactType": VERSION_TYPE,
        "manifests": list(entries.values()),
        "annotations": {**notes, CONTENT: content},
    }
    return repository.add_manifest(IMAGE_INDEX, dumps(index)), entries


def _variants(layers: Layers) -> list[str]:
    """Lists the variants with weights or data, in the order of publishing; the vision tower is part of others.

    A student without any has the one variant `files`.
    """
    named = [f.variant for f, _ in layers if f.kind in ("weight", "dataset")]
    return list(dict.fromkeys(v for v in named if v != PROJECTOR)) or ["files"]


def _of_variant(layers: Layers, variant: str) -> Layers:
    """Returns what belongs to a variant: its weights, the vision tower beside a GGUF, then what is not weights."""
    others = {*_variants(layers), PROJECTOR} - {variant}
    own = [(file, layer) for file, layer in layers if file.variant not in others]
    weights = [pair for pair in own if pair[0].kind == "weight"]
    if any(file.name.endswith(".gguf") for file, _ in weights):
        weights += [pair for pair in layers if pair[0].variant == PROJECTOR]
    return weights + [pair for pair in own if pair[0].kind != "weight"]


def _with_names(
    repository: Repository,
    number: int,
    version: Descriptor,
    variants: dict[str, Descriptor],
    gate_passed: bool,
    tag: str | None,
) -> dict[str, Descriptor]:
    """Returns all tags of a version, in the order in which a registry sets them.

    Those of the variants are last: where they are missing, a killed publisher may not have set the others either.
    """
    tags = {str(number): version}
    if gate_passed and number >= _latest_number(repository):
        tags[LATEST] = version
    if tag:
        tags[tag] = version
    return {**tags, **variants}


def _finish(
    repository: Repository,
    number: int,
    version: Descriptor,
    model: Model,
    gate_passed: bool,
    tag: str | None,
) -> None:
    """Sets the tags of a version that exists, where the recipe asks for one more or a killed publisher set not all."""
    present = repository.tags()
    if any(name not in present for name in model.manifests) or LATEST not in present:
        tags = _with_names(repository, number, version, model.manifests, gate_passed, tag)
    else:
        tags = {tag: version} if tag else {}
    if tags:
        repository.set_tags(tags)


def _latest_number(repository: Repository) -> int:
    """Returns the number of the version that `latest` names, or 0 where there is none."""
    latest = repository.find(LATEST)
    if latest is None:
        return 0
    for number in sorted(version_numbers(repository), reverse=True):
        entry = repository.find(str(number))
        if entry is not None and entry["digest"] == latest["digest"]:
            return number
    return 0


def _settle_latest(repository: Repository, number: int, gate_passed: bool) -> None:
    """Moves `latest` on to a newer version that another publisher added meanwhile and whose gate passed.

    Each publisher sets the tag of its number, then `latest`, then looks for newer numbers, again after each move; so
    whoever moves it last leaves `latest` at the newest.
    """
    if not gate_passed:
        return
    while found := newest_passed(
        repository, (n for n in version_numbers(repository) if n > number)
    ):
        number, version = found
        repository.set_tags({LATEST: version})


def files_of(model: Model, path_of: Callable[[str], Path]) -> list[PublishFile]:
    """Returns the files of a published version, to be published in another store.

    path_of: returns the path of a blob by its sha256.
    """
    kinds = {media_type: kind for kind, media_type in LAYER_TYPES.items()}
    # In the order in which they were published: the same version is then the same digest in every store.
    order = {file["path"]: place for place, file in enumerate(model.manifest["files"])}
    return [
        PublishFile(path_of(f.sha256), f.path, f.variant, kinds.get(f.media_type, "doc"), f.sha256)
        for f in sorted(model.files, key=lambda f: order.get(f.path, len(order)))
        if f.path != MANIFEST
    ]
