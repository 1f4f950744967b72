"""The agent loop: a model, a task's tools and its world in; one trace out.

The teacher, the base student and the exported GGUF all run through `run`. A model's output is hostile: the arguments
of a call are validated before the tool sees them, and a tool touches only the world of its own episode.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from schemas.filter import HINT_HEADER
from schemas.validation import check_arguments
from teacher.checks import answer_matches, state_hash
from teacher.client import Reply
from teacher.domain import Domain

Complete = Callable[..., Awaitable[Reply]]

FINISH = "finish"
# What a constrained string may hold at most: a small model may otherwise never close its quotes.
import os as _os
_LONGEST_ARGUMENT, _LONGEST_ANSWER = int(_os.environ.get("LA","64")), int(_os.environ.get("LF","200"))


@dataclass(frozen=True)
class Settings:
    """How episodes are run.

    max_steps: requests an episode may send. max_tokens: tokens a reply may have.
    constrain: for teachers too weak to write a call unaided. Each reply is decoded under a JSON Schema: one of the
        task's calls, or `finish` with the answer. The stored trace shows the same turns as ordinary calls and text.
    """

    max_steps: int
    max_tokens: int
    temperature: float
    top_p: float
    constrain: bool = False


async def run(
    task: dict[str, Any],
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
        examples: worked examples (`teacher.tasks.demonstration`) shown before the request, not stored either.

    Returns:
        A trace (schemas/trace.schema.json) with its outcome and no verdict yet.
    """
    world = domain.environment()
    world.reset(**task)
    tools = [domain.tools[name] for name in task["tools"]]
    system = {"role": "system", "content": task["system"]}
    messages: list[dict[str, Any]] = [system, {"role": "user", "content": task["request"]}]
    before = [system, *(message for example in examples or [] for message in example), messages[1]]
    if hinted:
        before.append({"role": "system", "content": hint(task)})
    parameters: dict[str, Any] = {
        "max_tokens": settings.max_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
    }
    if settings.constrain:
        # The tools are declared by the model's own template; the schema, not its parser, decides the form.
        parameters["tool_choice"] = "none"
        parameters["response_format"] = _decision_format(tools)
    requests: list[dict[str, Any]] = []
    tool_errors: list[int] = []
    ended, error = "step_limit", None

    for _ in range(settings.max_steps):
        shown = before + messages[2:]
        if settings.constrain:
            shown = [_as_decision(message) for message in shown]
        reply = await complete(shown, tools, attempt, **parameters)
        requests.append(
            {"key": reply.key, "finish_reason": reply.finish_reason, "seconds": reply.seconds, "usage": reply.usage}
        )
        if reply.message is None:
            ended, error = "teacher_error", reply.error
            break
        raw = _from_decision(reply.message) if settings.constrain else reply.message
        message = _assistant(raw, len(requests))
        messages.append(message)
        if reply.finish_reason == "length":
            ended = "truncated"
            break
        if not message.get("tool_calls"):
            ended = "answered"
            break
        for call in message["tool_calls"]:
            result, failed = _execute(call["function"], domain, world, task["tools"])
            if failed:
                tool_errors.append(len(messages))
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})

    answer = task["checks"]["answer"]
    last = messages[-1]
    said = (last.get("content") or "") if ended == "answered" else ""
    checks = {
        # A task that is judged by the world alone still has to tell its user that it is done.
        "answer": bool(said.strip()) if answer is None else answer_matches(answer, said),
        "state": state_hash(world._state()) == task["checks"]["state"],
    }
    return {
        "version": 1,
        "id": f"{task['id']}/{attempt}",
        "task": {k: task[k] for k in ("id", "domain", "split", "kind", "template", "seed")},
        "teacher": teacher,
        "tools": tools,
        "messages": messages,
        "images": [],
        "calls": requests,
        "hinted": hinted,
        "outcome": {
            "steps": len(requests),
            "ended": ended,
            "error": error,
            "checks": checks,
            "tool_errors": tool_errors,
        },
        "verdict": None,
        "children": [],
    }


def passed(trace: dict[str, Any]) -> bool:
    """Whether the episode ended by itself and all its checks passed."""
    return trace["outcome"]["ended"] == "answered" and all(trace["outcome"]["checks"].values())


def hint(task: dict[str, Any]) -> str:
    """The plan of a task as a teacher is shown it."""
    steps = [f"{step['tool']} {json.dumps(step['arguments'], ensure_ascii=False)}" for step in task["plan"]]
    return "\n".join([HINT_HEADER, *(f"{i}. {step}" for i, step in enumerate(steps, 1))])


def text_of(result: Any) -> str:
    """A tool's result as the model reads it."""
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)


def _execute(function: dict[str, Any], domain: Domain, world: Any, offered: list[str]) -> tuple[str, bool]:
    """Validates and runs one call. Returns the tool message's content and whether it is an error."""
    name = function["name"]
    if name not in offered:
        return _error(f"there is no tool {name!r}; the tools are {', '.join(offered)}"), True
    try:
        arguments = json.loads(function["arguments"])
    except (json.JSONDecodeError, RecursionError):
        return _error("the arguments are not JSON"), True
    problem = check_arguments(domain.tools[name], arguments)
    if problem:
        return _error(problem), True
    try:
        return text_of(getattr(world, name)(**arguments)), False
    except ValueError as error:
        return _error(str(error)), True


def _error(message: str) -> str:
    return json.dumps({"error": message[:500]}, ensure_ascii=False)


def _assistant(message: dict[str, Any], step: int) -> dict[str, Any]:
    """The part of a reply that a conversation keeps; ids are ours, since a model's may be anything."""
    kept: dict[str, Any] = {"role": "assistant", "content": message.get("content") or ""}
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if reasoning:
        kept["reasoning_content"] = reasoning
    calls = [call for call in message.get("tool_calls") or [] if call.get("type", "function") == "function"]
    if calls:
        kept["tool_calls"] = [
            {
                "id": f"call_{step}_{number}",
                "type": "function",
                "function": {"name": call["function"]["name"], "arguments": call["function"]["arguments"] or "{}"},
            }
            for number, call in enumerate(calls)
        ]
    return kept


def _decision_format(tools: list[dict[str, Any]]) -> dict[str, Any]:
    """The response format of a constrained reply: {"name", "arguments"} of one of the tools or of `finish`."""
    answer = {"type": "string", "maxLength": _LONGEST_ANSWER}
    finish = {"type": "object", "properties": {"answer": answer}, "required": ["answer"]}
    forms = {tool["function"]["name"]: _bounded(tool["function"]["parameters"]) for tool in tools}
    schema = {
        "anyOf": [
            {
                "type": "object",
                "properties": {"name": {"const": name}, "arguments": {**arguments, "additionalProperties": False}},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for name, arguments in {**forms, FINISH: finish}.items()
        ]
    }
    return {"type": "json_schema", "json_schema": {"name": "decision", "schema": schema, "strict": True}}


def _bounded(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters for decoding: open strings get a length. The full schema still judges the call."""
    properties = {
        name: {**schema, "maxLength": _LONGEST_ARGUMENT}
        if schema.get("type") == "string" and not {"enum", "maxLength"} & set(schema)
        else schema
        for name, schema in parameters["properties"].items()
    }
    return {**parameters, "properties": properties}


def _as_decision(message: dict[str, Any]) -> dict[str, Any]:
    """A message of the conversation as a constrained model wrote it: an assistant's turn is its decision."""
    if message["role"] != "assistant":
        return message
    if message.get("tool_calls"):
        function = message["tool_calls"][0]["function"]
        decision = {"name": function["name"], "arguments": json.loads(function["arguments"])}
    else:
        decision = {"name": FINISH, "arguments": {"answer": message["content"]}}
    return {"role": "assistant", "content": json.dumps(decision, ensure_ascii=False)}


def _from_decision(message: dict[str, Any]) -> dict[str, Any]:
    """The turn that a decision stands for. What is no decision (cut short) is left as it came."""
    try:
        decision = json.loads(message.get("content") or "")
        name, arguments = decision["name"], decision["arguments"]
        if name == FINISH:
            return {"content": str(arguments["answer"])}
    except (json.JSONDecodeError, KeyError, TypeError):
        return message
    function = {"name": str(name), "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"content": "", "tool_calls": [{"type": "function", "function": function}]}
