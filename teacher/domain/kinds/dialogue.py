"""Tasks in which a simulated user tells the facts of its request when it is asked, and confirms or changes its mind.

The blueprint comes first: the solution, the final state and every fact are those of a template's task, so what the user
may say and what the model has to find out are known before anybody plays. Three forms are derived:

    a fact is withheld    "When does that contract expire?" - "Which contract?" - "C-104."
    a call is confirmed   the pack's policy wants a yes before it; the user gives it
    a change of mind      "When does C-101 expire?" - "On ..." - "Sorry, I meant C-104."
"""

import random
from typing import Any

from schemas.task import Dialogue, GoldCall, Task
from teacher.domain.kinds.facts import (
    Stated,
    has_value,
    missing_candidates,
    others,
    without,
)
from teacher.domain.kinds.missing import question_for, words_for
from teacher.domain.kinds.policy import load_policy, under_policy
from teacher.domain.pack import Domain
from teacher.domain.worlds import ToolError, hash_world, run_tool, start_world

MANNERS = ("terse", "friendly", "in a hurry")
_TELLS = {
    "terse": ("{value}.", "It is {value}."),
    "friendly": ("Of course, it is {value}.", "Sorry, I should have said: {value}."),
    "in a hurry": ("{value}, quickly please.", "{value}, and I have a call in a minute."),
}
_CORRECTS = {
    "terse": "I meant {value}.",
    "friendly": "Oh, sorry, I meant {value}. Could you look again?",
    "in a hurry": "Wrong one, I need {value}. Again, please.",
}
YES = "Yes, go ahead."


def make_dialogue(task: Task, domain: Domain) -> Task | None:
    """Returns the task as a dialogue, or None if the user would have nothing to tell."""
    rng = random.Random(f"dialogue {task['id']}")
    forms = [_confirmed, _changed] if rng.random() < 0.4 else []
    for form in (*forms, _withheld):
        if made := form(task, domain, rng):
            made["id"], made["kind"] = f"{task['id']}-dialogue", "dialogue"
            return made
    return None


def _withheld(task: Task, domain: Domain, rng: random.Random) -> Task | None:
    candidates = list(missing_candidates(task, domain))
    if not candidates:
        return None
    stated = rng.choice(candidates)
    dialogue = _blueprint(task, domain, rng)
    tells = rng.choice(_TELLS[dialogue["manner"]])
    dialogue["facts"] = [
        {
            "name": stated.name,
            "value": stated.value,
            "words": words_for(stated),
            "text": tells.format(value=stated.value),
        }
    ]
    text = dialogue["facts"][0]["text"]
    dialogue["asks"] = [{"before_call": 0, "text": question_for(stated, rng), "reply": text}]
    made = task.copy()
    made["request"], made["dialogue"] = without(task["request"], stated), dialogue
    return made


def _confirmed(task: Task, domain: Domain, rng: random.Random) -> Task | None:
    policy = load_policy(domain)
    if policy is None or not any(s["tool"] == r.tool for s in task["plan"] for r in policy.rules):
        return None
    dialogue = _blueprint(task, domain, rng)
    world, _ = start_world(domain.environment, **task)
    for number, step in enumerate(task["plan"]):
        rule = policy.rule_for(world, step["tool"], step["arguments"])
        if rule and rule.then == "refuse":
            return None
        if rule:
            dialogue["asks"].append({"before_call": number, "text": rule.reply, "reply": YES})
        run_tool(world, step["tool"], step["arguments"])
    if len(dialogue["asks"]) != 1:
        return None
    made = under_policy(task, policy)
    made["dialogue"] = dialogue
    return made


def _changed(task: Task, domain: Domain, rng: random.Random) -> Task | None:
    """For a question that one read answers: the user first names another thing of the same kind."""
    if len(task["plan"]) != 1 or task["checks"]["answer"] is None:
        return None
    (step,) = task["plan"]
    for stated in missing_candidates(task, domain):
        for before in others(task, domain, stated):
            first = _first_reply(task, domain, step, stated, before)
            if first is None:
                continue
            dialogue = _blueprint(task, domain, rng)
            text = _CORRECTS[dialogue["manner"]].format(value=stated.value)
            dialogue["change"] = {"fact": stated.name, "before": before, "text": text}
            dialogue["asks"] = [{"before_call": 1, "text": first, "reply": text}]
            made = task.copy()
            made["request"] = task["request"].replace(str(stated.value), before)
            made["plan"] = [_with(step, stated, before), step]
            made["dialogue"] = dialogue
            return made
    return None


def _first_reply(
    task: Task, domain: Domain, step: GoldCall, stated: Stated, before: str
) -> str | None:
    """The reply to the question about the other thing; None if the task's reply has no place for its value."""
    world, _ = start_world(domain.environment, **task)
    start = hash_world(world)
    try:
        right = run_tool(world, step["tool"], step["arguments"])
        other = run_tool(world, step["tool"], _with(step, stated, before)["arguments"])
    except ToolError:
        return None
    if hash_world(world) != start or not isinstance(right, dict) or not isinstance(other, dict):
        return None
    value: Any = task["checks"]["answer"] and task["checks"]["answer"]["value"]
    keys = [key for key, actual in right.items() if actual == value and key in other]
    if len(keys) != 1 or other[keys[0]] == value or not has_value(task["reply"], value):
        return None
    reply = task["reply"].replace(str(value), str(other[keys[0]]))
    return reply.replace(str(stated.value), before)


def _with(step: GoldCall, stated: Stated, value: str) -> GoldCall:
    return {"tool": step["tool"], "arguments": {**step["arguments"], stated.name: value}}


def _blueprint(task: Task, domain: Domain, rng: random.Random) -> Dialogue:
    return {
        "goal": task["request"],
        "persona": rng.choice(domain.spec["personas"]),
        "manner": rng.choice(MANNERS),
        "facts": [],
        "asks": [],
    }
