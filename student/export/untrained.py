"""The untrained student in the user's cache, as GGUF files or as a directory for vLLM: the baseline of the exam."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from schemas.cache import cache_directory, make_once
from schemas.files import sha256_text, whole
from student.export.gguf import convert, quantize
from student.export.merge import copy_small_files, set_template, usual_names, write_index
from student.models.base import VERSION, prepare
from student.models.chat_template import chat_template
from teacher.inference.llamacpp import Progress
from teacher.models import catalog


def gguf(student: dict[str, Any], variant: str, report: Progress = print) -> Path:
    """Returns the untrained student as a GGUF of a variant, which it makes once in the user's cache."""
    directory = prepare(student, report)
    template = chat_template(student, directory)
    path = _cached(student, variant, template)
    with make_once(path) as missing:
        if not missing:
            return path
        report(f"converting the untrained student to {variant} (once)")
        full = path.with_name(f"{path.stem}-full.gguf")
        with _with_one_template(directory, template) as staged:
            convert(staged, full, report)
        quantize(full, path, variant)
        full.unlink()
    return path


def projector(student: dict[str, Any], report: Progress = print) -> Path:
    """Returns the vision tower of an untrained vision-language student as a GGUF in the user's cache."""
    directory = prepare(student, report)
    path = _cached(student, "mmproj")
    with make_once(path) as missing:
        if missing:
            with _with_one_template(directory, chat_template(student, directory)) as staged:
                convert(staged, path, report, projector=True)
    return path


def vllm_directory(student: dict[str, Any], report: Progress = print) -> Path:
    """Returns the untrained student as a directory for vLLM, with its one chat template, in the user's cache.

    Its weights are links to those that are there already.
    """
    directory = prepare(student, report)
    template = chat_template(student, directory)
    path = _cached(student, "vllm", template).with_suffix("")
    with make_once(path) as missing:
        if missing:
            with whole(path) as temporary:
                temporary.mkdir()
                _link(directory, template, temporary)
    return path


@contextmanager
def _with_one_template(directory: Path, template: str) -> Iterator[Path]:
    """Yields a directory of the student's files alone: small ones copied, weights linked, and one chat template."""
    with TemporaryDirectory() as scratch:
        staged = Path(scratch) / directory.name
        staged.mkdir()
        _link(directory, template, staged)
        yield staged


def _link(directory: Path, template: str, to: Path) -> None:
    copy_small_files(directory, to)
    set_template(to, template)
    for shard, name in usual_names(directory).items():
        (to / name).symlink_to(shard.resolve())
    write_index(directory, to)


def _cached(student: dict[str, Any], variant: str, template: str = "") -> Path:
    digest = sha256_text(f"{VERSION} {catalog.revision(student)}{_state(student)}{template}")[:16]
    return cache_directory() / "students" / f"{student['name']}-{digest}-{variant}.gguf"


def _state(student: dict[str, Any]) -> str:
    """Returns a text that changes with the files of a local student's directory; empty for other students."""
    path = Path(student["source"].get("path", "")).expanduser()
    if "path" not in student["source"] or not path.is_dir():
        return ""
    files = sorted(file for file in path.iterdir() if file.is_file())
    return str([(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files])
