"""The agent loop: runs a model on one task in the task's world and returns one trace.

The teacher, the base student and the exported GGUF all run through `run`. The loop trusts no output of a model: it
validates the arguments of a call before the tool gets them, and a tool changes only the world of its own episode.
What helps a weak teacher is in guidance.py, what a model family's API needs in teacher/dialects.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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
    AdaptedRequest,
    Dialect,
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
from teacher.rollout.guidance import Guidance, Turn
from teacher.rollout.turn import Complete, complete_message, kept_message
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
    episode = _Episode(task, domain, complete, settings, attempt, hinted, world, crew, budget)
    episode.context[1:1] = [message for example in examples for message in example]
    while episode.end is None:
        await episode.take_turn()
    return episode.trace(maker)


class _Episode:
    """One attempt at a task while it runs; the parameters are those of `run`.

    messages: what the trace stores. context: what the model is shown, also worked examples and hints. end, error: why
    the episode ended; None before.
    """

    def __init__(
        self,
        task: Task,
        domain: Domain,
        complete: Complete,
        settings: Settings,
        attempt: int,
        hinted: bool,
        world: Any,
        crew: Crew | None,
        budget: CallBudget | None,
    ) -> None:
        self._task, self._domain, self._world = task, domain, world
        self._complete, self._settings = complete, settings
        self._attempt, self._hinted, self._crew, self._budget = attempt, hinted, crew, budget
        self._conduct = Conduct(task, domain, world)
        self._offered = tools_of(domain, task)
        self._shown = settings.guidance.shown_tools(task, self._offered)
        self._user = user_of(task, settings.user, attempt)
        self._steps, self._max_steps = 0, settings.max_steps
        self._requests: list[Request] = []
        self._tool_errors: list[int] = []
        self._detected: list[Detected] = []
        self.messages: list[Message] = [
            {"role": "system", "content": task["system"]},
            {"role": "user", "content": request_content(task)},
        ]
        self.context = [*self.messages]
        self.end: End | None = None
        self._error: str | None = None

    async def take_turn(self) -> None:
        """Gets a message of the model and runs its calls, or hands it to the user; or ends the episode."""
        if self._steps >= self._max_steps:
            return self._finish(End.STEP_LIMIT)
        self._steps += 1
        await self._ask()
        if self.end is None:
            calls = self.messages[-1].get("tool_calls")
            await (self._run_calls(calls) if calls else self._hand_to_user())

    def _finish(self, end: End, error: str | None = None) -> None:
        self.end, self._error = end, error

    def _add(self, message: Message) -> None:
        self.messages.append(message)
        self.context.append(message)

    async def _ask(self) -> None:
        """Adds the model's next message; the episode ends if it is unusable or none came."""
        # A call that the task made fail has to be made again, so guidance does not count its result.
        results = sum(m["role"] == "tool" for m in self.messages) - len(self._conduct.faults)
        told = sum(m["role"] == "user" for m in self.messages) - 1
        turn = self._settings.guidance.before_turn(
            self._task, number=self._steps, results=results, told=told, hinted=self._hinted
        )
        self.context += turn.hints
        try:
            adapted = self._adapted_requests(turn)
        except ImageLimitError as limit:
            return self._finish(End.TEACHER_ERROR, str(limit))
        replies, parsed, actions = await complete_message(
            adapted, [*self._offered], self._attempt, self._complete, self._settings.dialect
        )
        self._requests += [request_row(reply) for reply in replies]
        self._detected += [
            {"step": self._steps, "name": name, "action": action} for name, action in actions
        ]
        if parsed is None:
            return self._finish(End.TEACHER_ERROR, replies[-1].error)
        self._add(kept_message(parsed.message, self._steps))
        if failure := parsed.failure:
            retried = f"; the retry: {replies[-1].error}" if replies[-1].error else ""
            return self._finish(End.UNUSABLE_REPLY, f"{failure.name}: {failure.detail}{retried}")
        if replies[-1].finish_reason == "length":
            return self._finish(End.TRUNCATED)

    def _adapted_requests(self, turn: Turn) -> list[AdaptedRequest]:
        """The requests for one message: of a turn, and of those together with it, whose hints are not kept.

        Raises:
            ImageLimitError: more or larger images than the server accepts.
        """
        settings = self._settings
        sampling: dict[str, Any] = {
            "max_tokens": settings.max_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
        }
        if self._crew:  # llama.cpp lets some models write one call otherwise
            sampling["parallel_tool_calls"] = True
        if settings.logprobs:
            sampling |= {"logprobs": True, "top_logprobs": settings.logprobs}
        contexts = [self.context + turn.prefill]
        contexts += [self.context + each.hints + each.prefill for each in turn.together]
        prompts = [
            request_messages(each, settings.images, settings.image_store, settings.image_limits)
            for each in contexts
        ]
        return [
            settings.dialect.adapt_request(
                prompt, self._shown, {**sampling, **each.parameters}, settings.mode
            )
            for prompt, each in zip(prompts, (turn, *turn.together), strict=True)
        ]

    async def _hand_to_user(self) -> None:
        """Adds what the user replies to a message without calls; the episode ends if that is nothing."""
        user = self._user if has_text(self.messages[-1]) else None
        said = await user.reply(self.messages) if user else None
        if said and said.fault:
            return self._finish(End.USER_FAULT, said.fault)
        if said is None or said.text is None:
            return self._finish(End.ANSWERED)
        self._add({"role": "user", "content": said.text})
        self._max_steps += 1

    async def _run_calls(self, calls: list[dict[str, Any]]) -> None:
        """Runs the calls of the last message and adds their results."""
        if _repeats_calls(self.messages):
            self.messages.pop()
            return self._finish(End.STEP_LIMIT, f"the same call {_REPEATS} times in a row")
        delegated = await self._crew.answer(calls, self._world) if self._crew else {}
        if delegated:  # sub-agents answer for their own writes
            self._conduct.writes.state = hash_world(self._world)
        for call in calls:
            try:
                done = delegated.get(call["id"])
                ran = Ran(*done) if done else self._run_call(call["function"])
            except PackFault as fault:
                return self._finish(End.TOOL_CRASHED, fault.detail)
            if ran.is_error:
                self._tool_errors.append(len(self.messages))
            self._add({"role": "tool", "tool_call_id": call["id"], "content": ran.content})

    def _run_call(self, function: dict[str, Any]) -> Ran:
        """Runs a call in the world.

        Raises:
            PackFault: the tool has a fault.
        """
        if self._budget:
            if self._budget.left < 1:
                return call_error(f"over_cap: {self._budget.made} calls were made, no more can")
            self._budget.made += 1
        ran = execute(
            function,
            self._offered,
            self._task,
            self._world,
            self.messages,
            self._settings.image_store,
            self._conduct,
            self._domain,
        )
        self._conduct.note(len(self.messages), function, ran)
        return ran

    def trace(self, maker: Maker) -> Trace:
        """The trace of an episode that has ended."""
        task = self._task
        assert self.end is not None
        text = (self.messages[-1].get("content") or "") if self.end == End.ANSWERED else ""
        checks = _check(task, text, self._conduct.writes.state)
        stored, images = detach_images(self.messages)
        trace: Trace = {
            "version": 1,
            "id": f"{task['id']}/{self._attempt}",
            "task": {
                "id": task["id"],
                "domain": task["domain"],
                "split": task["split"],
                "kind": task["kind"],
                "template": task["template"],
                "seed": task["seed"],
            },
            "teacher": maker,
            "tools": [*self._offered.values()],
            "messages": stored,
            "images": images,
            "grounding": self._settings.images if images else None,
            "calls": self._requests,
            "hinted": self._hinted,
            "outcome": {
                "steps": self._steps,
                "ended": self.end,
                "error": self._error,
                "checks": checks,
                "tool_errors": self._tool_errors,
                **self._conduct.outcome(
                    text, passes=checks["answer"] is not False and checks["state"]
                ),
                "detected": self._detected,
            },
            "verdict": None,
            "children": self._crew.children if self._crew else [],
        }
        if self._user:
            trace["user"] = self._user.turns()
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
