"""The project's directory in the user's cache, and a lock so that one process fills an entry while others wait."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from schemas.errors import StageError
from schemas.files import lacks_locks


def cache_directory() -> Path:
    """The project's directory in the user's cache: $XDG_CACHE_HOME/stillhouse, by default ~/.cache/stillhouse."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stillhouse"


@contextlib.contextmanager
def make_once(path: Path) -> Iterator[bool]:
    """Yields whether the block has to make `path`: False if the file exists, or if another process has just made it.

        with make_once(path) as missing:
            if missing:
                ...

    One process at a time holds the lock; the others wait here until its block ends. A file that exists counts as made,
    so the block writes it under another name and renames it. Where the file system has no locks, several may make it,
    and the last one stays.

    Raises:
        StageError: the cache cannot be written.
    """
    lock = path.with_name(f".{path.name}.lock")
    while not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = lock.open("w")
        except OSError as error:
            raise StageError(f"{path}: cannot be written: {error.strerror or error}") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                if not lacks_locks(error):
                    raise
            # A process that held the lock removes its file. A lock on a removed file is worth nothing: try again.
            if os.fstat(file.fileno()).st_nlink:
                try:
                    yield not path.exists()
                finally:
                    lock.unlink(missing_ok=True)
                return
    yield False
