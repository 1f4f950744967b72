"""Paired differences of two models: published numbers, and what must hold for all counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.report.exam import delta_text, paired_delta, paired_interval


def test_the_interval_is_that_of_newcombes_example() -> None:
    # Newcombe 1998, Statistics in Medicine 17: 36, 12, 2 and 0 pairs, method 10.
    low, high = paired_interval(36, 12, 2, 0)
    assert (low, high) == (pytest.approx(0.0569, abs=2e-4), pytest.approx(0.3404, abs=2e-4))


COUNTS = st.integers(0, 300)


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_the_interval_holds_the_difference_and_turns_its_sign_with_the_models(
    both: int, first: int, second: int, neither: int
) -> None:
    if not (tasks := both + first + second + neither):
        return
    low, high = paired_interval(both, first, second, neither)
    assert -1 <= low <= (first - second) / tasks + 1e-4 and high <= 1
    assert paired_interval(both, second, first, neither) == (
        pytest.approx(-high, abs=1e-9),
        pytest.approx(-low, abs=1e-9),
    )


def test_only_tasks_that_both_models_have_are_compared() -> None:
    delta = paired_delta("new", {"a": True, "b": True, "c": False}, "old", {"a": False, "b": True})
    assert delta is not None
    assert (delta.tasks, delta.difference) == (2, 0.5)
    assert (delta.comparison["student_only"], delta.comparison["both"]) == (1, 1)
    assert delta_text(delta).endswith(" points")


def test_models_without_a_common_task_have_no_difference() -> None:
    assert paired_delta("new", {"a": True}, "old", {"b": True}) is None
