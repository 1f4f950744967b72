"""What a run prints while it works: log lines, and a progress bar on a terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_console = Console(stderr=True, highlight=False)
_started = time.monotonic()


def log(line: str) -> None:
    """Prints a line to stderr, after the minutes and seconds since the command started."""
    minutes, seconds = divmod(int(time.monotonic() - _started), 60)
    _console.print(f"[{minutes:3d}:{seconds:02d}] {line}", markup=False, soft_wrap=True)


@contextmanager
def track(activity: str, total: int) -> Iterator[Callable[..., None]]:
    """Shows the progress of `total` pieces of work: a bar on a terminal, elsewhere a log line at each tenth.

    Yields a function to call when pieces are done; its argument is their number, by default one.
    """
    if _console.is_terminal:
        columns = (
            TextColumn("       {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=_console, transient=True) as bar:
            task = bar.add_task(activity, total=total)
            yield lambda pieces=1: bar.advance(task, pieces)
        return
    done = 0

    def advance(pieces: int = 1) -> None:
        nonlocal done
        before, done = done, done + pieces
        if done * 10 // max(total, 1) > before * 10 // max(total, 1):
            log(f"{activity}: {done} of {total}")

    yield advance
