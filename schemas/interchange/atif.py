"""ATIF, the Agent Trajectory Interchange Format of Harbor: one JSON document for each trace.

Specification: https://github.com/harbor-framework/harbor/blob/main/rfcs/0001-trajectory-format.md, v1.7, the first with
`subagent_trajectories`. `atif.schema.json` has what is required of it. A step is a system message, a user's message, or
one turn of the assistant with the results of its calls. What ATIF has no field for is in `extra.stillhouse`, so the
whole trace comes back.
"""

import json
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from schemas.interchange.conversation import (
    KNOWN,
    OWN,
    Conversation,
    NotCarried,
    NotRead,
    check_format,
    own_fields,
    rest_of,
    settled,
)
from schemas.json_text import parse_json
from schemas.trace import Message

VERSION = "ATIF-v1.7"
_IMAGES = "images/"


def write(conversation: Conversation) -> dict[str, Any]:
    """The ATIF document of a trace; of one with images, the files are `images/<sha256>.png` beside it.

    Raises:
        NotCarried: a result belongs to no call of the turn before it, or sub-agents have no ids of their own.
    """
    names = iter(conversation["images"])
    steps: list[dict[str, Any]] = []
    for message in map(settled, conversation["messages"]):
        content = _write_content(message["content"], names)
        if message["role"] == "tool":
            _add_result(steps, message, content)
        else:
            steps.append(_write_step(len(steps) + 1, message, content))
    _add_metrics(steps, conversation)
    children = [write(child) for child in conversation.get("children", [])]
    _add_references(steps, conversation.get("children", []))
    ids = [child["trajectory_id"] for child in children]
    if None in ids or len(set(ids)) < len(ids):
        raise NotCarried("sub-agents without an id, or two with one")
    return {
        "schema_version": VERSION,
        "session_id": conversation.get("id"),
        "trajectory_id": conversation.get("id"),
        "agent": {
            "name": "stillhouse",
            "version": version("stillhouse"),
            "model_name": conversation.get("teacher", {}).get("model"),
            "tool_definitions": conversation["tools"],
        },
        "steps": steps,
        **_final_metrics(conversation.get("calls", [])),
        **({"subagent_trajectories": children} if children else {}),
        "extra": {OWN: rest_of(conversation)},
    }


def read(document: Any) -> Conversation:
    """The conversation of an ATIF document: of one of ours the whole trace.

    Raises:
        NotRead: it is not ATIF, or it has an observation that belongs to no call.
    """
    check_format(document, "atif")
    images: list[str] = []
    messages = [m for step in document["steps"] for m in _read_step(step, images)]
    children = [read(child) for child in document.get("subagent_trajectories") or []]
    name = document.get("trajectory_id") or document.get("session_id")
    return {
        **({"id": name} if name else {}),
        "tools": document["agent"].get("tool_definitions") or [],
        "messages": messages,
        "images": images,
        **own_fields(document.get("extra")),
        "children": children,
    }


# ------------------------------------------------------------------------------------------ writing


def _write_content(content: Any, names: Iterator[str]) -> Any:
    if isinstance(content, str):
        return content
    return [
        {
            "type": "image",
            "source": {"media_type": "image/png", "path": f"{_IMAGES}{next(names)}.png"},
        }
        if part["type"] == "image"
        else {"type": "text", "text": part["text"]}
        for part in content
    ]


def _write_step(number: int, message: Message, content: Any) -> dict[str, Any]:
    source = {"assistant": "agent", "user": "user"}.get(message["role"], "system")
    step: dict[str, Any] = {"step_id": number, "source": source, "message": content}
    if source == "agent":
        if "reasoning_content" in message:
            step["reasoning_content"] = message["reasoning_content"]
        if "tool_calls" in message:
            step["tool_calls"] = [_write_call(call) for call in message["tool_calls"]]
    other = {key: value for key, value in message.items() if key not in KNOWN}
    if message["role"] == "developer":
        other["role"] = "developer"
    return {**step, "extra": {OWN: other}} if other else step


def _write_call(call: dict[str, Any]) -> dict[str, Any]:
    """A call as ATIF has it, with its arguments as an object; a text that this would change is kept beside them."""
    text = call["function"]["arguments"]
    try:
        value = parse_json(text)
        is_same = json.dumps(value, ensure_ascii=False) == text
    except (ValueError, RecursionError):
        value, is_same = None, False
    is_object = isinstance(value, dict)
    row = {
        "tool_call_id": call["id"],
        "function_name": call["function"]["name"],
        "arguments": value if is_object else {},
    }
    return row if is_same and is_object else {**row, "extra": {OWN: {"arguments": text}}}


def _add_result(steps: list[dict[str, Any]], message: Message, content: Any) -> None:
    """Adds a tool's result to the step of its call."""
    called = [call["tool_call_id"] for call in steps[-1].get("tool_calls", [])] if steps else []
    name = message.get("tool_call_id")
    if name not in called:
        raise NotCarried("a result without its call in the turn before")
    if len(set(called)) < len(called):
        raise NotCarried("two calls of a turn with one id")
    other = {key: value for key, value in message.items() if key not in KNOWN}
    result = {"source_call_id": name, "content": content}
    results = steps[-1].setdefault("observation", {"results": []})["results"]
    results.append({**result, "extra": {OWN: other}} if other else result)


def _add_references(steps: list[dict[str, Any]], children: list[Conversation]) -> None:
    """Adds to the result of the call that assigned a sub-agent's task a reference to the sub-agent's trajectory."""
    by_call = {child.get("agent", {}).get("call_id"): child.get("id") for child in children}
    for step in steps:
        for result in step.get("observation", {}).get("results", []):
            if name := by_call.get(result["source_call_id"]):
                result["subagent_trajectory_ref"] = [{"trajectory_id": name}]


def _add_metrics(steps: list[dict[str, Any]], conversation: Conversation) -> None:
    """Adds the tokens of each turn, where each turn has one request; a retried turn has more than one."""
    turns = [step for step in steps if step["source"] == "agent"]
    calls = conversation.get("calls", [])
    if len(turns) == len(calls):
        for step, call in zip(turns, calls, strict=True):
            usage = call["usage"]
            fields = ("prompt_tokens", "completion_tokens", "cached_tokens")
            step["metrics"] = {name: usage[name] for name in fields if name in usage}


def _final_metrics(calls: list[Any]) -> dict[str, Any]:
    if not calls:
        return {}
    return {
        "final_metrics": {
            "total_prompt_tokens": sum(call["usage"]["prompt_tokens"] for call in calls),
            "total_completion_tokens": sum(call["usage"]["completion_tokens"] for call in calls),
            "total_cached_tokens": sum(call["usage"].get("cached_tokens", 0) for call in calls),
        }
    }


# ------------------------------------------------------------------------------------------ reading


def _read_step(step: dict[str, Any], images: list[str]) -> Iterator[Message]:
    """Yields the messages of a step: its own, and the results of its calls."""
    role = {"agent": "assistant", "user": "user", "system": "system"}[step["source"]]
    other = _own(step)
    if role == "system" and other.get("role") == "developer":
        role = "developer"
    message: Message = {**other, "role": role, "content": _read_content(step["message"], images)}
    if step.get("reasoning_content"):
        message["reasoning_content"] = step["reasoning_content"]
    if calls := step.get("tool_calls"):
        message["tool_calls"] = [_read_call(call) for call in calls]
    yield message
    called = {call["tool_call_id"] for call in calls or []}
    for result in (step.get("observation") or {}).get("results", []):
        name = result.get("source_call_id")
        if name not in called:
            raise NotRead(f"steps[{step['step_id'] - 1}].observation: a result without its call")
        content = _read_content(result.get("content") or "", images)
        yield {**_own(result), "role": "tool", "tool_call_id": name, "content": content}


def _read_call(call: dict[str, Any]) -> dict[str, Any]:
    text = _own(call).get("arguments")
    if not isinstance(text, str):
        text = json.dumps(call["arguments"], ensure_ascii=False)
    function = {"name": call["function_name"], "arguments": text}
    return {"id": call["tool_call_id"], "type": "function", "function": function}


def _read_content(content: Any, images: list[str]) -> Any:
    if isinstance(content, str):
        return content
    parts = []
    for part in content:
        if part["type"] == "text":
            parts.append({"type": "text", "text": part["text"]})
        elif part["type"] == "image":
            path = part["source"]["path"]
            is_ours = path.startswith(_IMAGES) and path.endswith(".png")
            images.append(path.removeprefix(_IMAGES).removesuffix(".png") if is_ours else path)
            parts.append({"type": "image"})
        else:
            raise NotRead(f"a message of a kind that a chat does not have: {part['type']}")
    return parts


def _own(row: dict[str, Any]) -> dict[str, Any]:
    own = (row.get("extra") or {}).get(OWN)
    return own if isinstance(own, dict) else {}
