"""What a run prints while it works: log lines, a progress bar on a terminal, and a heartbeat where neither comes.

A heartbeat is a line that says what is being done, how much of it is done, and for how long already. It comes when no
line was printed for 15 seconds, at any place of the program that is inside a `step` or a `track`. Everything goes to
stderr: stdout belongs to --json.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from flows.estimate import Estimate, minutes

HEARTBEAT_SECONDS = 15.0

Count = Callable[[], str]

# A line is printed as it is: ":v:" and "[x]" may be part of a tag or a path.
_console = Console(stderr=True, highlight=False, markup=False, emoji=False)
_started = time.monotonic()


@dataclass
class _Activity:
    """Something that takes long. count: returns what was done of it; it is called in the heartbeat's thread."""

    name: str
    count: Count | None = None
    has_bar: bool = False
    started: float = field(default_factory=time.monotonic)
    last_line: str = ""

    def line(self) -> str:
        text = f"{self.name}, {time.monotonic() - self.started:.0f} s so far"
        # A count may read files that the step is just moving.
        with contextlib.suppress(Exception):
            if self.count and (counted := self.count()):
                return f"{text}: {counted}"
        return f"{text} (since: {self.last_line})" if self.last_line else text


class _Output:
    """Prints lines of several threads, and the heartbeat of the innermost activity.

    The thread of the heartbeat lives while there is an activity. It prints under the lock and only for an activity that
    has not ended, so that no line comes after the end of its step.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._activities: list[_Activity] = []
        self._last_line = time.monotonic()
        self._ended: threading.Event | None = None
        self._thread: threading.Thread | None = None

    def print(self, line: str) -> None:
        with self._lock:
            if self._activities:
                self._activities[-1].last_line = line
            self._write(line)

    def _write(self, line: str) -> None:
        whole_minutes, seconds = divmod(int(time.monotonic() - _started), 60)
        self._last_line = time.monotonic()
        _console.print(f"[{whole_minutes:3d}:{seconds:02d}] {line}", soft_wrap=True)

    @contextmanager
    def during(self, activity: _Activity) -> Iterator[None]:
        with self._lock:
            self._activities.append(activity)
            if self._thread is None:
                self._last_line = time.monotonic()
                self._ended = threading.Event()
                self._thread = threading.Thread(
                    target=self._beat, args=(self._ended,), name="heartbeat", daemon=True
                )
                self._thread.start()
        try:
            yield
        finally:
            self._end(activity)

    def _end(self, activity: _Activity) -> None:
        with self._lock:
            self._activities.remove(activity)
            thread, ended = self._thread, self._ended
            if self._activities or thread is None or ended is None:
                return
            self._thread = self._ended = None
            ended.set()
        thread.join()

    def _beat(self, ended: threading.Event) -> None:
        while not ended.wait(max(0.0, self._last_line + HEARTBEAT_SECONDS - time.monotonic())):
            with self._lock:
                silent = time.monotonic() - self._last_line >= HEARTBEAT_SECONDS
                if ended.is_set() or not silent:
                    continue
                self._last_line = time.monotonic()
                if self._activities and not any(each.has_bar for each in self._activities):
                    self._write(self._activities[-1].line())


_output = _Output()


def log(line: str) -> None:
    """Prints a line to stderr, after the minutes and seconds since the command started."""
    _output.print(line)


@contextmanager
def step(name: str, count: Count | None = None) -> Iterator[None]:
    """Shows for the time of the block that something is being done: a heartbeat line every 15 s without another line.

    Args:
        count: returns what was done so far, such as "3 of 8 files" or ""; it is called in another thread.
    """
    with _output.during(_Activity(name, count)):
        yield


@contextmanager
def track(
    activity: str,
    total: int,
    *,
    estimate: Estimate | None = None,
    detail: Count | None = None,
    tenths: bool = True,
) -> Iterator[Callable[..., None]]:
    """Shows the progress of `total` pieces of work: a bar on a terminal, elsewhere a log line at each tenth.

    Yields a function to call when pieces are done: `advance(pieces=1, replayed=False)`.

    Args:
        estimate: is told of each piece; its line is printed once the first pieces show how long the work takes.
        detail: returns a further count for the heartbeat, such as "57 requests sent".
        tenths: False where the caller prints lines of its own.
    """
    done, lock = 0, threading.Lock()

    def count() -> str:
        more = [detail()] if detail else []
        if estimate and estimate.planned is not None:
            more.append(f"planned {minutes(estimate.planned)} in all")
        return ", ".join([f"{done} of {total}", *more])

    def advance(pieces: int = 1, *, replayed: bool = False) -> None:
        nonlocal done
        with lock:
            before, done = done, done + pieces
            revised = estimate.observe(pieces, replayed=replayed) if estimate else None
        show(pieces)
        if tenths and bar is None and done * 10 // max(total, 1) > before * 10 // max(total, 1):
            log(f"{activity}: {done} of {total}")
        if revised:
            log(revised)

    bar: Progress | None = None
    with contextlib.ExitStack() as stack:
        show: Callable[[int], None] = lambda pieces: None  # noqa: E731
        if _console.is_terminal:
            columns = (
                TextColumn("       {task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            bar = stack.enter_context(Progress(*columns, console=_console, transient=True))
            task = bar.add_task(activity, total=total)
            shown = bar
            show = lambda pieces: shown.advance(task, pieces)  # noqa: E731
        stack.enter_context(_output.during(_Activity(activity, count, has_bar=bar is not None)))
        yield advance


@contextmanager
def transfer(activity: str) -> Iterator[Callable[[int, int, str], None]]:
    """Shows a copy of bytes: a bar with the speed on a terminal, elsewhere the heartbeat.

    Yields a function to call with (bytes done, bytes in total, the name of the file).
    """
    state = (0, 0, "")

    def count() -> str:
        done, total, name = state
        return f"{done / 1e6:.0f} of {total / 1e6:.0f} MB: {name}" if total else ""

    def show(done: int, total: int, name: str) -> None:
        nonlocal state
        state = (done, total, name)
        if bar:
            bar.update(task, completed=done, total=total, description=name)

    bar: Progress | None = None
    with contextlib.ExitStack() as stack:
        if _console.is_terminal:
            columns = (
                TextColumn("       {task.description}", markup=False),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
            )
            bar = stack.enter_context(Progress(*columns, console=_console, transient=True))
            task = bar.add_task(activity, total=None)
        stack.enter_context(_output.during(_Activity(activity, count, has_bar=bar is not None)))
        yield show
