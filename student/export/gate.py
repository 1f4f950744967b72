"""The export gate: a GGUF file must behave as the student that was trained, or the export fails.

It serves the file with llama.cpp, as users do, and runs every check of student/export/checks.py, and for a
vision-language student that of image_check.py.
"""

import contextlib
import urllib.error
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import StageError
from student.export import checks, text_checks
from student.export.checks import Check, Conversation
from student.export.gguf import convert
from student.export.image_check import check_image_round_trip
from student.export.llama_server import overridden_tokens, refusal
from student.export.logits import Reference, check_logits, reference, samples
from student.export.weights import check_weights
from student.models import gguf_file
from student.models.gguf_file import GgufFile
from student.rendering.renderer import Renderer
from student.rendering.vision import VisionRenderer
from teacher.inference.llama_server import serve
from teacher.inference.llama_speed import reply_seconds

ServerChecks = dict[str, Callable[[], Check]]


@dataclass(frozen=True)
class Original:
    """The weights that a file was made of.

    Attributes:
        reference: what they predict at some positions.
        file: the 16-bit GGUF that llama.cpp's converter makes of them. projector: that of their vision tower.
    """

    reference: Reference
    file: GgufFile
    projector: GgufFile | None = None

    def file_checks(self, file: GgufFile, projector: Path | None) -> list[Check]:
        """Compares the tensors of a file and of its projector."""
        results = [check_weights(file, self.file)]
        if projector and self.projector:
            own = gguf_file.read(projector)
            results.append(check_weights(own, self.projector, "projector_weights"))
        return results


def read_original(
    directory: Path,
    scratch: Path,
    traces: Sequence[Conversation],
    renderer: Renderer,
    projector: Path | None,
) -> Original:
    """Converts a directory's weights to 16-bit GGUFs in `scratch` and computes their reference on the conversations.

    projector: the vision tower is converted only if there is one to compare.

    Raises:
        StageError: llama.cpp's converter does not know the model.
    """
    full, tower = scratch / "full.gguf", scratch / "tower.gguf"
    if not full.is_file():
        convert(directory, full)
    if projector:
        convert(directory, tower, projector=True)
    return Original(
        reference(directory, samples(traces, renderer)),
        gguf_file.read(full),
        gguf_file.read(tower) if projector else None,
    )


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
    original: Original | None = None,
) -> list[Check]:
    """Runs every check on one GGUF file and returns the results in a fixed order.

    Args:
        traces: kept traces, as `student.rendering.served.as_served` returns them; the checks use their conversations.
        renderer: the student's tokenizer with the template of the training.
        context: tokens of one conversation on the server.
        log: the file for the server's output.
        reply_tokens: most tokens of a reply.
        projector: the GGUF of the vision tower of a vision-language student.
        trained: whether the model was trained on such traces. If not, one turn that ends is enough, and a model that
            calls no tool leaves that check undecided.
        original: the weights that the file was made of; without them they are not compared.
    """
    file = gguf_file.read(gguf)
    results = _file_checks(file, renderer)
    if original:
        results += original.file_checks(file, projector)
    start = _size(log)
    with contextlib.ExitStack() as stack:
        try:
            endpoint = stack.enter_context(
                serve(gguf, log, slots=1, context=context, projector=projector)
            )
        except StageError:
            if all(check["passed"] is not False for check in results):
                raise
            return results  # what is wrong with the file says why llama.cpp does not load it
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
        if original:
            server_checks["logits"] = lambda: check_logits(
                endpoint, original.reference, file.value("general.file_type")
            )
        if isinstance(renderer, VisionRenderer):
            with_vision = renderer
            server_checks["image_round_trip"] = lambda: check_image_round_trip(
                endpoint, traces, with_vision
            )
        results += _run(server_checks, has_failed=any(c["passed"] is False for c in results))
    return results


def check_conversion(gguf: Path, original: Original, *, context: int, log: Path) -> list[Check]:
    """Checks that llama.cpp predicts with the 16-bit GGUF what transformers predicts with the original weights."""
    file_type = gguf_file.read(gguf).value("general.file_type")
    with serve(gguf, log, slots=1, context=context) as endpoint:
        endpoint.reply_seconds = reply_seconds(endpoint, context, 1)
        return _run({"logits": lambda: check_logits(endpoint, original.reference, file_type)})


def run_early_gate(
    gguf: Path, traces: Sequence[Conversation], renderer: Renderer, *, context: int, log: Path
) -> tuple[list[Check], list[str]]:
    """Runs the checks that need no trained weights on a GGUF of random ones (student/export/random_gguf.py).

    Args: as of `run_gate`. No trace may have images.

    Returns:
        The results, and the words that llama.cpp takes for control tokens although the tokenizer does not.
    """
    results = _file_checks(gguf_file.read(gguf), renderer)
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


def _file_checks(file: GgufFile, renderer: Renderer) -> list[Check]:
    return [
        checks.check_template(file.value("tokenizer.chat_template"), renderer),
        checks.check_stop_token(file.value("tokenizer.ggml.eos_token_id"), renderer),
    ]


def _run(server_checks: ServerChecks, *, has_failed: bool = False) -> list[Check]:
    """Runs the checks in order. A request that the server refuses fails its check.

    has_failed: whether a check failed before. Then a server that is lost fails its check too, and ends them.

    Raises:
        StageError: the server was lost while no check had failed, so the file may be right.
    """
    results: list[Check] = []
    for name, check in server_checks.items():
        try:
            results.append(check())
        except urllib.error.HTTPError as error:
            results.append(checks.result(name, refusal(error)))
        except StageError as error:
            if not has_failed and all(done["passed"] is not False for done in results):
                raise
            return [*results, checks.result(name, str(error))]
    return results


def _size(log: Path) -> int:
    return log.stat().st_size if log.is_file() else 0
