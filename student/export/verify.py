"""Verifies any GGUF against its Hugging Face original: has it the same weights and behaviour?

    stillhouse verify model-Q4_K_M.gguf --against ./model

The checks are those of a student's export (student/export/gate.py). They need the original's config, tokenizer and
chat template. Its weights, if they are there, are converted to a temporary 16-bit GGUF and compared too. By default the
checks use the conversations of student/export/conversations.py.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypedDict, cast

from schemas.error_text import brief, one_line
from schemas.errors import InputError
from schemas.files import sha256
from schemas.trace_file import Row, judge_rows
from student.export.checks import LEAST_REPLY, Check, Conversation
from student.export.conversations import CONVERSATIONS
from student.export.gate import read_original, run_gate
from student.models import files, gguf_file, introspect
from student.models.chat_template import original_template
from student.rendering.errors import Unrenderable
from student.rendering.renderer import Renderer
from student.rendering.served import as_served
from student.rendering.vision import VisionRenderer, check_family
from teacher.scenes.images import ImageStore

# Tokens of a conversation, or more where one is longer.
_CONTEXT = 8192


class Verification(TypedDict):
    """The result of `verify`. passed: whether no check failed; an undecided one (passed is None) does not count."""

    gguf: str
    sha256: str
    against: str
    passed: bool
    checks: list[Check]


def verify(
    gguf: Path,
    directory: Path,
    *,
    projector: Path | None = None,
    conversations: Path | None = None,
) -> Verification:
    """Runs the gate's checks on one GGUF file.

    Args:
        directory: the original: config, tokenizer, chat template.
        projector: the GGUF of the vision tower; with it, images are checked too.
        conversations: rows of {"id"?, "messages", "tools"}, as `stillhouse validate` reads; default CONVERSATIONS.

    Raises:
        InputError: a file or directory is missing or of another kind, or a conversation cannot be rendered.
    """
    for path in (gguf, projector):
        if path is not None:
            gguf_file.read(path)
    renderer, longest = _original(directory, with_images=projector is not None)
    traces = _read_conversations(conversations, renderer)
    context = _context(traces, renderer, longest, conversations)
    with TemporaryDirectory() as scratch:
        has_weights = bool(files.weights(directory))
        original = None
        if has_weights:
            original = read_original(directory, Path(scratch), traces, renderer, projector)
        checks = run_gate(
            gguf,
            traces,
            renderer,
            context=context,
            log=Path(scratch, "log"),
            projector=projector,
            trained=False,
            original=original,
        )
    if not has_weights:
        detail = f"undecided: {directory} has no weights in safetensors"
        checks.append({"name": "weights", "passed": None, "detail": detail})
    return {
        "gguf": str(gguf),
        "sha256": sha256(gguf),
        "against": str(directory),
        "passed": all(check["passed"] is not False for check in checks),
        "checks": checks,
    }


def _original(directory: Path, *, with_images: bool) -> tuple[Renderer, int]:
    """Returns a renderer with the original's tokenizer and template, and the most tokens that its model reads."""
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory, expected one in Hugging Face's form")
    config, tokenizer = introspect.read(str(directory), directory)
    template = original_template(directory)
    stop = introspect.stop_tokens(directory, tokenizer)
    if not stop:
        raise InputError(
            f"{directory}: found no end-of-turn token, expected eos_token in tokenizer_config.json"
            " or eos_token_id in generation_config.json"
        )
    longest = getattr(config.get_text_config(), "max_position_embeddings", None) or _CONTEXT
    if not with_images:
        return Renderer(tokenizer, template, stop), longest
    check_family(directory, config, "with --mmproj")
    return VisionRenderer(tokenizer, template, stop, ImageStore(directory), directory), longest


def _context(
    traces: list[Conversation], renderer: Renderer, longest: int, file: Path | None
) -> int:
    """Returns the tokens of a conversation on the server.

    Raises:
        InputError: a conversation of the file is longer than the original's model reads.
    """
    most = 0
    for trace in traces:
        tokens = len(renderer.ids(renderer.text(trace["messages"], trace["tools"])))
        if tokens > longest:
            raise InputError(
                f"{file or trace['id']}: {trace['id']}: messages: found {tokens:,} tokens, expected at most {longest:,}"
                " (max_position_embeddings of the original)"
            )
        most = max(most, tokens)
    return min(longest, max(_CONTEXT, most + LEAST_REPLY))


def _read_conversations(file: Path | None, renderer: Renderer) -> list[Conversation]:
    """Returns the file's conversations, or CONVERSATIONS, as a server with the original's template could lead them."""
    rows: dict[str, Conversation] = {}  # by the place that messages name
    if file is None:
        rows = {row["id"]: row for row in CONVERSATIONS}
    else:
        for row in judge_rows(file):
            place = f"{file}: line {row.number}"
            if problem := _row_problem(row):
                raise InputError(f"{place}: {problem}")
            rows[place] = cast(Conversation, {"id": f"line {row.number}", **row.value})
    conversations = []
    for place, conversation in rows.items():
        try:
            conversations.append(_as_served(conversation, renderer))
        except Unrenderable as error:
            raise InputError(
                f"{place}: messages, tools: expected what the original's template renders: {one_line(str(error))}"
            ) from error
    if not conversations:
        raise InputError(f"{file}: found no rows, expected conversations")
    return conversations


def _row_problem(row: Row) -> str | None:
    """Returns why no check can use a row: it cannot be read, or has no request, no answer or an image."""
    verdict = row.verdict
    if verdict["reason"] in ("malformed_trace", "invalid_json_arguments"):
        at = verdict["message_index"]
        return verdict["detail"] if at is None else f"messages[{at}]: {verdict['detail']}"
    messages = row.value["messages"]
    if messages[-1]["role"] != "assistant":
        return "messages: expected an assistant's turn last"
    if messages[0]["role"] == "assistant":
        return "messages[0]: found an assistant's turn, expected the message that it answers"
    for index, message in enumerate(messages):
        if isinstance(content := message.get("content"), list):
            for place, part in enumerate(content):
                if part["type"] != "text":
                    return f"messages[{index}].content[{place}]: found {brief(part['type'])}, expected text"
    return None


def _as_served(row: Conversation, renderer: Renderer) -> Conversation:
    """Returns the conversation as the server would lead it.

    Raises:
        Unrenderable: the template cannot render the conversation or one of its prompts.
    """
    trace = {
        "id": row["id"],
        "messages": row["messages"],
        "tools": row.get("tools") or [],
        "outcome": {"tool_errors": []},
    }
    served = cast(Conversation, as_served(cast(Any, trace), renderer))
    for index, message in enumerate(served["messages"]):
        if message["role"] == "assistant":
            renderer.text(served["messages"][:index], served["tools"], add_generation_prompt=True)
    renderer.text(served["messages"], served["tools"])
    return served
