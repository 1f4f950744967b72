"""Fetches the files of a published student out of a store (student/registry/publish.py).

    pull(store, "legal", Path("students/legal"))

What it promises: a pulled file is under its name only after its sha256 was found right, and never outside the
directory asked for. What was cut short is continued.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from schemas.documents import check_document
from schemas.errors import InputError, StageError
from schemas.files import sha256
from student.registry.oci_layout import CHUNK, blob_path, read_blob, sync
from student.registry.publish import PROJECTOR, Model, StoredFile, check_paths, resolve

_SCORECARD = "scorecard.json"


def pull(
    store: Path,
    reference: str,
    to: Path,
    variants: list[str] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Path]:
    """Fetches one variant of a model, or those asked for, with the small files that belong to each.

    Without `variants` it is the GGUF that sat the exam. What is already there and right is left as it is, and
    a copy that was cut short is continued. `progress` hears (bytes done, bytes in all, file).

    Returns:
        The files, every one in place with the right sha256.

    Raises:
        InputError: no such model or variant, a broken store, or a manifest with a path that leads elsewhere.
        StageError: a blob is corrupted, or the disk is full; what was finished before stays.
    """
    model = resolve(store, reference)
    label = f"{model.name}:{model.tag}"
    check_paths([file.path for file in model.files], label)
    chosen = _choose(store, model, variants)
    for file in chosen:
        _refuse_links(to, file.path, label)
        if not blob_path(store, file.sha256).is_file():
            raise InputError(
                f"{blob_path(store, file.sha256)}: {label}/{file.path}: this blob is missing"
            )

    total = sum(file.bytes for file in chosen)
    done = 0
    for file in chosen:

        def tick(count: int, name: str = file.path) -> None:
            nonlocal done
            done += count
            if progress:
                progress(done, total, name)

        _fetch(blob_path(store, file.sha256), to / file.path, file, tick)
    return [to / file.path for file in chosen]


def _choose(store: Path, model: Model, variants: list[str] | None) -> list[StoredFile]:
    sizes = model.variants()
    for variant in variants or []:
        if variant not in sizes:
            has = ", ".join(sizes) or "none"
            raise InputError(f"{model.name}:{model.tag}: no variant {variant!r}: it has {has}")
    wanted = list(variants or _default_variant(store, model))
    if any(f.path.endswith(".gguf") for f in model.files if f.variant in wanted):
        wanted.append(PROJECTOR)
    return [file for file in model.files if file.variant in wanted or file.variant not in sizes]


def _default_variant(store: Path, model: Model) -> list[str]:
    """The GGUF whose bytes the scorecard examined, else the smallest GGUF, else the smallest variant."""
    sizes = model.variants()
    gguf = {
        f.variant: f.sha256
        for f in model.files
        if f.path.endswith(".gguf") and f.variant != PROJECTOR
    }
    for file in model.files:
        if file.path == _SCORECARD:
            descriptor = {"digest": f"sha256:{file.sha256}"}
            scorecard = read_blob(store, descriptor, f"{model.name}:{model.tag}/{_SCORECARD}")
            check_document(scorecard, "scorecard", Path(f"{model.name}:{model.tag}/{_SCORECARD}"))
            examined = scorecard["models"]["student"]["sha256"]
            for variant, digest in gguf.items():
                if digest == examined:
                    return [variant]
    candidates = gguf or sizes
    return [min(candidates, key=lambda variant: sizes[variant])] if candidates else []


def _fetch(blob: Path, target: Path, file: StoredFile, tick: Callable[[int], None]) -> None:
    """Brings `target` to the file's bytes, by way of `<name>.partial`, which a later call continues."""
    partial = target.with_name(target.name + ".partial")
    try:
        if (
            target.is_file()
            and target.stat().st_size == file.bytes
            and sha256(target) == file.sha256
        ):
            tick(file.bytes)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        resumed = partial.exists()
        found = _continue(blob, partial, tick)
        if found != file.sha256 and resumed:
            # What was there came from something else: once more, from the first byte.
            tick(-partial.stat().st_size)
            partial.unlink()
            found = _continue(blob, partial, tick)
        if found != file.sha256:
            partial.unlink()
            raise StageError(
                f"{blob}: corrupted: {file.path} is expected with sha256 {file.sha256}, found {found}"
            )
        os.replace(partial, target)
        sync(target.parent)
    except OSError as error:
        raise StageError(f"{target}: cannot be written: {error.strerror or error}") from error


def _continue(blob: Path, partial: Path, tick: Callable[[int], None]) -> str:
    """Appends to `partial` what it lacks of `blob`; gives the sha256 of the whole."""
    digest = hashlib.sha256()
    # Not through a link that someone left under this name.
    handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    with blob.open("rb") as source, os.fdopen(handle, "r+b") as writer:
        while chunk := writer.read(CHUNK):
            digest.update(chunk)
            tick(len(chunk))
        source.seek(writer.tell())
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            writer.write(chunk)
            tick(len(chunk))
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def _refuse_links(to: Path, path: str, label: str) -> None:
    """A link below `to` would lead the copy elsewhere. `to` itself may be one: that is the user's choice."""
    here = to
    for part in path.split("/"):
        here = here / part
        if here.is_symlink():
            raise InputError(
                f"{label}: {path}: {here} is a symbolic link; pulling does not follow it"
            )
