"""A published student in a report: what its store says of it, and its results on the tasks of this run's exam."""

import contextlib
from dataclasses import dataclass
from typing import Any

from flows.report.exam import Results
from flows.report.run_view import RunView
from schemas.errors import StillhouseError
from schemas.scorecard import PartScore, part_score
from student.registry.artifact import Model
from student.registry.lookup import read_scorecard, resolve
from student.registry.store import open_store


@dataclass(frozen=True)
class Published:
    """A version in a store. scorecard: as it was published; None where the version has none."""

    model: Model
    scorecard: dict[str, Any] | None

    @property
    def reference(self) -> str:
        return f"{self.model.name}:{self.model.tag}"

    @property
    def created(self) -> str:
        return str(self.model.manifest["created"])

    def headline(self) -> PartScore:
        """The student's result in the exam's headline."""
        score = self.model.manifest["scorecard"]
        return part_score(score["student"], score["tasks"])

    def results(self, view: RunView) -> Results:
        """Whether it passed each task of the headline; empty unless it was evaluated on the exam of this run."""
        mine = view.scorecard
        if not (mine and self.scorecard and mine["exam"] == self.scorecard["exam"]):
            return {}
        passed = self.scorecard["models"]["student"].get("passed_tasks")
        return {} if passed is None else {task: task in passed for task in view.headline}


def find(view: RunView, reference: str, *, patient: bool = True) -> Published:
    """Returns what NAME or NAME:TAG names in the store of a run's recipe. patient: as of `open_store`.

    Raises:
        InputError: the store has no such student, or its scorecard is broken.
        StageError: the registry cannot be reached.
    """
    store = open_store(view.record["recipe"]["publish"]["store"], patient=patient)
    model = resolve(store, reference)
    return Published(model, read_scorecard(store.repository(model.name), model))


def find_latest(view: RunView) -> Published | None:
    """Returns the newest student of the domain that passed its gate.

    None where this run made it, where there is none, and where the store cannot be read: a report is written anyway,
    and does not wait for a registry that does not answer.
    """
    with contextlib.suppress(StillhouseError):
        published = find(view, view.record["domain"]["name"], patient=False)
        if published.model.digest != view.result("publish").get("digest"):
            return published
    return None
