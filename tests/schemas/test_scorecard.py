"""Intervals, the comparison of two models, and the parts of a scorecard, old and new."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.scorecard import (
    PART_TITLES,
    Score,
    compare,
    interval_text,
    part_score,
    titled_parts,
    wilson_interval,
    worse_p,
)


# Reference values: scipy 1.17, binomtest(passed, tasks).proportion_ci(method="wilson").
@pytest.mark.parametrize(
    ("passed", "tasks", "low", "high"),
    [
        (43, 60, 0.5923, 0.8149),
        (3, 60, 0.0171, 0.1370),
        (81, 100, 0.7222, 0.8749),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
    ],
)
def test_the_interval_is_wilsons(passed: int, tasks: int, low: float, high: float) -> None:
    assert wilson_interval(passed, tasks) == [low, high]


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_bounds_are_the_shares_that_the_score_test_just_does_not_reject(
    counts: tuple[int, int],
) -> None:
    passed, tasks = counts
    low, high = wilson_interval(passed, tasks)
    assert 0 <= low <= passed / tasks <= high <= 1
    for bound in (low, high):
        if 0.001 < bound < 0.999:
            z = (passed / tasks - bound) / math.sqrt(bound * (1 - bound) / tasks)
            assert abs(z) == pytest.approx(1.96, abs=0.05)


def test_without_tasks_nothing_is_known() -> None:
    assert wilson_interval(0, 0) == [0.0, 1.0]
    assert interval_text(part_score(0, 0)) == "0 to 100 %"


def test_an_interval_is_written_in_percent() -> None:
    assert interval_text(part_score(43, 60)) == "59 to 81 %"


def test_two_models_are_compared_task_by_task() -> None:
    pairs = [(False, True)] * 9 + [(True, False)] * 1 + [(True, True)] * 2 + [(False, False)] * 3
    assert compare(pairs) == {
        "both": 2,
        "student_only": 9,
        "base_only": 1,
        "neither": 3,
        "p": 2 * 11 / 1024,
    }


def test_no_difference_and_no_task_have_a_p_value_of_one() -> None:
    assert compare([])["p"] == 1.0
    assert compare([(True, True), (False, False)])["p"] == 1.0
    assert compare([(True, False), (False, True)])["p"] == 1.0


# (first alone, second alone, two-sided p). Source: Fagerland, Lydersen and Laake 2013, BMC Medical Research
# Methodology 13:91: the data of Bentur et al. and of Cavo et al., exact conditional test.
@pytest.mark.parametrize(("first_only", "second_only", "p"), [(1, 7, 0.0703), (6, 16, 0.0525)])
def test_the_p_values_are_those_of_published_examples(
    first_only: int, second_only: int, p: float
) -> None:
    pairs = [(True, False)] * second_only + [(False, True)] * first_only + [(True, True)] * 5
    result = compare(pairs)
    assert result["p"] == pytest.approx(p, abs=5e-5)
    assert worse_p(result) == pytest.approx(p / 2, abs=5e-5)


# (tasks that the student alone passed, those that one of the two alone passed, p). Source: Siegel 1956, Nonparametric
# Statistics, table D, one-tailed probabilities of the binomial test.
@pytest.mark.parametrize(
    ("student_only", "discordant", "p"),
    [
        (0, 5, 0.031),
        (1, 5, 0.188),
        (1, 10, 0.011),
        (2, 10, 0.055),
        (3, 15, 0.018),
        (5, 20, 0.021),
        (6, 20, 0.058),
        (7, 25, 0.022),
        (8, 25, 0.054),
    ],
)
def test_a_student_is_worse_by_the_table_of_the_sign_test(
    student_only: int, discordant: int, p: float
) -> None:
    pairs = [(False, True)] * student_only + [(True, False)] * (discordant - student_only)
    assert worse_p(compare(pairs)) == pytest.approx(p, abs=5.01e-4)  # the table has three digits


def test_a_better_or_equal_student_is_never_worse() -> None:
    assert worse_p(compare([])) == 1.0
    assert worse_p(compare([(False, True)] * 9)) == 1.0
    assert worse_p(compare([(False, True), (True, False)])) == 0.75


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=12))
def test_the_p_value_is_the_share_of_splits_that_are_at_least_as_uneven(
    pairs: list[tuple[bool, bool]],
) -> None:
    result = compare(pairs)
    won, lost = result["student_only"], result["base_only"]
    splits = [bin(bits).count("1") for bits in range(2 ** (won + lost))]
    uneven = sum(abs(2 * ones - won - lost) >= abs(won - lost) for ones in splits)
    assert result["p"] == pytest.approx(float(Fraction(uneven, len(splits))))
    assert compare((student, base) for base, student in pairs)["p"] == result["p"]


def score(**fields: object) -> Score:
    return {
        "name": "s",
        "file": "s.gguf",
        "sha256": "0" * 64,
        "tasks": 60,
        "passed": 43,
        "by_kind": {},
        "by_calls": {},
        "by_template": {},
        "turns": {"total": 0, "well_formed": 0},
        "seconds": 0.0,
        **fields,  # type: ignore[typeddict-item]
    }


def test_parts_are_listed_with_the_headline_first_whatever_their_order_in_the_file() -> None:
    parts = {part: part_score(1, 2) for part in reversed(PART_TITLES)}
    assert [title for title, _ in titled_parts(score(parts=parts))] == list(PART_TITLES.values())


def test_a_scorecard_from_before_the_parts_has_one_line_and_an_interval() -> None:
    ((title, part),) = titled_parts(score())
    assert title == "all tasks"
    assert part == {"tasks": 60, "passed": 43, "interval": wilson_interval(43, 60)}
