"""The blind baseline: which tasks with images the teacher solves without them. Such tasks teach guessing.

In: tasks that were solved with their images. Out: the traces of attempts without, and `outcome.blind` of the others.
"""

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Sequence

from schemas.task import Task
from schemas.trace import Maker, Trace
from teacher.domain.pack import Domain
from teacher.inference.client import Client
from teacher.rollout import agent_loop
from teacher.rollout.scheduler import Examples, Prepare, as_it_is, rollouts

# Standard deviations above chance up to which a template's correct choices count as guesses.
_DEVIATIONS = 2


async def attempts(
    tasks: Sequence[Task],
    domain: Domain,
    client: Client,
    settings: agent_loop.Settings,
    maker: Maker,
    *,
    workers: int,
    examples: Examples,
    prepare: Prepare = as_it_is,
) -> AsyncIterator[Trace]:
    """Yields the trace of one attempt at each task, without its images and without a hint, when it ends.

    Args:
        tasks: those of passed traces with images for which `needs_image` is true.
        settings, examples, prepare: as the traces were made.
    """
    without_images = dataclasses.replace(settings, images="none")
    async for rollout in rollouts(
        tasks,
        domain,
        client,
        without_images,
        maker,
        workers=workers,
        examples=examples,
        prepare=prepare,
    ):
        yield rollout.trace


def needs_image(task: Task) -> bool:
    """Whether an attempt without the images tells something: the answer not_shown is always correct then."""
    answer = task["checks"]["answer"]
    return answer is None or answer["type"] != "not_shown"


def mark(trace: Trace, attempted: Collection[str], answerable: Collection[str]) -> None:
    """Sets `outcome.blind` of a passed trace with images: whether its task was solved without them.

    Args:
        attempted: ids of the tasks that were attempted without their images. answerable: of those that need none.
    """
    task = trace["task"]["id"]
    if trace["images"] and agent_loop.passed(trace) and task in attempted:
        trace["outcome"]["blind"] = task in answerable


def find_answerable(tasks: Iterable[Task], correct: set[str]) -> set[str]:
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
