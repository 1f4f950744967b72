"""Gets one message of the assistant: a request, its retry, and further requests for more calls of the same message."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Literal

from schemas.canonical import arguments_text
from schemas.trace import Message
from teacher.dialects.base import (
    AdaptedRequest,
    Detection,
    Dialect,
    ParsedReply,
    calls_of,
    json_text,
    plain_text,
)
from teacher.inference.replies import Reply

Complete = Callable[..., Awaitable[Reply]]
Action = Literal["repaired", "retried", "rejected"]


async def complete_message(
    requests: Sequence[AdaptedRequest],
    offered: list[str],
    attempt: int,
    complete: Complete,
    dialect: Dialect,
) -> tuple[list[Reply], ParsedReply | None, list[tuple[str, Action]]]:
    """Gets the reply to the first request, with the calls of the replies to the others added to it.

    A reply without a call ends it: the message has the calls so far.

    Returns:
        All replies; the message, parsed, or None if the first request got none; and (name, action) of each failure.
    """
    replies, parsed, actions = await _complete(requests[0], offered, attempt, complete, dialect)
    for request in requests[1:]:
        if parsed is None or parsed.failure or not calls_of(parsed.message):
            break
        further, more, found = await _complete(request, offered, attempt, complete, dialect)
        replies += further
        actions += found
        if more is None or more.failure:
            return replies, more, actions
        calls = [*calls_of(parsed.message), *calls_of(more.message)]
        parsed = replace(parsed, message={**parsed.message, "tool_calls": calls})
        if not calls_of(more.message):
            break
    return replies, parsed, actions


def kept_message(message: Message, step: int) -> Message:
    """Returns the part of a reply that a conversation keeps, with new ids: a model's may be anything.

    Arguments get their canonical form. The journal keeps the reply as it came.
    """
    result: Message = {"role": "assistant", "content": plain_text(message.get("content"))}
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if reasoning:
        result["reasoning_content"] = reasoning
    if calls := calls_of(message):
        result["tool_calls"] = [
            {
                "id": f"call_{step}_{number}",
                "type": "function",
                "function": {
                    "name": call["function"].get("name") or "",
                    "arguments": arguments_text(json_text(call["function"].get("arguments"))),
                },
            }
            for number, call in enumerate(calls)
        ]
    return result


async def _complete(
    adapted: AdaptedRequest,
    offered: list[str],
    attempt: int,
    complete: Complete,
    dialect: Dialect,
) -> tuple[list[Reply], ParsedReply | None, list[tuple[str, Action]]]:
    """Gets the reply of one turn; retries once, with the dialect's other parameters, if the reply is unusable.

    Returns:
        The replies, one or two; the last one with a message, parsed, or None; and (name, action) of each failure.
    """
    messages, tools, parameters = adapted
    first = await complete(messages, tools, attempt, **parameters)
    if first.message is None:
        return [first], None, []
    parsed = dialect.parse_reply(first.message, first.finish_reason, offered)
    failure = parsed.failure
    retry_parameters = dialect.retry_parameters(failure, parameters) if failure else None
    if failure is None or retry_parameters is None:
        return [first], parsed, _actions(parsed.detected)
    second = await complete(messages, tools, attempt, **retry_parameters)
    # If the retry brings no message, the episode ends on the first reply.
    if second.message is not None:
        parsed = dialect.parse_reply(second.message, second.finish_reason, offered)
    return [first, second], parsed, [(failure.name, "retried"), *_actions(parsed.detected)]


def _actions(detected: list[Detection]) -> list[tuple[str, Action]]:
    return [(each.name, "rejected" if each.remedy else "repaired") for each in detected]
