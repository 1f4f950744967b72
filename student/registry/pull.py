"""Pulls the files of a published student out of a store into a directory.

    pull(open_store(), "legal", Path("students/legal"))

What it guarantees: no file gets its name before all of them are complete and their sha256 is checked, and no file is
written outside the target directory. An interrupted copy is continued, from the registry too.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from schemas.errors import InputError, StageError
from schemas.files import sha256, sha256_text, sync_one
from student.registry.artifact import (
    MANIFEST,
    PROJECTOR,
    Model,
    StoredFile,
    check_paths,
)
from student.registry.lookup import resolve, with_scorecard
from student.registry.signatures import verify
from student.registry.store import CHUNK, Counter, Progress, Repository, Store, in_parallel

_STAGING = ".pull"  # in the target directory; holds each file under its sha256 until all are there
_SPARE = 64 << 20  # bytes that stay free on the disk


def pull(
    store: Store,
    reference: str,
    to: Path,
    variants: list[str] | None = None,
    progress: Progress | None = None,
    report: Callable[[str], None] = print,
) -> list[Path]:
    """Copies variants of a student to the directory `to`, with the files that come with every variant.

    A file that is complete already is left as it is.

    Args:
        reference: NAME or NAME:TAG, as `resolve` takes it.
        variants: default: the GGUF that was evaluated on the exam.
        report: called with a warning about a signature.

    Returns:
        The paths of the files, each complete and with the right sha256.

    Raises:
        InputError: no such model or variant, a broken store, a path in the artifact that leaves the directory, or
            another process pulls into the directory.
        GateError: the version is not signed by the key that is asked for (signatures.py).
        StageError: a blob is corrupted, the disk is full, or the registry cannot be reached; files that were complete
            before stay.
    """
    model = resolve(store, reference)
    repository = store.repository(model.name)
    label = f"{model.name}:{model.tag}"
    verify(repository, model, report)
    check_paths([file.path for file in model.files], label)
    chosen = _choose_files(repository, model, variants)
    for file in chosen:
        _refuse_links(to, file.path, label)
        repository.check_blob(file.descriptor(), f"{label}/{file.path}")
    try:
        counter = Counter(sum(file.bytes for file in chosen), progress)
        missing = []
        for file in chosen:
            if _is_complete(to / file.path, file):
                counter.add(file.bytes, file.path)
            else:
                missing.append(file)
        if missing:
            _check_space(to, missing)
            with _staging(to) as staging:
                _fetch_all(repository, missing, staging, label, counter)
                _move_all(missing, staging, to)
    except OSError as error:
        raise StageError(f"{to}: cannot be written: {error.strerror or error}") from error
    return [to / file.path for file in chosen]


def _choose_files(
    repository: Repository, model: Model, variants: list[str] | None
) -> list[StoredFile]:
    """Returns the files of the variants, of the vision tower where a GGUF is among them, and those without variant."""
    sizes = model.variants()
    model.check_variants(variants, f"{model.name}:{model.tag}")
    chosen = list(variants or _default_variants(repository, model))
    if any(f.path.endswith(".gguf") for f in model.files if f.variant in chosen):
        chosen.append(PROJECTOR)
    return [file for file in model.files if file.variant in chosen or file.variant not in sizes]


def _default_variants(repository: Repository, model: Model) -> list[str]:
    """Returns the GGUF that the scorecard names by its sha256, or vllm where it names that; else the smallest GGUF.

    Without a GGUF it is the smallest variant.

    The list is empty where the student has no variant.
    """
    sizes = model.variants()
    gguf = {
        f.variant: f.sha256
        for f in model.files
        if f.path.endswith(".gguf") and f.variant != PROJECTOR
    }
    if scorecard := with_scorecard(repository, model).scorecard:
        student = scorecard["models"]["student"]
        if student.get("engine") == "vllm" and "vllm" in sizes:
            return ["vllm"]
        evaluated = student["sha256"]
        for variant, digest in gguf.items():
            if digest == evaluated:
                return [variant]
    candidates = gguf or sizes
    return [min(candidates, key=lambda variant: sizes[variant])] if candidates else []


def _is_complete(path: Path, file: StoredFile) -> bool:
    return path.is_file() and path.stat().st_size == file.bytes and sha256(path) == file.sha256


def _check_space(to: Path, files: list[StoredFile]) -> None:
    """Raises StageError where the disk has no room for the files, less what an interrupted copy left."""
    staged = sum(path.stat().st_size for path in (to / _STAGING).glob("*") if path.is_file())
    needed = sum(file.bytes for file in files) - staged
    here = to.absolute()
    while not here.exists():
        here = here.parent
    free = shutil.disk_usage(here).free
    if needed > 0 and needed + _SPARE > free:
        raise StageError(
            f"{to}: the disk has {free / 1e9:.1f} GB free, expected {(needed + _SPARE) / 1e9:.1f} GB:"
            " free some, or pull into another directory"
        )


@contextlib.contextmanager
def _staging(to: Path) -> Iterator[Path]:
    """Yields the directory in `to` for incomplete files, for this process alone, and removes it at the end.

    It stays when the block raises: its files are continued.
    """
    staging = to / _STAGING
    if staging.is_symlink():
        raise InputError(f"{staging}: is a symbolic link, expected a directory: remove it")
    staging.mkdir(parents=True, exist_ok=True)
    with (staging / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{to}: another process pulls into this directory") from None
        yield staging
        shutil.rmtree(staging)


def _staged(staging: Path, file: StoredFile) -> Path:
    # The path is part of the name, because two files may have the same content.
    return staging / f"{file.sha256}-{sha256_text(file.path)[:8]}"


def _fetch_all(
    repository: Repository, files: list[StoredFile], staging: Path, label: str, counter: Counter
) -> None:
    for path in staging.iterdir():
        if path.name != "lock" and path not in {_staged(staging, file) for file in files}:
            path.unlink()  # of another version

    def fetch(file: StoredFile) -> None:
        _fetch(
            repository,
            file,
            _staged(staging, file),
            f"{label}/{file.path}",
            lambda count: counter.add(count, file.path),
        )

    in_parallel(repository.parallel, fetch, files, counter)


def _fetch(
    repository: Repository,
    file: StoredFile,
    target: Path,
    label: str,
    advance: Callable[[int], None],
) -> None:
    """Copies a blob to `target`, of which a part may be there already, and checks its sha256.

    advance: called with the number of bytes of each step, negative where a copy starts over.
    """
    resumed = target.exists()
    if resumed and target.stat().st_size > file.bytes:
        target.unlink()
    digest = _append_rest(repository, file, target, label, advance)
    if digest != file.sha256 and resumed:
        # The part was of another file, or damaged: start over.
        advance(-target.stat().st_size)
        target.unlink()
        digest = _append_rest(repository, file, target, label, advance)
    if digest != file.sha256:
        target.unlink()
        raise StageError(
            f"{repository.where(file.descriptor())}: corrupted: {label}: found sha256 {digest},"
            f" expected {file.sha256}:"
            " delete this blob and publish the student again"
        )


def _append_rest(
    repository: Repository,
    file: StoredFile,
    target: Path,
    label: str,
    advance: Callable[[int], None],
) -> str:
    """Appends to `target` the bytes of the blob that it lacks, and returns the sha256 of the whole file."""
    digest = hashlib.sha256()
    # O_NOFOLLOW: a symbolic link under this name must not redirect the copy.
    handle = os.open(target, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    with os.fdopen(handle, "r+b") as writer:
        while chunk := writer.read(CHUNK):
            digest.update(chunk)
            advance(len(chunk))
        for chunk in repository.read(file.descriptor(), writer.tell(), label):
            digest.update(chunk)
            writer.write(chunk)
            advance(len(chunk))
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def _move_all(files: list[StoredFile], staging: Path, to: Path) -> None:
    """Gives every file its name, manifest.json last: where it names a version, all files of it are there."""
    for file in sorted(files, key=lambda file: file.path == MANIFEST):
        target = to / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(_staged(staging, file), target)
        sync_one(target.parent)


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
