"""The Trace row: one attempt at a task with its messages and calls, how it ended, and the filter's verdict.

`trace.schema.json` is the contract of the file; this is the same row as a type for the code that handles it.
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal, NotRequired, TypedDict

# A message of OpenAI's chat format: {"role", "content", "tool_calls"?, "tool_call_id"?, "reasoning_content"?}.
Message = dict[str, Any]
# An OpenAI function tool: {"type": "function", "function": {"name", "description", "parameters"}}.
Tool = dict[str, Any]

# What the model was shown of an image: its pixels, its source data in words, or nothing.
Grounding = Literal["pixels", "source", "none"]


class End(StrEnum):
    """How an episode ended. Only ANSWERED can pass its checks."""

    ANSWERED = "answered"
    STEP_LIMIT = "step_limit"
    TRUNCATED = "truncated"
    TEACHER_ERROR = "teacher_error"
    # A tool of the pack raised an exception that is not an error of the call: a bug of the pack, not of the model.
    TOOL_CRASHED = "tool_crashed"
    # A known failure of the model's replies (schemas/filter.py, DETECTED) that could not be repaired.
    UNUSABLE_REPLY = "unusable_reply"
    # The simulated user of a dialogue broke its rules (teacher/rollout/user.py).
    USER_FAULT = "user_fault"


class TaskReference(TypedDict):
    """The fields of a task that its traces repeat."""

    id: str
    domain: str
    split: Literal["train", "exam"]
    kind: str
    template: str
    seed: int


class Served(TypedDict):
    """What an API that served the model says of itself.

    host: of the API's URL, with its port; no user name, path or query. model: the model's name in the API.
    described_as: the description that the run used for it. server: program and version. owned_by: of the API's list of
    models. weights: what the server loaded.
    """

    host: str
    model: str
    described_as: str
    server: NotRequired[str]
    owned_by: NotRequired[str]
    weights: NotRequired[str]


class Maker(TypedDict):
    """The model that made a trace. licence: an SPDX id.

    A model behind an API is named as the API names it; its revision is unknown (None), and `served` has what the API
    says. Other models are named by their description.
    """

    model: str
    revision: str | None
    engine: str
    licence: str
    served: NotRequired[Served]


class Usage(TypedDict):
    """Tokens of one request, as the server counted them. cached_tokens: those of the prompt that its cache had."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: NotRequired[int]


class Request(TypedDict):
    """One request to the model.

    key: of its reply in the journal. host, model: the API that replied and the model that its reply names, where an API
    served the model; a reply of an earlier run keeps its own.
    """

    key: str
    finish_reason: str | None
    seconds: float
    usage: Usage
    host: NotRequired[str]
    model: NotRequired[str]


class OutcomeChecks(TypedDict):
    """answer: None where the task has no answer to check."""

    answer: bool | None
    state: bool


class Detected(TypedDict):
    """A known failure in a reply. step: turn of the assistant, from 1."""

    step: int
    name: str
    action: Literal["repaired", "retried", "rejected"]


# Failures of a swarm (teacher/rollout/swarm_score.py). The first say why an answer may be wrong, so they are named
# before it; the others fail a right answer.
SWARM_CAUSES = ("over_cap", "unfinished_subagent", "unassigned_part", "lost_result")
SWARM_FAILURES = ("duplicate_assignment", "serial_collapse", "spurious_parallelism")


class SwarmFailure(TypedDict):
    """A known failure of a swarm. name: one of SWARM_CAUSES and SWARM_FAILURES."""

    name: str
    detail: str


class SwarmOutcome(TypedDict):
    """How a swarm worked. Steps are replies of a model.

    agents: sub-agents started. stages: messages that assigned tasks. critical_steps: the orchestrator's, and of each
    stage the slowest sub-agent's. serial_steps: of all agents. calls: of tools, by all agents. answered: sub-agents
    that ended with a message. used: of those, the ones whose message went into the answer.
    """

    agents: int
    stages: int
    critical_steps: int
    serial_steps: int
    calls: int
    answered: int
    used: int
    failures: list[SwarmFailure]


class Agent(TypedDict):
    """The sub-agent of a trace in `children`.

    name: as it was created. call_id: of the orchestrator's call that assigned the task. stage: number of the message
    with that call, from 1. parts: indexes of the task's parts that the prompt covers.
    """

    name: str
    call_id: str
    stage: int
    parts: list[int]


class Outcome(TypedDict):
    """How an episode ended.

    steps: turns of the assistant. tool_errors: indexes into the messages. unasked_writes: indexes of the results of
    calls that changed the world's state and are not in the solution. blind: whether the task was also solved without
    its images. swarm: of an orchestrator. answer_problem: what is wrong with an answer in JSON,
    with the JSON pointer of the value at fault.
    faults: indexes of the results that the task made fail once; they are tool
    errors too. expected: what the last message had to do where no call solves the task. declined: whether it declines a
    task that can be solved. needless_calls: indexes of the results of calls where the task needs none.
    policy_breaches: of calls that the policy forbids, or that it wants confirmed first.
    """

    steps: int
    ended: End | str
    error: str | None
    checks: OutcomeChecks
    tool_errors: list[int]
    unasked_writes: NotRequired[list[int]]
    blind: NotRequired[bool]
    answer_problem: NotRequired[str]
    faults: NotRequired[list[int]]
    expected: NotRequired[Literal["declines", "asks", "refuses"]]
    declined: NotRequired[bool]
    needless_calls: NotRequired[list[int]]
    policy_breaches: NotRequired[list[int]]
    detected: NotRequired[list[Detected]]
    swarm: NotRequired[SwarmOutcome]


class Verdict(TypedDict):
    """kept, or the first reason in the order of the checks.

    message_index: of the message at fault, or None. In its file, a kept trace has {"kept": True} alone; the checks
    return the other fields too, as None.
    """

    kept: bool
    reason: NotRequired[str | None]
    detail: NotRequired[str | None]
    message_index: NotRequired[int | None]


class UserTurns(TypedDict):
    """The simulated user of a dialogue. played_by: the model, or None of a scripted user. calls: its requests, which
    are no part of the teacher's."""

    played_by: Maker | None
    calls: list[Request]


class Trace(TypedDict):
    """A row of RUN/traces/*.jsonl.zst and of filter/kept.jsonl and rejected.jsonl. id: "<task id>/<attempt>".

    images: sha256 of the messages' image parts, in order. hinted: whether the model was shown the solution. verdict:
    None before the filter. children: the traces of sub-agents, whose ids are "<task id>:<number>/<attempt>". agent: of
    a sub-agent. user: present in a dialogue. trained: indexes of the assistant's turns that a student is trained on,
    present in a salvaged trace (train.salvage).
    """

    version: int
    id: str
    task: TaskReference
    teacher: Maker
    tools: list[Tool]
    messages: list[Message]
    images: list[str]
    grounding: NotRequired[Grounding | None]
    calls: list[Request]
    hinted: bool
    outcome: Outcome
    verdict: Verdict | None
    children: list[Any]
    agent: NotRequired[Agent]
    user: NotRequired[UserTurns]
    trained: NotRequired[list[int]]


def nodes(trace: Trace) -> Iterator[Trace]:
    """Yields a trace and those of its sub-agents, each of which is judged and trained as its own."""
    yield trace
    for child in trace.get("children", []):
        yield from nodes(child)


def is_kept(trace: Trace) -> bool:
    """Whether the filter kept the trace; False where it was not judged yet."""
    verdict = trace["verdict"]
    return verdict is not None and verdict["kept"]


def failure_reason(outcome: Mapping[str, Any]) -> str | None:
    """Returns why an episode did not pass, None if it passed: how it ended, a failure of its swarm, or wrong_NAME."""
    if outcome.get("ended") != End.ANSWERED:
        return str(outcome.get("ended"))
    if cause := swarm_failure(outcome, SWARM_CAUSES):
        return cause["name"]
    checks = outcome.get("checks")
    failed = (
        [name for name, value in checks.items() if not value] if isinstance(checks, dict) else []
    )
    if failed:
        return f"wrong_{failed[0]}"
    failure = swarm_failure(outcome, SWARM_FAILURES)
    return failure["name"] if failure else None


def swarm_failure(outcome: Mapping[str, Any], names: Sequence[str]) -> SwarmFailure | None:
    """Returns the first failure of a swarm that has one of the names."""
    swarm = outcome.get("swarm")
    found = swarm["failures"] if isinstance(swarm, dict) else []
    return next((failure for name in names for failure in found if failure["name"] == name), None)
