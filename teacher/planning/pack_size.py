"""Checks that the tasks of a pack fit into what a recipe trains on, before a teacher is paid for them.

A trace that is longer than the recipe's limits is rejected as too_long after the teacher has written it.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from schemas.recipe import Recipe
from schemas.task import Task
from teacher.domain.check.episode import Episode
from teacher.domain.check.finding import Finding
from teacher.domain.pack import Domain
from teacher.planning.cost import Conversation, result_tokens

# The estimate counts as Kimi K2.5's tokenizer does; a small student's tokenizer may need a third more or less.
_NEAR, _SURE = 0.9, 1.5


def check_size(
    domain: Domain, tasks: Sequence[Task], conversations: Sequence[Conversation], recipe: Recipe
) -> Iterator[Finding]:
    """Yields templates whose tasks are too long for the student, by the estimate of `cost.measure`.

    Args:
        conversations: of the tasks, in their order.
    """
    name, limit = token_limit(recipe)
    lengths: dict[str, list[float]] = defaultdict(list)
    for task, one in zip(tasks, conversations, strict=True):
        lengths[task["template"]].append(one.student.prompt + one.student.solution)
    for template, tokens in lengths.items():
        shortest, longest = min(tokens), max(tokens)
        if longest <= _NEAR * limit:
            continue
        # A kind without a share is sampled only by recipes that name it, and these set their own limits.
        kind = domain.spec["kinds"][domain.templates[template].kind]
        too_long = shortest > _SURE * limit and kind["share"] > 0
        yield Finding(
            "sized",
            "error" if too_long else "warning",
            domain.templates[template].file,
            f"its tasks have about {shortest:,.0f} to {longest:,.0f} tokens; {name} is {limit:,}"
            + (", so none can be trained on" if too_long else ""),
            f"return less from its tools, shorten the system message, or set {name} to about"
            f" {1.25 * longest:.0f}",
            template=template,
        )


def check_results(
    domain: Domain, episodes: Mapping[str, Sequence[Episode]], recipe: Recipe
) -> Iterator[Finding]:
    """Yields tools whose results are a as long as what the student can read."""
    name, limit = token_limit(recipe)
    longest: dict[str, tuple[float, Episode]] = {}
    for episode in (episode for group in episodes.values() for episode in group):
        calls = episode.blueprint.plan if episode.blueprint else []
        for (tool, _), result in zip(calls, episode.results, strict=False):
            size = result_tokens(result)
            if tool not in longest or size > longest[tool][0]:
                longest[tool] = size, episode
    for tool, (size, episode) in longest.items():
        if size > _NEAR * limit:
            yield Finding(
                "sized",
                "error" if size > _SURE * limit else "warning",
                domain.path / "environment.py",
                f"its result has about {size:,.0f} tokens, {size / limit:.0%} of {name} ({limit:,})",
                "return only what a task needs: page it, filter it by an argument, or cut texts",
                template=episode.job.template,
                tool=tool,
                seed=episode.job.seed,
            )


def token_limit(recipe: Recipe) -> tuple[str, int]:
    """The recipe's lowest limit of a trace's tokens, after the name of its field."""
    limits = {"filter.max_tokens": recipe.filter.max_tokens}
    if recipe.train.overflow == "reject":
        limits["train.max_length"] = recipe.train.max_length
    return min(limits.items(), key=lambda item: item[1])


def summarize(tasks: Sequence[Task], conversations: Sequence[Conversation]) -> dict[str, Any]:
    """The tokens of each template's tasks as the student reads them: prompt, solution and longest result."""
    rows: dict[str, dict[str, int]] = {}
    for task, one in zip(tasks, conversations, strict=True):
        row = rows.setdefault(task["template"], {"prompt": 0, "solution": 0, "longest_result": 0})
        student = one.student
        row["prompt"] = max(row["prompt"], round(student.prompt))
        row["solution"] = max(row["solution"], round(student.solution))
        row["longest_result"] = max(row["longest_result"], round(student.longest))
    return rows
