"""A trace as a server with the student's chat template could have led it.

Where the template allows one call per turn, parallel calls become turns of one call, each followed by its result. Where
it writes arguments between tags, required ones go before optional ones.
"""

import json
from functools import partial
from typing import Any

from schemas.canonical import canonical
from schemas.json_text import parse_arguments
from schemas.trace import Message, Tool, Trace
from student.rendering import bare_values
from student.rendering.errors import Unrenderable
from student.rendering.renderer import Renderer, arguments_as_text, with_arguments
from teacher.scenes.images import attach_images, message_images


def as_served(trace: Trace, renderer: Renderer) -> Trace:
    """The trace as a server with the student's template could have led it, with the arguments of calls canonical.

    Where a turn may have one call, a turn of n calls becomes n turns, each followed by its own result. The calls were
    made in this order and none depends on another's result, so the world's replies stay the same. Of calls at the very
    end that have no result, only the first is kept, because the server would stop there. Each image part is named.

    Raises:
        Unrenderable: the number of images in the messages differs from the number of names in `images`.
    """
    form = arguments_as_text
    if renderer.bare:
        offered = {tool["function"]["name"]: tool for tool in trace["tools"]}
        form = partial(_required_first, offered)
    messages = [
        with_arguments(message, form) if message.get("tool_calls") else message
        for message in trace["messages"]
    ]
    images, image_count = trace.get("images") or [], _count_images(messages)
    if len(images) != image_count:
        raise Unrenderable(f"{image_count} images in the messages, {len(images)} named in `images`")
    if images:
        messages = attach_images(messages, images)
    if messages != trace["messages"]:
        trace = trace.copy()
        trace["messages"] = messages
    if not renderer.one_call_per_turn or all(len(m.get("tool_calls") or []) < 2 for m in messages):
        return trace
    served = trace.copy()
    served["messages"], tool_errors, trained = _one_call_per_turn(trace)
    if "trained" in trace:
        served["trained"] = trained
    served["outcome"] = trace["outcome"].copy()
    served["outcome"]["tool_errors"] = tool_errors
    if images:
        served["images"] = message_images(served["messages"])
    return served


def _one_call_per_turn(trace: Trace) -> tuple[list[Message], list[int], list[int]]:
    """The messages with each call in a turn of its own, and the new indexes of tool errors and trained turns."""
    messages = trace["messages"]
    served: list[Message] = []
    tool_errors: list[int] = []
    trained: list[int] = []
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            continue  # placed after its call
        calls = message.get("tool_calls") or []
        results = _find_results(messages, index) if calls else {}
        unanswered = [call for call in calls if call["id"] not in results]
        turn = message
        for call in [call for call in calls if call["id"] in results] + unanswered[:1]:
            if index in trace.get("trained", []):
                trained.append(len(served))
            served.append({**turn, "tool_calls": [call]})
            turn = {"role": "assistant", "content": ""}  # the reasoning stays with the first call
            if call["id"] in results:
                at = results[call["id"]]
                if at in trace["outcome"]["tool_errors"]:
                    tool_errors.append(len(served))
                served.append(messages[at])
        if not calls:
            if index in trace.get("trained", []):
                trained.append(len(served))
            served.append(message)
    return served, tool_errors, trained


def _count_images(messages: list[Message]) -> int:
    contents = [message.get("content") for message in messages]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return sum(part["type"] == "image" for part in parts)


def _find_results(messages: list[Message], index: int) -> dict[str | None, int]:
    """The indexes of the results of the turn at `index`, by the ids of their calls."""
    results = {}
    for at in range(index + 1, len(messages)):
        if messages[at]["role"] == "assistant":
            break
        if messages[at]["role"] == "tool":
            results[messages[at].get("tool_call_id")] = at
    return results


def _required_first(offered: dict[str, Tool], function: dict[str, Any]) -> str:
    tool = offered.get(function["name"])
    try:
        arguments = canonical(parse_arguments(function.get("arguments")))
    except (ValueError, RecursionError):
        arguments = None
    if tool is None or not isinstance(arguments, dict):
        return arguments_as_text(function)
    return json.dumps(bare_values.in_order(tool, arguments), ensure_ascii=False)
