"""What a pack defines: its world (Environment) and the templates that make tasks of it (template, Blueprint, Answer).

`teacher.domain.pack` loads them, and `teacher.domain.tasks` turns a blueprint into a proven task.
"""

import copy
import datetime as dt
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.task import Answer as AnswerRow
from schemas.task import AnswerType
from teacher.domain.blueprint_fields import answer_problem, blueprint_problem
from teacher.domain.json_values import to_json
from teacher.domain.scoring import state_hash
from teacher.scenes.scene import Scene

Solution = list[tuple[str, dict[str, Any]]]
"""The type of a task's gold calls, in order: [(tool, arguments)].

>>> solution: Solution = [("find_client", {"name": "Aldgate Foods"}), ("get_client", {"client_id": "K-104"})]
"""
# The name in a module under which `template` lists all that it decorated there: another one of the same name and
# a further decorator hide a template from the module's other names.
DECORATED = "__stillhouse_templates__"


@dataclass(frozen=True)
class Answer:
    """What the final message must state; `teacher.domain.scoring.answer_matches` decides whether it does.

    type: amount, number, date, text, choice, point, not_shown or json; declines, asks or refuses where
        no call is right.
    value: a number for amount and number, a date or its ISO text ("2026-03-02") for date, words for text, one of
        `options` for choice, the box [left, top, right, bottom] in pixels for point, None for not_shown and declines,
        what is asked for with asks, the reason with refuses, a JSON object for json.
    tolerance: the largest absolute error of an amount or a number.
    options: all values that a choice can have; words of which a message that asks or refuses has one.
    schema: the JSON Schema of a json answer. The request states it, and the final message must be the value alone.

    >>> Answer("date", "2026-03-02")
    Answer(type='date', value='2026-03-02', tolerance=0, options=())
    >>> Answer("choice", "on_hold", options=("open", "on_hold", "closed")).as_row()
    {'type': 'choice', 'value': 'on_hold', 'options': ['open', 'on_hold', 'closed']}
    """

    type: AnswerType
    value: Any = None
    tolerance: float = 0
    options: tuple[str, ...] = ()
    schema: dict[str, Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if type(self.value) is dt.date:
            object.__setattr__(self, "value", self.value.isoformat())
        if self.type == "json":
            object.__setattr__(self, "value", to_json(self.value, name="Answer: value"))
        if problem := answer_problem(
            self.type, self.value, self.tolerance, self.options, self.schema
        ):
            raise ValueError(f"Answer: {problem}")

    def as_row(self) -> AnswerRow:
        """Returns the answer as a task's row stores it, without the fields that are empty."""
        row: AnswerRow = {"type": self.type, "value": self.value}
        if self.tolerance:
            row["tolerance"] = self.tolerance
        if self.options:
            row["options"] = list(self.options)
        if self.schema is not None:
            row["schema"] = self.schema
        return row


@dataclass(frozen=True)
class Part:
    """A part of a swarm's task: what one sub-agent can do alone.

    about: what it is about, such as "C-104", in words of the request. A sub-agent whose prompt names it does this part.
    prompt: all that the sub-agent is told. It does not contain the answer.
    plan, reply, answer: the part's solution, as of a Blueprint.

    >>> Part("C-104", "When does contract C-104 expire?", [("get_contract", {"contract_id": "C-104"})],
    ...      "C-104 expires on 2027-03-31.", Answer("date", "2027-03-31")).about
    'C-104'
    """

    about: str
    prompt: str
    plan: Solution
    reply: str
    answer: Answer

    def __post_init__(self) -> None:
        if problem := blueprint_problem(self.prompt, self.plan, self.reply, [], None):
            raise ValueError(f"Part: {problem.replace('request:', 'prompt:')}")
        if not isinstance(self.about, str) or not self.about.strip():
            raise ValueError(f"Part: about: found {self.about!r}, expected text")
        if not isinstance(self.answer, Answer):
            raise ValueError(f"Part: answer: found {self.answer!r}, expected an Answer")


@dataclass(frozen=True)
class Swarm:
    """The gold decomposition of a task: the parts run in parallel, then the orchestrator merges their messages.

    name, system_prompt: of the sub-agent that does the parts.
    parts: at least two that do not depend on each other.
    own: calls that the orchestrator makes itself, once it has all messages.

    >>> parts = [
    ...     Part(number, f"When does contract {number} expire?", [("get_contract", {"contract_id": number})],
    ...          f"{number} expires on {day}.", Answer("date", day))
    ...     for number, day in (("C-104", "2027-03-31"), ("C-105", "2028-01-15"))
    ... ]
    >>> Swarm("reader", "You read one contract and report what is asked.", parts).plan
    [('get_contract', {'contract_id': 'C-104'}), ('get_contract', {'contract_id': 'C-105'})]
    """

    name: str
    system_prompt: str
    parts: list[Part]
    own: Solution = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, text in (("name", self.name), ("system_prompt", self.system_prompt)):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"Swarm: {name}: found {text!r}, expected text")
        parts = self.parts if isinstance(self.parts, list | tuple) else []
        if len(parts) < 2 or not all(isinstance(part, Part) for part in parts):
            raise ValueError("Swarm: parts: expected a list of at least two Parts")

    @property
    def plan(self) -> Solution:
        """What one agent would call: the parts' plans, one after the other, and then its own calls."""
        return [*(call for part in self.parts for call in part.plan), *self.own]


@dataclass(frozen=True)
class Blueprint:
    """A task before it is proven: the user's request, the solution and the answer.

    request: the user's message. It does not contain the answer.
    plan: the solution, [(tool, arguments)] in order.
    reply: the final message that a good assistant would write after the solution.
    answer: None if only the world's final state is checked.
    pictures: the scenes whose images are shown before the request's text.
    program: the question about the images (teacher/domain/questions.py). The images must show every cell that it uses.
        If the solution changes nothing and `answer` is None, the program's result is the answer. If there is no
        solution at all, an `answer` must equal the program's result.
    swarm: the gold decomposition of a task for a swarm; `plan` is then `swarm.plan`.

    A question that a tool answers, and an order, whose final state is checked:

    >>> question = Blueprint(
    ...     request="When does contract C-104 expire?",
    ...     plan=[("get_contract", {"contract_id": "C-104"})],
    ...     reply="Contract C-104 expires on 2027-03-31.",
    ...     answer=Answer("date", "2027-03-31"),
    ... )
    >>> order = Blueprint(
    ...     request="Please put matter M-869 on hold.",
    ...     plan=[("set_status", {"matter_id": "M-869", "status": "on_hold"})],
    ...     reply="Matter M-869 is on hold now.",
    ... )

    A question that an image answers:

    >>> from teacher.domain import at
    >>> page = Scene("document", {"variant": "letter", "title": "Notice", "fields": {"Due": "2026-03-02"}}, seed=7)
    >>> shown = Blueprint(
    ...     request="When is it due?",
    ...     plan=[],
    ...     reply="It is due on 2026-03-02.",
    ...     pictures=[page],
    ...     program={"op": "lookup", "cell": at(page.data, "fields.Due")},
    ... )
    """

    request: str
    plan: Solution
    reply: str
    answer: Answer | None = None
    pictures: list[Scene] = field(default_factory=list)
    program: dict[str, Any] | None = None
    swarm: Swarm | None = None

    def __post_init__(self) -> None:
        fields = (self.request, self.plan, self.reply, self.pictures, self.program)
        if problem := blueprint_problem(*fields):
            raise ValueError(f"Blueprint: {problem}")
        if not isinstance(self.answer, Answer | None):
            raise ValueError(
                f"Blueprint: answer: found {self.answer!r}, expected an Answer or None"
            )
        # Dates, Enums and dataclasses of the world are arguments as a model would write them.
        plan = [
            (tool, to_json(arguments, name=f"plan[{index}] ({tool})"))
            for index, (tool, arguments) in enumerate(self.plan)
        ]
        object.__setattr__(self, "plan", plan)
        if not isinstance(self.swarm, Swarm | None):
            raise ValueError(f"Blueprint: swarm: found {self.swarm!r}, expected a Swarm or None")


@dataclass(frozen=True)
class Template:
    """A task template of a pack: a function that makes a blueprint of a world and a random generator.

    `template` makes it. A template is called as its function is, so that a pack's templates may call each other.

    name: the function's name.
    kind: one of the kinds in domain.yaml.
    needs_pixels: whether its tasks can be solved only from the pixels.
    function: the decorated function.
    file: the file of the pack that defines it.

    >>> from teacher.domain import load
    >>> expiry = load("legal").templates["contract_expiry"]
    >>> expiry.name, expiry.kind, expiry.needs_pixels, expiry.file.name
    ('contract_expiry', 'lookup', False, 'textual.py')
    """

    name: str
    kind: str
    needs_pixels: bool
    function: Callable[..., Blueprint]
    file: Path

    def __call__(self, *arguments: Any, **named: Any) -> Blueprint:
        return self.function(*arguments, **named)


def template(kind: str, pixels: bool = False) -> Callable[[Callable[..., Blueprint]], Template]:
    """Decorates a function of a pack, `(world, rng) -> Blueprint`, as a task template with the function's name.

    kind: one of the kinds in domain.yaml.
    pixels: whether its tasks can be solved only from the pixels, not from the image's source data in words, because
        they ask for a point. A run with a text-only teacher or student samples none of them.

    >>> import random
    >>> @template(kind="lookup")
    ... def expiry(world: Environment, rng: random.Random) -> Blueprint:
    ...     number, contract = rng.choice(list(world._contracts.items()))
    ...     return Blueprint(
    ...         request=f"When does {number} expire?",
    ...         plan=[("get_contract", {"contract_id": number})],
    ...         reply=f"{number} expires on {contract['expiry']}.",
    ...         answer=Answer("date", contract["expiry"]),
    ...     )
    >>> expiry.name, expiry.kind
    ('expiry', 'lookup')
    """

    if not isinstance(kind, str):
        raise TypeError('@template: expected a kind, as in @template(kind="lookup")')

    def decorate(function: Callable[..., Blueprint]) -> Template:
        if not inspect.isfunction(function):
            actual = type(function).__name__
            raise TypeError(
                f"@template(kind={kind!r}): found a {actual} below it, expected a function"
            )
        inner = inspect.unwrap(function)
        made = Template(function.__name__, kind, pixels, function, Path(inner.__code__.co_filename))
        inner.__globals__.setdefault(DECORATED, []).append(made)
        return made

    return decorate


class Environment:
    """The world of a domain. The public methods of a subclass are the tools.

    A tool returns a JSON value or a Scene; dates, Enums, dataclasses and pydantic models in it are converted. It raises
    ValueError for a call that makes no sense in this world (an unknown contract, an impossible date); the model reads
    the message. Any other exception is a bug of the pack, unless its class is in `errors`.

    errors: classes of further exceptions that are errors of the call, such as (KeyError,).

    >>> import random
    >>> from teacher.domain import get_entry
    >>> class Desk(Environment):
    ...     def reset(self, **task):
    ...         rng = random.Random(f"{task['split']}:{task['seed']}")
    ...         self._contracts = {"C-104": {"status": "open", "notice_days": rng.randrange(10, 60)}}
    ...
    ...     def _state(self):
    ...         return self._contracts
    ...
    ...     def get_contract(self, contract_id: str) -> dict:
    ...         '''Get a contract's status and its notice period in days.
    ...
    ...         Args:
    ...             contract_id: The contract's number, such as C-100.
    ...         '''
    ...         return get_entry(self._contracts, contract_id, "contract")
    >>> desk = Desk()
    >>> desk.reset(split="train", seed=0)
    >>> desk.get_contract("C-104")
    {'status': 'open', 'notice_days': 52}
    >>> desk.get_contract("104")
    Traceback (most recent call last):
    ValueError: no contract '104': expected one's number, such as C-100
    """

    errors: tuple[type[Exception], ...] = ()
    _task: dict[str, Any]

    def reset(self, **task: Any) -> str | None:
        """Builds the world of a task (at least seed and split). Returns text for the system message, or None."""
        raise TypeError(f"{type(self).__name__} must define reset(**task)")

    def _state(self) -> Any:
        """Returns everything that a tool can change, as a JSON value; two worlds are equal when their states are."""
        raise TypeError(f"{type(self).__name__} must define _state()")

    def _fork(self) -> "Environment":
        """Returns a copy of the world for one sub-agent; its calls are repeated here when it is done.

        A world whose state is elsewhere, such as on a server, returns itself: its sub-agents then share it.
        """
        return copy.deepcopy(self)

    def get_reward(self) -> float:
        """Returns 1.0 if the world is in the state that the task's solution leads to, else 0.0 (TRL's convention)."""
        return float(state_hash(self._state()) == self._task["checks"]["state"])
