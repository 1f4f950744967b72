"""What Prefect's UI shows of a run: tables of stage results, funnel and scorecard, and a progress bar.

They are artifacts of the flow run, with keys that begin with the domain's name, so that Prefect lists the values of
earlier runs beside them. A server that does not take one ends no run: a line says so.
"""

import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from flows import prefect_server, progress
from flows.run_context import RunContext
from schemas.error_text import one_line
from schemas.files import read_json
from schemas.scorecard import interval_text, titled_parts

# isort: split
from prefect.artifacts import (
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

PROGRESS_SECONDS = 15.0


def record_stage(context: RunContext, stage: str) -> None:
    """Adds a stage's result to the flow run, with the funnel after filter and the scorecard after evaluate."""
    receipt = context.run.receipt(stage)
    if not prefect_server.in_flow() or receipt is None:
        return
    rows = [{"what": "seconds", "value": str(receipt["seconds"])}, *_rows(receipt["result"])]
    tables = [(stage, f"{stage} of {context.directory.name}", rows)]
    if stage == "filter":
        ledger = read_json(context.path("filter", "ledger.json"))
        tables.append(("funnel", "From tasks to kept traces", _funnel(ledger)))
    if stage == "evaluate":
        scorecard = read_json(context.path("evaluate", "scorecard.json"))
        tables.append(("scorecard", "Held-out exam", _scorecard(scorecard)))
    for name, title, table in tables:
        _attempt(name, partial(create_table_artifact, table, _key(context, name), title))


@contextlib.contextmanager
def progress_bar(context: RunContext, stages: Sequence[str]) -> Iterator[Callable[[str], None]]:
    """Shows how far the stages are as a progress bar of the flow run.

    Yields a function to call with the name of a stage that begins. Each stage has the same share of the bar.
    """
    if not prefect_server.in_flow():
        yield lambda stage: None
        return
    position, ended = [0], threading.Event()

    def show(artifact: Any) -> None:
        while not ended.wait(PROGRESS_SECONDS):
            activity = progress.current()
            done, total = (activity.done, activity.total) if activity else (0, None)
            share = (position[0] + (done / total if total else 0)) / len(stages)
            text = activity.line() if activity else stages[position[0]]
            with contextlib.suppress(Exception):  # the next one may come through
                update_progress_artifact(artifact, 100 * share, text)

    def begin(stage: str) -> None:
        position[0] = stages.index(stage)

    artifact = _attempt(
        "the progress bar",
        lambda: create_progress_artifact(0.0, _key(context, "progress"), ", ".join(stages)),
    )
    thread = None
    if artifact:
        # Prefect's settings, such as the server's address, are variables of this thread's context.
        of_this_thread = contextvars.copy_context()
        thread = threading.Thread(
            target=of_this_thread.run, args=(show, artifact), name="progress bar", daemon=True
        )
        thread.start()
    try:
        yield begin
        if artifact:
            ended.set()
            _attempt(
                "the progress bar",
                lambda: update_progress_artifact(artifact, 100.0, f"done: {', '.join(stages)}"),
            )
    finally:
        ended.set()


def _attempt(what: str, record: Callable[[], Any]) -> Any:
    try:
        return record()
    except Exception as error:  # whatever Prefect's client raises: the run does not depend on it
        reason = one_line(f"{type(error).__name__}: {error}")
        progress.log(f"note: Prefect has no record of {what}: {reason}")
        return None


def _key(context: RunContext, name: str) -> str:
    """Prefect's keys have lower-case letters, digits and dashes, as names of domains do."""
    return f"{context.domain.name}-{name}"


def _rows(result: Mapping[str, Any], prefix: str = "") -> list[dict[str, str]]:
    """The numbers and short texts of a result, nested ones as a.b."""
    rows: list[dict[str, str]] = []
    for name, value in result.items():
        if isinstance(value, dict):
            rows += _rows(value, f"{prefix}{name}.")
        elif isinstance(value, str | int | float):
            rows.append({"what": f"{prefix}{name}", "value": one_line(str(value))})
    return rows


def _funnel(ledger: Mapping[str, Any]) -> list[dict[str, str]]:
    reasons = sorted(ledger["rejected"].items(), key=lambda each: -each[1])
    counts = [("tasks", ledger["tasks"]), ("traces", ledger["traces"]), ("kept", ledger["kept"])]
    counts += [(f"rejected: {reason}", count) for reason, count in reasons]
    return [{"what": what, "count": str(count)} for what, count in counts]


def _scorecard(scorecard: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "model": model,
            "part": title,
            "passed": f"{part['passed']} of {part['tasks']}",
            "95 % interval": interval_text(part),
        }
        for model, score in scorecard["models"].items()
        for title, part in titled_parts(score)
    ]
