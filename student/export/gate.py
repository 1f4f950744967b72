"""The export gate: a GGUF file must behave as the student that was trained, or the export fails.

It serves the file with llama.cpp, as users do, and runs every check of student/export/checks.py, and for a
vision-language student that of image_check.py.
"""

import urllib.error
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from student.export import checks, text_checks
from student.export.checks import Check, Conversation
from student.export.image_check import check_image_round_trip
from student.export.llama_server import overridden_tokens, refusal
from student.export.random_gguf import template_and_end
from student.rendering.examples import Renderer
from student.rendering.vision import VisionRenderer
from teacher.inference.llama_server import serve
from teacher.inference.llama_speed import reply_seconds

ServerChecks = dict[str, Callable[[], Check]]


def run_gate(
    gguf: Path,
    traces: Sequence[Conversation],
    renderer: Renderer,
    *,
    context: int,
    log: Path,
    reply_tokens: int = checks.LEAST_REPLY,
    projector: Path | None = None,
    trained: bool = True,
) -> list[Check]:
    """Runs every check on one GGUF file and returns the results in a fixed order.

    Args:
        traces: kept traces, as `student.rendering.examples.as_served` returns them; the checks use their conversations.
        renderer: the student's tokenizer with the template of the training.
        context: tokens of one conversation on the server.
        log: the file for the server's output.
        reply_tokens: most tokens of a reply.
        projector: the GGUF of the vision tower of a vision-language student.
        trained: whether the model was trained on such traces. If not, one turn that ends is enough, and a model that
            calls no tool leaves that check undecided.
    """
    template, end = read_metadata(gguf, "tokenizer.chat_template", "tokenizer.ggml.eos_token_id")
    results = _file_checks((template, end), renderer)
    start = _size(log)
    with serve(gguf, log, slots=1, context=context, projector=projector) as endpoint:
        endpoint.reply_seconds = reply_seconds(endpoint, context, reply_tokens)
        server_checks: ServerChecks = {
            "rendering": lambda: checks.check_rendering(endpoint, traces, renderer),
            "token_ids": lambda: checks.check_token_ids(
                endpoint, traces, renderer, overridden_tokens(log, start)
            ),
            "prompt_tokens": lambda: text_checks.check_prompt_tokens(endpoint, traces, renderer),
            "ends_turns": lambda: checks.check_ends_turns(
                endpoint, traces, renderer, reply_tokens=reply_tokens, trained=trained
            ),
            "tool_round_trip": lambda: checks.check_tool_round_trip(
                endpoint, traces, renderer, reply_tokens=reply_tokens, trained=trained
            ),
        }
        if isinstance(renderer, VisionRenderer):
            with_vision = renderer
            server_checks["image_round_trip"] = lambda: check_image_round_trip(
                endpoint, traces, with_vision
            )
        results += _run(server_checks)
    return results


def run_early_gate(
    gguf: Path, traces: Sequence[Conversation], renderer: Renderer, *, context: int, log: Path
) -> tuple[list[Check], list[str]]:
    """Runs the checks that need no trained weights on a GGUF of random ones (student/export/random_gguf.py).

    Args: as of `run_gate`. No trace may have images.

    Returns:
        The results, and the words that llama.cpp takes for control tokens although the tokenizer does not.
    """
    results = _file_checks(template_and_end(gguf), renderer)
    start = _size(log)
    with serve(gguf, log, slots=1, context=context) as endpoint:
        overridden = overridden_tokens(log, start)
        results += _run(
            {
                "rendering": lambda: checks.check_rendering(endpoint, traces, renderer),
                "token_ids": lambda: checks.check_token_ids(endpoint, traces, renderer, overridden),
                "prompt_tokens": lambda: text_checks.check_prompt_tokens(
                    endpoint, traces, renderer
                ),
                "stops": lambda: text_checks.check_stops(endpoint, renderer),
                "parsing": lambda: text_checks.check_parsing(endpoint, traces, renderer),
            }
        )
    return results, overridden


def _file_checks(metadata: tuple[str | None, int | None], renderer: Renderer) -> list[Check]:
    template, end = metadata
    return [checks.check_template(template, renderer), checks.check_stop_token(end, renderer)]


def _run(server_checks: ServerChecks) -> list[Check]:
    """Runs the checks in order. A request that the server refuses fails its check."""
    results = []
    for name, check in server_checks.items():
        try:
            results.append(check())
        except urllib.error.HTTPError as error:
            results.append(checks.result(name, refusal(error)))
    return results


def _size(log: Path) -> int:
    return log.stat().st_size if log.is_file() else 0


def read_metadata(gguf: Path, *keys: str) -> list[Any]:
    """Returns metadata values of a GGUF file, None for a missing key.

    Reading a file takes seconds, so pass all keys at once.
    """
    from gguf import GGUFReader

    reader = GGUFReader(gguf)
    fields = [reader.get_field(key) for key in keys]
    return [None if field is None else field.contents() for field in fields]
