"""The rule of a release: a student that is worse than `latest` on the exam does not become `latest` (gate.against).

    before = find_version(store, "legal")
    release = judge(scorecard, before, evaluated_again, level=0.05)    # the scorecard's `release`

Both are compared task by task on the exam's headline. That needs the same exam: what `latest` was published with, or,
where the exam has changed, its results on the new one (flows/stages/evaluate.py evaluates it again).
"""

from typing import Any, TypedDict, cast

from schemas.scorecard import Comparison, Release, Score, compare, worse_p
from student.registry.lookup import Version


class EvaluatedAgain(TypedDict, total=False):
    """What a run found of the version that `latest` named: its score on the run's exam, or why there is none."""

    digest: str
    score: Score
    reason: str


def judge(
    scorecard: dict[str, Any], latest: Version | None, again: EvaluatedAgain | None, level: float
) -> Release:
    """Decides whether the student of a scorecard may become `latest`.

    What cannot be compared may not: nobody knows whether it is worse.

    Args:
        latest: what `latest` names; None where there is none.
        again: of the run that made the student, where it evaluated `latest` again.
        level: the recipe's gate.level.
    """
    if latest is None:
        return {"passed": True, "detail": "the first version: there is no latest to compare with"}
    named = {"against": latest.reference, "digest": latest.model.digest}
    if again is not None and again["digest"] != latest.model.digest:
        again = None
    published = latest.score_on(scorecard["exam"])
    before = published or (again or {}).get("score")
    comparison = before and _compare(before, scorecard["models"]["student"])
    if not comparison:
        reason = (again or {}).get("reason") or _difference(scorecard, latest)
        detail = f"not compared with {latest.reference}: {reason}"
        return cast(Release, {"passed": False, "detail": detail, **named})
    p = worse_p(comparison)
    return cast(
        Release,
        {
            "passed": p > level,
            "detail": f"{'not worse' if p > level else 'worse'} than {latest.reference}: of"
            f" {scorecard['models']['student']['tasks']} tasks {comparison['student_only']} were passed by this"
            f" student alone and {comparison['base_only']} by {latest.reference} alone (p = {p:.2g}, worse at"
            f" {level:g} or less)",
            **named,
            "evaluated": "published" if published else "again",
            "comparison": comparison,
            "worse_p": p,
            "level": level,
        },
    )


def _compare(before: Score, after: Score) -> Comparison | None:
    """Compares two scores on the same headline; None where their tasks cannot be the same."""
    passed_before, passed_after = set(before["passed_tasks"]), set(after["passed_tasks"])
    either = passed_before | passed_after
    neither = after["tasks"] - len(either)
    if before["tasks"] != after["tasks"] or neither < 0:
        return None
    results = [(task in passed_before, task in passed_after) for task in either]
    return compare([*results, *[(False, False)] * neither])


def _difference(scorecard: dict[str, Any], latest: Version) -> str:
    if latest.scorecard is None:
        return "it has no scorecard"
    if latest.scorecard["exam"] != scorecard["exam"]:
        return "it was evaluated on another exam"
    return "its scorecard does not name the tasks that it passed"


def same_student(scorecard: dict[str, Any], published: dict[str, Any] | None) -> Release | None:
    """Returns the release of a published scorecard, if it is this scorecard with a release.

    So a student that is published again keeps its verdict, and is the same version.
    """
    if published is None or "release" not in published:
        return None
    without = {key: value for key, value in published.items() if key != "release"}
    return cast(Release, published["release"]) if without == scorecard else None
