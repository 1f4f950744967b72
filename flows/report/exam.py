"""The exam in a report: each model's share with its interval, and how two models differ on the same tasks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from schemas.scorecard import Comparison, compare, wilson_interval

# Tasks of an exam that passed, by id.
Results = Mapping[str, bool]


@dataclass(frozen=True)
class Delta:
    """How much larger the share of passed tasks is for one model than for another.

    difference, low, high: in points of a share, -1 to 1; low and high are a 95 % interval. tasks: those of both.
    comparison: "base" is the model that is subtracted.
    """

    name: str
    against: str
    tasks: int
    difference: float
    low: float
    high: float
    comparison: Comparison


def paired_delta(name: str, results: Results, against: str, others: Results) -> Delta | None:
    """Returns the difference of two models on the tasks that both solved or failed; None where they share none."""
    shared = sorted(results.keys() & others.keys())
    if not shared:
        return None
    comparison = compare((others[task], results[task]) for task in shared)
    low, high = paired_interval(
        comparison["both"],
        comparison["student_only"],
        comparison["base_only"],
        comparison["neither"],
    )
    difference = (comparison["student_only"] - comparison["base_only"]) / len(shared)
    return Delta(name, against, len(shared), difference, low, high, comparison)


def paired_interval(
    both: int, first_only: int, second_only: int, neither: int
) -> tuple[float, float]:
    """Returns the 95 % interval of the difference of two shares that were measured on the same tasks.

    It combines the Wilson intervals of the two shares and the correlation of the results. Source: Newcombe 1998,
    Improved confidence intervals for the difference between binomial proportions based on paired data, Statistics in
    Medicine 17, method 10.

    Args:
        first_only: tasks that only the first model passed; the difference is the first share minus the second.
    """
    tasks = both + first_only + second_only + neither
    first, second = (both + first_only) / tasks, (both + second_only) / tasks
    (first_low, first_high), (second_low, second_high) = (
        wilson_interval(both + only, tasks) for only in (first_only, second_only)
    )
    phi = _correlation(both, first_only, second_only, neither)
    below = _combine(first - first_low, second_high - second, phi)
    above = _combine(first_high - first, second - second_low, phi)
    difference = first - second
    return max(-1.0, difference - below), min(1.0, difference + above)


def _combine(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))


def _correlation(both: int, first_only: int, second_only: int, neither: int) -> float:
    """The correlation of two models' results, with the continuity correction of method 10."""
    product: float = both * neither - first_only * second_only
    if product > 0:
        product = max(0.0, product - (both + first_only + second_only + neither) / 2)
    margins = math.prod(
        (
            both + first_only,
            second_only + neither,
            both + second_only,
            first_only + neither,
        )
    )
    return product / math.sqrt(margins) if margins else 0.0


def points(share: float) -> str:
    """Returns a difference of shares in percentage points with its sign: +12."""
    rounded = round(100 * share)
    return "0" if rounded == 0 else f"{rounded:+d}".replace("-", "\N{MINUS SIGN}")


def delta_text(delta: Delta) -> str:
    """Returns the interval of a difference as a reader is shown it: +4 to +21 points."""
    return f"{points(delta.low)} to {points(delta.high)} points"
