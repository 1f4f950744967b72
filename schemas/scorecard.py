"""The Scorecard: what the base model and the student reached on the held-out exam, part by part.

`scorecard.schema.json` is the contract of the file; these are the same objects as types, and what its readers share. A
scorecard that was written before the exam had parts has no `parts`, `unasked_write` and `comparison`.
"""

import math
from collections.abc import Iterable
from statistics import NormalDist
from typing import Literal, NotRequired, TypedDict

from schemas.task import Part, Task

# The part whose result is the exam's headline; the base model is evaluated on it alone.
HEADLINE: Part = "all_tools"
# What a reader is shown for a part, in this order.
PART_TITLES: dict[Part, str] = {
    "all_tools": "whole toolbox",
    "as_trained": "tools as in training",
    "new_templates": "new templates",
    "drift": "renamed tools",
}
PART_MEANINGS: dict[Part, str] = {
    "all_tools": "every task offers all tools of the domain, as a deployment does.",
    "as_trained": "tasks offer tools as the training tasks did.",
    "new_templates": "kinds of requests that no training task has; all tools are offered.",
    "drift": "names of tools and parameters, descriptions and formats that no training task has.",
}
_Z = NormalDist().inv_cdf(0.975)


class Count(TypedDict):
    """Tasks of one group, and how many of them passed."""

    tasks: int
    passed: int


class UnaskedWrite(TypedDict):
    """Tasks with a write that they did not ask for (outcome.unasked_writes of their traces), and all such calls."""

    tasks: int
    calls: int


class Restraint(TypedDict):
    """How a model deals with tasks that no call solves. over_called: of the unanswerable tasks, those with a call that
    they do not need or that the policy forbids. over_refused: of the answerable tasks, those that it failed and whose
    last message declines.
    """

    unanswerable: int
    over_called: int
    answerable: int
    over_refused: int


class SwarmScore(Count):
    """How a model directs sub-agents, over the swarm tasks of a part; the sums of SwarmOutcome (schemas/trace.py).

    failures: by name, in how many tasks.
    """

    agents: int
    answered: int
    used: int
    critical_steps: int
    serial_steps: int
    failures: dict[str, int]


class PartScore(Count):
    """A part of the exam. interval: the 95 % Wilson interval of the share that passed, low and high, 0 to 1. restraint:
    present where a task of the part is unanswerable. swarm: where one is for a swarm."""

    interval: list[float]
    unasked_write: NotRequired[UnaskedWrite]
    restraint: NotRequired[Restraint]
    swarm: NotRequired[SwarmScore]


class Turns(TypedDict):
    """Turns of the assistant, and how many of them are well formed."""

    total: int
    well_formed: int


Engine = Literal["llama.cpp", "vllm"]


class Score(TypedDict):
    """A model's part of the scorecard.

    All fields from `tasks` to `turns` are of the headline. passed_tasks: ids of the tasks that it passed there, with
    which later students are compared task by task. seconds: of all its requests together. engine: absent in older
    scorecards, of llama.cpp.
    """

    name: str
    file: str
    sha256: str
    engine: NotRequired[Engine]
    tasks: int
    passed: int
    by_kind: dict[str, Count]
    by_calls: dict[str, Count]
    by_template: dict[str, Count]
    turns: Turns
    seconds: float
    parts: NotRequired[dict[Part, PartScore]]
    passed_tasks: NotRequired[list[str]]


class FileDrift(TypedDict):
    """How far a GGUF's next tokens are from those of the weights, at some positions of held-out traces.

    kl: the mean Kullback-Leibler divergence, in nats. same_top: the share of positions with the same most likely token.
    """

    kl: float
    same_top: float
    positions: int


class VariantResult(TypedDict):
    """An exported GGUF: its part of the headline if it was evaluated there, its drift if the export gate measured it.

    The result of the variant that sat the whole exam is in the scorecard's `models`.
    """

    file: str
    sha256: str
    headline: NotRequired[PartScore]
    drift: NotRequired[FileDrift]


class Comparison(TypedDict):
    """Student against base on the same tasks: how many each passed, and the p-value of McNemar's exact test."""

    both: int
    student_only: int
    base_only: int
    neither: int
    p: float


class Release(TypedDict):
    """Whether a student may become `latest`, by its comparison with the student that was (`gate.against`).

    detail: the result in one line. All other fields are absent for the first version of a name.
    against, digest: the version it was compared with. The next four are absent where the two cannot be compared.
    evaluated: whether the results of `against` are those it was published with, or those of being evaluated again.
    comparison: its "base" is `against`; p is two-sided. worse_p: as `worse_p` returns it; at `level` or below, the
    student is worse.
    """

    passed: bool
    detail: str
    against: NotRequired[str]
    digest: NotRequired[str]
    evaluated: NotRequired[Literal["published", "again"]]
    comparison: NotRequired[Comparison]
    worse_p: NotRequired[float]
    level: NotRequired[float]


class GateCheck(TypedDict):
    """detail: what was reached and what was required."""

    name: str
    passed: bool
    detail: str


class GateResult(TypedDict):
    """passed: whether all checks passed."""

    passed: bool
    checks: list[GateCheck]


def part_of(task: Task) -> Part:
    """Returns the part of the exam that a task belongs to; tasks made before the exam had parts are the headline's."""
    return task.get("part", HEADLINE)


def titled_parts(score: Score) -> list[tuple[str, PartScore]]:
    """Returns (title, result) of each part that a model was evaluated on, the headline first.

    A score without parts has its headline alone.
    """
    parts = score.get("parts")
    if parts is None:
        return [(headline_title(score), part_score(score["passed"], score["tasks"]))]
    return [(title, parts[part]) for part, title in PART_TITLES.items() if part in parts]


def headline_title(score: Score) -> str:
    """Returns the title of the headline, of which a score's own counts are."""
    return PART_TITLES[HEADLINE] if "parts" in score else "all tasks"


def part_score(passed: int, tasks: int) -> PartScore:
    """Returns the result of a part, with its interval."""
    return {"tasks": tasks, "passed": passed, "interval": wilson_interval(passed, tasks)}


def wilson_interval(passed: int, tasks: int) -> list[float]:
    """Returns the 95 % score interval of a share, [low, high], rounded to four digits; [0, 1] without tasks.

    Source: Wilson 1927, Probable inference, the law of succession, and statistical inference, JASA 22.
    """
    if not tasks:
        return [0.0, 1.0]
    share, z2 = passed / tasks, _Z * _Z
    centre = share + z2 / (2 * tasks)
    half = _Z * math.sqrt(share * (1 - share) / tasks + z2 / (4 * tasks * tasks))
    scale = 1 + z2 / tasks
    return [
        round(max(0.0, (centre - half) / scale), 4),
        round(min(1.0, (centre + half) / scale), 4),
    ]


def compare(results: Iterable[tuple[bool, bool]]) -> Comparison:
    """Compares two models on the same tasks.

    The p-value is two-sided: how likely so uneven a split of the tasks that only one of them passed is, if each were
    the better one equally often. Source: McNemar 1947, Psychometrika 12; exact by the binomial distribution.

    Args:
        results: for each task, whether the base passed and whether the student passed.
    """
    pairs = list(results)
    base_only, student_only = pairs.count((True, False)), pairs.count((False, True))
    fewer = min(base_only, student_only)
    return {
        "both": pairs.count((True, True)),
        "student_only": student_only,
        "base_only": base_only,
        "neither": pairs.count((False, False)),
        "p": min(1.0, 2 * _at_most(fewer, base_only + student_only)),
    }


def worse_p(comparison: Comparison) -> float:
    """Returns the one-sided p-value of McNemar's exact test that the student is worse than its base.

    It is how likely it is that so few or fewer of the tasks that only one of them passed are the student's, if each
    were the better one equally often: the sign test on these tasks. Source: Fagerland, Lydersen and Laake 2013, BMC
    Medical Research Methodology 13:91, the exact conditional test.
    """
    student_only = comparison["student_only"]
    return _at_most(student_only, student_only + comparison["base_only"])


def _at_most(successes: int, trials: int) -> float:
    """Returns the probability of at most so many successes, each of probability 1/2."""
    return sum(math.comb(trials, k) for k in range(successes + 1)) / 2**trials


def conduct_text(part: PartScore) -> str:
    """Returns over-calling, over-refusing and the counts of swarms as a reader is shown them; "" without such tasks."""
    texts = []
    if counts := part.get("restraint"):
        texts.append(
            f"over-called {counts['over_called']} of {counts['unanswerable']},"
            f" over-refused {counts['over_refused']} of {counts['answerable']}"
        )
    if swarm := part.get("swarm"):
        texts.append(
            f"swarms passed {swarm['passed']} of {swarm['tasks']}, {swarm['critical_steps']} critical steps of"
            f" {swarm['serial_steps']} serial ones, results used of {swarm['used']} of {swarm['agents']} sub-agents"
        )
        texts += [f"{name} in {count}" for name, count in swarm["failures"].items()]
    return "; ".join(texts)


def interval_text(part: PartScore) -> str:
    """Returns the interval as a reader is shown it: 59 to 82 %."""
    low, high = part["interval"]
    return f"{100 * low:.0f} to {100 * high:.0f} %"
