"""A run's directory: its lock, the receipts of its finished stages, and the processes that it started.

    RUN/run.json               the domain, the resolved recipe and the versions of the last start
    RUN/stages/STAGE.json      a stage's receipt, written when all its outputs are on disk

A stage is current while its receipt names the same inputs and its outputs are the files that it wrote. Its inputs
include the sha256 of the earlier outputs that it reads. So a changed setting repeats exactly the stages that read it,
and a stage that wrote something else repeats the stages after it.

One process works in a directory at a time. The next start ends the processes that a killed one left running. It knows
them by two marks: STILLHOUSE_RUN in the environment of each program that the run started, and the open file
RUN/.children of each process forked from it. A list of pids in a file would miss processes that a library started
(torch's workers) or that were started just before the kill, and a pid may belong to another process by now.
"""

import contextlib
import datetime as dt
import fcntl
import importlib.metadata
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import psutil

from schemas.errors import InputError, StageError
from schemas.files import (
    dumps,
    lacks_locks,
    read_json,
    sha256,
    sha256_text,
    sync,
    write_json,
)
from schemas.recipe import Recipe
from teacher.domain.pack import PACKS

STAGES = ("plan", "generate", "filter", "train", "export", "evaluate", "publish")
MARK = "STILLHOUSE_RUN"
SECONDS_TO_END = 5

_VERSIONS_OF = ("stillhouse", "torch", "transformers", "trl", "peft", "prefect")


def default_directory(domain_name: str, recipe_name: str) -> Path:
    """Returns the directory of a run without --run: runs/DOMAIN-RECIPE."""
    return Path("runs") / f"{domain_name}-{recipe_name}"


def read(directory: Path) -> dict[str, Any]:
    """Reads run.json of an existing run: {"domain": {"name", "path", "sha256"}, "recipe", ...}.

    Raises:
        InputError: the directory is not a run.
    """
    _check_place(directory)
    if not (directory / "run.json").is_file():
        raise InputError(
            f"{directory}: not a run: expected a directory with a run.json (see `ls runs`)"
        )
    return read_json(directory / "run.json")


def domain_digest(pack: Path) -> str:
    """sha256 over a domain pack's files, without caches and hidden files."""
    files = sorted(
        path.relative_to(pack)
        for path in pack.rglob("*")
        if path.is_file()
        and not any(
            part.startswith(".") or part == "__pycache__" for part in path.relative_to(pack).parts
        )
    )
    return sha256_text(dumps([[file.as_posix(), sha256(pack / file)] for file in files]))


class Run:
    """A run's directory that this process works in, from `Run.open` to `close` or the end of a `with`.

    Attributes:
        directory: absolute.
        domain: {"name", "path", "sha256"}; `path` is what teacher.domain.load takes.
        reaped: the processes of a killed earlier run that were ended at the start, one line each.
        has_lock: False where the file system has no locks, so that nothing keeps a second run out.
    """

    def __init__(self, directory: Path, domain: dict[str, str]) -> None:
        self.directory = directory
        self.domain = domain
        self.reaped: list[str] = []
        self.has_lock = True
        self._files: list[IO[str]] = []

    @classmethod
    def open(cls, directory: Path, recipe: Recipe, domain_name: str, domain_path: Path) -> "Run":
        """Locks the directory for this process, writes run.json, and ends processes that a killed run left.

        A missing directory is created.

        Raises:
            InputError: the directory is in use, is not a run's, or belongs to another domain.
        """
        _check_place(directory)
        directory = directory.resolve()
        _make(directory)
        run = cls(
            directory,
            {
                "name": domain_name,
                "path": _loadable(domain_path),
                "sha256": domain_digest(domain_path),
            },
        )
        run._lock()
        try:
            run._record(recipe)
            # Not the lock file: a process that is refused has that one open too, for a moment.
            run._files.append((directory / ".children").open("w"))
            os.environ[MARK] = str(directory)
            run.reaped = run.reap()
            run._remove_partial_files()
        except BaseException:
            run.close()
            raise
        return run

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unlocks the directory. Processes that the run started continue: see `reap`."""
        if os.environ.get(MARK) == str(self.directory):
            del os.environ[MARK]
        while self._files:
            self._files.pop().close()

    # ------------------------------------------------------------------ stages

    @contextlib.contextmanager
    def stage(
        self, name: str, inputs: dict[str, str], outputs: list[Path]
    ) -> Iterator[dict[str, Any]]:
        """Runs the block as a stage and writes the stage's receipt when the block has ended without an error.

        Yields a dict for a small summary, which becomes the receipt's "result". An older receipt is removed first:
        a stage that stops half way is not done.

        Args:
            name: one of STAGES.
            inputs: a digest of everything that the outputs depend on, by name.
            outputs: files and directories under the run's directory that the block writes.

        Raises:
            StageError: an output is missing when the block has ended.
        """
        path = self._receipt_path(name)
        path.unlink(missing_ok=True)
        result: dict[str, Any] = {}
        started, clock = now(), time.monotonic()
        yield result
        for output in outputs:
            if not output.exists():
                raise StageError(f"{name}: {output}: was not written")
        files = [file for output in outputs for file in _files_of(output)]
        sync(files)  # a receipt that a power cut leaves speaks for whole files
        receipt = {
            "stage": name,
            "inputs": inputs,
            "outputs": {str(self._relative(file)): _describe(file, sha256(file)) for file in files},
            "started": started,
            "seconds": round(time.monotonic() - clock, 1),
            "result": result,
        }
        write_json(path, receipt)

    def is_current(self, name: str, inputs: dict[str, str]) -> bool:
        """Whether a stage need not run: same inputs, and its outputs are the files that it wrote.

        It compares size and modification time instead of the content. If only the time differs (a copied directory),
        the file is hashed once, and the receipt gets the new time.
        """
        receipt = self.receipt(name)
        if receipt is None or receipt["inputs"] != inputs:
            return False
        renewed = False
        for relative, output in receipt["outputs"].items():
            file = self.directory / relative
            if not file.is_file() or file.stat().st_size != output["bytes"]:
                return False
            if file.stat().st_mtime_ns != output["mtime_ns"]:
                if sha256(file) != output["sha256"]:
                    return False
                receipt["outputs"][relative] = _describe(file, output["sha256"])
                renewed = True
        if renewed:
            write_json(self._receipt_path(name), receipt)
        return True

    def receipt(self, name: str) -> dict[str, Any] | None:
        """Returns a stage's receipt, or None if the stage has not run to its end."""
        return read_receipt(self.directory, name)

    def forget(self, name: str) -> None:
        """Removes a stage's receipt: the stage has not run."""
        self._receipt_path(name).unlink(missing_ok=True)

    def outputs(self, name: str) -> dict[str, str]:
        """sha256 of each output of a finished stage, by its path in the run: inputs of later stages.

        Raises:
            InputError: the stage has not run.
        """
        receipt = self.receipt(name)
        if receipt is None:
            raise InputError(
                f"{self.directory}: {name} has not run: `stillhouse {name} {self.directory}` runs it"
            )
        return {relative: output["sha256"] for relative, output in receipt["outputs"].items()}

    # ------------------------------------------------------------------ processes

    def reap(self) -> list[str]:
        """Ends every process with this run's marks, except this process and its ancestors.

        Sends SIGTERM, waits up to five seconds, then sends SIGKILL. Returns a line for each: its name and pid.
        """
        own = psutil.Process()
        spared = {own.pid, *(parent.pid for parent in own.parents())}
        left = [p for p in psutil.process_iter() if p.pid not in spared and self._is_marked(p)]
        lines = []
        for process in left:
            with contextlib.suppress(psutil.Error):
                lines.append(f"{process.name()} (pid {process.pid})")
                process.terminate()
        _, alive = psutil.wait_procs(left, timeout=SECONDS_TO_END)
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(alive, timeout=SECONDS_TO_END)
        return lines

    def _is_marked(self, process: psutil.Process) -> bool:
        # A process of another user, or one that has just ended, cannot be read and is not this run's.
        with contextlib.suppress(psutil.Error, OSError):
            if process.uids().real != os.getuid():
                return False
            if process.environ().get(MARK) == str(self.directory):
                return True
            children = str(self.directory / ".children")
            return any(file.path == children for file in process.open_files())
        return False

    # ------------------------------------------------------------------ files

    def _remove_partial_files(self) -> None:
        """Removes what killed writers left (schemas/files.py:whole), but for images, which are many and small."""
        for pattern in (".*.partial", "[!i]*/.*.partial"):
            for path in self.directory.glob(pattern):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def _lock(self) -> None:
        """Locks RUN/.lock until this process ends.

        It uses lockf, because a lock of lockf belongs to this process alone. Forked workers would inherit a lock of
        flock, so an orphan of a killed run would keep the run locked.
        """
        file = (self.directory / ".lock").open("a+", encoding="ascii")
        try:
            if os.environ.get(MARK) == str(self.directory):
                raise BlockingIOError  # lockf ignores a lock of the same process
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            holder = f"pid {pid}" if (pid := file.read().strip()) else "another process"
            file.close()
            raise InputError(f"{self.directory}: is in use by {holder}") from None
        except OSError as error:
            if not lacks_locks(error):
                file.close()
                raise InputError(
                    f"{self.directory}: cannot be locked: {error.strerror or error}"
                ) from None
            self.has_lock = False
        file.truncate(0)
        file.write(f"{os.getpid()} of {platform.node()}")
        file.flush()
        self._files.append(file)

    def _record(self, recipe: Recipe) -> None:
        path = self.directory / "run.json"
        before = read_json(path) if path.is_file() else {}
        if before and before["domain"]["name"] != self.domain["name"]:
            raise InputError(
                f"{path}: domain: found '{before['domain']['name']}', expected"
                f" '{self.domain['name']}': give each domain a directory of its own with --run"
            )
        record = {
            "version": 1,
            "created": before.get("created", now()),
            "domain": self.domain,
            "recipe": recipe.model_dump(mode="json"),
            "versions": {"python": platform.python_version(), **_versions()},
        }
        write_json(path, record)

    def _receipt_path(self, name: str) -> Path:
        assert name in STAGES, name
        return self.directory / "stages" / f"{name}.json"

    def _relative(self, path: Path) -> Path:
        return path.resolve().relative_to(self.directory)


def read_receipt(directory: Path, stage: str) -> dict[str, Any] | None:
    """Returns the receipt of a stage of a run, or None if the stage has not run to its end."""
    path = directory / "stages" / f"{stage}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None  # a power cut can leave an unreadable receipt: the stage runs again


def _check_place(directory: Path) -> None:
    """Raises InputError for the URL of a store of objects, which cannot append to a journal, rename or lock."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(directory)):
        raise InputError(
            f"{directory}: found a URL, expected a directory: a run appends to files and renames them, which object"
            " stores cannot do; NFS or another shared file system can (docs/scale.md, Where a run lies)"
        )


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        others = any(not entry.name.startswith(".") for entry in directory.iterdir())
    except OSError as error:
        raise InputError(
            f"{directory}: cannot be used as a run's directory: {error.strerror}"
        ) from None
    if others and not (directory / "run.json").is_file():
        raise InputError(
            f"{directory}: found files but no run.json, expected a run or a new directory"
        )


def _loadable(pack: Path) -> str:
    """Returns the argument of teacher.domain.load: a name for the project's own packs, so that a run can be moved."""
    return pack.name if pack.parent == PACKS else str(pack)


def _files_of(output: Path) -> list[Path]:
    if output.is_dir():
        return sorted(path for path in output.rglob("*") if path.is_file())
    return [output]


def _describe(file: Path, digest: str) -> dict[str, Any]:
    stat = file.stat()
    return {"sha256": digest, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _versions() -> dict[str, str]:
    versions = {}
    for name in _VERSIONS_OF:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def now() -> str:
    """Returns the time in the form of receipts and manifests: UTC, ISO 8601, whole seconds."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
