"""Checks that tasks vary: wordings, the number of different requests, tools and their arguments."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from teacher.domain.check.episode import Episode, as_json
from teacher.domain.check.evidence import leaves
from teacher.domain.check.fairness import DATE, IDENTIFIER, NAME, Episodes, properties_of
from teacher.domain.check.finding import Finding, shorten
from teacher.domain.pack import Domain

# Fewer wordings than these are too few; calls and tasks from which on a lack of variety is no accident.
_WORDINGS, _ENOUGH = 3, 8
_WORD = re.compile(r"[^\W_]+")


def check_variety(
    domain: Domain,
    episodes: Episodes,
    requests: Mapping[str, Sequence[str]],
    needed: Mapping[str, int],
) -> Iterator[Finding]:
    """Yields templates with few wordings or too few tasks, unused tools, and arguments that never vary.

    Args:
        requests: of each template, those of many training seeds in order.
        needed: how many tasks a run needs of each template.
    """
    for name, texts in requests.items():
        file = domain.templates[name].file
        wordings = find_wordings(episodes[name])
        seen = sum(episode.blueprint is not None for episode in episodes[name])
        if seen >= _ENOUGH and len(wordings) < _WORDINGS:
            yield Finding(
                "fair",
                "warning",
                file,
                f"its requests have {len(wordings)} wording{'s' * (len(wordings) > 1)} in {seen} tasks:"
                f" {shorten(min(wordings), 90)}",
                f"give it {_WORDINGS} wordings or more, such as rng.choice([...])",
                template=name,
            )
        capacity = estimate_capacity(texts)
        is_visual = any(e.blueprint and e.blueprint.pictures for e in episodes[name])
        if capacity is not None and not is_visual and capacity < 1.2 * needed.get(name, 0):
            yield Finding(
                "fair",
                "warning",
                file,
                f"it has about {capacity} different requests, and a run with the recipe's tasks needs"
                f" {needed[name]}",
                "vary more of the request, or set tasks.train lower or tasks.mix for this template",
                template=name,
            )
    yield from _check_arguments(domain, episodes)


def _check_arguments(domain: Domain, episodes: Episodes) -> Iterator[Finding]:
    values: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    calls: Counter[str] = Counter()
    for group in episodes.values():
        for episode in group:
            for tool, arguments in episode.blueprint.plan if episode.blueprint else []:
                calls[tool] += 1
                for name, value in arguments.items():
                    values[tool, name][json.dumps(as_json(value))] += 1
    file = domain.path / "environment.py"
    if not all(any(not episode.failure for episode in group) for group in episodes.values()):
        return  # the templates that fail may use what seems to be unused
    for tool in sorted(domain.tools):
        if not calls[tool]:
            yield Finding(
                "fair",
                "warning",
                file,
                "no solution calls this tool, so a student never learns when to",
                "write a template that needs it, remove it, or begin its name with _",
                tool=tool,
            )
            continue
        for name, schema in properties_of(domain, tool).items():
            used = values[tool, name]
            if not used:
                message = f"no solution gives its argument {name}"
            elif "enum" in schema and (
                rest := [v for v in schema["enum"] if json.dumps(v) not in used]
            ):
                if calls[tool] < 3 * len(schema["enum"]):
                    continue
                message = f"no solution uses {', '.join(map(str, rest))} as {name}"
            elif len(used) == 1 and calls[tool] >= _ENOUGH and len(schema.get("enum", "ab")) > 1:
                message = f"its argument {name} is {next(iter(used))} in all {calls[tool]} calls"
            else:
                continue
            yield Finding(
                "fair",
                "warning",
                file,
                message,
                "let a template choose it, or remove it: what never varies is not learnt",
                tool=tool,
            )


def find_wordings(episodes: Iterable[Episode]) -> set[str]:
    """The different wordings of requests, with names, numbers and the values of arguments replaced."""
    return {
        _mask(
            episode.blueprint.request,
            [v for call in episode.blueprint.plan for _, v in leaves(as_json(call[1]))],
        )
        for episode in episodes
        if episode.blueprint
    }


def _mask(text: str, values: Iterable[Any]) -> str:
    for value in sorted(
        {str(v) for v in values if isinstance(v, str) and v}, key=len, reverse=True
    ):
        text = re.sub(rf"(?<!\w){re.escape(value.replace('_', ' '))}(?!\w)", "<>", text)
        text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", "<>", text)
    text = NAME.sub("<>", IDENTIFIER.sub("<>", DATE.sub("<>", text)))
    text = re.sub(r"\b[\w-]*\d[\w-]*\b", "<>", text)
    return " ".join(text.split())


def estimate_capacity(texts: Sequence[str]) -> int | None:
    """About how many different requests a template can make, by how many repeat; None if none repeats (Chao 1984)."""
    counts = Counter(texts)
    once = sum(count == 1 for count in counts.values())
    twice = sum(count == 2 for count in counts.values())
    if once == len(texts):
        return None
    return len(counts) + once * (once - 1) // (2 * (twice + 1))


def trigrams(texts: Iterable[str]) -> tuple[int, int]:
    """The different sequences of three words in texts, and all of them."""
    found: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        words = _WORD.findall(text.casefold())
        found.update(zip(words, words[1:], words[2:], strict=False))
    return len(found), sum(found.values())
