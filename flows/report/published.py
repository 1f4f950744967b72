"""A published student in a report, and its results on the tasks of this run's exam."""

import contextlib

from flows.report.exam import Results
from flows.report.run_view import RunView
from schemas.errors import StillhouseError
from student.registry.lookup import Version, resolve, with_scorecard
from student.registry.open_store import open_store


def find(view: RunView, reference: str, *, patient: bool = True) -> Version:
    """Returns what NAME or NAME:TAG names in the store of a run's recipe. patient: as of `open_store`.

    Raises:
        InputError: the store has no such student, or its scorecard is broken.
        StageError: the registry cannot be reached.
    """
    store = open_store(view.record["recipe"]["publish"]["store"], patient=patient)
    model = resolve(store, reference)
    return with_scorecard(store.repository(model.name), model)


def find_latest(view: RunView) -> Version | None:
    """Returns the newest student of the domain that passed its gate.

    None where this run made it, where there is none, and where the store cannot be read: a report is written anyway,
    and does not wait for a registry that does not answer.
    """
    with contextlib.suppress(StillhouseError):
        latest = find(view, view.record["domain"]["name"], patient=False)
        if latest.model.digest != view.result("publish").get("digest"):
            return latest
    return None


def results_on(view: RunView, version: Version) -> Results:
    """Whether a student passed each task of the run's headline; empty unless it was evaluated on the run's exam."""
    score = version.score_on(view.scorecard["exam"]) if view.scorecard else None
    return {task: task in score["passed_tasks"] for task in view.headline} if score else {}
