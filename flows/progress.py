"""What a run prints while it works: log lines, a live table on a terminal, and a heartbeat where neither comes.

A heartbeat is a line that says what is being done, how much of it is done, and for how long already. It comes when no
line was printed for 15 seconds, at any place of the program that is inside a `step` or a `track`; on a terminal the
table takes its place. With `write_json` each line is a JSON object. Everything goes to stderr: stdout belongs to
--json.
"""

import contextlib
import datetime as dt
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.filesize import decimal
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from flows.activity import Activity, Count, Numbers, fact_texts
from flows.estimate import Estimate

HEARTBEAT_SECONDS = 15.0

# A line is printed as it is: ":v:" and "[x]" may be part of a tag or a path.
_console = Console(stderr=True, highlight=False, markup=False, emoji=False)
_started = time.monotonic()
# A message may quote what a model, a pack or a registry wrote: it must not steer the terminal.
_CONTROLS = {code: "?" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n\r"}


class _Output:
    """Prints lines of several threads, and the heartbeat or the table of the innermost activity.

    The thread of the heartbeat lives while there is an activity. It prints under the lock and only for an activity that
    has not ended, so that no line comes after the end of its step.
    """

    def __init__(self) -> None:
        self.as_json = False
        self._lock = threading.RLock()
        self._activities: list[Activity] = []
        # By stage and name, ended ones included.
        self._last_by_name: dict[tuple[str, str], Activity] = {}
        self._last_line = time.monotonic()
        self._ended: threading.Event | None = None
        self._thread: threading.Thread | None = None
        self._live: Live | None = None

    def print(self, line: str, **fields: Any) -> None:
        with self._lock:
            if self._activities:
                self._activities[-1].last_line = line
            self._write(line, **fields)

    def _write(self, line: str, *, level: str = "info", event: str = "log", **fields: Any) -> None:
        self._last_line = time.monotonic()
        if self.as_json:
            row = {"time": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")}
            row |= {"level": level, "event": event, "message": line}
            if self._activities:
                row["stage"] = self._activities[0].name
            print(json.dumps(row | fields, ensure_ascii=False), file=_console.file, flush=True)
            return
        whole_minutes, seconds = divmod(int(time.monotonic() - _started), 60)
        shown = line.translate(_CONTROLS)
        _console.print(f"[{whole_minutes:3d}:{seconds:02d}] {shown}", soft_wrap=True)

    @contextmanager
    def during(self, activity: Activity) -> Iterator[None]:
        with self._lock:
            activity.stage = self._activities[0].name if self._activities else activity.name
            self._activities.append(activity)
            self._last_by_name[activity.stage, activity.name] = activity
            if self._thread is None:
                self._begin()
        try:
            yield
        finally:
            self._end(activity)

    def _begin(self) -> None:
        self._last_line = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._beat, args=(self._ended,), name="heartbeat", daemon=True
        )
        self._thread.start()
        if _console.is_terminal and not _console.is_dumb_terminal and not self.as_json:
            self._live = Live(
                console=_console, get_renderable=self._table, transient=True, refresh_per_second=2
            )
            self._live.start()

    def _end(self, activity: Activity) -> None:
        with self._lock:
            activity.ended = time.monotonic()
            self._activities.remove(activity)
            thread, ended = self._thread, self._ended
            if self._activities or thread is None or ended is None:
                return
            live, self._thread, self._ended, self._live = self._live, None, None, None
            ended.set()
        thread.join()
        if live:
            live.stop()

    def _beat(self, ended: threading.Event) -> None:
        while not ended.wait(max(0.0, self._last_line + HEARTBEAT_SECONDS - time.monotonic())):
            with self._lock:
                silent = time.monotonic() - self._last_line >= HEARTBEAT_SECONDS
                if ended.is_set() or not silent:
                    continue
                self._last_line = time.monotonic()
                if self._activities and not self._live:
                    last = self._activities[-1]
                    self._write(last.line(), event="progress", **last.facts())

    def _table(self) -> RenderableType:
        """The table of the innermost activity. It takes no lock: rich's thread calls it while it holds its own."""
        activities = [*self._activities]
        if not activities:
            return ""
        last = activities[-1]
        facts = last.facts()
        table = Table.grid(padding=(0, 2))
        table.add_column(justify="right", style="dim")
        table.add_column()
        names = dict.fromkeys(activity.name for activity in activities)
        table.add_row("stage", f"{' > '.join(names)}, {facts['seconds']:.0f} s so far")
        if last.total:
            share = f"{last.done:,} of {last.total:,} ({last.done / last.total:.0%})"
            table.add_row("done", _bar(last.done, last.total, share))
        elif last.copied:
            done, whole, file = last.copied
            speed = decimal(int(done / max(facts["seconds"], 1)))
            table.add_row("file", file)
            table.add_row(
                "done", _bar(done, whole, f"{decimal(done)} of {decimal(whole)}, {speed}/s")
            )
        with contextlib.suppress(Exception):
            if last.count and (counted := last.count()):
                table.add_row("", counted)
        for name, text in fact_texts(facts).items():
            table.add_row(name, text)
        return table

    def has_table(self) -> bool:
        return self._live is not None

    def tracked(self) -> list[Activity]:
        with self._lock:
            return [each for each in self._last_by_name.values() if each.total is not None]

    def current(self) -> Activity | None:
        with self._lock:
            return self._activities[-1] if self._activities else None

    def stage(self) -> str | None:
        with self._lock:
            return self._activities[0].name if self._activities else None


def _bar(done: int, total: int, text: str) -> RenderableType:
    bar = Table.grid(padding=(0, 1))
    bar.add_row(ProgressBar(total, done, width=30), text)
    return bar


_output = _Output()


def write_json(on: bool) -> None:
    """Makes each line a JSON object: time, level, event (log, progress or error), message, stage and what is known."""
    _output.as_json = on


def log(line: str) -> None:
    """Prints a line to stderr, after the minutes and seconds since the command started."""
    _output.print(line)


def log_error(message: str, exit_code: int) -> None:
    """Prints the one line of an error that ends the command."""
    if _output.as_json:
        _output.print(message, level="error", event="error", exit_code=exit_code)
    else:
        print(f"stillhouse: {message.translate(_CONTROLS)}", file=_console.file)


def tracked() -> list[Activity]:
    """Returns the last activity of each stage and name that counts pieces, ended ones included."""
    return _output.tracked()


def current() -> Activity | None:
    """Returns the innermost activity, None where nothing is being done."""
    return _output.current()


def current_stage() -> str | None:
    """Returns the name of the outermost activity, None where nothing is being done."""
    return _output.stage()


@contextmanager
def step(name: str, count: Count | None = None) -> Iterator[Activity]:
    """Shows for the time of the block that something is being done: the table, or a heartbeat line every 15 s.

    Yields it, for a block that learns later how many pieces there are.

    Args:
        count: returns what was done so far, such as "3 of 8 files" or ""; it is called in another thread.
    """
    activity = Activity(name, count)
    with _output.during(activity):
        yield activity


@contextmanager
def track(
    name: str,
    total: int,
    *,
    estimate: Estimate | None = None,
    numbers: Numbers | None = None,
    tenths: bool = True,
) -> Iterator[Callable[..., None]]:
    """Shows the progress of `total` pieces of work: the table on a terminal, elsewhere a log line at each tenth.

    Yields a function to call when pieces are done: `advance(pieces=1, replayed=False)`.

    Args:
        estimate: is told of each piece; its line is printed once the first pieces show how long the work takes.
        numbers: what the caller counts of the pieces.
        tenths: False where the caller prints lines of its own.
    """
    activity = Activity(name, total=total, estimate=estimate, numbers=numbers)
    lock = threading.Lock()

    def advance(pieces: int = 1, *, replayed: bool = False) -> None:
        with lock:
            before, done = activity.done, activity.done + pieces
            activity.done = done
            revised = estimate.observe(pieces, replayed=replayed) if estimate else None
        is_tenth = done * 10 // max(total, 1) > before * 10 // max(total, 1)
        if tenths and is_tenth and not _output.has_table():
            _output.print(f"{name}: {done} of {total}", event="progress", **activity.facts())
        if revised:
            log(revised)

    with _output.during(activity):
        yield advance


@contextmanager
def transfer(name: str) -> Iterator[Callable[[int, int, str], None]]:
    """Shows a copy of bytes: with its speed in the table on a terminal, elsewhere in the heartbeat.

    Yields a function to call with (bytes done, bytes in total, the name of the file).
    """
    activity = Activity(name)

    def show(done: int, total: int, file: str) -> None:
        activity.copied = (done, total, file)

    with _output.during(activity):
        yield show
