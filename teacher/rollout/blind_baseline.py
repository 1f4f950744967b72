"""The blind baseline: which tasks with images the teacher solves without them. Such tasks teach guessing.

In: the traces of a run and their tasks. Out: `outcome.blind` in those traces, and the traces of the blind attempts.
"""

import dataclasses
import math
from collections import Counter, defaultdict

from schemas.task import Task
from schemas.trace import Maker, Trace
from teacher.domain.pack import Domain
from teacher.inference.client import Client
from teacher.rollout import agent_loop
from teacher.rollout.scheduler import Examples, rollouts

# Standard deviations above chance up to which a template's correct choices count as guesses.
_DEVIATIONS = 2


async def check(
    traces: list[Trace],
    tasks: list[Task],
    domain: Domain,
    client: Client,
    settings: agent_loop.Settings,
    maker: Maker,
    *,
    workers: int,
    examples: Examples,
) -> list[Trace]:
    """Attempts each task of a passed trace with images again, without its images and without a hint.

    Sets `outcome.blind` of the passed traces: whether their task was solved without its images. A task whose answer is
    not_shown is left out: without an image, that answer is always correct.

    Args:
        traces, tasks: of the run. settings, examples: as the traces were made.

    Returns:
        The blind traces; the run counts their requests too.
    """
    with_images = [trace for trace in traces if trace["images"] and agent_loop.passed(trace)]
    solved = {trace["task"]["id"] for trace in with_images}
    candidates = [
        task for task in tasks if task["id"] in solved and _answer_type(task) != "not_shown"
    ]
    without_images = dataclasses.replace(settings, images="none")
    blind = [
        rollout.trace
        async for rollout in rollouts(
            candidates, domain, client, without_images, maker, workers=workers, examples=examples
        )
    ]
    blind.sort(key=lambda trace: trace["id"])
    correct = {trace["task"]["id"] for trace in blind if agent_loop.passed(trace)}
    answerable = find_answerable(candidates, correct)
    ids = {task["id"] for task in candidates}
    for trace in with_images:
        if trace["task"]["id"] in ids:
            trace["outcome"]["blind"] = trace["task"]["id"] in answerable
    return blind


def find_answerable(tasks: list[Task], correct: set[str]) -> set[str]:
    """Returns the ids of the tasks whose answer needs no image.

    A choice of few options is often correct by chance. If a teacher always answers yes, rejecting its correct guesses
    would leave only the tasks whose answer is no. So the choices of a template are judged together: they are answerable
    only if more of the template's tasks are correct than by chance and than with one word for all.

    Args:
        tasks: those attempted without images. correct: the ids of those that passed.
    """
    templates: dict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        templates[task["template"]].append(task)
    answerable = set(correct)
    for group in templates.values():
        choices = {
            task["id"]: answer
            for task in group
            if (answer := task["checks"]["answer"]) and answer["type"] == "choice"
        }
        if not choices:
            continue
        chances = [1 / len(answer["options"]) for answer in choices.values()]
        spread = math.sqrt(sum(chance * (1 - chance) for chance in chances))
        same_word = max(Counter(answer["value"] for answer in choices.values()).values())
        # If one word is correct for the whole group, a correct reply cannot be distinguished from a constant one.
        if same_word == len(group):
            same_word = 0
        lucky = max(sum(chances), same_word) + _DEVIATIONS * spread
        if len({task["id"] for task in group} & correct) <= lucky:
            answerable -= choices.keys()
    return answerable


def _answer_type(task: Task) -> str | None:
    answer = task["checks"]["answer"]
    return answer["type"] if answer else None
