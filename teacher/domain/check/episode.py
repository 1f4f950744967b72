"""Plays the solution of a task and records everything that a model would see, so that checks can look at it.

Unlike `teacher.domain.tasks.build`, nothing here raises for a faulty pack and nothing is drawn: what fails is recorded.
"""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from schemas.canonical import canonical
from schemas.files import dumps
from schemas.task import Split
from teacher.domain.blueprint import Answer, Blueprint, Environment
from teacher.domain.json_values import NotJson, to_json
from teacher.domain.pack import Domain
from teacher.domain.questions import ProgramError, run_program
from teacher.domain.worlds import PackFault, run_template, run_tool, start_world
from teacher.scenes.scene import Scene


class Job(NamedTuple):
    """Which task to play."""

    template: str
    split: Split
    seed: int


@dataclass
class Episode:
    """What a task's solution saw and did.

    Attributes:
        note: what the world adds to the system message. results: of the calls, in order, as JSON values; a scene is
            {"scene": kind, "data": ..., "seed": ...}.
        answer: the blueprint's, or its program's result if it has none and the solution changes nothing.
        before, after: the world's state as JSON. writes: for each call, whether it changed the state.
        failure: what failed, such as "template: KeyError: 'x'"; what came before it is recorded.
    """

    job: Job
    note: str | None = None
    blueprint: Blueprint | None = None
    answer: Answer | None = None
    results: list[Any] = field(default_factory=list)
    writes: list[bool] = field(default_factory=list)
    before: Any = None
    after: Any = None
    failure: str | None = None

    def record(self) -> dict[str, Any]:
        """Everything that must be the same whenever and wherever the task is played, as JSON."""
        blueprint = self.blueprint
        row: dict[str, Any] = {"system": self.note}
        if blueprint is not None:
            row |= {
                "request": blueprint.request,
                "solution": [list(call) for call in blueprint.plan],
                "reply": blueprint.reply,
                "answer": blueprint.answer.as_row() if blueprint.answer else None,
                "program": blueprint.program,
                "images": [as_json(scene) for scene in blueprint.pictures],
            }
        row |= {
            "world": self.before,
            "results": self.results,
            "world after the solution": self.after,
            "failure": self.failure,
        }
        plain: dict[str, Any] = as_json(row)
        return plain


def play(domain: Domain, job: Job, world: Environment | None = None) -> Episode:
    """Returns the episode of a task's solution.

    world: an instance to reset and use, as a trainer does that keeps its environments; by default a new one.
    """
    episode = Episode(job)
    for _ in steps(domain, episode, world):
        pass
    return episode


def steps(domain: Domain, episode: Episode, world: Environment | None = None) -> Iterator[None]:
    """Plays an episode and yields after each step, so that two can be interleaved."""
    template, split, seed = episode.job
    chosen = domain.templates[template]
    try:
        first, episode.note = start_world(domain.environment, seed=seed, split=split)
        yield
        made = run_template(first, chosen, split=split, seed=seed)
        # What a later call changes in a list that the blueprint shares with the world is not part of the task.
        made = copy.deepcopy(made)
        plan = [(tool, canonical(arguments)) for tool, arguments in made.plan]
        blueprint = episode.blueprint = replace(made, plan=plan)
        yield
        if world is None:
            world = domain.environment()
        world.reset(seed=seed, split=split)
        state = _state_of(world)
        episode.before = episode.after = json.loads(state)
        yield
        for tool, arguments in blueprint.plan:
            episode.results.append(as_json(run_tool(world, tool, copy.deepcopy(arguments))))
            after = _state_of(world)
            episode.writes.append(after != state)
            state = after
            episode.after = json.loads(state)
            yield
        episode.answer = answer_of(blueprint, is_read_only=not any(episode.writes))
    except PackFault as fault:
        episode.failure = fault.detail
    except Exception as error:
        episode.failure = f"{type(error).__name__}: {error}"


def _state_of(world: Environment) -> str:
    return dumps(canonical(to_json(world._state(), name="state")))


def answer_of(blueprint: Blueprint, *, is_read_only: bool) -> Answer | None:
    """A blueprint's answer, or that of its program if it has none and the solution changes nothing."""
    if blueprint.answer or not blueprint.program or not is_read_only:
        return blueprint.answer
    try:
        return run_program(blueprint.program, [scene.data for scene in blueprint.pictures])
    except ProgramError:
        return None  # a point needs the drawn image; `build` reports the others


def as_json(value: Any) -> Any:
    """A value as JSON keeps it; what has no form in JSON becomes the name of its type."""
    if isinstance(value, Scene):
        return {"scene": value.kind, "data": as_json(value.data), "seed": value.seed}
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    try:
        return to_json(value, name="value")
    except NotJson:
        return f"<{type(value).__name__}>"


def difference(one: Any, other: Any, path: str = "") -> tuple[str, Any, Any] | None:
    """The first place in which two JSON values differ, with both values there, or None. Order of keys counts."""
    if isinstance(one, dict) and isinstance(other, dict) and list(one) == list(other):
        pairs = [(f"{path}.{key}".lstrip("."), one[key], other[key]) for key in one]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = [(f"{path}[{i}]", a, b) for i, (a, b) in enumerate(zip(one, other, strict=True))]
    else:
        return None if one == other and type(one) is type(other) else (path, one, other)
    return next((found for p, a, b in pairs if (found := difference(a, b, p))), None)
