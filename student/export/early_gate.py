"""The checks of a student before anything is paid for: its template and tokenizer in llama.cpp, with random weights.

What a student cannot be trained or served with is found here in seconds: a value that llama.cpp renders otherwise, a
call that its parser does not read back, a stop token that it does not stop at. Results are kept in the user's cache by
tokenizer, template, conversations and the version of llama.cpp.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, cast

from schemas.cache import cache_directory, make_once
from schemas.errors import StageError
from schemas.files import dumps, read_json, sha256, sha256_text, write_json
from student.export.checks import Check, Conversation, result
from student.export.gate import run_early_gate
from student.export.llama_server import template_problem
from student.export.random_gguf import TOKENIZER_FILES, random_gguf
from student.rendering.renderer import Renderer
from teacher.inference import llamacpp

# To be raised with each change of the checks or of the file, so that older results are not used.
_VERSION = 1
_CONTEXT = 32768


class EarlyResult(TypedDict):
    """checks: in a fixed order. overridden: words that llama.cpp takes for control tokens against the tokenizer."""

    checks: list[Check]
    overridden: list[str]


def check_early(
    directory: Path,
    renderer: Renderer,
    conversations: Sequence[Conversation],
    log: Path,
    report: llamacpp.Progress = print,
) -> EarlyResult:
    """Runs the checks, or returns their earlier result if all passed.

    Args:
        directory: of the student, with its tokenizer; it needs no weights.
        conversations: as `student.rendering.served.as_served` returns them, without images.
        log: the file for the server's output.

    Raises:
        StageError: llama.cpp cannot be built, or its converter does not know the tokenizer.
    """
    key = _key(directory, renderer)
    texts = sha256_text(dumps([conversations, renderer.stop]))[:16]
    stored = _home() / f"{key}-{texts}.json"
    if stored.is_file():
        return cast(EarlyResult, read_json(stored))
    gguf = random_student(directory, renderer, report)
    start = log.stat().st_size if log.is_file() else 0
    try:
        checks, overridden = run_early_gate(
            gguf, conversations, renderer, context=_CONTEXT, log=log
        )
    except StageError:
        problem = template_problem(log, start)
        if problem is None:
            raise
        checks, overridden = [result("template", f"llama.cpp cannot use it: {problem}")], []
    results: EarlyResult = {"checks": checks, "overridden": overridden}
    if all(check["passed"] for check in checks):
        write_json(stored, results)
        write_json(_home() / f"{key}.json", results)
    return results


def random_student(directory: Path, renderer: Renderer, report: llamacpp.Progress = print) -> Path:
    """Returns the GGUF with the student's tokenizer and template and random weights, kept in the user's cache."""
    gguf = _home() / f"{_key(directory, renderer)}.gguf"
    with make_once(gguf) as missing:
        if missing:
            random_gguf(directory, renderer.template, gguf, report)
    return gguf


def overridden_tokens(directory: Path, renderer: Renderer) -> list[str]:
    """Returns the words that llama.cpp takes for control tokens, as `check_early` found; none if it did not run."""
    stored = _home() / f"{_key(directory, renderer)}.json"
    return cast(EarlyResult, read_json(stored))["overridden"] if stored.is_file() else []


def _home() -> Path:
    return cache_directory() / "student-checks"


def _key(directory: Path, renderer: Renderer) -> str:
    files = sorted({file for pattern in TOKENIZER_FILES for file in directory.glob(pattern)})
    digests = [(file.name, sha256(file)) for file in files if file.is_file()]
    return sha256_text(dumps([_VERSION, llamacpp.VERSION, renderer.template, digests]))[:16]
