"""Compares a run with another run, or with a published student, row by row."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flows.estimate import minutes
from flows.report.exam import Delta, paired_delta
from flows.report.run_view import RunView
from schemas.recipe import flat
from schemas.scorecard import PART_TITLES, interval_text, part_score, titled_parts
from student.registry.artifact import Model

_NOTHING = "-"


@dataclass(frozen=True)
class Row:
    """A line of the comparison; the texts are those of this run and of the other."""

    name: str
    this: str
    other: str


def setting_rows(this: Mapping[str, Any], other: Mapping[str, Any]) -> list[Row]:
    """Returns the settings that differ between two resolved recipes."""
    mine, theirs = dict(flat(this)), dict(flat(other))
    return [
        Row(name, _text(mine.get(name)), _text(theirs.get(name)))
        for name in sorted(mine.keys() | theirs.keys())
        if mine.get(name) != theirs.get(name)
    ]


def run_rows(this: RunView, other: RunView) -> list[Row]:
    """Returns what the stages of two runs did: traces, rejections, tokens, time, training, exam."""
    mine, theirs = _facts(this), _facts(other)
    names = [*mine, *(name for name in theirs if name not in mine)]
    return [Row(name, mine.get(name, _NOTHING), theirs.get(name, _NOTHING)) for name in names]


def published_rows(this: RunView, model: Model) -> list[Row]:
    """Returns what a run and a published student have in common: kept traces and the exam."""
    manifest, mine = model.manifest, _facts(this)
    theirs = {"traces kept": f"{manifest['data']['kept']:,}"}
    score = manifest["scorecard"]
    parts = score.get("parts", {"": {"passed": score["student"], "tasks": score["tasks"]}})
    for part, count in parts.items():
        title = PART_TITLES.get(part, "all tasks")
        theirs[f"student, {title}"] = _score_text(part_score(count["passed"], count["tasks"]))
    return [Row(name, mine.get(name, _NOTHING), text) for name, text in theirs.items()]


def exam_deltas(this: RunView, other: RunView) -> list[Delta]:
    """Returns the paired differences of each model that both runs evaluated, on the tasks of the headline they share.

    A task is shared if its whole row is the same in both runs.
    """
    shared = {
        task for task in this.headline & other.headline if this.exam[task] == other.exam[task]
    }
    deltas = []
    for name, results in this.results.items():
        mine = {task: passed for task, passed in results.items() if task in shared}
        theirs = other.results.get(name, {})
        if delta := paired_delta(f"{name} here", mine, f"{name} of {other.name}", theirs):
            deltas.append(delta)
    return deltas


def _facts(view: RunView) -> dict[str, str]:
    """What a run did, by name, as texts."""
    facts: dict[str, str] = {}
    if ledger := view.ledger:
        facts["tasks"], facts["traces"] = f"{ledger['tasks']:,}", f"{ledger['traces']:,}"
        facts["traces kept"] = f"{ledger['kept']:,} ({_percent(ledger['kept'], ledger['traces'])})"
        for reason, count in ledger["rejected"].items():
            facts[f"rejected: {reason}"] = f"{count:,} ({_percent(count, ledger['traces'])})"
    if tokens := view.result("generate").get("tokens"):
        facts["teacher's prompt tokens"] = (
            f"{tokens['prompt']:,} ({_percent(tokens['cached'], tokens['prompt'])} cached)"
        )
        facts["teacher's completion tokens"] = f"{tokens['completion']:,}"
    for stage, receipt in view.receipts.items():
        if receipt:
            facts[f"time of {stage}"] = minutes(receipt["seconds"])
    for title, column in (("last training loss", "loss"), ("last held-out loss", "eval_loss")):
        if values := [row[column] for row in view.log if column in row]:
            facts[title] = f"{values[-1]:.4f}"
    if values := [row["memory_gib"] for row in view.log if "memory_gib" in row]:
        facts["most memory of training"] = f"{max(values):.1f} GiB"
    if view.scorecard:
        for name, score in view.scorecard["models"].items():
            for title, result in titled_parts(score):
                facts[f"{name}, {title}"] = _score_text(result)
        facts["gate"] = "passed" if view.scorecard["gate"]["passed"] else "failed"
    return facts


def _score_text(score: Any) -> str:
    share = _percent(score["passed"], score["tasks"])
    return f"{score['passed']} of {score['tasks']}, {share} ({interval_text(score)})"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else _NOTHING


def _text(value: Any) -> str:
    return _NOTHING if value is None else str(value)
