"""A model that plays a script of turns, and the episode of a task with it: for tests of the agent loop."""

import asyncio
import json
from typing import Any

from schemas.documents import check_document
from schemas.task import Task
from schemas.trace import Maker, Trace, Usage
from teacher.domain import Domain
from teacher.inference.replies import Reply
from teacher.rollout import agent_loop
from teacher.rollout.agent_loop import Settings

MAKER: Maker = {"model": "m", "revision": "r", "engine": "llama.cpp", "licence": "Apache-2.0"}
LOOP = Settings(max_steps=6, max_tokens=80, temperature=0.2, top_p=0.95)
USAGE: Usage = {"prompt_tokens": 9, "completion_tokens": 3}
Turn = dict[str, Any] | str | None


def calls(*pairs: tuple[str, Any], **more: Any) -> dict[str, Any]:
    """A turn that calls tools; arguments that are text are sent as they are."""
    made = [
        {
            "id": "whatever",
            "type": "function",
            "function": {"name": n, "arguments": a if isinstance(a, str) else json.dumps(a)},
        }
        for n, a in pairs
    ]
    return {"role": "assistant", "content": "", "tool_calls": made, **more}


def solution(task: Task) -> list[Turn]:
    return [*(calls((s["tool"], s["arguments"])) for s in task["plan"]), task["reply"]]


class Model:
    """Plays its turns in order and keeps what it was shown. A text is an answer, None a failure."""

    def __init__(self, turns: list[Turn], finish_reason: str | None = None) -> None:
        self.turns, self.finish_reason = list(turns), finish_reason
        self.shown: list[list[dict[str, Any]]] = []
        self.tools: list[list[dict[str, Any]]] = []
        self.samples: list[int] = []
        self.parameters: list[dict[str, Any]] = []

    async def complete(
        self, messages: list[dict], tools: list[dict], sample: int, **parameters: Any
    ) -> Reply:
        self.shown.append(list(messages))
        self.tools.append(tools)
        self.samples.append(sample)
        self.parameters.append(parameters)
        turn = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
        message = {"role": "assistant", "content": turn} if isinstance(turn, str) else turn
        reason = "tool_calls" if message and message.get("tool_calls") else "stop"
        if message is None:
            return Reply("0" * 64, None, "error", 0.1, USAGE, "the context is exceeded")
        return Reply("0" * 64, message, self.finish_reason or reason, 0.1, USAGE)


def play(
    stock: Domain, task: Task, model: Model | list[Turn], loop: Settings = LOOP, **more: Any
) -> Trace:
    """The trace of an episode, checked against its schema and written as JSON could hold it."""
    model = model if isinstance(model, Model) else Model(model)
    trace = asyncio.run(agent_loop.run(task, stock, model.complete, loop, MAKER, **more))
    check_document(trace, "trace", "trace")
    json.dumps(trace, allow_nan=False).encode()
    for index in trace["outcome"]["tool_errors"]:
        assert trace["messages"][index]["role"] == "tool"
        assert set(json.loads(trace["messages"][index]["content"])) - {"part"} == {"error"}
    return trace


def roles(trace: Trace) -> list[str]:
    return [message["role"] for message in trace["messages"]]


def outcome(trace: Trace) -> tuple[str, bool | None, bool]:
    ended, checks = trace["outcome"]["ended"], trace["outcome"]["checks"]
    return ended, checks["answer"], checks["state"]
