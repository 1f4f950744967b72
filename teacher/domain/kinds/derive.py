"""Turns a share of sampled tasks into the kinds that every pack has (tasks.kinds of a recipe).

In: the tasks of a split as they are offered, and a share of all tasks for each kind. Out: the same number of tasks, in
their order. Tasks with images or with renamed tools stay as they are.
"""

import random
from collections.abc import Callable, Mapping

from schemas.task import DerivedKind, Task
from teacher.domain.kinds.dialogue import make_dialogue
from teacher.domain.kinds.irrelevant import make_irrelevant
from teacher.domain.kinds.missing import make_missing
from teacher.domain.kinds.policy import load_policy, make_policy_task
from teacher.domain.kinds.recovery import with_fault
from teacher.domain.pack import Domain
from teacher.domain.tasks import build

Make = Callable[[Task, Domain], Task | None]

MAKERS: dict[DerivedKind, Make] = {
    "policy": make_policy_task,
    "missing": make_missing,
    "irrelevant": make_irrelevant,
    "recovery": with_fault,
    "dialogue": make_dialogue,
}


def derive_kinds(
    tasks: list[Task], domain: Domain, shares: Mapping[DerivedKind, float]
) -> list[Task]:
    """Returns the tasks, a share of them of each derived kind.

    A kind has fewer tasks than its share where too few of the pack's tasks suit it; a pack without policy.md has none
    of the kind policy. No two derived tasks have the same request, tools and system message.
    """
    result = list(tasks)
    open_places = [i for i, task in enumerate(tasks) if suits(task)]
    random.Random(f"kinds {[tasks[i]['id'] for i in open_places]}").shuffle(open_places)
    seen: set[tuple[str, ...]] = set()
    # Few templates make a call that a rule is about, so that their tasks take the place of others.
    policy = load_policy(domain) if shares.get("policy") else None
    rules = {rule.tool for rule in policy.rules} if policy else set()
    ruled = sorted(
        {
            tasks[i]["template"]
            for i in open_places
            if any(s["tool"] in rules for s in tasks[i]["plan"])
        }
    )
    for kind, make in MAKERS.items():
        left = round(shares.get(kind, 0) * len(tasks))
        for index in list(open_places):
            if not left:
                break
            made = make(tasks[index], domain)
            if made is None and kind == "policy" and ruled:
                made = make(_of_template(ruled[index % len(ruled)], tasks[index], domain), domain)
            if made is None:
                continue
            key = (kind, made["request"], made["system"], *sorted(made["tools"]))
            if key in seen:
                continue
            seen.add(key)
            result[index] = made
            open_places.remove(index)
            left -= 1
    return result


def _of_template(template: str, task: Task, domain: Domain) -> Task:
    """A task of another template in the world of a task, with the tools that it offers and those that it needs."""
    made = build(domain, template, task["split"], task["seed"])
    needed = [step["tool"] for step in made["plan"] if step["tool"] not in task["tools"]]
    made["tools"] = [*task["tools"], *dict.fromkeys(needed)]
    return made


def suits(task: Task) -> bool:
    """Whether kinds are derived from a task: in words, with the pack's own tools; no extraction and no swarm."""
    is_plain = "pictures" not in task and "drift" not in task
    return is_plain and task["kind"] in ("lookup", "workflow", "document") and bool(task["plan"])


def derived_example(example: Task, task: Task, domain: Domain) -> Task | None:
    """Returns a worked example of the same kind as a task, or None if the example's task cannot be of that kind."""
    make = MAKERS.get(task["kind"])  # type: ignore[call-overload]
    return make(example, domain) if make else example
