"""Samples tasks of a pack and proves that each can be solved, before any request to a teacher.

A task is a template's blueprint for one seed. `build` accepts it only if replaying its solution in a fresh world passes
the task's own checks, and if an agent that does nothing, or one that repeats the request, fails them.

In: a loaded pack, a split and a seed. Out: Task rows (schemas/task.py); their images go to an image store.
"""

import datetime as dt
import itertools
import random
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any, TypedDict

from schemas.canonical import canonical
from schemas.errors import InputError
from schemas.task import Answer as AnswerRow
from schemas.task import GoldCall, Split, Task, TaskImage
from schemas.task import Swarm as SwarmRow
from schemas.tool_calls import check_arguments
from teacher.domain import swarm as swarms
from teacher.domain.blueprint import Blueprint, Solution, Swarm, Template
from teacher.domain.json_answers import stated_schema
from teacher.domain.json_values import to_json
from teacher.domain.offer import few_tools
from teacher.domain.pack import Domain
from teacher.domain.questions import ProgramError, run_program, used_cells
from teacher.domain.scoring import answer_matches
from teacher.domain.seeds import first_seed
from teacher.domain.shares import divide_by_kind, template_shares
from teacher.domain.worlds import (
    PackFault,
    ToolError,
    fork_world,
    hash_world,
    make_blueprint,
    run_tool,
    start_world,
)
from teacher.scenes.images import ImageStore, task_images
from teacher.scenes.kinds import draw
from teacher.scenes.legibility import check
from teacher.scenes.scene import DrawnImage, Scene, SceneError

TRIES = 50
_ILLEGIBLE_LIMIT = 3


class _ImageFields(TypedDict, total=False):
    """The fields of a Task that only a task with images has."""

    pictures: list[TaskImage]
    program: dict[str, Any]
    cells: list[list[Any]]


class Sampling(TypedDict):
    """Arguments of `sample` that decide which training tasks a run has."""

    seed: int
    date: dt.date | None
    mix: dict[str, float] | None
    pixels: bool
    templates: Collection[str] | None


class IllegibleImage(InputError):
    """An image of a task cannot be drawn so that it is legible."""


def sample(
    domain: Domain,
    split: Split,
    count: int,
    *,
    seed: int,
    mix: dict[str, float] | None = None,
    pixels: bool = True,
    image_store: ImageStore | None = None,
    templates: Collection[str] | None = None,
    part: int = 0,
    taken: Collection[Task] = (),
    date: dt.date | None = None,
) -> list[Task]:
    """Returns `count` proven tasks with distinct requests, their templates interleaved.

    A template that has no more new requests goes on with wide seeds (teacher/domain/seeds.py), and if it has none there
    either, it is replaced by the others of its kind, in turn.

    Args:
        seed: the same seed gives the same tasks, another seed gives others.
        mix: share of a kind or of a template; it overrides the shares of kinds in domain.yaml.
        pixels: whether the models that solve the tasks have vision; if not, templates that need it are left out.
        image_store: stores the tasks' images.
        templates: names of those that may be sampled; None for all.
        part: index of a part of the exam, 0 to 4; two parts share no seed.
        taken: tasks of other parts, whose requests are not sampled again.
        date: the day whose training seeds are taken; None for those of `seed` alone.

    Raises:
        InputError: `mix` has an unknown name, a template's tasks cannot be proven, or all templates of a kind together
            have too few requests.
    """
    first, first_wide = first_seed(split, seed, part=part, date=date)
    rng = random.Random(first)
    shares = template_shares(domain, mix, pixels=pixels, templates=templates)
    counts = divide_by_kind(domain, shares, count)
    names = [name for name, number in counts.items() for _ in range(number)]
    rng.shuffle(names)
    seeds = itertools.count(first)
    wide_seeds = None if first_wide is None else itertools.count(first_wide)
    widened: set[str] = set()
    tasks: list[Task] = []
    seen = {(task["request"], *task_images(task)) for task in taken}
    # The templates of each kind that still have new requests.
    left: dict[str, list[str]] = {}
    for name in counts:
        left.setdefault(domain.templates[name].kind, []).append(name)

    def new_task(name: str, seeds: Iterator[int]) -> Task | None:
        """The next task of a template with a new request; None if it has none in `TRIES` seeds."""
        template, illegible = domain.templates[name], 0
        for _ in range(TRIES):
            number = next(seeds)
            draft = make_blueprint(domain.environment, template, split=split, seed=number)
            if not draft[1].pictures and (draft[1].request,) in seen:
                continue  # before the proof, which would be for nothing
            try:
                task = prove(domain, name, split, number, draft, image_store=image_store)
            except IllegibleImage:
                # One seed in some hundreds gives an illegible layout; more in a row are the template's fault.
                illegible += 1
                if illegible == _ILLEGIBLE_LIMIT:
                    raise
                continue
            # The same text with another image is another request.
            request = (task["request"], *task_images(task))
            if request not in seen:
                seen.add(request)
                return task
        return None

    for name in names:
        kind, task = domain.templates[name].kind, None
        group = left[kind]
        while group and task is None:
            chosen = name if name in group else group[len(tasks) % len(group)]
            if chosen not in widened:
                task = new_task(chosen, seeds)
            if task is None and wide_seeds is not None:
                widened.add(chosen)
                task = new_task(chosen, wide_seeds)
            if task is None:
                group.remove(chosen)
        if task is None:
            made = sum(row["kind"] == kind for row in tasks)
            raise InputError(
                f"{domain.templates[name].file}: {name}: no new request in {TRIES} seeds, nor in another template of"
                f" {kind}: they have too few variants for {count} tasks; {made} of this kind were made"
            )
        tasks.append(task)
    return tasks


def build(
    domain: Domain, template: str, split: Split, seed: int, *, image_store: ImageStore | None = None
) -> Task:
    """Returns one proven task; stores its images in `image_store` if there is one.

    Raises:
        InputError: the template's solution fails the task's checks, an agent that does nothing passes them, or an image
            does not show what it should; the message names template and seed.
    """
    draft = make_blueprint(domain.environment, domain.templates[template], split=split, seed=seed)
    return prove(domain, template, split, seed, draft, image_store=image_store)


def prove(
    domain: Domain,
    template: str,
    split: Split,
    seed: int,
    draft: tuple[str | None, Blueprint],
    *,
    image_store: ImageStore | None = None,
) -> Task:
    """Returns the proven task of a blueprint, `draft` as `make_blueprint` returns it; raises as `build` does."""
    chosen = domain.templates[template]
    place = f"{chosen.file}: {template}: seed {seed} ({split})"
    note, blueprint = draft
    plan = [(tool, canonical(arguments)) for tool, arguments in blueprint.plan]
    blueprint = replace(blueprint, plan=plan)
    images = _draw(blueprint, place)
    try:
        before, after = _replay(domain, blueprint, split=split, seed=seed, place=place)
    except PackFault as fault:
        raise fault.of_task(chosen, split, seed) from fault.__cause__
    answer = _find_answer(chosen, blueprint, images, is_read_only=before == after, place=place)
    if answer:
        if not answer_matches(answer, blueprint.reply):
            raise InputError(
                f"{place}: its own reply does not give its answer: {blueprint.reply!r}, {answer}"
            )
        if answer_matches(answer, blueprint.request):
            raise InputError(
                f"{place}: the request already contains the answer {answer['value']!r}"
            )
    elif before == after:
        raise InputError(
            f"{place}: no answer to check and a state that does not change: doing nothing would pass"
        )
    system = domain.spec["system"] + (f" {note}" if note else "")
    task: Task = {
        "version": 1,
        "id": f"{domain.name}-{split}-{template}-{seed}",
        "domain": domain.name,
        "split": split,
        "kind": chosen.kind,
        "template": template,
        "seed": seed,
        "system": system,
        "request": _request(blueprint, answer),
        "tools": few_tools(domain.tools, {tool for tool, _ in blueprint.plan}, template, seed),
        **_image_fields(blueprint, images, image_store),
        "plan": gold_calls(blueprint.plan),
        "reply": blueprint.reply,
        "checks": {"state": after, "answer": answer},
    }
    if blueprint.swarm:
        task["swarm"] = _swarm_row(blueprint.swarm)

        untouched, _ = start_world(domain.environment, seed=seed, split=split)

        def run(calls: list[GoldCall]) -> list[Any]:
            world = untouched if before == after else fork_world(untouched)
            return [run_tool(world, call["tool"], call["arguments"]) for call in calls]

        try:
            problem = swarms.prove(task, run)
        except ToolError as error:
            problem = f"a part fails in a world of its own: {error}"
        if problem:
            raise InputError(f"{place}: swarm: {problem}")
    return task


def _swarm_row(swarm: Swarm) -> SwarmRow:
    return {
        "name": swarm.name,
        "system_prompt": swarm.system_prompt,
        "parts": [
            {
                "about": part.about,
                "prompt": part.prompt,
                "plan": gold_calls(part.plan),
                "reply": part.reply,
                "answer": part.answer.as_row(),
            }
            for part in swarm.parts
        ],
        "own": len(swarm.own),
    }


def gold_calls(plan: Solution) -> list[GoldCall]:
    """Returns a solution as a task's row stores it, its arguments canonical."""
    return [
        {"tool": tool, "arguments": canonical(to_json(arguments, name=tool))}
        for tool, arguments in plan
    ]


def _request(blueprint: Blueprint, answer: AnswerRow | None) -> str:
    """The text of the user's message: the request, and the schema of an answer in JSON."""
    if answer is None or answer["type"] != "json":
        return blueprint.request
    return f"{blueprint.request}\n\n{stated_schema(answer['schema'])}"


def _draw(blueprint: Blueprint, place: str) -> list[DrawnImage]:
    """Returns the blueprint's images, legible, and with every cell that its program uses.

    Raises:
        InputError: an image is not legible, or lacks a cell.
    """
    images = [
        _draw_legible(scene, f"{place}: image {number} ({scene.kind})")
        for number, scene in enumerate(blueprint.pictures)
    ]
    for number, key in used_cells(blueprint.program) if blueprint.program else []:
        if not 0 <= number < len(images):
            raise InputError(
                f"{place}: program: image {number}: the blueprint has {len(images)} images"
            )
        if key not in {cell.key for cell in images[number].cells}:
            raise InputError(
                f"{place}: program: {key}: expected a cell that image {number}"
                f" ({images[number].scene.kind}) shows"
            )
    return images


def _draw_legible(scene: Scene, place: str) -> DrawnImage:
    try:
        image = draw(scene)
    except SceneError as error:
        raise IllegibleImage(f"{place}: {error}") from None
    if faults := check(image):
        raise IllegibleImage(f"{place}: {faults[0]}")
    return image


def _find_answer(
    template: Template,
    blueprint: Blueprint,
    images: list[DrawnImage],
    *,
    is_read_only: bool,
    place: str,
) -> AnswerRow | None:
    """Returns the blueprint's answer, or if it has none and the task is read-only, the result of its program."""
    answer = blueprint.answer
    if blueprint.program:
        try:
            result = run_program(blueprint.program, [i.scene.data for i in images], images)
        except ProgramError as error:
            raise InputError(f"{place}: program: {error}") from None
        if answer is None and is_read_only:
            answer = result
        elif answer and not blueprint.plan and answer.value != result.value:
            raise InputError(
                f"{place}: its answer is {answer.value!r}, and its program computes {result.value!r}"
            )
        if result.type == "point" and not template.needs_pixels:
            raise InputError(
                f"{place}: asks for a point: expected @template(..., pixels=True), since only a model with"
                " vision can point into an image"
            )
    return answer.as_row() if answer else None


def _image_fields(
    blueprint: Blueprint, images: list[DrawnImage], image_store: ImageStore | None
) -> _ImageFields:
    """Returns the fields of a task with images, and stores the images; no field if there is no image."""
    if not images:
        return {}
    if image_store:
        for image in images:
            image_store.add(image)
    fields: _ImageFields = {"pictures": [image_row(image) for image in images]}
    if blueprint.program:
        fields["program"] = blueprint.program
        fields["cells"] = [list(cell) for cell in used_cells(blueprint.program)]
    return fields


def image_row(image: DrawnImage) -> TaskImage:
    """Returns an image as a task's row names it."""
    kind, width, height = image.scene.kind, image.width, image.height
    return {"sha256": image.sha256, "kind": kind, "width": width, "height": height}  # type: ignore[typeddict-item]


def _replay(
    domain: Domain, blueprint: Blueprint, *, split: Split, seed: int, place: str
) -> tuple[str, str]:
    """Returns the hashes of a fresh world's state before and after the solution.

    Raises:
        InputError: the solution calls an unknown tool, its arguments are invalid, or a call fails.
    """
    world, _ = start_world(domain.environment, seed=seed, split=split)
    before = hash_world(world)
    for tool, arguments in blueprint.plan:
        if tool not in domain.tools:
            raise InputError(f"{place}: the solution calls {tool}, which is no tool of the domain")
        problem = check_arguments(domain.tools[tool], arguments)
        if problem:
            raise InputError(
                f"{place}: the solution's arguments of {tool} are not valid: {problem}"
            )
        try:
            result = run_tool(world, tool, arguments)
        except ToolError as error:
            raise InputError(f"{place}: the solution fails at {tool}: {error}") from None
        if isinstance(result, Scene):
            _draw_legible(result, f"{place}: the image that {tool} returns ({result.kind})")
    return before, hash_world(world)
