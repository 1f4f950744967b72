"""The facts of a request: the values of its solution that the user has written, and the request without one of them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from schemas.task import Task
from teacher.domain.kinds.reach import is_reachable, scalars
from teacher.domain.pack import Domain
from teacher.domain.worlds import make_blueprint

# Endings of a parameter's name that say that it identifies something.
_ENDINGS = ("_id", "_number", "_no", "_name", "_ref")
# Seeds have worlds in which several templates name things of one kind; more than one makes guessing wrong.
_LEAST_OTHERS = 1


@dataclass(frozen=True)
class Stated:
    """A value in a request. name: the parameter that has it. noun: what it identifies, such as "contract"."""

    name: str
    value: Any
    noun: str


def has_value(text: str, value: Any) -> bool:
    """Whether a text has a value, not as a part of a longer word or number.

    A value of an enumeration such as on_hold may be written in words.
    """
    for spelling in {str(value), str(value).replace("_", " ")}:
        if re.search(rf"(?<![\w])(?<!\w[.,/-]){re.escape(spelling)}(?!\w|[.,/-]\w)", text, re.I):
            return True
    return False


def stated_values(task: Task) -> list[Any]:
    """The values of the solution's arguments that the request has, each once."""
    values = [value for step in task["plan"] for value in scalars(step["arguments"])]
    return [value for value in dict.fromkeys(values) if has_value(task["request"], value)]


def missing_candidates(task: Task, domain: Domain) -> Iterator[Stated]:
    """Yields the facts of which one is enough to make the task unsolvable when the request lacks it.

    They are the names and numbers that the request has and that the first call needs, where the world has others that
    the user could mean, and where no call finds the goal without it.
    """
    if not task["plan"]:
        return
    first = task["plan"][0]
    properties = domain.tools[first["tool"]]["function"]["parameters"].get("properties", {})
    for name, value in first["arguments"].items():
        is_name = isinstance(value, str) and any(c.isdigit() or c.isupper() for c in value)
        if not is_name or "enum" in properties.get(name, {}) or _is_date(value):
            continue
        if not has_value(task["request"], value):
            continue
        stated = Stated(name, value, noun_of(name, domain))
        text = without(task["request"], stated)
        rest = [one for one in stated_values(task) if has_value(text, one)]
        # "that report" beside R-349 would be taken for R-349.
        if any(_shape(one) == _shape(value) for one in rest):
            continue
        if has_value(text, value) or len(others(task, domain, stated)) < _LEAST_OTHERS:
            continue
        if not is_reachable(task, domain, tools=task["tools"], known=rest):
            yield stated


def noun_of(parameter: str, domain: Domain) -> str:
    """What a parameter identifies: its word in `nouns` of domain.yaml, or "contract" of contract_id."""
    if noun := domain.spec.get("nouns", {}).get(parameter):
        return noun
    for ending in _ENDINGS:
        parameter = parameter.removesuffix(ending)
    return parameter.replace("_", " ")


def without(request: str, stated: Stated) -> str:
    """The request with "that contract" in the place of a fact: "contract C-104" and "C-104" alike."""
    noun, value = re.escape(stated.noun), re.escape(str(stated.value))
    articles = r"(?:(?:the|our|my|this|that)\s+)?"
    pattern = rf"(?<!\w)(?:{articles}(?:{noun}\s+)?){value}(?!\w)"
    text = re.sub(pattern, f"that {stated.noun}", request, flags=re.IGNORECASE)
    return re.sub(r"(^|[.!?]\s+)that\b", lambda match: f"{match[1]}That", text)


def others(task: Task, domain: Domain, stated: Stated) -> list[Any]:
    """Other values that templates give the same parameter in the task's world."""
    values: list[Any] = []
    for template in domain.templates.values():
        if template.kind not in ("lookup", "workflow"):
            continue
        _, blueprint = make_blueprint(
            domain.environment, template, split=task["split"], seed=task["seed"]
        )
        values += [
            arguments[stated.name] for _, arguments in blueprint.plan if stated.name in arguments
        ]
    return [value for value in dict.fromkeys(map(str, values)) if value != str(stated.value)]


def _shape(value: Any) -> str:
    return re.sub(r"\d+", "9", str(value))


def _is_date(value: str) -> bool:
    return re.fullmatch(r"\d{4}-\d{2}-\d{2}", value) is not None
