"""A pack's policy.md: what the desk refuses and what it wants confirmed, as text for the model and as rules that run.

The file begins with the rules in YAML between two lines of `---` (schemas/policy.schema.json); the rest is the text
that the system message shows. A rule is executed for each call of an episode, in the world as it is before the call.
Tasks are derived from those whose solution makes a call that a rule is about: where the rule applies, the model must
refuse or ask for confirmation; where it does not, the task stays as it is, so that refusing everything fails.
"""

import functools
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.documents import check_document
from schemas.errors import InputError
from schemas.files import read_text
from schemas.task import GoldCall, Task
from schemas.yaml_text import parse_yaml
from teacher.domain.blueprint import Answer, Environment
from teacher.domain.pack import Domain
from teacher.domain.scoring import answer_matches
from teacher.domain.worlds import ToolError, fork_world, hash_world, run_tool, start_world

FILE = "policy.md"
CONFIRMING = ("confirm", "sure", "go ahead", "proceed", "shall I", "should I", "want me to")


@dataclass(frozen=True)
class Rule:
    """A rule of policy.md, with the fields of schemas/policy.schema.json."""

    name: str
    tool: str
    then: str
    because: tuple[str, ...]
    reply: str
    when: Mapping[str, Any]
    where: Mapping[str, Any] | None

    def applies(self, world: Environment, tool: str, arguments: Mapping[str, Any]) -> bool:
        """Whether the rule is about a call in this world. The world stays as it is."""
        if tool != self.tool:
            return False
        if not all(_holds(arguments.get(n), c, arguments) for n, c in self.when.items()):
            return False
        if self.where is None:
            return True
        look = self.look(arguments)
        try:
            result = run_tool(fork_world(world), look["tool"], look["arguments"])
        except ToolError:
            return False
        return isinstance(result, dict) and all(
            _holds(result.get(name), condition, arguments)
            for name, condition in self.where["fields"].items()
        )

    def look(self, arguments: Mapping[str, Any]) -> GoldCall:
        """The call that reads what `where` is about."""
        assert self.where is not None
        named = {n: _value(v, arguments) for n, v in self.where["arguments"].items()}
        return {"tool": self.where["tool"], "arguments": named}


@dataclass(frozen=True)
class Policy:
    """A pack's policy. text: what the system message shows. rules: in the order in which they decide."""

    text: str
    rules: tuple[Rule, ...]

    def rule_for(self, world: Environment, tool: str, arguments: Mapping[str, Any]) -> Rule | None:
        """The first rule that applies to a call in the world as it is now."""
        return next((rule for rule in self.rules if rule.applies(world, tool, arguments)), None)


def load_policy(domain: Domain) -> Policy | None:
    """Returns the policy of a pack, or None if it has no policy.md.

    Raises:
        InputError: the file has no rules, a rule is not valid, or it names an unknown tool or argument.
    """
    file = domain.path / FILE
    if not file.is_file():
        return None
    policy = _read(file, file.stat().st_mtime_ns)
    for index, rule in enumerate(policy.rules):
        place = f"{file}: rules[{index}]"
        for field, tool, names in (
            ("tool", rule.tool, list(rule.when)),
            *(
                [("where.tool", rule.where["tool"], list(rule.where["arguments"]))]
                if rule.where
                else []
            ),
        ):
            if tool not in domain.tools:
                expected = ", ".join(domain.tools)
                raise InputError(f"{place}.{field}: found {tool}, expected one of {expected}")
            parameters = domain.tools[tool]["function"]["parameters"].get("properties", {})
            for name in names:
                if name not in parameters:
                    raise InputError(
                        f"{place}: {tool} has no argument {name}: expected one of {', '.join(parameters)}"
                    )
    return policy


@functools.lru_cache(maxsize=16)
def _read(file: Path, changed: int) -> Policy:
    head, separator, text = read_text(file).removeprefix("---\n").partition("\n---\n")
    if not separator or not text.strip():
        raise InputError(
            f"{file}: found no rules and text, expected rules in YAML between two lines of ---, then text"
        )
    try:
        document = parse_yaml(head)
    except ValueError as error:
        raise InputError(f"{file}: {error}") from None
    check_document(document, "policy", file)
    rules = tuple(
        Rule(
            row["name"],
            row["tool"],
            row["then"],
            tuple(row["because"]),
            row["reply"],
            row.get("when", {}),
            row.get("where"),
        )
        for row in document["rules"]
    )
    return Policy(text.strip(), rules)


def make_policy_task(task: Task, domain: Domain) -> Task | None:
    """Returns the task under the pack's policy, or None if its solution makes no call that a rule is about.

    Of the tasks that no rule stops, every second one is taken.
    """
    policy = load_policy(domain)
    if policy is None or not any(s["tool"] == r.tool for s in task["plan"] for r in policy.rules):
        return None
    rng = random.Random(f"policy {task['id']}")
    made = under_policy(task, policy)
    world, _ = start_world(domain.environment, **task)
    start, plan = hash_world(world), list[GoldCall]()
    for step in task["plan"]:
        # What a rule wants looked up belongs to the solution.
        looks = [
            rule.look(step["arguments"])
            for rule in policy.rules
            if rule.tool == step["tool"] and rule.where
        ]
        plan += [look for look in looks if look not in plan]
        rule = policy.rule_for(world, step["tool"], step["arguments"])
        if rule is not None:
            if hash_world(world) != start:
                return None  # a part of the request is done already: what to refuse is not clear
            made["reply"] = rule.reply
            made["plan"] = plan if rule.where else []
            made["checks"] = {"state": start, "answer": _answer(rule)}
            break
        run_tool(world, step["tool"], step["arguments"])
        plan.append(step)
    else:
        if rng.random() < 0.5:
            return None
        made["plan"] = plan
    needed = [step["tool"] for step in made["plan"] if step["tool"] not in made["tools"]]
    made["tools"] = [*made["tools"], *dict.fromkeys(needed)]
    answer = made["checks"]["answer"]
    if answer and not answer_matches(answer, made["reply"]):
        raise InputError(
            f"{domain.path / FILE}: its reply does not {answer['type'].removesuffix('s')} with one of `because`:"
            f" {made['reply']!r}"
        )
    return made


def under_policy(task: Task, policy: Policy) -> Task:
    """A copy of a task whose system message has the policy."""
    made = task.copy()
    made["id"], made["kind"] = f"{task['id']}-policy", "policy"
    made["system"] = f"{task['system']}\n\n{policy.text}"
    made["policy"] = True
    return made


def _answer(rule: Rule) -> Any:
    if rule.then == "confirm":
        return Answer("asks", "confirmation", options=(*CONFIRMING, *rule.because)).as_row()
    return Answer("refuses", rule.because[0], options=rule.because).as_row()


def _value(value: Any, arguments: Mapping[str, Any]) -> Any:
    if isinstance(value, str) and value.startswith("$"):
        return arguments.get(value[1:])
    return value


def _holds(actual: Any, condition: Mapping[str, Any], arguments: Mapping[str, Any]) -> bool:
    ((operator, expected),) = condition.items()
    expected = _value(expected, arguments)
    match operator:
        case "is":
            return actual == expected
        case "is_not":
            return actual != expected
        case "in":
            return actual in expected
    is_number = isinstance(actual, int | float) and not isinstance(actual, bool)
    return is_number and (actual > expected if operator == "above" else actual < expected)
