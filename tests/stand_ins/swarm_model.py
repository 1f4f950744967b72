"""A model that plays both roles of a swarm by a task's gold decomposition, and the episode of a task with it."""

import asyncio
import functools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from scripted_model import LOOP, MAKER, USAGE, calls

from schemas.documents import check_document
from schemas.task import Task
from schemas.trace import Trace
from teacher.domain import Domain
from teacher.domain.swarm import ASSIGN, Caps, calls_together, lead_task
from teacher.inference.replies import Reply
from teacher.rollout import swarm
from teacher.rollout.agent_loop import Settings

Turn = dict[str, Any] | str | None
# What an agent says next: of the number of its turn, from 0, and its prompt.
Script = Callable[[int, str], Turn]


def gold_lead(task: Task, step: int, prompt: str = "") -> Turn:
    """The orchestrator's turn `step`: creates, assigns all parts in one message, makes its own calls, answers."""
    lead, start = lead_task(task), 0
    for _ in range(step):
        start = calls_together(lead, start)
    steps = lead["plan"][start : calls_together(lead, start)]
    return calls(*((s["tool"], s["arguments"]) for s in steps)) if steps else task["reply"]


def gold_child(task: Task, step: int, prompt: str) -> Turn:
    """A sub-agent's turn: the calls of the part that its prompt is about, one a turn, and its reply."""
    part = next(part for part in task["swarm"]["parts"] if part["about"] in prompt)
    if step < len(part["plan"]):
        call = part["plan"][step]
        return calls((call["tool"], call["arguments"]))
    return part["reply"]


class Swarm:
    """Replies as the orchestrator's and the sub-agents' scripts say. sessions: those it was asked for, in order."""

    def __init__(self, lead: Script, child: Script) -> None:
        self.lead, self.child = lead, child
        self.sessions: list[str] = []
        self.flying = self.most = 0

    async def complete(
        self, messages: list[dict], tools: list[dict], sample: int, session: str = "", **_: Any
    ) -> Reply:
        self.sessions.append(session)
        self.flying += 1
        self.most = max(self.most, self.flying)
        await asyncio.sleep(0)
        self.flying -= 1
        is_lead = any(tool["function"]["name"] == ASSIGN for tool in tools)
        step = sum(message["role"] == "assistant" for message in messages)
        prompt = next(m["content"] for m in messages if m["role"] == "user")
        turn = (self.lead if is_lead else self.child)(step, prompt)
        if turn is None:
            return Reply("0" * 64, None, "error", 0.1, USAGE, "the context is exceeded")
        message = {"role": "assistant", "content": turn} if isinstance(turn, str) else turn
        reason = "tool_calls" if message.get("tool_calls") else "stop"
        return Reply("0" * 64, message, reason, 0.1, USAGE)


def gold(task: Task) -> Swarm:
    return Swarm(functools.partial(gold_lead, task), functools.partial(gold_child, task))


def play(
    domain: Domain,
    task: Task,
    model: Swarm | None = None,
    caps: Caps | None = None,
    loop: Settings = LOOP,
    running: int = 1000,
    hinted: bool = False,
) -> Trace:
    """The trace of a swarm, checked against its schema and written as JSON could hold it."""

    async def scene() -> Trace:
        return await swarm.play(
            task,
            domain,
            (model or gold(task)).complete,
            replace(loop, caps=caps or Caps()),
            MAKER,
            attempt=0,
            hinted=hinted,
            examples=lambda task, hinted: [],
            running=asyncio.Semaphore(running),
        )

    trace = asyncio.run(scene())
    check_document(trace, "trace", "trace")
    json.dumps(trace, allow_nan=False)
    return trace


def failures(trace: Trace) -> list[str]:
    return [failure["name"] for failure in trace["outcome"]["swarm"]["failures"]]


def results(trace: Trace) -> list[str]:
    """The contents of the tool messages."""
    return [message["content"] for message in trace["messages"] if message["role"] == "tool"]
