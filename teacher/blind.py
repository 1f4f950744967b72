"""The blind check: a task about a picture that is solved without it teaches guessing, not looking."""

import dataclasses
import math
from collections import defaultdict
from typing import Any

from teacher import episode
from teacher.client import Client
from teacher.domain import Domain
from teacher.rollouts import rollouts

# A template's choices are guesses while as many are right as chance explains: within two standard deviations.
_DEVIATIONS = 2


async def check(
    traces: list[dict[str, Any]],
    tasks: list[dict[str, Any]],
    domain: Domain,
    client: Client,
    settings: episode.Settings,
    teacher: dict[str, Any],
    workers: int,
    examples: Any,
) -> list[dict[str, Any]]:
    """Asks each task of a passed trace with images once more, without them and without a hint.

    The passed traces of such a task get `outcome.blind`: whether it was solved. A task whose right answer is that the
    picture does not show it is not asked: without a picture, that is always right.

    Args:
        traces, tasks: of the run. settings, examples: as the traces were made.

    Returns:
        The blind traces, whose requests the run has paid for, too.
    """
    passed = [trace for trace in traces if trace["images"] and episode.passed(trace)]
    solved = {trace["task"]["id"] for trace in passed}
    asked = [task for task in tasks if task["id"] in solved and _type(task) != "not_shown"]
    blind = dataclasses.replace(settings, images="none")
    made = [
        trace
        async for trace in rollouts(
            asked, domain, client, blind, teacher, workers, examples=examples
        )
    ]
    made.sort(key=lambda trace: trace["id"])
    answerable = answered(asked, {t["task"]["id"] for t in made if episode.passed(t)})
    ids = {task["id"] for task in asked}
    for trace in passed:
        if trace["task"]["id"] in ids:
            trace["outcome"]["blind"] = trace["task"]["id"] in answerable
    return made


def answered(asked: list[dict[str, Any]], right: set[str]) -> set[str]:
    """Those of the tasks asked blind whose answer needs no picture, by the ids of those answered right.

    One of a few options is right by chance: to reject each lucky guess would leave, of a teacher that always guesses
    yes, only the tasks whose answer is no. So the choices of a template are judged together.
    """
    choices: dict[str, list[dict[str, Any]]] = defaultdict(list)
    found = set(right)
    for task in asked:
        if _type(task) == "choice":
            choices[task["template"]].append(task)
    for group in choices.values():
        chances = [1 / len(task["checks"]["answer"]["options"]) for task in group]
        spread = math.sqrt(sum(chance * (1 - chance) for chance in chances))
        lucky = sum(chances) + _DEVIATIONS * spread
        ids = {task["id"] for task in group}
        if len(ids & right) <= lucky:
            found -= ids
    return found


def _type(task: dict[str, Any]) -> str | None:
    answer = task["checks"]["answer"]
    return answer["type"] if answer else None
