"""The Task row: a request, its solution and the checks that decide whether it was solved.

`task.schema.json` is the contract of the file; this is the same row as a type for the code that handles it.
"""

from typing import Any, Literal, NotRequired, TypedDict

Split = Literal["train", "exam"]
# all_tools offers the whole toolbox and is the exam's headline; as_trained offers tools as training does; new_templates
# has templates that training lacks; drift has renamed and reworded tools.
Part = Literal["all_tools", "as_trained", "new_templates", "drift"]

# Kinds of tasks that are derived from those of a pack's templates (teacher/domain/kinds).
DerivedKind = Literal["irrelevant", "missing", "policy", "recovery", "dialogue"]
FaultKind = Literal["timeout", "rate_limit", "stale_id", "partial"]
AnswerType = Literal[
    "amount",
    "number",
    "date",
    "text",
    "choice",
    "point",
    "not_shown",
    "declines",
    "asks",
    "refuses",
    "json",
]


class GoldCall(TypedDict):
    """One call of a task's solution: a tool's name and its arguments."""

    tool: str
    arguments: dict[str, Any]


class Answer(TypedDict):
    """What the final message must contain.

    value: None only for not_shown and declines; for a point the box [left, top, right, bottom] in pixels that the point
        must lie in; for asks what is asked for; for refuses the reason.
    options: of a choice its values; of asks and refuses the words of which the message must have one.
    schema: of json, the JSON Schema that the request states.
    """

    type: AnswerType
    value: Any
    tolerance: NotRequired[float]
    options: NotRequired[list[str]]
    schema: NotRequired[dict[str, Any]]


class TaskChecks(TypedDict):
    """state: sha256 of the world after the solution. answer: None where only the world's state is checked."""

    state: str
    answer: Answer | None


class TaskImage(TypedDict):
    """An image of a task: its file's sha256, the kind of scene, and its size in pixels."""

    sha256: str
    kind: Literal["document", "chart", "diagram", "screen"]
    width: int
    height: int


class Drift(TypedDict):
    """How a task shows the tools of its world, by teacher/domain/drift.py.

    tools, parameters: shown name to the world's name. descriptions: of tools, by shown name. distractors: shown name to
    PACK/TOOL of another pack. ids, dates: the format in which numbers such as C-104 and ISO dates are shown.
    """

    tools: dict[str, str]
    parameters: dict[str, str]
    descriptions: dict[str, str]
    distractors: dict[str, str]
    ids: NotRequired[str]
    dates: NotRequired[str]


class SwarmPart(TypedDict):
    """A part of a swarm task, which one sub-agent can do alone.

    about: what it is about, such as C-104: an assignment that names it covers the part. prompt: a good assignment.
    plan, reply: its solution. answer: what the sub-agent's message must contain.
    """

    about: str
    prompt: str
    plan: list[GoldCall]
    reply: str
    answer: Answer


class Swarm(TypedDict):
    """The gold decomposition of a swarm task.

    name, system_prompt: of the sub-agent that does the parts. parts: independent of each other, so that they may run in
    parallel. own: how many calls at the end of the task's plan the orchestrator makes itself.
    """

    name: str
    system_prompt: str
    parts: list[SwarmPart]
    own: int


class Fault(TypedDict):
    """A failure that the task gives a tool once, at its first valid call, whatever the model does.

    tool: its name. kind: how it fails (teacher/domain/kinds/recovery.py).
    """

    tool: str
    kind: FaultKind


class Fact(TypedDict):
    """A fact that the simulated user of a dialogue knows and does not tell unless asked.

    name: the parameter that needs it. value: as the solution has it. words: of which a question for it has one. text:
    the message in which a scripted user tells it.
    """

    name: str
    value: Any
    words: list[str]
    text: str


class Change(TypedDict):
    """The one change of mind of a simulated user: fact, by its name; `before`, the value that it gives first; `text`,
    the message in which it corrects itself, after the reply to the first value."""

    fact: str
    before: Any
    text: str


class GoldQuestion(TypedDict):
    """What a good assistant says to the user before it goes on. before_call: index into the solution. reply: what the
    scripted user says to it."""

    before_call: int
    text: str
    reply: str


class Dialogue(TypedDict):
    """What a simulated user plays by (teacher/rollout/user.py). The task's request is the user's first message.

    goal: the whole request. asks: what the assistant has to say to the user besides its last message, in order.
    """

    goal: str
    persona: str
    manner: str
    facts: list[Fact]
    asks: list[GoldQuestion]
    change: NotRequired[Change]


class Task(TypedDict):
    """A row of RUN/tasks/train.jsonl and exam.jsonl.

    plan: the solution (gold calls). tools: names of the tools offered. pictures, program, cells: of tasks
    with images alone. swapped: present where the images are another task's, so that they do not show the answer. part:
    of the exam; a row without it belongs to all_tools. drift: present where tools, solution and texts differ from the
    world's. swarm: present where the task is for a swarm; `plan` is then what one agent would call, part after part.
    fault: present where a tool fails once. policy: present where the rules of the pack's policy.md apply.
    dialogue: present where a simulated user answers the model.
    """

    version: int
    id: str
    domain: str
    split: Split
    kind: str
    template: str
    seed: int
    system: str
    request: str
    tools: list[str]
    plan: list[GoldCall]
    reply: str
    checks: TaskChecks
    pictures: NotRequired[list[TaskImage]]
    program: NotRequired[dict[str, Any]]
    cells: NotRequired[list[list[Any]]]
    swapped: NotRequired[Literal[True]]
    part: NotRequired[Part]
    drift: NotRequired[Drift]
    swarm: NotRequired[Swarm]
    fault: NotRequired[Fault]
    policy: NotRequired[Literal[True]]
    dialogue: NotRequired[Dialogue]
