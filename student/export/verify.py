"""The export gate on any model: does a GGUF render, tokenise, end turns and call tools as its Hugging Face original?

    stillhouse verify model-Q4_K_M.gguf --against ./model

The checks are those of a student's export (student/export/gate.py). They need the original's config, tokenizer and chat
template, not its weights. Without conversations of one's own they are made on a few that are written down here.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from schemas.error_text import brief, one_line
from schemas.errors import InputError
from schemas.files import sha256
from schemas.trace_file import Row, judge_rows
from student.export import gate
from student.models import introspect
from student.rendering.chat_template import chat_template
from student.rendering.examples import Renderer, Unrenderable, as_served
from student.training.vision import SeeingRenderer, must_be_known
from teacher.scenes.images import Album

# Tokens that a conversation may have where the original allows more.
_CONTEXT = 8192


def _tool(name: str, says: str, **properties: dict[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    function = {"name": name, "description": says, "parameters": parameters}
    return {"type": "function", "function": function}


def _call(name: str, arguments: dict[str, Any], number: int = 0) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": f"call{number:05}", "type": "function", "function": function}


_SYSTEM = {"role": "system", "content": "You are a helpful clerk. Look things up with the tools."}
# Few values each, so that also a model which was never trained to call comes to an end when it has to.
_CITY = {"type": "string", "enum": ["Zürich", "Oslo", 'Saint John\'s "\n"']}
_DAYS = {"type": "array", "items": {"type": "integer", "enum": [0, 1]}, "maxItems": 2}
_WEATHER = _tool(
    "get_weather", "Get the weather of a city, days from today.", city=_CITY, days=_DAYS
)
_TIME = _tool("get_time", "Get the time of a city.", city=_CITY)
# Talk, a call and its result, two calls at once with text that is easily escaped wrongly, two requests.
CONVERSATIONS: list[dict[str, Any]] = [
    {
        "id": "talk",
        "messages": [
            {"role": "user", "content": "What is the capital of France?"},
            {"role": "assistant", "content": "Paris."},
        ],
        "tools": [],
    },
    {
        "id": "a call",
        "messages": [
            _SYSTEM,
            {"role": "user", "content": "What is the weather in Zürich today and tomorrow?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [_call("get_weather", {"city": "Zürich", "days": [0, 1]})],
            },
            {"role": "tool", "tool_call_id": "call00000", "content": '{"sky": "<clear> & dry"}'},
            {"role": "assistant", "content": "Clear & dry on both days."},
        ],
        "tools": [_WEATHER, _TIME],
    },
    {
        "id": "two calls",
        "messages": [
            {
                "role": "user",
                "content": 'What time is it in Oslo and in "Saint John\'s"?\n\nThanks!',
            },
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    _call("get_time", {"city": "Oslo"}, 1),
                    _call("get_time", {"city": 'Saint John\'s "\\n"'}, 2),
                ],
            },
            {"role": "tool", "tool_call_id": "call00001", "content": "14:05"},
            {"role": "tool", "tool_call_id": "call00002", "content": "09:35"},
            {"role": "assistant", "content": "14:05 and 09:35."},
            {"role": "user", "content": "  And tomorrow? 🙂  "},
            {"role": "assistant", "content": "The same."},
        ],
        "tools": [_TIME],
    },
]


def verify(
    gguf: Path,
    directory: Path,
    projector: Path | None = None,
    conversations: Path | None = None,
) -> dict[str, Any]:
    """Runs the gate's checks on one GGUF file.

    Args:
        directory: the original: config, tokenizer, chat template.
        projector: the GGUF of the vision tower; then pictures are checked too.
        conversations: rows of {"id"?, "messages", "tools"}, as `stillhouse validate` reads, instead of CONVERSATIONS.

    Returns:
        {"gguf", "sha256", "against", "passed", "checks": [{"name", "passed", "detail"}]}; a check's passed is None
        where the model gave no occasion to tell, as one that calls no tools.

    Raises:
        InputError: a file or directory is not what it should be.
    """
    for path in (gguf, projector):
        if path is not None:
            _must_be_gguf(path)
    renderer, context = _original(directory, projector is not None)
    traces = _traces(conversations, renderer)
    with TemporaryDirectory() as logs:
        found = gate.gate(
            gguf,
            traces,
            renderer,
            context,
            Path(logs) / "log",
            projector,
            trained=False,
        )
    return {
        "gguf": str(gguf),
        "sha256": sha256(gguf),
        "against": str(directory),
        "passed": all(check["passed"] is not False for check in found),
        "checks": found,
    }


def _must_be_gguf(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected a GGUF")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise InputError(f"{path}: not a GGUF file: it does not begin with GGUF")


def _original(directory: Path, sees: bool) -> tuple[Renderer, int]:
    """How the original renders and tokenises, and the tokens to give a conversation."""
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory, expected one in Hugging Face's form")
    config, tokenizer = introspect.read(str(directory), directory)
    template = chat_template({"template": None}, directory)
    stop = introspect.stop_tokens(directory, tokenizer)
    if not stop:
        raise InputError(f"{directory}: no end-of-turn token in its tokenizer or generation config")
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    context = min(_CONTEXT, longest or _CONTEXT)
    if not sees:
        return Renderer(tokenizer, template, stop), context
    must_be_known(directory, config, "with --mmproj")
    return SeeingRenderer(tokenizer, template, stop, Album(directory), directory), context


def _traces(conversations: Path | None, renderer: Renderer) -> list[dict[str, Any]]:
    """The conversations as a server with the original's template could have led them."""
    if conversations is None:
        rows = {str(row["id"]): row for row in CONVERSATIONS}
    else:
        rows = {}
        for row in judge_rows(conversations):
            where = f"{conversations}: line {row.number}"
            if problem := _problem(row):
                raise InputError(f"{where}: {problem}")
            rows[where] = {"id": f"line {row.number}", **row.value}
    traces = []
    for where, conversation in rows.items():
        try:
            traces.append(_served(conversation, renderer))
        except Unrenderable as error:
            raise InputError(
                f"{where}: messages, tools: expected what the original's template shows: {one_line(str(error))}"
            ) from error
    if not traces:
        raise InputError(f"{conversations}: no rows, expected conversations")
    return traces


def _problem(row: Row) -> str | None:
    """Why nothing can be checked with a row: it cannot be read, or lacks what is asked or what is answered."""
    verdict = row.verdict
    if verdict["reason"] in ("malformed_trace", "invalid_json_arguments"):
        at = verdict["message_index"]
        return verdict["detail"] if at is None else f"messages[{at}]: {verdict['detail']}"
    messages = row.value["messages"]
    if messages[-1]["role"] != "assistant":
        return "messages: expected an assistant's turn last"
    if messages[0]["role"] == "assistant":
        return "messages[0]: found an assistant's turn, expected what it answers"
    for index, message in enumerate(messages):
        if isinstance(content := message.get("content"), list):
            for place, part in enumerate(content):
                if part["type"] != "text":
                    found = f"found {brief(part['type'])}, expected text"
                    return f"messages[{index}].content[{place}]: {found}"
    return None


def _served(row: dict[str, Any], renderer: Renderer) -> dict[str, Any]:
    """Raises Unrenderable where the template cannot show a prompt of it, or all of it."""
    trace = {key: row[key] for key in ("id", "messages")} | {"tools": row.get("tools") or []}
    trace = as_served({**trace, "outcome": {"tool_errors": []}}, renderer)
    for index, message in enumerate(trace["messages"]):
        if message["role"] == "assistant":
            renderer.text(trace["messages"][:index], trace["tools"], add_generation_prompt=True)
    renderer.text(trace["messages"], trace["tools"])
    return trace
