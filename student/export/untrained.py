"""The untrained student as GGUF files in the user's cache: the baseline of the held-out exam."""

from pathlib import Path
from typing import Any

from schemas.cache import cache_directory, make_once
from schemas.files import sha256_text
from student.export.gguf import convert, quantize
from student.models.base import VERSION, prepare
from teacher.inference.llamacpp import Progress
from teacher.models import catalog


def gguf(student: dict[str, Any], variant: str, report: Progress = print) -> Path:
    """Returns the untrained student as a GGUF of a variant, which it makes once in the user's cache."""
    directory = prepare(student, report)
    path = _cached(student, variant)
    with make_once(path) as missing:
        if not missing:
            return path
        report(f"converting the untrained student to {variant} (once)")
        full = path.with_name(f"{path.stem}-full.gguf")
        convert(directory, full, report)
        quantize(full, path, variant)
        full.unlink()
    return path


def projector(student: dict[str, Any], report: Progress = print) -> Path:
    """Returns the vision tower of an untrained vision-language student as a GGUF in the user's cache."""
    directory = prepare(student, report)
    path = _cached(student, "mmproj")
    with make_once(path) as missing:
        if missing:
            convert(directory, path, report, projector=True)
    return path


def _cached(student: dict[str, Any], variant: str) -> Path:
    digest = sha256_text(f"{VERSION} {catalog.revision(student)}{_state(student)}")[:16]
    return cache_directory() / "students" / f"{student['name']}-{digest}-{variant}.gguf"


def _state(student: dict[str, Any]) -> str:
    """Returns a text that changes with the files of a local student's directory; empty for other students."""
    path = Path(student["source"].get("path", "")).expanduser()
    if "path" not in student["source"] or not path.is_dir():
        return ""
    files = sorted(file for file in path.iterdir() if file.is_file())
    return str([(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files])
