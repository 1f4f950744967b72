"""Checks that an exam measures something: new entities, and tasks that agents without any skill fail.

In: the episodes of all templates, of both splits. Agents without any skill are scored as a model would be: by the state
of the world and by `teacher.domain.scoring.answer_matches`.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from schemas.errors import InputError
from schemas.task import Split
from teacher.domain.blueprint import Answer
from teacher.domain.check.episode import Episode, as_json
from teacher.domain.check.finding import Finding, shorten
from teacher.domain.given_tools import method_of
from teacher.domain.pack import Domain
from teacher.domain.scoring import answer_matches, contains_words
from teacher.domain.seeds import FIRST_SEED
from teacher.domain.shares import template_shares
from teacher.domain.worlds import start_world
from teacher.scenes.scene import Scene

Episodes = Mapping[str, Sequence[Episode]]

REFUSALS = (
    "I cannot help with that.",
    "I'm sorry, but I can't assist with this request.",
    "I could not find that information.",
)
# A template's tasks that an agent without skill may pass, and the share of all tasks.
_GUESSED, _PASSED = 0.75, 0.5
_ENOUGH = 8
# S-1042, PR-117, C1042: letters and three digits or more. B7 is a place on a shelf, S23 a label on a page.
IDENTIFIER = re.compile(r"\b[A-Za-z][\w-]*\d{3,}[\w-]*\b")
_NUMBER = re.compile(r"\d{4,}")
# A person or a company: capitalised words and nothing else.
NAME = re.compile(r"[^\W\d_a-z][\w'.&-]+(?: [^\W\d_a-z][\w'.&-]*)+")
DATE = re.compile(r"\b\d{4}-\d{2}(?:-\d{2})?\b")
_DEPTH = 8


def check_splits(domain: Domain, episodes: Episodes, worlds: int) -> Iterator[Finding]:
    """Yields names, numbers and requests that occur in training and in the exam.

    worlds: how many worlds of each split are compared.
    """
    file = domain.path / "environment.py"
    for name, group in episodes.items():
        requests: dict[str, dict[str, int]] = {"train": {}, "exam": {}}
        for episode in group:
            if episode.blueprint and not episode.blueprint.pictures:
                requests[episode.job.split][episode.blueprint.request] = episode.job.seed
        both = sorted(requests["train"].keys() & requests["exam"].keys())
        if both:
            yield Finding(
                "fair",
                "error",
                domain.templates[name].file,
                f"training and exam have the same request, {shorten(both[0])}: {len(both)}"
                f" of {len(requests['exam'])} requests of the exam",
                "build the world from task['split'], and name in each request what only its split has",
                template=name,
                seed=requests["exam"][both[0]],
            )
    train, exam = (_world_texts(domain, split, worlds) for split in ("train", "exam"))
    both = sorted(text for text in train.keys() & exam.keys() if _is_entity(text))
    # What is in most worlds is vocabulary, such as a model's name, or a pool that is far too small.
    rare = [text for text in both if max(train[text], exam[text]) <= worlds / 4]
    count = sum(map(_is_entity, exam))
    if rare or 2 * len(both) > max(count, 1):
        yield Finding(
            "fair",
            "error" if rare else "warning",
            file,
            f"worlds of training and exam share {len(both)} of {count} names and numbers, such as"
            f" {', '.join((rare or both)[:3])}",
            "divide each pool in reset: split_pool(NAMES, split), split_numbers(split)",
        )
        return
    compared: list[tuple[Split, Counter[str]]] = [("exam", train), ("train", exam)]
    for split, others in compared:
        named = sorted({v for v in _lookups(domain, episodes, split) if _whole(v[1]) in others})
        if named:
            tool, value = named[0]
            yield Finding(
                "fair",
                "warning",
                file,
                f"{tool} finds {shorten(value)} in worlds of training and of the exam"
                f" ({len(named)} such values)",
                "if it names a thing, divide its pool in reset: split_pool(NAMES, split); if it is vocabulary,"
                " make the parameter a Literal of its values",
                tool=tool,
            )
            return


def _world_texts(domain: Domain, split: Split, count: int) -> Counter[str]:
    """In how many worlds of a split each text occurs: identifiers, names, and whole values in lower case."""
    found: Counter[str] = Counter()
    first = FIRST_SEED[split]
    for seed in range(first, first + count):
        try:
            world, _ = start_world(domain.environment, seed=seed, split=split)
        except InputError:
            continue  # listed as solvable
        texts = set(_texts_in({k: v for k, v in vars(world).items() if k != "_task"}, 0))
        names = {text for text in texts if NAME.fullmatch(text)}
        identifiers = {i for text in texts for i in IDENTIFIER.findall(DATE.sub(" ", text))}
        found.update(names | identifiers | {_whole(text) for text in texts})
    return found


def _whole(text: str) -> str:
    """The key of a whole text, whatever its case, among names and identifiers."""
    return f"={text.casefold()}"


def _is_entity(text: str) -> bool:
    return bool(NAME.fullmatch(text) or IDENTIFIER.fullmatch(text) or _NUMBER.fullmatch(text))


def _texts_in(value: Any, depth: int) -> Iterator[str]:
    """Yields the texts inside a world's attributes, keys of dicts included; images have a vocabulary of their own."""
    if depth > _DEPTH or isinstance(value, Scene):
        return
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts_in(key, depth + 1)
            yield from _texts_in(item, depth + 1)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _texts_in(item, depth + 1)
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        yield from _texts_in(vars(value), depth + 1)


def _lookups(domain: Domain, episodes: Episodes, split: Split) -> Iterator[tuple[str, str]]:
    """Yields the texts by which reading calls name something, after the tool; no values of an enum, no dates.

    Clause 7.2 of contract C-104 is none: it is a place inside of what another argument identifies.
    """
    for episode in (episode for group in episodes.values() for episode in group):
        if episode.blueprint is None or episode.job.split != split:
            continue
        request = episode.blueprint.request
        for (tool, arguments), writes in zip(episode.blueprint.plan, episode.writes, strict=False):
            properties = properties_of(domain, tool)
            identified = {v for v in arguments.values() if isinstance(v, str) and _is_entity(v)}
            for name, value in arguments.items():
                if identified and value not in identified:
                    continue
                is_open = isinstance(value, str) and "enum" not in properties.get(name, {})
                if (
                    is_open
                    and not writes
                    and not DATE.search(value)
                    and contains_words(request, value)
                ):
                    yield tool, value


def properties_of(domain: Domain, tool: str) -> dict[str, Any]:
    if tool not in domain.tools:
        return {}
    properties: dict[str, Any] = domain.tools[tool]["function"]["parameters"].get("properties", {})
    return properties


# ------------------------------------------------------------------------------ agents without skill


def check_agents(domain: Domain, episodes: Episodes) -> Iterator[Finding]:
    """Yields templates and packs that an agent passes that refuses, guesses, or calls the first tool it is offered."""
    shares = template_shares(domain)
    total = sum(shares.values())
    refused = first = 0.0
    for name, group in episodes.items():
        played = [episode for episode in group if not episode.failure]
        if not played:
            continue
        file = domain.templates[name].file
        # Of an image, that it does not show a fact is an answer like any other.
        is_refusal = all(
            e.answer and e.answer.type == "not_shown" and e.blueprint and e.blueprint.pictures
            for e in played
        )
        count = sum(_passes_by_saying(episode, REFUSALS) for episode in played)
        refused += shares[name] / total * count / len(played)
        if (
            2 * count > len(played)
            and not is_refusal
            and domain.templates[name].kind != "irrelevant"
        ):
            yield Finding(
                "fair",
                "error",
                file,
                f"an agent that always says {REFUSALS[0]!r} passes {count} of {len(played)} tasks",
                "check an answer that only the tools give",
                template=name,
                seed=played[0].job.seed,
            )
        elif guess := _find_guess(played):
            value, passed = guess
            yield Finding(
                "fair",
                "error" if passed == len(played) else "warning",
                file,
                f"an agent that always answers {shorten(value)} passes {passed} of {len(played)} tasks",
                "let the answer vary with the world: ask for a value that differs from seed to seed",
                template=name,
                seed=played[0].job.seed,
            )
        count = sum(_passes_with_first_tool(domain, episode) for episode in played)
        first += shares[name] / total * count / len(played)
    for share, agent in (
        (refused, "refuses every request"),
        (first, "calls the first tool of the list and repeats its result"),
    ):
        if share > _PASSED:
            yield Finding(
                "fair",
                "warning",
                domain.path / "domain.yaml",
                f"an agent that {agent} passes {share:.0%} of the tasks",
                "give more weight (kinds.*.share) to tasks that need a choice of tools or several calls",
            )


def _passes_by_saying(episode: Episode, texts: Iterable[str]) -> bool:
    answer = episode.answer
    if answer is None or any(episode.writes):
        return False
    return any(answer_matches(answer.as_row(), text) for text in texts)


def _find_guess(played: Sequence[Episode]) -> tuple[Any, int] | None:
    """The answer that passes most tasks without a call, and how many it passes, if it passes too many."""
    answers = [e.answer for e in played if e.answer and not any(e.writes)]
    answers = [answer for answer in answers if answer.type not in ("point", "not_shown")]
    if len(answers) < _ENOUGH:
        return None
    counts = Counter(json.dumps(answer.value) for answer in answers)
    value, count = counts.most_common(1)[0]
    # A yes or no is right in half of the tasks.
    limit = max(_GUESSED, 1.25 / max(1, min(len(_options(answers)), 4)))
    return (json.loads(value), count) if count >= limit * len(played) else None


def _options(answers: Iterable[Answer]) -> set[str]:
    return {option for answer in answers for option in answer.options}


def _passes_with_first_tool(domain: Domain, episode: Episode) -> bool:
    """Whether a task is passed by its first tool, called with what the request says, and that tool's result."""
    blueprint, answer = episode.blueprint, episode.answer
    if blueprint is None or not domain.tools:
        return False
    tool = sorted(domain.tools)[0]
    world = domain.environment()
    world.reset(seed=episode.job.seed, split=episode.job.split)
    try:
        result = method_of(world, tool)(**_guess_arguments(domain, tool, blueprint.request))
        text = result if isinstance(result, str) else json.dumps(as_json(result))
        if as_json(json.loads(json.dumps(world._state()))) != episode.after:
            return False
    except Exception:
        return False
    return answer is None or answer_matches(answer.as_row(), text)


def _guess_arguments(domain: Domain, tool: str, request: str) -> dict[str, Any]:
    """The arguments of a tool as they can be copied from a request."""
    identifiers = iter([*IDENTIFIER.findall(request), *NAME.findall(request)])
    numbers = iter(re.findall(r"(?<![\w-])\d+(?:\.\d+)?\b", request))
    arguments: dict[str, Any] = {}
    for name, schema in properties_of(domain, tool).items():
        kind = schema.get("type")
        if "enum" in schema:
            named = [v for v in schema["enum"] if contains_words(request, str(v).replace("_", " "))]
            arguments[name] = (named or schema["enum"])[0]
        elif kind in ("integer", "number") and (number := next(numbers, None)):
            arguments[name] = float(number) if kind == "number" else int(float(number))
        elif kind == "string" and (text := next(identifiers, None)):
            arguments[name] = text
    return arguments
