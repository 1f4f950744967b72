"""Samples tasks from a domain and proves each solvable before anything is spent on it.

A task is its template's blueprint, made concrete by a seed. It counts only when replaying its plan in a fresh world
passes the task's own checks, and when neither an agent that does nothing nor one that repeats the request would pass.
"""

import itertools
import json
import random
from typing import Any

from schemas.errors import InputError
from schemas.validation import check_arguments
from teacher.checks import answer_matches, state_hash
from teacher.domain import Blueprint, Domain
from teacher.episode import hint, text_of

# Train and exam draw their seeds from disjoint ranges; the domain keeps their entities apart by `split`.
_FIRST_SEED = {"train": 0, "exam": 500_000_000}
_SEEDS_A_RECIPE = 1_000_000
_TRIES = 50
_TOOL_SETS = 2


def sample(
    domain: Domain, split: str, count: int, seed: int, mix: dict[str, float] | None = None
) -> list[dict]:
    """`count` tasks, proven, distinct in what the user says, templates in turn.

    Args:
        split: "train" or "exam".
        seed: another seed gives other tasks; the same seed the same.
        mix: share of each kind, or of a template, overriding domain.yaml's shares of kinds.

    Raises:
        InputError: an unknown name in `mix`, or a template whose tasks cannot be proven.
    """
    first = _FIRST_SEED[split] + seed * _SEEDS_A_RECIPE
    rng = random.Random(first)
    names = _shares(domain, mix)
    order = _interleave(names, count, rng)
    seeds = itertools.count(first)
    tasks, seen = [], set()
    for name in order:
        for _ in range(_TRIES):
            task = build(domain, name, split, next(seeds))
            if task["request"] not in seen:
                break
        else:
            raise InputError(
                f"{domain.path / 'environment.py'}: {name}: no new request in {_TRIES} seeds: it has too few"
                f" variants for {count} tasks"
            )
        seen.add(task["request"])
        tasks.append(task)
    return tasks


def build(domain: Domain, template: str, split: str, seed: int) -> dict[str, Any]:
    """One task (schemas/task.schema.json), proven.

    Raises:
        InputError: the template's plan does not pass its own checks, or a null agent does; names template and seed.
    """
    rng = random.Random(f"{template}/{split}/{seed}")
    world = domain.environment()
    note = world.reset(seed=seed, split=split)
    blueprint = domain.templates[template](world, rng)
    place = f"{domain.path / 'environment.py'}: {template}: seed {seed} ({split})"
    before, after = _replay(domain, blueprint, split, seed, place)
    answer = None
    if blueprint.answer:
        answer = {"type": blueprint.answer.type, "value": blueprint.answer.value}
        if blueprint.answer.tolerance:
            answer["tolerance"] = blueprint.answer.tolerance
        if blueprint.answer.options:
            answer["options"] = list(blueprint.answer.options)
        if not answer_matches(answer, blueprint.reply):
            raise InputError(
                f"{place}: its own reply does not give its answer: {blueprint.reply!r}, {answer}"
            )
        if answer_matches(answer, blueprint.request):
            raise InputError(f"{place}: the request already says the answer {answer['value']!r}")
    elif before == after:
        raise InputError(
            f"{place}: no answer to check and a state that does not change: doing nothing would pass"
        )
    needed = {tool for tool, _ in blueprint.plan}
    others = sorted(set(domain.tools) - needed)
    # A task offers what it needs and one or two tools it does not: choosing is part of the work. A template has few
    # such sets, so that prompts begin alike and the server's cache serves them.
    choice = random.Random(f"{template}/{seed % _TOOL_SETS}")
    offered = sorted(needed | set(choice.sample(others, min(len(others), choice.choice((1, 2))))))
    system = domain.spec["system"] + (f" {note}" if note else "")
    return {
        "version": 1,
        "id": f"{domain.name}-{split}-{template}-{seed}",
        "domain": domain.name,
        "split": split,
        "kind": domain.templates[template].kind,  # type: ignore[attr-defined]
        "template": template,
        "seed": seed,
        "system": system,
        "request": blueprint.request,
        "tools": offered,
        "plan": [{"tool": tool, "arguments": arguments} for tool, arguments in blueprint.plan],
        "reply": blueprint.reply,
        "checks": {"state": after, "answer": answer},
    }


def demonstration(
    task: dict[str, Any], domain: Domain, hinted: bool = False
) -> list[dict[str, Any]]:
    """The messages of a task solved by its plan, from the user's request to the reply: a worked example.

    hinted: with the hint that an attempt under a hint gets, so that the example shows how one is followed.
    """
    world = domain.environment()
    world.reset(**task)
    messages: list[dict[str, Any]] = [{"role": "user", "content": task["request"]}]
    for number, step in enumerate(task["plan"]):
        if hinted:
            messages.append({"role": "system", "content": hint(task, number)})
        function = {
            "name": step["tool"],
            "arguments": json.dumps(step["arguments"], ensure_ascii=False),
        }
        call = {"id": f"call_{number}", "type": "function", "function": function}
        result = getattr(world, step["tool"])(**step["arguments"])
        messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": text_of(result)})
    if hinted:
        messages.append({"role": "system", "content": hint(task, len(task["plan"]))})
    return [*messages, {"role": "assistant", "content": task["reply"]}]


def _replay(
    domain: Domain, blueprint: Blueprint, split: str, seed: int, place: str
) -> tuple[str, str]:
    """State hashes before and after the plan, in a fresh world."""
    world = domain.environment()
    world.reset(seed=seed, split=split)
    before = state_hash(world._state())
    for tool, arguments in blueprint.plan:
        if tool not in domain.tools:
            raise InputError(f"{place}: the plan calls {tool}, which is no tool of the domain")
        problem = check_arguments(domain.tools[tool], arguments)
        if problem:
            raise InputError(f"{place}: the plan's arguments of {tool} are not valid: {problem}")
        try:
            getattr(world, tool)(**arguments)
        except ValueError as error:
            raise InputError(f"{place}: the plan fails at {tool}: {error}") from None
    return before, state_hash(world._state())


def _shares(domain: Domain, mix: dict[str, float] | None) -> dict[str, float]:
    """Share of each template: that of its kind, split evenly, unless the mix names the template."""
    kinds = {kind: entry["share"] for kind, entry in domain.spec["kinds"].items()}
    mix = dict(mix or {})
    unknown = set(mix) - set(kinds) - set(domain.templates)
    if unknown:
        raise InputError(
            f"tasks.mix.{min(unknown)}: expected a kind or a template of the domain {domain.name}"
        )
    shares = {}
    for kind, share in kinds.items():
        own = [n for n, t in domain.templates.items() if t.kind == kind]  # type: ignore[attr-defined]
        for name in own:
            shares[name] = mix.get(name, mix.get(kind, share) / len(own))
    if sum(shares.values()) <= 0:
        raise InputError("tasks.mix: expected at least one share above 0")
    return shares


def _interleave(shares: dict[str, float], count: int, rng: random.Random) -> list[str]:
    """`count` template names in the proportion of the shares (largest remainder), shuffled."""
    total = sum(shares.values())
    exact = {name: count * share / total for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(shares, key=lambda name: exact[name] - counts[name], reverse=True)
    for name in by_remainder[: count - sum(counts.values())]:
        counts[name] += 1
    order = [name for name, number in counts.items() for _ in range(number)]
    rng.shuffle(order)
    return order
