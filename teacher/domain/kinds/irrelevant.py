"""Tasks that no tool fits: another desk's request, or a request whose first tool is not offered.

The right behaviour is to say so and to call nothing. That the goal cannot be reached with the tools that are left is
found by running calls.
"""

import random

from schemas.task import Task
from teacher.domain.blueprint import Answer
from teacher.domain.drift import other_pack
from teacher.domain.kinds.facts import stated_values
from teacher.domain.kinds.reach import is_reachable
from teacher.domain.pack import Domain, other_packs
from teacher.domain.scoring import answer_matches
from teacher.domain.tasks import build
from teacher.domain.worlds import hash_world, start_world

_REPLIES = (
    "I cannot do that: none of my tools is for it.",
    "Sorry, I have no tool for that, so I cannot help with it here.",
    "That is not possible with the tools that I have.",
    "I cannot help with that: I was given no tool that does it.",
)
# Of the tasks, the share with the request of another desk.
_FOREIGN = 0.4


def make_irrelevant(task: Task, domain: Domain) -> Task | None:
    """Returns the task as one that no offered tool fits, or None if that cannot be."""
    rng = random.Random(f"irrelevant {task['id']}")
    made = _foreign(task, domain, rng) if rng.random() < _FOREIGN else _absent(task, domain)
    made = made or _absent(task, domain) or _foreign(task, domain, rng)
    if made is None or answer_matches(Answer("declines").as_row(), made["request"]):
        return None
    world, _ = start_world(domain.environment, **task)
    made["id"], made["kind"] = f"{task['id']}-irrelevant", "irrelevant"
    made["plan"], made["reply"] = [], rng.choice(_REPLIES)
    made["checks"] = {"state": hash_world(world), "answer": Answer("declines").as_row()}
    return made


def _absent(task: Task, domain: Domain) -> Task | None:
    """The task without the tool that its solution begins with; None if the goal is in reach without it."""
    if not task["plan"]:
        return None
    needed = task["plan"][0]["tool"]
    left = [name for name in task["tools"] if name != needed]
    if not left or is_reachable(task, domain, tools=left, known=stated_values(task)):
        return None
    made = task.copy()
    made["tools"] = left
    return made


def _foreign(task: Task, domain: Domain, rng: random.Random) -> Task | None:
    """The task with a request that another pack's templates make."""
    names = other_packs(domain)
    if not names:
        return None
    other = other_pack(rng.choice(names))
    templates = [t.name for t in other.templates.values() if t.kind in ("lookup", "workflow")]
    if not templates:
        return None
    foreign = build(other, rng.choice(templates), task["split"], task["seed"])
    if any(step["tool"] in task["tools"] for step in foreign["plan"]):
        return None
    made = task.copy()
    made["request"] = foreign["request"]
    return made
