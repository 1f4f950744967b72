"""Checks that a task's answer, the arguments of its solution and its reply follow from what the solution sees.

`teacher.domain.tasks.build` proves that a reply gives its answer. Where both are false, that proves nothing: here each
value is traced to the system message, the request, the images, the tools' descriptions and the earlier results.
A value that cannot be traced in most of a template's tasks is an error; in a few of them it is a warning.
"""

import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.task import Answer as AnswerRow
from teacher.domain.blueprint import Answer
from teacher.domain.check.episode import Episode, Job, answer_of, as_json
from teacher.domain.check.evidence import Evidence, leaves, numbers_in
from teacher.domain.check.finding import Finding, Level, shorten
from teacher.domain.pack import Domain
from teacher.domain.questions import ProgramError, run_program
from teacher.domain.scoring import _dates_in, answer_matches

# Letters and digits in one token: S-1042, B7, C3PO.
_IDENTIFIER = re.compile(r"\b(?=[\w-]*\d)(?=[\w-]*[^\W\d_])[\w-]+\b")
_CROSSED_WORLDS, _CROSSED_RANDOMS = 4, 5


@dataclass
class _Untraced:
    """A value that could not be traced, in the tasks of one template."""

    seeds: list[int] = field(default_factory=list)
    example: str = ""

    def add(self, seed: int, example: str) -> None:
        self.seeds.append(seed)
        self.example = self.example or example


def check_proof(domain: Domain, template: str, episodes: Sequence[Episode]) -> Iterator[Finding]:
    """Yields what cannot be traced in the tasks of one template."""
    played = [episode for episode in episodes if not episode.failure]
    if not played:
        return
    file = domain.templates[template].file

    def finding(
        level: Level, message: str, fix: str, tool: str | None = None, seed: int | None = None
    ) -> Finding:
        return Finding("provable", level, file, message, fix, template, tool, seed)

    yield from _check_steps(domain, played, finding)
    independent = _is_independent(domain, template, played)
    answers, arguments, replies = (
        _Untraced(),
        defaultdict[tuple[str, str], _Untraced](_Untraced),
        _Untraced(),
    )
    with_answer = 0
    uses: dict[tuple[str, str], int] = defaultdict(int)
    loose = 0
    for episode in played:
        seed = episode.job.seed
        seen = _trace_arguments(domain, episode, arguments, uses)
        if episode.answer is not None:
            with_answer += 1
            origin = _trace_answer(episode, episode.answer, seen)
            if origin is None:
                answers.add(seed, shorten(episode.answer.value))
            loose += origin == "computed"
        assert episode.blueprint is not None
        if stated := _untraced_in_reply(episode, seen):
            replies.add(seed, stated)
    if answers.seeds and (independent or 2 * len(answers.seeds) > with_answer):
        why = "; another world gives the same answer" if independent else ""
        yield finding(
            "error",
            f"its answer {answers.example} does not follow from what the solution sees, in"
            f" {len(answers.seeds)} of {with_answer} tasks{why}",
            "let a call of the solution return it, correct it, or state the intermediate values in the reply",
            seed=answers.seeds[0],
        )
    elif answers.seeds:
        yield finding(
            "warning",
            f"its answer {answers.example} cannot be traced to what the solution sees, in"
            f" {len(answers.seeds)} of {with_answer} tasks",
            "look at this task: let a call return the value, or state the intermediate values in the reply",
            seed=answers.seeds[0],
        )
    elif independent and loose:
        yield finding(
            "error",
            f"its answer, such as {shorten(played[0].answer and played[0].answer.value)}, is the same in every"
            " world: changing the world of a seed does not change it, and no result states it",
            "compute the answer from the world that the tools show",
            seed=played[0].job.seed,
        )
    for (tool, name), untraced in arguments.items():
        of = uses[tool, name]
        level: Level = (
            "error" if 2 * len(untraced.seeds) > of and "'" in untraced.example else "warning"
        )
        yield finding(
            level,
            f"its solution calls {tool} with {name}={untraced.example}, which nothing before the call states, in"
            f" {len(untraced.seeds)} of {of} calls",
            "state the value in the request, or add the call that returns it before this one",
            tool=tool,
            seed=untraced.seeds[0],
        )
    if replies.seeds and not answers.seeds:
        yield finding(
            "error" if 2 * len(replies.seeds) > len(played) else "warning",
            f"its reply states {replies.example}, which neither request, results nor arguments of the solution"
            f" contain, in {len(replies.seeds)} of {len(played)} tasks",
            "make reply, answer and the arguments of writes of the same variable",
            seed=replies.seeds[0],
        )
    yield from _check_writes(played, finding)


def _check_steps(
    domain: Domain, played: Sequence[Episode], finding: Callable[..., Finding]
) -> Iterator[Finding]:
    longest = max(played, key=_calls)
    calls, steps = _calls(longest), domain.spec["budgets"]["steps"]
    if calls + 1 > steps:
        yield finding(
            "error",
            f"its solution has {calls} calls and a reply, {calls + 1} steps; budgets.steps is {steps}",
            f"set budgets.steps in domain.yaml to {calls + 1} or more",
            seed=longest.job.seed,
        )


def _calls(episode: Episode) -> int:
    """The calls that one agent makes one after the other: in a swarm, an orchestrator or a sub-agent."""
    swarm = episode.blueprint.swarm if episode.blueprint else None
    if swarm is None:
        return len(episode.results)
    # Creating the sub-agents is one call, and assigning all parts at once is one step.
    return max(2 + len(swarm.own), *(len(part.plan) for part in swarm.parts))


def _opening(domain: Domain, episode: Episode) -> Evidence:
    """What is seen before the first call: system message, tools, images and request."""
    assert episode.blueprint is not None
    seen = Evidence()
    for scene in episode.blueprint.pictures:
        seen.add(as_json(scene.data))
    seen.add_text(f"{domain.spec['system']} {episode.note or ''}")
    seen.add_request(episode.blueprint.request)
    return seen


def _trace_arguments(
    domain: Domain,
    episode: Episode,
    untraced: dict[tuple[str, str], _Untraced],
    uses: dict[tuple[str, str], int],
) -> Evidence:
    """Adds the arguments that cannot be traced; returns what is seen after the last call."""
    assert episode.blueprint is not None
    seen = _opening(domain, episode)
    for (tool, arguments), result in zip(episode.blueprint.plan, episode.results, strict=False):
        documented = Evidence()
        documented.add(as_json(domain.tools[tool]) if tool in domain.tools else {})
        for name, value in arguments.items():
            uses[tool, name] += 1
            for _, leaf in leaves(as_json(value)):
                example = _untraced_value(leaf, seen, documented)
                if example:
                    untraced[tool, name].add(episode.job.seed, example)
                    break
        seen.add(result)
    if episode.blueprint.swarm:
        for results in _results_by_tool(episode).values():
            # What the sub-agents find is counted and added up as the rows of one list are.
            seen.add(results)
    return seen


def _results_by_tool(episode: Episode) -> dict[str, list[Any]]:
    assert episode.blueprint is not None
    results: dict[str, list[Any]] = {}
    for (tool, _), result in zip(episode.blueprint.plan, episode.results, strict=False):
        results.setdefault(tool, []).append(result)
    return results


def _untraced_value(leaf: Any, seen: Evidence, documented: Evidence) -> str | None:
    """How an argument that cannot be traced is quoted, or None. In quotes: no agent could guess it."""
    if leaf is None or isinstance(leaf, bool):
        return None
    if isinstance(leaf, int | float):
        value = float(leaf)
        if value in (0, 1) or seen.names_number(value) or documented.names_number(value):
            return None
        return None if seen.computes(value) else f"'{leaf}'"
    if documented.has_text(leaf) and not _IDENTIFIER.search(leaf):
        return None
    dates = _dates_in(leaf)
    if dates:
        unknown = {d for d in dates if d not in seen.dates and not seen.computes_date(d)}
        return f"'{min(unknown)}'" if unknown else None
    missing = seen.missing_words(leaf)
    missing = [word for word in missing if documented.missing_words(word)]
    if not missing or not leaf.strip():
        return None
    certain = [w for w in missing if any(c.isdigit() for c in w)]
    # A name is known by its capital letters; of other words a person might have said it otherwise.
    certain += [w for w in missing if re.search(rf"\b{re.escape(w[0].upper() + w[1:])}", leaf)]
    if certain and len(certain) * 2 >= len(missing) and len(leaf) <= 80:
        return f"'{shorten(leaf)[1:-1]}'"
    return shorten(leaf).replace("'", '"')


def _trace_answer(episode: Episode, answer: Answer, seen: Evidence) -> str | None:
    """Where an answer comes from, stated or computed, or None if it cannot be traced."""
    assert episode.blueprint is not None
    value = answer.value
    if answer.type in ("point", "not_shown") or _programmed(episode, answer):
        return "stated"
    if answer.type == "json":
        return _trace_json(answer, seen)
    if answer.type == "choice":
        # A choice may be a judgement, such as yes or no, which occurs nowhere.
        return "stated" if seen.has_text(str(value)) else "computed"
    if answer.type == "text":
        return "stated" if seen.has_text(str(value)) else None
    chain = _with_reply(episode, answer, seen)
    if answer.type == "date":
        if value in seen.dates:
            return "stated"
        return "computed" if chain.computes_date(value) else None
    number = float(value)
    if seen.has_number(number, answer.tolerance):
        return "stated"
    return "computed" if chain.computes(number, answer.tolerance) else None


def _trace_json(answer: Answer, seen: Evidence) -> str | None:
    """Where the values of an answer in JSON come from. One of an enum may be a judgement, which occurs nowhere."""
    judged = {value for path, value in leaves(answer.schema) if path.endswith(".enum[*]")}
    origin = "stated"
    for _, leaf in leaves(answer.value):
        if leaf is None or isinstance(leaf, bool):
            continue
        if isinstance(leaf, int | float):
            if not seen.has_number(float(leaf)):
                origin = "computed"
                if not seen.computes(float(leaf)):
                    return None
        elif not seen.has_text(leaf) and leaf not in seen.dates:
            origin = "computed"
            if leaf not in judged and not seen.computes_date(leaf):
                return None
    return origin


def _with_reply(episode: Episode, answer: Answer, seen: Evidence) -> Evidence:
    """What was seen, and the intermediate values of the reply that follow from it."""
    assert episode.blueprint is not None
    chain = seen.copy()
    row: AnswerRow = answer.as_row()
    for number in numbers_in(episode.blueprint.reply):
        if not answer_matches(row, f"{number:g}") and chain.computes(number):
            chain.numbers[number] = None
    for date in _dates_in(episode.blueprint.reply):
        if date != answer.value and chain.computes_date(date):
            chain.dates.add(date)
    return chain


def _programmed(episode: Episode, answer: Answer) -> bool:
    """Whether the answer is the result of the blueprint's program."""
    blueprint = episode.blueprint
    if blueprint is None or not blueprint.program:
        return False
    try:
        result = run_program(blueprint.program, [scene.data for scene in blueprint.pictures])
    except ProgramError:
        return False
    return bool(result.value == answer.value)


def _untraced_in_reply(episode: Episode, seen: Evidence) -> str | None:
    """The first identifier, date or number of a reply that follows from nothing, or None."""
    blueprint = episode.blueprint
    assert blueprint is not None
    if (episode.answer and episode.answer.type == "point") or (blueprint.program or {}).get(
        "op"
    ) == "point":
        return None  # it states coordinates, which only the drawn image has
    known = seen.copy()
    for _, arguments in blueprint.plan:
        known.add(as_json(arguments))
    if blueprint.program:
        known.add(as_json(blueprint.program))
    if episode.answer:
        known.add(as_json(episode.answer.value))
    for date in sorted(_dates_in(blueprint.reply)):
        if date not in known.dates and not known.computes_date(date):
            return date
    for token in _IDENTIFIER.findall(blueprint.reply):
        if known.missing_words(token) and not _dates_in(token):
            return str(token)
    for number in numbers_in(blueprint.reply):
        if not known.names_number(number) and not known.computes(number):
            return f"{number:g}"
    return None


def _check_writes(played: Sequence[Episode], finding: Callable[..., Finding]) -> Iterator[Finding]:
    """Yields a template whose answer is a date or a number that the last write, of such a value, does not have."""
    apart: list[tuple[int, str, Any, Any]] = []
    writing = 0
    for episode in played:
        answer, blueprint = episode.answer, episode.blueprint
        if not answer or answer.type not in ("date", "amount", "number") or not any(episode.writes):
            continue
        assert blueprint is not None
        writing += 1
        last = max(index for index, writes in enumerate(episode.writes) if writes)
        tool, arguments = blueprint.plan[last]
        values = [v for _, v in leaves(as_json([arguments, episode.results[last]]))]
        if answer.type == "date":
            given: set[Any] = {d for v in values for d in _dates_in(str(v))}
        else:
            given = {
                float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)
            }
        if given and not any(_equal(one, answer) for one in given):
            apart.append((episode.job.seed, tool, answer.value, sorted(given)[0]))
    if apart and 2 * len(apart) > writing:
        seed, tool, value, given = apart[0]
        yield finding(
            "warning",
            f"its answer is {value!r}, and its last write has {given!r}, in {len(apart)} of {writing} tasks",
            "if both are the same fact, make them of the same variable; otherwise leave it",
            tool=tool,
            seed=seed,
        )


def _equal(given: Any, answer: Answer) -> bool:
    if answer.type == "date":
        return bool(given == answer.value)
    return abs(given - float(answer.value)) <= max(answer.tolerance, 1e-9)


def _is_independent(domain: Domain, template: str, played: Sequence[Episode]) -> bool:
    """Whether other worlds give the same answers: tasks are made of one's random generator in another's world."""
    jobs = [episode.job for episode in played if episode.answer is not None]
    split = jobs[0].split if jobs else "train"
    jobs = [job for job in jobs if job.split == split]
    kinds = {episode.answer.type for episode in played if episode.answer is not None}
    if len(jobs) < 2 or kinds & {"point", "not_shown"}:
        return False
    compared = 0
    for drawn in jobs[:_CROSSED_RANDOMS]:
        worlds = [job for job in jobs[:_CROSSED_WORLDS] if job.seed != drawn.seed]
        values = []
        for job in (drawn, *worlds):
            try:
                values.append(_crossed_answer(domain, job, drawn))
            except Exception:
                continue  # a world need not suit another's random numbers
        if len({json.dumps(as_json(value)) for value in values}) > 1:
            return False
        compared += len(values) > 1
    return compared > 0


def _crossed_answer(domain: Domain, job: Job, drawn: Job) -> Any:
    """The answer of a template in the world of one job with the random generator of another."""
    world = domain.environment()
    world.reset(seed=job.seed, split=job.split)
    rng = random.Random(f"{drawn.template}/{drawn.split}/{drawn.seed}")
    blueprint = domain.templates[job.template](world, rng)
    answer = answer_of(blueprint, is_read_only=True)
    return answer.value if answer else None
