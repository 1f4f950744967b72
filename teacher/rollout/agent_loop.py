"""The agent loop: a model, a task's tools and its world in; one trace out.

The teacher, the base student and the exported GGUF all run through `run`. A model's output is hostile: the arguments
of a call are validated before the tool sees them, and a tool touches only the world of its own episode.
"""

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from schemas.errors import InputError
from schemas.json_text import parse_json
from schemas.task import Task
from schemas.tool_calls import check_arguments
from schemas.trace import Grounding
from teacher.dialects.base import (
    AdaptedRequest,
    Detection,
    Dialect,
    Message,
    ParsedReply,
    calls_of,
    json_text,
    plain_text,
)
from teacher.domain.pack import Domain
from teacher.domain.prompts import hint, request_content, result_content
from teacher.domain.scoring import answer_matches, state_hash
from teacher.inference.client import Reply
from teacher.scenes.images import ImageLimitError, ImageStore, detach_images, request_messages
from teacher.scenes.scene import SceneError

Complete = Callable[..., Awaitable[Reply]]

# A model that makes the same call so often in a row gets no further; its remaining steps would be paid for nothing.
_REPEATS = 3


@dataclass(frozen=True)
class Settings:
    """How episodes are run.

    max_steps: turns an episode may have. max_tokens: tokens a reply may have.
    constrain: for teachers too weak to call unaided. The server decodes calls under the tools' schemas, and must
        decode one until the world was asked at least once (under a hint: as often as the plan asks it, and
        none after that).
    call_prefix: what a reply that must be a call begins with, for a server whose `required` lets the model talk first
        (llama.cpp's does); it is sent as the beginning of the assistant's message.
    mode: one of the teacher's modes, such as thinking. dialect: what is peculiar to the teacher (teacher/dialects/base.py).
    images: what the model is shown of a picture: its pixels, what it shows in words (source), or nothing (none).
    album: where the pictures of the tasks lie, and those that tools return are put. image_limits: {"max_count": of one
        request, "max_bytes": of one picture}, as the model's server takes them.
    """

    max_steps: int
    max_tokens: int
    temperature: float
    top_p: float
    constrain: bool = False
    call_prefix: str = ""
    mode: str | None = None
    dialect: Dialect = Dialect()
    images: Grounding = "source"
    album: ImageStore | None = None
    image_limits: dict[str, int] | None = None


async def run(
    task: Task,
    domain: Domain,
    complete: Complete,
    settings: Settings,
    teacher: dict[str, Any],
    attempt: int = 0,
    hinted: bool = False,
    examples: list[list[dict[str, Any]]] | None = None,
) -> dict[str, Any]:
    """Runs one attempt at a task.

    Args:
        complete: `Client.complete`, or anything that answers like it.
        teacher: {"model", "revision", "engine", "licence"} of the trace.
        attempt: index of the attempt; part of what the journal remembers a reply by.
        hinted: show the task's plan in a system message, which the stored trace does not have.
        examples: worked examples (`teacher.domain.prompts.demonstration`) shown before the request, not stored either.

    Returns:
        A trace (schemas/trace.schema.json) with its outcome and no verdict yet.
    """
    world = domain.environment()
    world.reset(**task)
    tools = [domain.tools[name] for name in task["tools"]]
    system = {"role": "system", "content": task["system"]}
    messages: list[dict[str, Any]] = [system, {"role": "user", "content": request_content(task)}]
    # What the model is shown: what is stored, with the worked examples before it and the hints in between.
    shown = [system, *(message for example in examples or [] for message in example), messages[1]]
    if hinted and not settings.constrain:
        shown.append({"role": "system", "content": hint(task)})
    parameters: dict[str, Any] = {
        "max_tokens": settings.max_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
    }
    requests: list[dict[str, Any]] = []
    tool_errors: list[int] = []
    detected: list[dict[str, Any]] = []
    steps, ended, error = 0, "step_limit", None

    while steps < settings.max_steps:
        steps += 1
        if settings.constrain:
            called = sum(message["role"] == "tool" for message in messages)
            if hinted:
                shown.append({"role": "system", "content": hint(task, called)})
            wanted = len(task["plan"]) if hinted else min(1, len(task["plan"]))
            after = "none" if hinted else "auto"
            parameters["tool_choice"] = "required" if called < wanted else after
        begun = []
        parameters.pop("extra_body", None)
        if settings.call_prefix and parameters.get("tool_choice") == "required":
            begun = [{"role": "assistant", "content": settings.call_prefix}]
        if settings.call_prefix and parameters.get("tool_choice") == "none":
            # llama.cpp parses no call here, but lets the model write one: its first character is ruled out.
            parameters["extra_body"] = {"logit_bias": [[settings.call_prefix[0], False]]}
        try:
            asked = request_messages(
                shown + begun, settings.images, settings.album, settings.image_limits
            )
        except ImageLimitError as too_many:
            ended, error = "teacher_error", str(too_many)
            break
        sent = settings.dialect.adapt_request(asked, tools, parameters, settings.mode)
        replies, reading, found = await _ask(
            sent, task["tools"], attempt, complete, settings.dialect
        )
        requests += [
            {
                "key": reply.key,
                "finish_reason": reply.finish_reason,
                "seconds": reply.seconds,
                "usage": reply.usage,
            }
            for reply in replies
        ]
        detected += [{"step": steps, "name": name, "action": action} for name, action in found]
        if reading is None:
            ended, error = "teacher_error", replies[-1].error
            break
        message = _assistant(reading.message, steps)
        messages.append(message)
        shown.append(message)
        if failure := reading.failure:
            ended, error = "unusable_reply", f"{failure.name}: {failure.detail}"
            if replies[-1].error:
                error += f"; the second try: {replies[-1].error}"
            break
        if replies[-1].finish_reason == "length":
            ended = "truncated"
            break
        if not message.get("tool_calls"):
            ended = "answered"
            break
        said_before = [
            m.get("tool_calls") and _wording(m) for m in messages if m["role"] == "assistant"
        ]
        if said_before[-_REPEATS:].count(said_before[-1]) == _REPEATS:
            messages.pop()
            ended, error = "step_limit", f"the same call {_REPEATS} times in a row"
            break
        for call in message["tool_calls"]:
            result, failed = _execute(
                call["function"], domain, world, task["tools"], settings.album
            )
            if failed:
                tool_errors.append(len(messages))
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
            shown.append(messages[-1])

    answer = task["checks"]["answer"]
    last = messages[-1]
    said = (last.get("content") or "") if ended == "answered" else ""
    checks = {
        # A task that is judged by the world alone still has to tell its user that it is done.
        "answer": bool(said.strip()) if answer is None else answer_matches(answer, said),
        "state": state_hash(world._state()) == task["checks"]["state"],
    }
    kept, images = detach_images(messages)
    return {
        "version": 1,
        "id": f"{task['id']}/{attempt}",
        "task": {k: task[k] for k in ("id", "domain", "split", "kind", "template", "seed")},
        "teacher": teacher,
        "tools": tools,
        "messages": kept,
        "images": images,
        "grounding": settings.images if images else None,
        "calls": requests,
        "hinted": hinted,
        "outcome": {
            "steps": steps,
            "ended": ended,
            "error": error,
            "checks": checks,
            "tool_errors": tool_errors,
            "detected": detected,
        },
        "verdict": None,
        "children": [],
    }


def passed(trace: dict[str, Any]) -> bool:
    """Whether the episode ended by itself and all its checks passed."""
    return trace["outcome"]["ended"] == "answered" and all(trace["outcome"]["checks"].values())


def count_detected(traces: Iterable[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """How often each known failure was found and what became of it: {name: {action: count}}, sub-agents' included."""
    counts: dict[str, Counter[str]] = {}
    for trace in traces:
        for found in trace["outcome"].get("detected", []):
            counts.setdefault(found["name"], Counter())[found["action"]] += 1
        for name, actions in count_detected(trace.get("children", [])).items():
            counts.setdefault(name, Counter()).update(actions)
    return {name: dict(sorted(actions.items())) for name, actions in sorted(counts.items())}


async def _ask(
    sent: AdaptedRequest, offered: list[str], attempt: int, complete: Complete, dialect: Dialect
) -> tuple[list[Reply], ParsedReply | None, list[tuple[str, str]]]:
    """One turn of the model, asked for a second time in another way where the first reply cannot be used.

    Returns:
        The replies, one or two; the last that has a message, as it is read; and (name, action) of what was found.
    """
    messages, tools, parameters = sent
    first = await complete(messages, tools, attempt, **parameters)
    if first.message is None:
        return [first], None, []
    reading = dialect.parse_reply(first.message, first.finish_reason, offered)
    failure = reading.failure
    other = dialect.retry_parameters(failure, parameters) if failure else None
    if failure is None or other is None:
        return [first], reading, _actions(reading.detected)
    second = await complete(messages, tools, attempt, **other)
    # Without a message from the second try, the first reply is what the episode ends on.
    if second.message is not None:
        reading = dialect.parse_reply(second.message, second.finish_reason, offered)
    return [first, second], reading, [(failure.name, "retried"), *_actions(reading.detected)]


def _actions(detected: list[Detection]) -> list[tuple[str, str]]:
    return [(found.name, "rejected" if found.remedy else "repaired") for found in detected]


def _wording(message: dict[str, Any]) -> list[tuple[str, str]]:
    """The calls of a turn without their ids."""
    return [
        (call["function"]["name"], call["function"]["arguments"]) for call in message["tool_calls"]
    ]


def _execute(
    function: dict[str, Any],
    domain: Domain,
    world: Any,
    offered: list[str],
    album: ImageStore | None,
) -> tuple[str | list[dict[str, Any]], bool]:
    """Validates and runs one call. Returns the tool message's content and whether it is an error."""
    name = function["name"]
    if name not in offered:
        return _error(f"there is no tool {name!r}; the tools are {', '.join(offered)}"), True
    try:
        arguments = parse_json(function["arguments"])
    except ValueError as error:
        return _error(f"the arguments are not JSON: {error}"), True
    problem = check_arguments(domain.tools[name], arguments)
    if problem:
        return _error(problem), True
    try:
        result = getattr(world, name)(**arguments)
    except ValueError as error:
        return _error(str(error)), True
    try:
        return result_content(result, album), False
    except SceneError as error:
        place = f"{domain.path / 'environment.py'}: {name}({function['arguments']})"
        raise InputError(f"{place}: its picture cannot be drawn: {error}") from None


def _error(message: str) -> str:
    return json.dumps({"error": message[:500]}, ensure_ascii=False)


def _assistant(message: Message, step: int) -> Message:
    """The part of a reply that a conversation keeps; ids are ours, since a model's may be anything."""
    kept: Message = {"role": "assistant", "content": plain_text(message.get("content"))}
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if reasoning:
        kept["reasoning_content"] = reasoning
    if calls := calls_of(message):
        kept["tool_calls"] = [
            {
                "id": f"call_{step}_{number}",
                "type": "function",
                "function": {
                    "name": call["function"].get("name") or "",
                    "arguments": json_text(call["function"].get("arguments")),
                },
            }
            for number, call in enumerate(calls)
        ]
    return kept
