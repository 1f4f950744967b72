"""The agent loop: runs a model on one task in the task's world and returns one trace.

The teacher, the base student and the exported GGUF all run through `run`. The loop trusts no output of a model: it
validates the arguments of a call before the tool gets them, and a tool changes only the world of its own episode.
What helps a weak teacher is in guidance.py, what a model family's API needs in teacher/dialects.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from schemas.canonical import arguments_text
from schemas.task import Task
from schemas.trace import (
    Detected,
    End,
    Grounding,
    Maker,
    Message,
    OutcomeChecks,
    Request,
    Trace,
    failure_reason,
)
from teacher.dialects.base import (
    Dialect,
    calls_of,
    json_text,
    plain_text,
)
from teacher.domain.drift import tools_of
from teacher.domain.json_answers import answer_problem
from teacher.domain.pack import Domain
from teacher.domain.prompts import Content, request_content
from teacher.domain.scoring import answer_matches
from teacher.domain.swarm import Caps
from teacher.domain.worlds import PackFault, hash_world, start_world
from teacher.inference.replies import request_row
from teacher.rollout.calls import call_error, execute
from teacher.rollout.conduct import Conduct, Ran
from teacher.rollout.guidance import Guidance
from teacher.rollout.turn import Complete, complete_message
from teacher.rollout.user import PlayedBy, has_text, user_of
from teacher.scenes.images import ImageLimitError, ImageStore, detach_images, request_messages

# A model that repeats a call this often in a row makes no progress; its remaining steps would cost time for nothing.
_REPEATS = 3


@dataclass(frozen=True)
class Settings:
    """How episodes are run.

    Attributes:
        max_steps: turns of the assistant in an episode. max_tokens: tokens of a reply.
        mode: one of the teacher's modes, such as thinking.
        dialect: adapts requests and parses replies of the model's family (teacher/dialects/base.py).
        images: what the model is shown of an image: its pixels, its source data in words, or nothing (none).
        image_store: stores the images of the tasks and those that tools return.
        image_limits: {"max_count": of one request, "max_bytes": of one image}, as the model's server accepts them.
        guidance: help for weak teachers, and what a hinted episode is shown.
        logprobs: of how many likely tokens the journal keeps the log-probabilities at each token; 0 for none.
        user: the model that plays the users of dialogues; None for the scripted user.
        caps: the most that a swarm may use.
    """

    max_steps: int
    max_tokens: int
    temperature: float
    top_p: float
    mode: str | None = None
    dialect: Dialect = Dialect()
    images: Grounding = "source"
    image_store: ImageStore | None = None
    image_limits: dict[str, int] | None = None
    guidance: Guidance = Guidance()
    logprobs: int = 0
    user: PlayedBy | None = None
    caps: Caps = Caps()


@dataclass
class CallBudget:
    """How many calls of tools may be run, and how many were. One of a swarm counts those of all its agents."""

    most: int
    made: int = 0

    @property
    def left(self) -> int:
        """How many more may be run."""
        return self.most - self.made


class Crew(Protocol):
    """The sub-agents of an episode (teacher/rollout/swarm.py). children: their traces so far."""

    children: list[Trace]

    async def answer(
        self, calls: list[dict[str, Any]], world: Any
    ) -> dict[str, tuple[Content, bool]]:
        """Runs the calls of one message that are for sub-agents: call id to (content, whether it is an error)."""


async def run(
    task: Task,
    domain: Domain,
    complete: Complete,
    settings: Settings,
    maker: Maker,
    *,
    attempt: int = 0,
    hinted: bool = False,
    examples: Sequence[Sequence[Message]] = (),
    world: Any = None,
    crew: Crew | None = None,
    budget: CallBudget | None = None,
) -> Trace:
    """Runs one attempt at a task and returns its trace, with its outcome and without a verdict.

    Args:
        complete: `Client.complete`, or a function with its signature.
        maker: the model, as the trace names it.
        attempt: index of the attempt; part of the journal's key of each reply.
        hinted: show the solution as settings.guidance does; the stored messages do not have it.
        examples: worked examples (`teacher.domain.prompts.demonstration`) before the request; not stored either.
        world: the world of the episode; by default a new one, reset for the task.
        crew: answers the calls for sub-agents.
        budget: of the calls of tools that are run; further ones are answered with the error over_cap.

    Raises:
        PackFault: the pack cannot make the task's world. A fault of a tool ends the episode alone, as TOOL_CRASHED.
    """
    if world is None:
        world, _ = start_world(domain.environment, **task)
    conduct = Conduct(task, domain, world)
    offered = tools_of(domain, task)
    shown = settings.guidance.shown_tools(task, offered)
    system: Message = {"role": "system", "content": task["system"]}
    request: Message = {"role": "user", "content": request_content(task)}
    # `messages` is what the trace stores; `context`, which the model is shown, also has worked examples and hints.
    messages = [system, request]
    context = [system, *(message for example in examples for message in example), request]
    sampling: dict[str, Any] = {
        "max_tokens": settings.max_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
    }
    if crew:
        sampling["parallel_tool_calls"] = (
            True  # llama.cpp lets some models write one call otherwise
        )
    if settings.logprobs:
        sampling |= {"logprobs": True, "top_logprobs": settings.logprobs}
    user = user_of(task, settings.user, attempt)
    max_steps = settings.max_steps
    requests: list[Request] = []
    tool_errors: list[int] = []
    detected: list[Detected] = []
    steps, error = 0, None
    end = End.STEP_LIMIT

    while steps < max_steps:
        steps += 1
        # A call that the task made fail has to be made again, so guidance does not count its result.
        results = sum(message["role"] == "tool" for message in messages) - len(conduct.faults)
        told = sum(message["role"] == "user" for message in messages) - 1
        turn = settings.guidance.before_turn(
            task, number=steps, results=results, told=told, hinted=hinted
        )
        context += turn.hints
        # The hints of a further request for the same message are not kept.
        shown_now = [context + turn.prefill]
        shown_now += [context + each.hints + each.prefill for each in turn.together]
        try:
            prompts = [
                request_messages(one, settings.images, settings.image_store, settings.image_limits)
                for one in shown_now
            ]
        except ImageLimitError as limit:
            end, error = End.TEACHER_ERROR, str(limit)
            break
        adapted = [
            settings.dialect.adapt_request(
                prompt, shown, {**sampling, **each.parameters}, settings.mode
            )
            for prompt, each in zip(prompts, (turn, *turn.together), strict=True)
        ]
        replies, parsed, actions = await complete_message(
            adapted, [*offered], attempt, complete, settings.dialect
        )
        requests += [request_row(reply) for reply in replies]
        detected += [{"step": steps, "name": name, "action": action} for name, action in actions]
        if parsed is None:
            end, error = End.TEACHER_ERROR, replies[-1].error
            break
        message = _assistant_message(parsed.message, steps)
        messages.append(message)
        context.append(message)
        if failure := parsed.failure:
            end, error = End.UNUSABLE_REPLY, f"{failure.name}: {failure.detail}"
            if replies[-1].error:
                error += f"; the retry: {replies[-1].error}"
            break
        if replies[-1].finish_reason == "length":
            end = End.TRUNCATED
            break
        if not message.get("tool_calls"):
            said = await user.reply(messages) if user and has_text(message) else None
            if said is None or (said.text is None and said.fault is None):
                end = End.ANSWERED
                break
            if said.fault:
                end, error = End.USER_FAULT, said.fault
                break
            messages.append({"role": "user", "content": said.text})
            context.append(messages[-1])
            max_steps += 1
            continue
        if _repeats_calls(messages):
            messages.pop()
            end, error = End.STEP_LIMIT, f"the same call {_REPEATS} times in a row"
            break
        delegated = await crew.answer(message["tool_calls"], world) if crew else {}
        if delegated:
            conduct.writes.state = hash_world(world)  # sub-agents answer for their own writes
        for call in message["tool_calls"]:
            try:
                if call["id"] in delegated:
                    ran = Ran(*delegated[call["id"]])
                elif budget and budget.left < 1:
                    ran = call_error(f"over_cap: {budget.made} calls were made, no more can")
                else:
                    if budget:
                        budget.made += 1
                    ran = execute(
                        call["function"],
                        offered,
                        task,
                        world,
                        messages,
                        settings.image_store,
                        conduct,
                        domain,
                    )
                    conduct.note(len(messages), call["function"], ran)
            except PackFault as fault:
                end, error = End.TOOL_CRASHED, fault.detail
                break
            if ran.is_error:
                tool_errors.append(len(messages))
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": ran.content})
            context.append(messages[-1])
        if end == End.TOOL_CRASHED:
            break

    text = (messages[-1].get("content") or "") if end == End.ANSWERED else ""
    checks = _check(task, text, conduct.writes.state)
    stored, images = detach_images(messages)
    trace: Trace = {
        "version": 1,
        "id": f"{task['id']}/{attempt}",
        "task": {
            "id": task["id"],
            "domain": task["domain"],
            "split": task["split"],
            "kind": task["kind"],
            "template": task["template"],
            "seed": task["seed"],
        },
        "teacher": maker,
        "tools": [*offered.values()],
        "messages": stored,
        "images": images,
        "grounding": settings.images if images else None,
        "calls": requests,
        "hinted": hinted,
        "outcome": {
            "steps": steps,
            "ended": end,
            "error": error,
            "checks": checks,
            "tool_errors": tool_errors,
            **conduct.outcome(text, passes=checks["answer"] is not False and checks["state"]),
            "detected": detected,
        },
        "verdict": None,
        "children": crew.children if crew else [],
    }
    if user:
        trace["user"] = user.turns()
    if problem := answer_problem(task["checks"]["answer"], text):
        trace["outcome"]["answer_problem"] = problem
    return trace


def passed(trace: Trace) -> bool:
    """Returns whether the model ended the episode with an answer and all checks passed."""
    return failure_reason(trace["outcome"]) is None


def count_detected(traces: Iterable[Trace]) -> dict[str, dict[str, int]]:
    """Returns how often each known failure was detected, with sub-agents' traces: {name: {action: count}}."""
    counts: dict[str, Counter[str]] = {}
    for trace in traces:
        for failure in trace["outcome"].get("detected", []):
            counts.setdefault(failure["name"], Counter())[failure["action"]] += 1
        for name, actions in count_detected(trace.get("children", [])).items():
            counts.setdefault(name, Counter()).update(actions)
    return {name: dict(sorted(actions.items())) for name, actions in sorted(counts.items())}


def _repeats_calls(messages: list[Message]) -> bool:
    """Returns whether the last _REPEATS turns of the assistant make the same calls, whatever their ids."""
    turns = [message for message in messages if message["role"] == "assistant"][-_REPEATS:]
    calls = [
        [(c["function"]["name"], c["function"]["arguments"]) for c in turn.get("tool_calls", [])]
        for turn in turns
    ]
    return calls.count(calls[-1]) == _REPEATS


def _check(task: Task, text: str, state: str) -> OutcomeChecks:
    """Returns the outcome's checks for the final text ("" if there is none) and the hash of the world's final state."""
    answer = task["checks"]["answer"]
    # Without an answer to check, the model still has to tell the user that it is done.
    is_answered = bool(text.strip()) if answer is None else answer_matches(answer, text)
    # A request that lacks a fact is a question itself, and a copy of it asks for nothing.
    if answer and answer["type"] == "asks" and text.strip() in task["request"]:
        is_answered = False
    return {"answer": is_answered, "state": state == task["checks"]["state"]}


def _assistant_message(message: Message, step: int) -> Message:
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
