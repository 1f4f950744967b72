"""A model's reply: as the server sends it, as the journal stores it, and as the rest of the program gets it."""

import json
from dataclasses import dataclass
from typing import Any

from schemas.trace import Message, Request, Usage
from teacher.inference.failures import Failure, UnusableAnswer, is_page, page_line
from teacher.inference.logprobs import pack


@dataclass(frozen=True)
class Reply:
    """One reply. `message` is an OpenAI assistant message, or None; then `error` has the cause and the reason.

    host, model: the API that replied and the model that its answer names; None for a server of this process, and for a
    reply that was stored before they were.
    """

    key: str
    message: Message | None
    finish_reason: str
    seconds: float
    usage: Usage
    error: str | None = None
    host: str | None = None
    model: str | None = None

    @classmethod
    def of_row(cls, key: str, row: dict[str, Any]) -> "Reply":
        """The reply that the journal stores under a key."""
        return cls(key=key, **{name: row[name] for name in _FIELDS if name in row})


_FIELDS = ("message", "finish_reason", "seconds", "usage", "error", "host", "model")


def parse(body: bytes, seconds: float) -> tuple[dict[str, Any], Any]:
    """The row of the journal for the body of an answer, and the model that the answer names.

    Raises:
        UnusableAnswer: the body is no answer with a message, whatever else it is.
    """
    text = body.decode(errors="replace")
    if is_page(text):
        raise UnusableAnswer("page", page_line(200, text))
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        if not text.strip():
            raise UnusableAnswer("no_message", "the reply is empty") from None
        raise UnusableAnswer("unreadable", f"the reply is not JSON: {error}") from None
    choice = _at(answer, "choices", 0)
    message = _at(choice, "message")
    if not isinstance(message, dict):
        raise UnusableAnswer("no_message", "the reply has no message")
    finish_reason = _at(choice, "finish_reason")
    if finish_reason == "abort":  # set by vLLM when it is stopped
        raise UnusableAnswer("aborted", "the server aborted the reply")
    message = {name: value for name, value in message.items() if value not in (None, [])}
    # A model's reply has one token at least.
    is_empty = not any(value for name, value in message.items() if name != "role")
    if is_empty and _at(answer, "usage", "completion_tokens") == 0:
        raise UnusableAnswer("no_message", "the reply has no tokens")
    row: dict[str, Any] = {
        "message": _valid_unicode(message),
        "finish_reason": _valid_unicode(finish_reason) if isinstance(finish_reason, str) else "",
        "seconds": round(seconds, 3),
        "usage": _usage(_at(answer, "usage")),
    }
    if logprobs := pack(_at(choice, "logprobs", "content")):
        row["logprobs"] = logprobs
    return row, _at(answer, "model")


def failed(failure: Failure, seconds: float) -> dict[str, Any]:
    """The row of the journal for a request that no retry can help."""
    return {
        "message": None,
        "finish_reason": "error",
        "seconds": round(seconds, 3),
        "usage": _usage(None),
        "error": str(failure),
    }


def _valid_unicode(value: Any) -> Any:
    """A JSON value in which a lone surrogate, which has no UTF-8, is a question mark."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))


def _usage(usage: Any) -> Usage:
    row: Usage = {
        "prompt_tokens": _count(usage, "prompt_tokens"),
        "completion_tokens": _count(usage, "completion_tokens"),
    }
    # OpenAI, vLLM and llama.cpp; Kimi's API; DeepSeek's.
    cached = (
        _count(_at(usage, "prompt_tokens_details"), "cached_tokens")
        or _count(usage, "cached_tokens")
        or _count(usage, "prompt_cache_hit_tokens")
    )
    if cached:
        row["cached_tokens"] = cached
    return row


def _count(value: Any, name: str) -> int:
    count = _at(value, name)
    # A server's answer is not trusted: a sum of larger numbers is no float.
    return count if isinstance(count, int) and 0 < count < 2**53 else 0


def _at(value: Any, *path: str | int) -> Any:
    """The value at a path of keys and indexes; None if there is none."""
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def request_row(reply: Reply) -> Request:
    """Returns a reply's request as the trace stores it."""
    row: Request = {
        "key": reply.key,
        "finish_reason": reply.finish_reason,
        "seconds": reply.seconds,
        "usage": reply.usage,
    }
    if reply.host:
        row["host"] = reply.host
    if reply.model:
        row["model"] = reply.model
    return row
