"""What the formats share: the fields of a conversation, and the one form of each of its messages.

A conversation is a `Trace` (schemas/trace.py) or the part of one that a format carries: at least `messages`, `tools`
and `images`, and where the format has a place for them `id`, `children` and the other fields.
"""

from collections.abc import Sequence
from typing import Any, Final

from schemas.documents import document_problem
from schemas.json_text import is_no_arguments
from schemas.trace import Message

Conversation = dict[str, Any]
# The fields that every format has a place of its own for, or none at all.
CARRIED: Final = frozenset({"id", "tools", "messages", "images", "children"})
# The fields of a message that ATIF and STS have fields for.
KNOWN: Final = frozenset({"role", "content", "reasoning_content", "tool_calls", "tool_call_id"})
# Where a format allows other fields, the rest of a trace is written under this name.
OWN: Final = "stillhouse"


class NotCarried(ValueError):
    """A format has no place for something in a conversation."""


class NotRead(ValueError):
    """A document is not of its format, or has what a chat cannot express."""


def check_format(document: Any, schema_name: str) -> None:
    """Raises NotRead, naming the field, where a document is not valid by `<schema_name>.schema.json`."""
    try:
        violation = document_problem(document, schema_name)
    except RecursionError:
        raise NotRead("nested too deeply") from None
    if violation is not None:
        raise NotRead(violation.text)


def rest_of(conversation: Conversation) -> dict[str, Any]:
    """The fields of a trace that are not the conversation itself: task, teacher, outcome, verdict and others."""
    return {key: value for key, value in conversation.items() if key not in CARRIED}


def own_fields(extra: Any) -> dict[str, Any]:
    """The inverse of `rest_of` for a document's `extra`, which may be anything where others wrote it."""
    own = extra.get(OWN) if isinstance(extra, dict) else None
    return {k: v for k, v in own.items() if k not in CARRIED} if isinstance(own, dict) else {}


def settled(message: Message) -> Message:
    """A message in one form: no fields that are null, no empty lists of calls, "" where there is no content.

    Absent, null and "" mean the same for the content of an assistant and for the arguments of a call (docs/formats.md).
    """
    result = {key: value for key, value in message.items() if value is not None}
    result.setdefault("content", "")
    if not result.get("reasoning_content"):
        result.pop("reasoning_content", None)
    calls = result.pop("tool_calls", None)
    if calls:
        result["tool_calls"] = [_settled_call(call) for call in calls]
    return result


def _settled_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = function.get("arguments")
    text = "{}" if is_no_arguments(arguments) else arguments
    return {**call, "type": "function", "function": {"name": function["name"], "arguments": text}}


def settled_messages(messages: Sequence[Message]) -> list[Message]:
    """The messages of a conversation, each in its one form."""
    return [settled(message) for message in messages]


def numbered(messages: Sequence[Message]) -> list[Message]:
    """Messages whose calls have the ids of our traces, `call_STEP_NUMBER`, for formats without ids.

    Raises:
        NotCarried: a result belongs to no call of the turn before it.
    """
    result: list[Message] = []
    step, names = 0, {}
    for message in messages:
        if message["role"] == "assistant":
            step += 1
            calls = message.get("tool_calls", [])
            names = {call["id"]: f"call_{step}_{number}" for number, call in enumerate(calls)}
            if len(names) < len(calls):
                raise NotCarried("two calls of a turn with one id")
            if calls:
                new = [{**call, "id": names[call["id"]]} for call in calls]
                message = {**message, "tool_calls": new}
        elif message["role"] == "tool":
            if message.get("tool_call_id") not in names:
                raise NotCarried("a result without its call in the turn before")
            message = {**message, "tool_call_id": names[message["tool_call_id"]]}
        result.append(message)
    return result


def plain_content(content: Any) -> str:
    """The text of a content that is a text. Raises NotCarried for a list of parts."""
    if isinstance(content, str):
        return content
    raise NotCarried("content in parts")
