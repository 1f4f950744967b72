"""The last lines of a run state the exam by part, for scorecards of both ages."""

from typing import Any, cast

import pytest

from flows import summary
from flows.run_context import RunContext
from schemas.scorecard import PartScore, Score, part_score


def part(passed: int, tasks: int, unasked: int) -> PartScore:
    return {**part_score(passed, tasks), "unasked_write": {"tasks": unasked, "calls": unasked}}


def score(passed: int, **more: Any) -> Score:
    return cast(
        Score,
        {
            "tasks": 60,
            "passed": passed,
            "by_calls": {
                "1": {"tasks": 40, "passed": passed},
                "2+": {"tasks": 20, "passed": 0},
            },
            **more,
        },
    )


def exam_lines(monkeypatch: pytest.MonkeyPatch, base: Score, student: Score) -> list[str]:
    """The lines about the exam of a run with these scores, with single spaces."""
    lines: list[str] = []
    monkeypatch.setattr(summary, "log", lambda line: lines.append(" ".join(line.split())))
    scorecard = {"models": {"base": base, "student": student}}
    values = {"stages": {"plan": 1.0}, "report": "report.html", "scorecard": scorecard}
    summary.log_summary(cast(RunContext, None), values)
    start = next(i for i, line in enumerate(lines) if line.startswith("exam "))
    return lines[start + 1 : next(i for i, line in enumerate(lines) if line.startswith("time "))]


def test_each_part_has_a_line_with_its_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    base = score(2, parts={"all_tools": part(2, 60, 0)})
    student = score(40, parts={"drift": part(9, 30, 5), "all_tools": part(40, 60, 1)})
    lines = exam_lines(monkeypatch, base, student)
    assert lines == [
        "whole toolbox 2 of 60 40 of 60 54 to 77 %",
        "renamed tools - 9 of 30 17 to 48 %",
        "one call 2 of 40 40 of 40",
        "2+ calls 0 of 20 0 of 20",
        "tasks with unasked writes: 1 of 60 (whole toolbox), 5 of 30 (renamed tools)",
    ]


def test_an_exam_without_parts_has_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = exam_lines(monkeypatch, score(2), score(40))
    assert lines == [
        "all tasks 2 of 60 40 of 60 54 to 77 %",
        "one call 2 of 40 40 of 40",
        "2+ calls 0 of 20 0 of 20",
    ]


def test_the_planned_time_of_the_whole_run_stands_beside_a_whole_run_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planned = {"generate": 120.0, "train": 60.0, "the rest": 60.0}

    def time_line(**stages: float) -> str:
        lines: list[str] = []
        monkeypatch.setattr(summary, "log", lambda line: lines.append(" ".join(line.split())))
        values = {"stages": stages, "planned": planned, "report": "report.html"}
        summary.log_summary(cast(RunContext, None), values)
        return next(line for line in lines if line.startswith("time "))

    assert time_line(plan=30.0) == "time 0.5 min (plan 0.5)"
    assert time_line(plan=30.0, generate=60.0, train=60.0).startswith(
        "time 2.5 min of 4.0 planned ("
    )
