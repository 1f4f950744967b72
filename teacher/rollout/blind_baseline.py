"""The blind check: a task about a picture that is solved without it teaches guessing, not looking."""

import dataclasses
import math
from collections import Counter, defaultdict
from typing import Any

from schemas.task import Task
from teacher.domain.pack import Domain
from teacher.inference.client import Client
from teacher.rollout import agent_loop
from teacher.rollout.scheduler import rollouts

# A template's choices are guesses while as many are right as chance explains: within two standard deviations.
_DEVIATIONS = 2


async def check(
    traces: list[dict[str, Any]],
    tasks: list[Task],
    domain: Domain,
    client: Client,
    settings: agent_loop.Settings,
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
    passed = [trace for trace in traces if trace["images"] and agent_loop.passed(trace)]
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
    answerable = answered(asked, {t["task"]["id"] for t in made if agent_loop.passed(t)})
    ids = {task["id"] for task in asked}
    for trace in passed:
        if trace["task"]["id"] in ids:
            trace["outcome"]["blind"] = trace["task"]["id"] in answerable
    return made


def answered(asked: list[Task], right: set[str]) -> set[str]:
    """Those of the tasks asked blind whose answer needs no picture, by the ids of those answered right.

    One of a few options is right by chance: to reject each lucky guess would leave, of a teacher that always guesses
    yes, only the tasks whose answer is no. So a template's tasks are judged together, and its choices are answerable
    only where more of the tasks are right than its choices would be by chance or, where other answers tell, by always
    the same word.
    """
    templates: dict[str, list[Task]] = defaultdict(list)
    for task in asked:
        templates[task["template"]].append(task)
    found = set(right)
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
        same = max(Counter(answer["value"] for answer in choices.values()).values())
        # Nothing tells a word that is always right from one that is always said.
        if same == len(group):
            same = 0
        lucky = max(sum(chances), same) + _DEVIATIONS * spread
        if len({task["id"] for task in group} & right) <= lucky:
            found -= choices.keys()
    return found


def _type(task: Task) -> str | None:
    answer = task["checks"]["answer"]
    return answer["type"] if answer else None
