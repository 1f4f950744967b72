"""Pulls the files of a published student out of a store into a directory.

    pull(store, "legal", Path("students/legal"))

What it guarantees: a file has its name only after its sha256 was checked, and no file is written outside the target
directory. An interrupted copy is continued.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from schemas.documents import check_document
from schemas.errors import InputError, StageError
from schemas.files import sha256
from student.registry.artifact import PROJECTOR, Model, StoredFile, check_paths
from student.registry.lookup import resolve
from student.registry.oci_layout import CHUNK, blob_path, read_blob, sync

_SCORECARD = "scorecard.json"


def pull(
    store: Path,
    reference: str,
    to: Path,
    variants: list[str] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Path]:
    """Copies variants of a student to the directory `to`, with the files that come with every variant.

    A file that is complete already is left as it is.

    Args:
        reference: NAME or NAME:TAG, as `resolve` takes it.
        variants: default: the GGUF that was evaluated on the exam.
        progress: called with (bytes done, bytes in total, the file's path in the artifact).

    Returns:
        The paths of the files, each complete and with the right sha256.

    Raises:
        InputError: no such model or variant, a broken store, or a path in the artifact that leaves the directory.
        StageError: a blob is corrupted, or the disk is full; files that were complete before stay.
    """
    model = resolve(store, reference)
    label = f"{model.name}:{model.tag}"
    check_paths([file.path for file in model.files], label)
    chosen = _choose_files(store, model, variants)
    for file in chosen:
        _refuse_links(to, file.path, label)
        if not blob_path(store, file.sha256).is_file():
            raise InputError(
                f"{blob_path(store, file.sha256)}: {label}/{file.path}: this blob is missing:"
                " publish the student again"
            )

    total = sum(file.bytes for file in chosen)
    done = 0
    for file in chosen:

        def advance(count: int, name: str = file.path) -> None:
            nonlocal done
            done += count
            if progress:
                progress(done, total, name)

        _fetch(blob_path(store, file.sha256), to / file.path, file, advance)
    return [to / file.path for file in chosen]


def _choose_files(store: Path, model: Model, variants: list[str] | None) -> list[StoredFile]:
    """Returns the files of the variants, of the vision tower where a GGUF is among them, and those without variant."""
    sizes = model.variants()
    for variant in variants or []:
        if variant not in sizes:
            existing = ", ".join(sizes) or "none"
            raise InputError(f"{model.name}:{model.tag}: no variant {variant!r}: it has {existing}")
    chosen = list(variants or _default_variants(store, model))
    if any(f.path.endswith(".gguf") for f in model.files if f.variant in chosen):
        chosen.append(PROJECTOR)
    return [file for file in model.files if file.variant in chosen or file.variant not in sizes]


def _default_variants(store: Path, model: Model) -> list[str]:
    """Returns the GGUF that the scorecard names by its sha256, else the smallest GGUF, else the smallest variant.

    The list is empty where the student has no variant.
    """
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
            evaluated = scorecard["models"]["student"]["sha256"]
            for variant, digest in gguf.items():
                if digest == evaluated:
                    return [variant]
    candidates = gguf or sizes
    return [min(candidates, key=lambda variant: sizes[variant])] if candidates else []


def _fetch(blob: Path, target: Path, file: StoredFile, advance: Callable[[int], None]) -> None:
    """Copies a blob to `<target>.partial`, which a later call continues, and renames it to `target` once it is checked.

    advance: called with the number of bytes of each step, negative where a copy starts over.
    """
    partial = target.with_name(target.name + ".partial")
    try:
        if (
            target.is_file()
            and target.stat().st_size == file.bytes
            and sha256(target) == file.sha256
        ):
            advance(file.bytes)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        resumed = partial.exists()
        digest = _append_rest(blob, partial, advance)
        if digest != file.sha256 and resumed:
            # The partial file was of another file: start over.
            advance(-partial.stat().st_size)
            partial.unlink()
            digest = _append_rest(blob, partial, advance)
        if digest != file.sha256:
            partial.unlink()
            raise StageError(
                f"{blob}: corrupted: {file.path}: found sha256 {digest}, expected {file.sha256}:"
                " delete this blob and publish the student again"
            )
        os.replace(partial, target)
        sync(target.parent)
    except OSError as error:
        raise StageError(f"{target}: cannot be written: {error.strerror or error}") from error


def _append_rest(blob: Path, partial: Path, advance: Callable[[int], None]) -> str:
    """Appends to `partial` the bytes of `blob` that it lacks, and returns the sha256 of the whole file."""
    digest = hashlib.sha256()
    # O_NOFOLLOW: a symbolic link under this name must not redirect the copy.
    handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    with blob.open("rb") as source, os.fdopen(handle, "r+b") as writer:
        while chunk := writer.read(CHUNK):
            digest.update(chunk)
            advance(len(chunk))
        source.seek(writer.tell())
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            writer.write(chunk)
            advance(len(chunk))
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def _refuse_links(to: Path, path: str, label: str) -> None:
    """Raises InputError for a symbolic link below `to`, which would redirect the copy. `to` itself may be a link."""
    here = to
    for part in path.split("/"):
        here = here / part
        if here.is_symlink():
            raise InputError(
                f"{label}: {path}: {here} is a symbolic link, expected a file or directory:"
                " remove it or pull into another directory"
            )
