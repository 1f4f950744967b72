"""Writes the traces of a report: an index, and pages of traces that the browser loads when one of them is opened.

Both are base64 of gzipped JSON, so that no text of a model can be markup or script, wherever it is placed. A small
report has its pages inside the HTML file. A large one has them beside it, each as a script that calls
`stillhousePage(number, text)`: a page opened from disk may load scripts, but may not fetch files.
"""

import base64
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.report.traces import items, judge, number, part, trace_id, word
from schemas.trace import Trace

# A page has at most so many traces and, unless one trace is larger, so many bytes of JSON: it opens in a blink.
PAGE_TRACES, PAGE_BYTES = 64, 1_500_000
# Up to this size, in bytes of base64, all pages are inside the HTML file.
INLINE_BYTES = 6_000_000
REQUEST_CHARACTERS, DETAIL_CHARACTERS = 160, 120

FLAGS = ("hinted", "images", "tool error", "repaired", "unasked write", "sub-agents")


def pack(text: str) -> str:
    """Returns a text as base64 of its gzipped UTF-8."""
    # A lone surrogate, which json.loads makes of "\\ud800", has no UTF-8.
    data = text.encode("utf-8", errors="replace")
    return base64.b64encode(gzip.compress(data, compresslevel=3, mtime=0)).decode()


@dataclass
class _Names:
    """Names as numbers, in the order in which they came."""

    numbers: dict[str, int] = field(default_factory=dict)

    def number(self, name: str) -> int:
        return self.numbers.setdefault(name, len(self.numbers))


class TracePages:
    """Collects traces; has the index of all and writes them to pages as they come.

    Args:
        directory: an empty directory for the pages.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._names = {name: _Names() for name in ("maker", "state", "reason", "kind", "template")}
        self._columns: dict[str, list[Any]] = {name: [] for name in (*self._names, "id", "request")}
        self._columns |= {name: [] for name in ("detail", "flags", "tokens", "turns")}
        self._first_rows: list[int] = []
        self._pending: list[str] = []
        self._pending_tools = _Names()
        self._pending_bytes = 0
        self.images: set[str] = set()
        self.bytes = 0

    def add(self, maker: str, trace: Trace, task: dict[str, Any] | None) -> None:
        """Adds a trace. task: what was expected, {"plan", "reply", "answer"}; None where that is not known."""
        state, reason = judge(trace)
        reference = part(trace, "task")
        named = {"maker": maker, "state": state, "reason": reason}
        named |= {name: word(reference, name) for name in ("kind", "template")}
        row = {
            **{name: self._names[name].number(value) for name, value in named.items()},
            "id": trace_id(trace),
            "request": _request(trace)[:REQUEST_CHARACTERS],
            "detail": word(part(trace, "verdict"), "detail")[:DETAIL_CHARACTERS],
            "flags": _flags(trace),
            "tokens": _tokens(trace),
            "turns": sum(
                word(message, "role") == "assistant" for message in items(trace, "messages")
            ),
        }
        for name, value in row.items():
            self._columns[name].append(value)
        self.images.update(_images(trace))
        shown = _dumps({**_without_tools(trace, self._pending_tools), "expected": task})
        self._pending.append(shown)
        self._pending_bytes += len(shown)
        if len(self._pending) >= PAGE_TRACES or self._pending_bytes >= PAGE_BYTES:
            self._write_page()

    def _write_page(self) -> None:
        if not self._pending:
            return
        page = len(self._first_rows)
        self._first_rows.append(len(self._columns["id"]) - len(self._pending))
        tools, traces = ",".join(self._pending_tools.numbers), ",".join(self._pending)
        text = pack(f'{{"tools":[{tools}],"traces":[{traces}]}}')
        self.bytes += len(text)
        page_path(self._directory, page).write_text(
            f'stillhousePage({page},"{text}")\n', encoding="ascii"
        )
        self._pending, self._pending_bytes, self._pending_tools = [], 0, _Names()

    def index(self) -> dict[str, Any]:
        """Returns the columns of all traces, with the names that their numbers stand for. Call it after the last."""
        self._write_page()
        names = {name: list(numbers.numbers) for name, numbers in self._names.items()}
        return {
            "columns": self._columns,
            "names": names,
            "flags": list(FLAGS),
            "first_rows": self._first_rows,
        }

    def texts(self) -> Iterator[str]:
        """Yields the text of each page, for a report that has them inside."""
        for page in range(len(self._first_rows)):
            script = page_path(self._directory, page).read_text(encoding="ascii")
            yield script[script.index('"') + 1 : script.rindex('"')]


def _dumps(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        # NaN and Infinity, which Python reads, are no JSON for a browser.
        return _dumps(json.loads(json.dumps(value), parse_constant=str))


def page_path(directory: Path, page: int) -> Path:
    """Returns the file of a page; viewer/data.js composes the same name."""
    return directory / f"traces-{page}.js"


def _without_tools(trace: Any, tools: _Names) -> dict[str, Any]:
    """The trace with the number of its list of tools in place of the list: most traces share a few lists."""
    if not isinstance(trace, dict):
        return {}
    offered = _dumps(items(trace, "tools"))
    children = [_without_tools(child, tools) for child in items(trace, "children")]
    return {**trace, "tools": tools.number(offered), "children": children}


def _tokens(trace: Any) -> float:
    """Tokens of a trace's requests, with those of its sub-agents."""
    usages = [part(call, "usage") for call in items(trace, "calls")]
    own = sum(
        number(each, f"{name}_tokens") for each in usages for name in ("prompt", "completion")
    )
    return own + sum(map(_tokens, items(trace, "children")))


def _images(trace: Any) -> set[str]:
    """The sha256 names of a trace's images, with those of its sub-agents."""
    own = {name for name in items(trace, "images") if _is_digest(name)}
    return own.union(*map(_images, items(trace, "children")))


def _request(trace: Any) -> str:
    for message in items(trace, "messages"):
        if word(message, "role") == "user":
            parts = items(message, "content")
            texts = [word(message, "content"), *(word(part, "text") for part in parts)]
            return " ".join(" ".join(texts).split())
    return ""


def _flags(trace: Any) -> int:
    outcome = part(trace, "outcome")
    present = (
        isinstance(trace, dict) and trace.get("hinted") is True,
        items(trace, "images"),
        items(outcome, "tool_errors"),
        items(outcome, "detected"),
        items(outcome, "unasked_writes"),
        items(trace, "children"),
    )
    return sum(1 << bit for bit, value in enumerate(present) if value)


def _is_digest(name: Any) -> bool:
    return isinstance(name, str) and len(name) == 64 and not set(name) - set("0123456789abcdef")
