"""A run as one HTML file: what was asked, what was kept and why not, what was learnt, what it is worth.

The file needs nothing beside it: styles, chart and text are inside, and no script. What a model wrote is
hostile text: it is escaped, and a policy in the page keeps a browser from loading anything.
"""

import base64
import io
import json
from itertools import islice
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from flows.report import charts
from flows.run_directory import STAGES, read, read_receipt
from schemas.files import read_json, read_jsonl, write_text
from student.training.mixture import lines
from teacher.scenes.images import named, names_in

SAMPLES_KEPT = 3
SAMPLES_REJECTED = 6
TEXT_SHOWN = 4000
# px: a page can still be read, and a dozen of them make a file of about a megabyte
IMAGE_SIDE = 720


def write(directory: Path) -> Path:
    """Writes RUN/report.html from what the run has so far and returns its path.

    Raises:
        InputError: the directory is no run, or one of its files is broken.
    """
    record = read(directory)
    receipts = {stage: read_receipt(directory, stage) for stage in STAGES}
    page = _template().render(
        domain=record["domain"]["name"],
        recipe=record["recipe"],
        created=record["created"],
        versions=record["versions"],
        funnel=_funnel(directory),
        scorecard=(scorecard := _json(directory / "evaluate" / "scorecard.json")),
        tables=_tables(scorecard) if scorecard else [],
        learned=_learned(directory, record),
        chart=charts.training(_log(directory / "train" / "log.jsonl")),
        samples=_samples(directory),
        receipts=receipts,
        files=_files(receipts),
    )
    path = directory / "report.html"
    write_text(path, page)
    return path


def _template() -> jinja2.Template:
    # A rejected trace may lack anything: what is not there is shown as nothing.
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.ChainableUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["shown"] = _shown
    environment.filters["size"] = _size
    environment.filters["duration"] = _duration
    environment.filters["when"] = lambda time: time[:16].replace("T", " ") + " UTC"
    environment.filters["percent"] = lambda part, whole: round(100 * part / whole) if whole else 0
    return environment.from_string(
        (Path(__file__).parent / "report.html.jinja").read_text(encoding="utf-8")
    )


# ------------------------------------------------------------------------------------- what the run has


def _json(path: Path) -> Any:
    return read_json(path) if path.is_file() else None


def _funnel(directory: Path) -> dict[str, Any] | None:
    """The filter's ledger with its rejections, the most frequent first."""
    ledger = _json(directory / "filter" / "ledger.json")
    if ledger is None:
        return None
    rejected = sorted(ledger["rejected"].items(), key=lambda item: -item[1])
    return {**ledger, "rejected": [(reason, count) for reason, count in rejected if count]}


def _log(path: Path) -> list[dict[str, Any]]:
    """Rows of the training log. Its last line may be half written: the run may still be going on."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


def _learned(directory: Path, record: dict[str, Any]) -> list[str]:
    """What was learned from and what was left out, as the run's log said it."""
    counts = _json(directory / "train" / "examples.json")
    return lines(counts, record["recipe"]["train"]["epochs"]) if counts else []


def _tables(scorecard: dict[str, Any]) -> list[tuple[str, list[tuple[str, Any, Any]]]]:
    """(title, [(name, base, student)]) for each way that the exam is broken down."""
    base, student = scorecard["models"]["base"], scorecard["models"]["student"]
    nothing = {"tasks": 0, "passed": 0}
    tables = []
    for title, key in (
        ("Calls needed", "by_calls"),
        ("Kind", "by_kind"),
        ("Template", "by_template"),
    ):
        names = sorted({*base[key], *student[key]})
        rows = [(n, base[key].get(n, nothing), student[key].get(n, nothing)) for n in names]
        tables.append((title, rows))
    return tables


def _samples(directory: Path) -> dict[str, list[Any]]:
    """Some kept traces, of different templates, and one rejected trace of each of the first reasons."""
    found: dict[str, list[Any]] = {}
    limits = {"kept": SAMPLES_KEPT, "rejected": SAMPLES_REJECTED}
    for name, limit in limits.items():
        path = directory / "filter" / f"{name}.jsonl"
        samples: dict[str, Any] = {}
        if path.is_file():
            # A run may hold a million traces; the first thousands show enough.
            for trace in islice(read_jsonl(path), 5000):
                key = trace["task"]["template"] if name == "kept" else trace["verdict"]["reason"]
                samples.setdefault(key, trace)
        # Where traces have images, at least half of those shown do.
        visual = [trace for trace in samples.values() if trace.get("images")][: -(-limit // 2)]
        others = [trace for trace in samples.values() if trace not in visual]
        chosen = [*visual, *others][:limit]
        found[name] = [_with_images(trace, directory / "images") for trace in chosen]
    return found


def _with_images(trace: dict[str, Any], directory: Path) -> dict[str, Any]:
    """A trace whose messages have the pictures that they show, scaled down, as `pictures`: [data URL]."""
    if not trace.get("images") or trace["verdict"].get("reason") == "malformed_trace":
        return trace
    messages = []
    for message in named(trace["messages"], trace["images"]):
        content = message.get("content")
        if isinstance(content, list):
            shown = [_data_url(directory / f"{name}.png") for name in names_in([message])]
            texts = [part["text"] for part in content if part["type"] == "text"]
            message = {
                **message,
                "content": "\n".join(texts),
                "pictures": [url for url in shown if url],
            }
        messages.append(message)
    return {**trace, "messages": messages}


def _data_url(path: Path) -> str | None:
    """A picture in the page itself; None where its file is gone."""
    if not path.is_file():
        return None
    with Image.open(path) as opened:
        small = opened.convert("RGB")
    small.thumbnail((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _files(receipts: dict[str, Any]) -> list[tuple[str, int, str]]:
    """(path, bytes, sha256) of every output that a receipt names."""
    return [
        (path, wrote["bytes"], wrote["sha256"])
        for receipt in receipts.values()
        if receipt
        for path, wrote in receipt["outputs"].items()
    ]


# ------------------------------------------------------------------------------------- words


def _shown(value: Any) -> str:
    """A message's content as text, cut where it is long."""
    if isinstance(value, jinja2.Undefined):
        return ""
    text = value if isinstance(value, str) else json.dumps(value, indent=1, ensure_ascii=False)
    if len(text) <= TEXT_SHOWN:
        return text
    return f"{text[:TEXT_SHOWN]}\n... and {len(text) - TEXT_SHOWN:,} more characters"


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
