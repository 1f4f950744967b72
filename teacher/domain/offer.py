"""Chooses the tools that each task offers, and their order.

A deployment offers its whole toolbox. A student that was trained only on the tools around each solution picks wrong
ones there. `mixed` therefore offers the whole toolbox in a share of the tasks, and elsewhere subsets of any size and
order, so that the student learns to choose by the request.

Lists of tools are at the beginning of every prompt. The server's prefix cache holds few of them, so few are distinct: a
run has `_ORDERS` orders of the whole toolbox, and `_TASKS_A_SUBSET` tasks of a template share a subset.

In: sampled tasks and their pack. Out: the same tasks with other `tools`.
"""

import random
from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Literal

from schemas.task import Split, Task
from teacher.domain.pack import Domain

Offer = Literal["few", "all", "mixed", "retrieved"]

# Half of the tasks with the whole toolbox have the pack's own order, as a deployment does; the rest share the others.
_ORDERS = 4
_TASKS_A_SUBSET = 3
# Sets of `few` that a template has.
_FEW_SETS = 2


def few_tools(
    names: Collection[str], needed: Collection[str], template: str, seed: int
) -> list[str]:
    """Returns the tools of a solution and one or two others of `names`, sorted; a template has `_FEW_SETS` sets."""
    others = sorted(set(names) - set(needed))
    rng = random.Random(f"{template}/{seed % _FEW_SETS}")
    return sorted({*needed, *rng.sample(others, min(len(others), rng.choice((1, 2))))})


def offer_tools(
    tasks: list[Task], domain: Domain, *, offer: Offer, whole_share: float = 0.5
) -> list[Task]:
    """Returns the tasks, in their order, with the tools that `offer` chooses.

    Args:
        tasks: of one split.
        offer: few (a solution's tools and one or two others), all (the whole toolbox), mixed, or retrieved, which
            begins with the whole toolbox too (retrieval.py).
        whole_share: of the tasks, 0 to 1, that get the whole toolbox if `offer` is mixed.
    """
    if offer == "few":
        return [_with_few(task, domain) for task in tasks]
    order = sorted(range(len(tasks)), key=lambda index: tasks[index]["template"])
    is_whole = spread(tasks, whole_share if offer == "mixed" else 1.0)
    whole, parts = (
        whole_toolboxes(domain, tasks[0]["split"] if tasks else "train"),
        defaultdict(list),
    )
    offered: dict[int, list[str]] = {}
    for index in order:
        if index in is_whole:
            offered[index] = next(whole)
        else:
            parts[tasks[index]["template"]].append(index)
    for template, members in parts.items():
        for start in range(0, len(members), _TASKS_A_SUBSET):
            group = members[start : start + _TASKS_A_SUBSET]
            needed = {step["tool"] for index in group for step in tasks[index]["plan"]}
            rng = random.Random(f"offer {template} {tasks[group[0]]['id']}")
            offered |= dict.fromkeys(group, subset(domain, needed, rng))
    return [_with_tools(task, offered[index]) for index, task in enumerate(tasks)]


def whole_toolboxes(domain: Domain, split: Split) -> Iterator[list[str]]:
    """Yields orders of the whole toolbox, without end: the pack's own order every second time, else one of a few.

    The two splits share the pack's own order alone: the exam shows whether a student depends on the places of tools.
    """
    own = list(domain.tools)
    others = []
    for number in range(1, _ORDERS):
        order = list(own)
        random.Random(f"toolbox {domain.name} {split} {number}").shuffle(order)
        others.append(order)
    while True:
        for order in others:
            yield list(own)
            yield list(order)


def spread(tasks: list[Task], share: float) -> set[int]:
    """Returns the indexes of a share of the tasks, the same share of each template."""
    order = sorted(range(len(tasks)), key=lambda index: tasks[index]["template"])
    # Rounded, so that floating point does not lose a task.
    ends = [int(round(number * share, 6)) for number in range(len(tasks) + 1)]
    return {index for number, index in enumerate(order) if ends[number + 1] > ends[number]}


def subset(domain: Domain, needed: set[str], rng: random.Random) -> list[str]:
    """Returns the tools of a solution and others, at least one and not all if the pack has so many, in any order."""
    others = sorted(set(domain.tools) - needed)
    count = rng.randint(min(1, len(others)), max(min(1, len(others)), len(others) - 1))
    tools = sorted(needed) + rng.sample(others, count)
    rng.shuffle(tools)
    return tools


def _with_few(task: Task, domain: Domain) -> Task:
    needed = {step["tool"] for step in task["plan"]}
    return _with_tools(task, few_tools(domain.tools, needed, task["template"], task["seed"]))


def _with_tools(task: Task, tools: list[str]) -> Task:
    changed = task.copy()
    changed["tools"] = tools
    return changed
