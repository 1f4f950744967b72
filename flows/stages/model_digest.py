"""Computes the digest of a teacher or a student: of its description, its template and its local files."""

from pathlib import Path
from typing import Any

from schemas.files import dumps, sha256, sha256_text
from teacher.models import catalog

# Larger files are weights. Their size and modification time are compared instead: to hash 60 GB takes minutes.
_HASHED_BYTES = 64 * 2**20


def model_digest(model: dict[str, Any]) -> str:
    """sha256 over a model's description, the text of the template that it names, and the files of a local path.

    The description itself pins weights of a package (sha256) or of the hub (revision, where it names one).
    """
    template = catalog.template(model)
    path = model["source"].get("path")
    return sha256_text(
        dumps(
            {
                "description": model,
                "template": sha256(template) if template else None,
                "files": _state(Path(path).expanduser()) if path else None,
            }
        )
    )


def _state(path: Path) -> list[list[Any]]:
    """Returns [name, sha256] of each small file and [name, bytes, modification time in ns] of each large one.

    Hidden files are left out. A missing path has no files: a teacher behind an API needs no weights on this machine.
    """
    if path.is_file():
        return [_file_state(path, path.name)]
    files = sorted((file.relative_to(path).as_posix(), file) for file in path.rglob("*"))
    return [
        _file_state(file, name)
        for name, file in files
        if file.is_file() and not any(part.startswith(".") for part in Path(name).parts)
    ]


def _file_state(file: Path, name: str) -> list[Any]:
    stat = file.stat()
    if stat.st_size <= _HASHED_BYTES:
        return [name, sha256(file)]
    return [name, stat.st_size, stat.st_mtime_ns]
