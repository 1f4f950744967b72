"""Tasks whose request lacks a fact that the solution needs: the right behaviour is to ask for it, not to guess."""

import random

from schemas.task import Answer as AnswerRow
from schemas.task import Task
from teacher.domain.blueprint import Answer
from teacher.domain.kinds.facts import Stated, missing_candidates, without
from teacher.domain.pack import Domain
from teacher.domain.worlds import hash_world, start_world


def make_missing(task: Task, domain: Domain) -> Task | None:
    """Returns the task with a request that lacks a fact, or None if none of its facts will do."""
    rng = random.Random(f"missing {task['id']}")
    candidates = list(missing_candidates(task, domain))
    if not candidates:
        return None
    stated = rng.choice(candidates)
    world, _ = start_world(domain.environment, **task)
    made = task.copy()
    made["id"], made["kind"] = f"{task['id']}-missing", "missing"
    made["request"], made["plan"] = without(task["request"], stated), []
    made["reply"] = question_for(stated, rng)
    made["checks"] = {"state": hash_world(world), "answer": asks_for(stated)}
    return made


def question_for(stated: Stated, rng: random.Random) -> str:
    """A question for a fact, as a good assistant asks it."""
    return rng.choice(
        (
            f"Which {stated.noun} do you mean?",
            f"Please tell me which {stated.noun} you mean.",
            f"I need to know which {stated.noun} it is. Which one?",
        )
    )


def words_for(stated: Stated) -> list[str]:
    """The words of which a question for a fact has one."""
    words = [stated.noun, f"{stated.noun}s", *stated.noun.split(), stated.name]
    return list(dict.fromkeys([*words, "id", "ID", "number", "name", "which one"]))


def asks_for(stated: Stated) -> AnswerRow:
    """The answer that asks for a fact."""
    return Answer("asks", stated.noun, options=tuple(words_for(stated))).as_row()
