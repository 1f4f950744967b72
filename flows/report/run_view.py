"""Reads what a run has so far, for its report: its documents, and in one pass over its traces what they cover."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from flows.estimate import planned_seconds
from flows.report.coverage import Coverage
from flows.report.pages import TracePages
from flows.report.traces import TEACHER, judge, makers, part, rows, word
from flows.run_directory import STAGES, read, read_receipt
from schemas.files import dumps, read_json, read_jsonl, sha256_text
from schemas.ledger import Ledger
from schemas.scorecard import HEADLINE, part_of
from schemas.task import Task


@dataclass
class RunView:
    """A run as its report shows it; what its stages have not written yet is None or empty.

    Attributes:
        record: run.json. receipts: of each stage. release: of the published scorecard. log: rows of the training log.
        examples: train/examples.json.
        coverage: of kinds, templates and tools.
        results: for each model of the exam, whether it passed each task.
        exam: a digest of each task of the exam by id; the same task in two runs has the same digest.
        headline: ids of the exam's headline.
        renamed: of each task with renamed tools, the pack's names.
    """

    directory: Path
    record: dict[str, Any]
    receipts: dict[str, dict[str, Any] | None]
    planned: dict[str, float]
    ledger: Ledger | None
    scorecard: dict[str, Any] | None
    release: dict[str, Any] | None
    plan: dict[str, Any] | None
    preflight: dict[str, Any] | None
    examples: dict[str, Any] | None
    log: list[dict[str, Any]]
    coverage: Coverage = field(default_factory=Coverage)
    results: dict[str, dict[str, bool]] = field(default_factory=dict)
    exam: dict[str, str] = field(default_factory=dict)
    headline: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        return self.directory.name

    def result(self, stage: str) -> dict[str, Any]:
        """The summary in a stage's receipt; empty where the stage has not run."""
        receipt = self.receipts[stage]
        return receipt["result"] if receipt else {}

    def seconds(self) -> float:
        return sum(receipt["seconds"] for receipt in self.receipts.values() if receipt)


def read_run(directory: Path, pages: TracePages, prefix: str = "") -> RunView:
    """Reads a run and adds its traces to the pages.

    prefix: is put before the names of its models in the pages, to tell two runs apart.

    Raises:
        InputError: the directory is not a run, or one of its files is broken.
    """
    view = RunView(
        directory=directory.resolve(),
        record=read(directory),
        receipts={stage: read_receipt(directory, stage) for stage in STAGES},
        planned=planned_seconds(directory),
        ledger=_read_optional(directory / "filter" / "ledger.json"),
        scorecard=_read_optional(directory / "evaluate" / "scorecard.json"),
        release=(_read_optional(directory / "publish" / "scorecard.json") or {}).get("release"),
        plan=_read_optional(directory / "plan.json"),
        preflight=_read_optional(directory / "preflight.json"),
        examples=_read_optional(directory / "train" / "examples.json"),
        log=_read_log(directory / "train" / "log.jsonl"),
    )
    for task in _read_tasks(directory / "tasks" / "exam.jsonl"):
        view.exam[task["id"]] = sha256_text(dumps(task))
        if part_of(task) == HEADLINE:
            view.headline.add(task["id"])
    for maker in makers(directory):
        tasks = _expected(directory, "train" if maker == TEACHER else "exam")
        for trace in rows(directory, maker):
            name = word(part(trace, "task"), "id")
            expected = tasks.get(name)
            view.coverage.add(maker, trace, expected["renamed"] if expected else {})
            pages.add(f"{prefix}{maker}", trace, expected)
            if maker != TEACHER:
                view.results.setdefault(maker, {})[name] = judge(trace)[0] == "passed"
    return view


def _expected(directory: Path, split: str) -> dict[str, dict[str, Any]]:
    """What each task of a split expects: its solution, the reply that follows it, the answer that is checked."""
    return {
        task["id"]: {
            "plan": task["plan"],
            "reply": task["reply"],
            "answer": task["checks"]["answer"],
            # The pack's name of each tool that the task offers under another one.
            "renamed": task["drift"]["tools"] if "drift" in task else {},
        }
        for task in _read_tasks(directory / "tasks" / f"{split}.jsonl")
    }


def _read_tasks(path: Path) -> Iterator[Task]:
    if path.is_file():
        yield from cast(Iterator[Task], read_jsonl(path))


def _read_optional(path: Path) -> Any:
    """The value of a JSON file, or None where its stage has not run."""
    return read_json(path) if path.is_file() else None


def _read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of the training log. Its last line may be incomplete, because the run may still be training."""
    log = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                log.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return log
