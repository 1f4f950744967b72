"""Writes the report of a run: one HTML file with its numbers, its charts and a viewer of its traces.

The file needs no network and no other program than a browser. Traces of a large run are in a directory beside it
(flows/report/pages.py). What models wrote is hostile: on the server's side it is escaped, in the browser it is only
ever set as text, and the Content-Security-Policy runs no script but the report's own.
"""

import base64
import functools
import json
import os
import re
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from rich.filesize import decimal

from flows.estimate import minutes, teacher_gpus
from flows.report import charts, compare
from flows.report.exam import Delta, Results, delta_text, paired_delta, points
from flows.report.pages import INLINE_BYTES, TracePages, pack
from flows.report.published import find, find_latest, results_on
from flows.report.run_view import RunView, read_run
from flows.request_lines import request_lines
from schemas.errors import InputError, StageError
from schemas.files import sha256_text, whole, write_text
from schemas.scorecard import (
    Score,
    conduct_text,
    headline_title,
    interval_text,
    part_score,
    titled_parts,
)
from student.registry.lookup import Version
from student.training.mixture import lines

_HERE = Path(__file__).parent
# The parts of the viewer's script, in the order in which they need each other.
_VIEWER = ("data", "find", "conversation", "main")


def write(directory: Path, against: str | None = None) -> Path:
    """Writes the report from the stages that have run so far and returns its path.

    It is RUN/report.html, and RUN/report/ where the traces do not fit into the file. With `against` the report also
    compares the run, and is RUN/report-against-NAME.html.

    Args:
        against: the directory of another run, or NAME:TAG of a published student.

    Raises:
        InputError: the directory or `against` is not a run, or a file of them is broken.
        StageError: the report cannot be written.
    """
    with _temporary_directory(directory) as temporary:
        # A temporary directory is for its owner alone, and the pages are for those who may read the report.
        made = Path(temporary) / "pages"
        made.mkdir()
        pages = TracePages(made)
        view = read_run(directory, pages)
        other, published = None, None
        name = "report"
        if against is not None:
            other, published = _other(against, view, pages)
            shown = other.name if other else against
            name = f"report-against-{re.sub(r'[^A-Za-z0-9._-]+', '-', shown)}"
        index, beside = pages.index(), directory / name
        is_inline = pages.bytes <= INLINE_BYTES
        index["directory"] = name
        index["images"] = _images(pages.images, view, other, is_inline)
        texts = list(pages.texts()) if is_inline else []
        if is_inline:
            shutil.rmtree(beside, ignore_errors=True)
        else:
            with whole(beside) as target:
                shutil.copytree(made, target)
    path = directory / f"{name}.html"
    write_text(path, _render(view, other, published, index, texts))
    return path


def _temporary_directory(run: Path) -> tempfile.TemporaryDirectory[str]:
    """A directory beside the report, for its pages; one elsewhere for what is not a run, as read_run will say."""
    try:
        is_run = (run / "run.json").is_file()
        return tempfile.TemporaryDirectory(dir=run if is_run else None, prefix=".report-")
    except OSError as error:
        raise StageError(f"{run}: the report cannot be written: {error.strerror}") from None


def _other(against: str, view: RunView, pages: TracePages) -> tuple[RunView | None, Version | None]:
    """The run or the published student to compare with."""
    path = Path(against)
    if (path / "run.json").is_file():
        if path.resolve() == view.directory:
            raise InputError(f"--against {against}: found the same run, expected another one")
        return read_run(path, pages, prefix=f"{path.resolve().name}: "), None
    if path.exists() or "/" in against:
        raise InputError(
            f"--against {against}: not a run: expected a directory with a run.json, or NAME:TAG of a published student"
        )
    return None, find(view, against)


def _images(names: set[str], view: RunView, other: RunView | None, inline: bool) -> dict[str, str]:
    """Where the browser finds each image: inside the report, or as a file of a run."""
    found: dict[str, tuple[Path, str]] = {}
    for name in sorted(names):
        for run in (view, other):
            file = run.directory / "images" / f"{name}.png" if run else None
            if file and file.is_file():
                found[name] = file, quote(os.path.relpath(file, view.directory))
                break
    size = sum(file.stat().st_size for file, _ in found.values())
    if not inline or size * 4 / 3 > INLINE_BYTES:
        return {name: url for name, (_, url) in found.items()}
    return {
        name: f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"
        for name, (file, _) in found.items()
    }


# ------------------------------------------------------------------------------------- the page


def _render(
    view: RunView,
    other: RunView | None,
    published: Version | None,
    index: dict[str, Any],
    texts: list[str],
) -> str:
    mark = secrets.token_hex(16)
    runs = [(view.name, view.log), *([(other.name, other.log)] if other else [])]
    scorecard = view.scorecard
    latest = find_latest(view) if scorecard else None
    page = _template().render(
        view=view,
        record=view.record,
        recipe=view.record["recipe"],
        ledger=view.ledger,
        rejected=_rejected(view),
        steps=_funnel(view),
        cost=_cost(view),
        generated=view.result("generate"),
        request_lines=request_lines(view.result("generate")),
        scorecard=scorecard,
        headline=headline_title(scorecard["models"]["student"]) if scorecard else None,
        scores=_scores(scorecard) if scorecard else [],
        deltas=_deltas(view, latest),
        latest=latest,
        latest_is_paired=bool(latest and results_on(view, latest)),
        tables=_exam_tables(scorecard) if scorecard else [],
        data_lines=_data_lines(view),
        charts=charts.plot_training(runs),
        unused_tools=[name for name, tool in sorted(view.coverage.tools.items()) if not tool.kept],
        comparison=_comparison(view, other, published),
        files=_output_files(view),
        style=(_HERE / "report.css").read_text(encoding="utf-8"),
        script="\n".join(
            (_HERE / "viewer" / f"{part}.js").read_text(encoding="utf-8") for part in _VIEWER
        ),
        index=pack(json.dumps(index, ensure_ascii=False, separators=(",", ":"))),
        pages=texts,
        traces=len(index["columns"]["id"]),
        nonce=mark,
    )
    # A nonce that depends on the whole page cannot be in a text of it, and the same run gives the same page.
    return page.replace(mark, sha256_text(page.replace(mark, ""))[:32])


@functools.cache
def _template() -> jinja2.Template:
    # A receipt of an older run may lack a field; a missing one renders as empty text.
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.ChainableUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "size": decimal,
        "interval": interval_text,
        "conduct": conduct_text,
        "duration": minutes,
        "points": points,
        "delta": delta_text,
        "share": lambda count: part_score(count["passed"], count["tasks"]),
        "when": lambda time: time[:16].replace("T", " ") + " UTC",
        "percent": lambda part, whole: round(100 * part / whole) if whole else 0,
        "thousands": lambda number: f"{number:,}" if isinstance(number, int) else "",
    }
    return environment.from_string((_HERE / "report.html.jinja").read_text(encoding="utf-8"))


def _rejected(view: RunView) -> list[tuple[str, int]]:
    """(reason, count), most frequent first."""
    counts = view.ledger["rejected"] if view.ledger else {}
    return sorted(((name, n) for name, n in counts.items() if n), key=lambda item: -item[1])


def _funnel(view: RunView) -> list[tuple[str, str, int]]:
    """(stage, what, count) from the tasks of the plan to the examples of training."""
    generated, ledger, examples = view.result("generate"), view.ledger, view.examples
    named = {
        "tasks": ("plan", "tasks"),
        "traces": ("generate", "attempts"),
        "passed": ("generate", "attempts that passed their task's checks"),
    }
    steps = [
        (stage, what, generated[key]) for key, (stage, what) in named.items() if key in generated
    ]
    if ledger:
        solved = ledger["tasks"] - len(ledger["tasks_without_kept"])
        steps += [
            ("filter", "traces kept", ledger["kept"]),
            ("filter", "tasks with a kept trace", solved),
        ]
    if examples and "traces" in examples:
        steps.append(("train", "traces that were trained on", examples["traces"]["learned"]))
    return steps


def _cost(view: RunView) -> dict[str, Any]:
    """{"gpu_hours", "price", "money"} of the teacher; empty where the plan has no GPUs for it."""
    gpus, generated = teacher_gpus(view.plan or {}), view.receipts["generate"]
    if not (gpus and generated):
        return {}
    hours = gpus * generated["seconds"] / 3600
    price = view.record["recipe"]["serve"].get("price_per_gpu_hour")
    return {"gpus": gpus, "gpu_hours": hours, "price": price, "money": price and price * hours}


def _scores(scorecard: dict[str, Any]) -> list[tuple[str, Score, list[tuple[str, Any]]]]:
    """(name, score, its parts) of each model, the base first."""
    return [(name, score, titled_parts(score)) for name, score in scorecard["models"].items()]


def _deltas(view: RunView, latest: Version | None) -> list[Delta]:
    """Paired differences on the exam's headline: each model against base, student and the newest published one."""
    results: dict[str, Results] = {
        name: {task: passed for task, passed in tasks.items() if task in view.headline}
        for name, tasks in view.results.items()
    }
    pairs = [(name, "base") for name in results if name != "base"]
    pairs += [(name, "student") for name in results if name not in ("base", "student")]
    if latest:
        pairs += [(name, latest.reference) for name in results if name != "base"]
        results[latest.reference] = results_on(view, latest)
    found = [
        paired_delta(name, results[name], against, results[against])
        for name, against in pairs
        if against in results
    ]
    return [delta for delta in found if delta]


def _exam_tables(scorecard: dict[str, Any]) -> list[tuple[str, list[tuple[str, Any, Any]]]]:
    """(title, [(name, base, student)]) for each breakdown of the exam's headline."""
    base, student = scorecard["models"]["base"], scorecard["models"]["student"]
    no_tasks = {"tasks": 0, "passed": 0}
    tables = []
    for title, key in (
        ("Calls needed", "by_calls"),
        ("Kind", "by_kind"),
        ("Template", "by_template"),
    ):
        names = sorted({*base[key], *student[key]})
        rows = [(n, base[key].get(n, no_tasks), student[key].get(n, no_tasks)) for n in names]
        tables.append((title, rows))
    return tables


def _data_lines(view: RunView) -> list[str]:
    """Lines about the training data and what was left out of it, as in the run's log."""
    return lines(view.examples, view.record["recipe"]["train"]["epochs"]) if view.examples else []


def _comparison(
    view: RunView, other: RunView | None, published: Version | None
) -> dict[str, Any] | None:
    if other:
        return {
            "name": other.name,
            "settings": compare.setting_rows(view.record["recipe"], other.record["recipe"]),
            "rows": compare.run_rows(view, other),
            "deltas": compare.exam_deltas(view, other),
            "unpaired": "No task of the exam was solved or failed in both runs",
        }
    if published:
        recipe, mine = published.model.manifest["recipe"], view.results.get("student", {})
        name, theirs = published.reference, results_on(view, published)
        delta = paired_delta("student here", mine, name, theirs)
        return {
            "name": name,
            "settings": compare.setting_rows(view.record["recipe"], recipe),
            "rows": compare.published_rows(view, published.model),
            "deltas": [delta] if delta else [],
            "unpaired": "It was evaluated on another exam, or its scorecard does not name the tasks that it passed",
        }
    return None


def _output_files(view: RunView) -> list[tuple[str, int, str]]:
    """(path, bytes, sha256) of every output file that a receipt names."""
    return [
        (path, output["bytes"], output["sha256"])
        for receipt in view.receipts.values()
        if receipt
        for path, output in receipt["outputs"].items()
    ]
