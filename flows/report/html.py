"""Writes the report of a run as one HTML file: traces and rejections, training, the exam before and after, samples.

The page is self-contained: styles, chart, text and images are inside, and it has no script. Text that a model wrote is
treated as hostile: it is escaped, and the page's Content-Security-Policy keeps a browser from loading anything.
"""

import base64
import io
import json
from itertools import islice
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from flows.estimate import planned_seconds
from flows.report import charts
from flows.run_directory import STAGES, read, read_receipt
from schemas.files import read_json, read_jsonl, write_text
from schemas.ledger import Ledger
from schemas.scorecard import headline_title, interval_text, titled_parts
from schemas.trace import Message, Trace
from student.training.mixture import lines
from teacher.scenes.images import attach_images, message_images

SAMPLES = {"kept": 3, "rejected": 6}
# A run may hold a million traces; samples are chosen among the first of them.
SAMPLED_ROWS = 5000
TEXT_CHARACTERS = 4000
# Pixels: a page stays legible, and a dozen of them make a report of about a megabyte.
IMAGE_SIDE = 720


def write(directory: Path) -> Path:
    """Writes RUN/report.html from the stages that have run so far and returns its path.

    Raises:
        InputError: the directory is not a run, or one of its files is broken.
    """
    record = read(directory)
    receipts = {stage: read_receipt(directory, stage) for stage in STAGES}
    scorecard = _read_optional(directory / "evaluate" / "scorecard.json")
    page = _template().render(
        domain=record["domain"]["name"],
        recipe=record["recipe"],
        created=record["created"],
        versions=record["versions"],
        funnel=_read_funnel(directory),
        scorecard=scorecard,
        headline=headline_title(scorecard["models"]["student"]) if scorecard else None,
        parts=_exam_parts(scorecard) if scorecard else [],
        tables=_exam_tables(scorecard) if scorecard else [],
        data_lines=_data_lines(directory, record),
        chart=charts.plot_training(_read_log(directory / "train" / "log.jsonl")),
        samples=_choose_samples(directory),
        receipts=receipts,
        planned=planned_seconds(directory),
        files=_output_files(receipts),
    )
    path = directory / "report.html"
    write_text(path, page)
    return path


def _template() -> jinja2.Template:
    # A rejected trace may lack any field; a missing field renders as empty text.
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.ChainableUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["text"] = _as_text
    environment.filters["size"] = _size
    environment.filters["interval"] = interval_text
    environment.filters["duration"] = _duration
    environment.filters["when"] = lambda time: time[:16].replace("T", " ") + " UTC"
    environment.filters["percent"] = lambda part, whole: round(100 * part / whole) if whole else 0
    return environment.from_string(
        (Path(__file__).parent / "report.html.jinja").read_text(encoding="utf-8")
    )


# ------------------------------------------------------------------------------------- the run's files


def _read_optional(path: Path) -> Any:
    """The value of a JSON file, or None where its stage has not run."""
    return read_json(path) if path.is_file() else None


def _read_funnel(directory: Path) -> dict[str, Any] | None:
    """The filter's ledger, with `rejected` as a list of (reason, count), most frequent first."""
    ledger: Ledger | None = _read_optional(directory / "filter" / "ledger.json")
    if ledger is None:
        return None
    rejected = sorted(ledger["rejected"].items(), key=lambda item: -item[1])
    return {**ledger, "rejected": [(reason, count) for reason, count in rejected if count]}


def _read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of the training log. Its last line may be incomplete, because the run may still be training."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


def _data_lines(directory: Path, record: dict[str, Any]) -> list[str]:
    """Lines about the training data and what was left out of it, as in the run's log."""
    counts = _read_optional(directory / "train" / "examples.json")
    return lines(counts, record["recipe"]["train"]["epochs"]) if counts else []


def _exam_parts(scorecard: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(title, base or None, student) for each part of the exam; the base is evaluated on the headline alone."""
    before = dict(titled_parts(scorecard["models"]["base"]))
    return [
        (title, before.get(title), part)
        for title, part in titled_parts(scorecard["models"]["student"])
    ]


def _exam_tables(scorecard: dict[str, Any]) -> list[tuple[str, list[tuple[str, Any, Any]]]]:
    """(title, [(name, base, student)]) for each breakdown of the exam."""
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


def _choose_samples(directory: Path) -> dict[str, list[Any]]:
    """{"kept": traces of different templates, "rejected": traces with different reasons}."""
    samples: dict[str, list[Any]] = {}
    for name, limit in SAMPLES.items():
        path = directory / "filter" / f"{name}.jsonl"
        candidates: dict[str, Trace] = {}
        if path.is_file():
            for trace in islice(read_jsonl(path), SAMPLED_ROWS):
                key = trace["task"]["template"] if name == "kept" else trace["verdict"]["reason"]
                candidates.setdefault(key, trace)
        # Where traces have images, at least half of the samples do.
        visual = [trace for trace in candidates.values() if trace.get("images")][: -(-limit // 2)]
        others = [trace for trace in candidates.values() if trace not in visual]
        samples[name] = [
            _embed_images(trace, directory / "images") for trace in [*visual, *others][:limit]
        ]
    return samples


def _embed_images(trace: Trace, directory: Path) -> dict[str, Any]:
    """The trace with a further field `embedded` in its messages: their images, scaled down, as data URLs."""
    reason = trace["verdict"].get("reason") if trace["verdict"] else None
    if not trace.get("images") or reason == "malformed_trace":
        return {**trace}
    messages: list[Message] = []
    for message in attach_images(trace["messages"], trace["images"]):
        content = message.get("content")
        if isinstance(content, list):
            urls = [_data_url(directory / f"{name}.png") for name in message_images([message])]
            texts = [part["text"] for part in content if part["type"] == "text"]
            message = {
                **message,
                "content": "\n".join(texts),
                "embedded": [url for url in urls if url],
            }
        messages.append(message)
    return {**trace, "messages": messages}


def _data_url(path: Path) -> str | None:
    """An image file as a data URL, scaled down; None where the file is missing."""
    if not path.is_file():
        return None
    with Image.open(path) as opened:
        small = opened.convert("RGB")
    small.thumbnail((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _output_files(receipts: dict[str, Any]) -> list[tuple[str, int, str]]:
    """(path, bytes, sha256) of every output file that a receipt names."""
    return [
        (path, output["bytes"], output["sha256"])
        for receipt in receipts.values()
        if receipt
        for path, output in receipt["outputs"].items()
    ]


# ------------------------------------------------------------------------------------- filters of the template


def _as_text(value: Any) -> str:
    """A message's content as text, cut to TEXT_CHARACTERS."""
    if isinstance(value, jinja2.Undefined):
        return ""
    text = value if isinstance(value, str) else json.dumps(value, indent=1, ensure_ascii=False)
    if len(text) <= TEXT_CHARACTERS:
        return text
    return f"{text[:TEXT_CHARACTERS]}\n... and {len(text) - TEXT_CHARACTERS:,} more characters"


def _size(count: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
