"""Samples tasks from a domain and proves each solvable before anything is spent on it.

A task is its template's blueprint, made concrete by a seed. It counts only when replaying its plan in a fresh world
passes the task's own checks, and when neither an agent that does nothing nor one that repeats the request would pass.
"""

import itertools
import random
from typing import Any

from schemas.errors import InputError
from schemas.tool_calls import check_arguments
from teacher.domain.pack import Answer, Blueprint, Domain
from teacher.domain.questions import ProgramError, run, used
from teacher.domain.scoring import answer_matches, state_hash
from teacher.scenes.images import ImageStore, task_images
from teacher.scenes.kinds import draw
from teacher.scenes.legibility import check
from teacher.scenes.scene import DrawnImage, Scene, SceneError

# Train and exam draw their seeds from disjoint ranges; the domain keeps their entities apart by `split`.
_FIRST_SEED = {"train": 0, "exam": 500_000_000}
_SEEDS_A_RECIPE = 1_000_000
_TRIES = 50
_BAD_DRAWINGS = 3
_TOOL_SETS = 2


class BadDrawing(InputError):
    """A task's picture cannot be drawn so that it can be read."""


def sample(
    domain: Domain,
    split: str,
    count: int,
    seed: int,
    mix: dict[str, float] | None = None,
    pixels: bool = True,
    album: ImageStore | None = None,
) -> list[dict]:
    """`count` tasks, proven, distinct in what the user says, templates in turn.

    Args:
        split: "train" or "exam".
        seed: another seed gives other tasks; the same seed the same.
        mix: share of each kind, or of a template, overriding domain.yaml's shares of kinds.
        pixels: whether who does the tasks sees pictures; without, there is no task of a template that needs it.
        album: where the tasks' pictures are put.

    Raises:
        InputError: an unknown name in `mix`, or a template whose tasks cannot be proven.
    """
    first = _FIRST_SEED[split] + seed * _SEEDS_A_RECIPE
    rng = random.Random(first)
    names = _shares(domain, mix, pixels)
    order = _interleave(names, count, rng)
    seeds = itertools.count(first)
    tasks, seen = [], set()
    for name in order:
        bad = 0
        for _ in range(_TRIES):
            try:
                task = build(domain, name, split, next(seeds), album)
            except BadDrawing:
                # One seed in some hundreds lays something out that cannot be read; a template that does is at fault.
                bad += 1
                if bad == _BAD_DRAWINGS:
                    raise
                continue
            # The same words about another picture ask for something else.
            asked = (task["request"], *task_images(task))
            if asked not in seen:
                break
        else:
            raise InputError(
                f"{_file(domain, name)}: {name}: no new request in {_TRIES} seeds: it has too few"
                f" variants for {count} tasks"
            )
        seen.add(asked)
        tasks.append(task)
    return tasks


def build(
    domain: Domain, template: str, split: str, seed: int, album: ImageStore | None = None
) -> dict[str, Any]:
    """One task (schemas/task.schema.json), proven; its pictures are put into `album` where there is one.

    Raises:
        InputError: the template's plan does not pass its own checks, a null agent does, or a picture does not show
            what it should; names template and seed.
    """
    world, note, blueprint = _blueprint(domain, template, split, seed)
    place = f"{_file(domain, template)}: {template}: seed {seed} ({split})"
    pictures = _draw(blueprint, place)
    before, after = _replay(domain, blueprint, split, seed, place)
    answer = _answer(domain, template, blueprint, pictures, before == after, place)
    if answer:
        if not answer_matches(answer, blueprint.reply):
            raise InputError(
                f"{place}: its own reply does not give its answer: {blueprint.reply!r}, {answer}"
            )
        if answer_matches(answer, blueprint.request):
            raise InputError(f"{place}: the request already says the answer {answer['value']!r}")
    elif before == after:
        raise InputError(
            f"{place}: no answer to check and a state that does not change: doing nothing would pass"
        )
    needed = {tool for tool, _ in blueprint.plan}
    others = sorted(set(domain.tools) - needed)
    # A task offers what it needs and one or two tools it does not: choosing is part of the work. A template has few
    # such sets, so that prompts begin alike and the server's cache serves them.
    choice = random.Random(f"{template}/{seed % _TOOL_SETS}")
    offered = sorted(needed | set(choice.sample(others, min(len(others), choice.choice((1, 2))))))
    system = domain.spec["system"] + (f" {note}" if note else "")
    return {
        "version": 1,
        "id": f"{domain.name}-{split}-{template}-{seed}",
        "domain": domain.name,
        "split": split,
        "kind": domain.templates[template].kind,  # type: ignore[attr-defined]
        "template": template,
        "seed": seed,
        "system": system,
        "request": blueprint.request,
        "tools": offered,
        **_shown(blueprint, pictures, album),
        "plan": [{"tool": tool, "arguments": arguments} for tool, arguments in blueprint.plan],
        "reply": blueprint.reply,
        "checks": {"state": after, "answer": answer},
    }


def _blueprint(
    domain: Domain, template: str, split: str, seed: int
) -> tuple[Any, str | None, Blueprint]:
    """A template's blueprint by its seed, the world it was made in, and that world's note for the system message."""
    world = domain.environment()
    note = world.reset(seed=seed, split=split)
    rng = random.Random(f"{template}/{split}/{seed}")
    return world, note, domain.templates[template](world, rng)


def _file(domain: Domain, template: str) -> str:
    """The file of the pack that a template is defined in."""
    return domain.templates[template].__code__.co_filename


def _draw(blueprint: Blueprint, place: str) -> list[DrawnImage]:
    """The blueprint's pictures, drawn, checked, and showing what its program asks for."""
    pictures = [
        _picture(scene, f"{place}: picture {number} ({scene.kind})")
        for number, scene in enumerate(blueprint.pictures)
    ]
    for number, key in used(blueprint.program) if blueprint.program else []:
        if not 0 <= number < len(pictures):
            raise InputError(
                f"{place}: program: picture {number}: the blueprint has {len(pictures)} pictures"
            )
        if key not in {cell.key for cell in pictures[number].cells}:
            raise InputError(
                f"{place}: program: {key}: expected a cell that picture {number}"
                f" ({pictures[number].scene.kind}) shows"
            )
    return pictures


def _picture(scene: Scene, place: str) -> DrawnImage:
    try:
        picture = draw(scene)
    except SceneError as error:
        raise BadDrawing(f"{place}: {error}") from None
    if faults := check(picture):
        raise BadDrawing(f"{place}: {faults[0]}")
    return picture


def _answer(
    domain: Domain,
    template: str,
    blueprint: Blueprint,
    pictures: list[DrawnImage],
    unchanged: bool,
    place: str,
) -> dict[str, Any] | None:
    """A task's answer: the blueprint's own, or where that leaves it open, what its program computes."""
    answer = blueprint.answer
    if blueprint.program:
        try:
            computed = run(blueprint.program, [p.scene.data for p in pictures], pictures)
        except ProgramError as error:
            raise InputError(f"{place}: program: {error}") from None
        if answer is None and unchanged:
            answer = computed
        elif answer and not blueprint.plan and answer.value != computed.value:
            raise InputError(
                f"{place}: its answer is {answer.value!r}, and its program computes {computed.value!r}"
            )
        pixels = getattr(domain.templates[template], "pixels", False)
        if computed.type == "point" and not pixels:
            raise InputError(
                f"{place}: asks for a point: expected @template(..., pixels=True), since only who sees the"
                " picture can point into it"
            )
    return None if answer is None else as_json(answer)


def scenes_of(domain: Domain, template: str, split: str, seed: int) -> list[Scene]:
    """The pictures that a template's task of this seed would show, neither drawn nor checked."""
    return _blueprint(domain, template, split, seed)[2].pictures


def described(picture: DrawnImage) -> dict[str, Any]:
    """A picture as a task names it."""
    kind, width, height = picture.scene.kind, picture.width, picture.height
    return {"sha256": picture.sha256, "kind": kind, "width": width, "height": height}


def as_json(answer: Answer) -> dict[str, Any]:
    """An answer as a task holds it."""
    made = {"type": answer.type, "value": answer.value}
    if answer.tolerance:
        made["tolerance"] = answer.tolerance
    if answer.options:
        made["options"] = list(answer.options)
    return made


def _shown(
    blueprint: Blueprint, pictures: list[DrawnImage], album: ImageStore | None
) -> dict[str, Any]:
    """What a task says of its pictures; nothing where it has none."""
    if not pictures:
        return {}
    if album:
        for picture in pictures:
            album.add(picture)
    return {
        "pictures": [described(picture) for picture in pictures],
        **(
            {
                "program": blueprint.program,
                "cells": [list(cell) for cell in used(blueprint.program)],
            }
            if blueprint.program
            else {}
        ),
    }


def _replay(
    domain: Domain, blueprint: Blueprint, split: str, seed: int, place: str
) -> tuple[str, str]:
    """State hashes before and after the plan, in a fresh world."""
    world = domain.environment()
    world.reset(seed=seed, split=split)
    before = state_hash(world._state())
    for tool, arguments in blueprint.plan:
        if tool not in domain.tools:
            raise InputError(f"{place}: the plan calls {tool}, which is no tool of the domain")
        problem = check_arguments(domain.tools[tool], arguments)
        if problem:
            raise InputError(f"{place}: the plan's arguments of {tool} are not valid: {problem}")
        try:
            result = getattr(world, tool)(**arguments)
        except ValueError as error:
            raise InputError(f"{place}: the plan fails at {tool}: {error}") from None
        if isinstance(result, Scene):
            _picture(result, f"{place}: the picture that {tool} returns ({result.kind})")
    return before, state_hash(world._state())


def _shares(domain: Domain, mix: dict[str, float] | None, pixels: bool) -> dict[str, float]:
    """Share of each template: that of its kind, split evenly, unless the mix names the template."""
    kinds = {kind: entry["share"] for kind, entry in domain.spec["kinds"].items()}
    mix = dict(mix or {})
    unknown = set(mix) - set(kinds) - set(domain.templates)
    if unknown:
        raise InputError(
            f"tasks.mix.{min(unknown)}: expected a kind or a template of the domain {domain.name}"
        )
    shares = {}
    for kind, share in kinds.items():
        own = [n for n, t in domain.templates.items() if t.kind == kind]  # type: ignore[attr-defined]
        for name in own:
            shares[name] = mix.get(name, mix.get(kind, share) / len(own))
    if not pixels:
        shares = {
            n: s for n, s in shares.items() if not getattr(domain.templates[n], "pixels", False)
        }
    if sum(shares.values()) <= 0:
        raise InputError("tasks.mix: expected at least one share above 0")
    return shares


def _interleave(shares: dict[str, float], count: int, rng: random.Random) -> list[str]:
    """`count` template names in the proportion of the shares (largest remainder), shuffled."""
    total = sum(shares.values())
    exact = {name: count * share / total for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(shares, key=lambda name: exact[name] - counts[name], reverse=True)
    for name in by_remainder[: count - sum(counts.values())]:
        counts[name] += 1
    order = [name for name, number in counts.items() for _ in range(number)]
    rng.shuffle(order)
    return order
