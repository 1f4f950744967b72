"""What a run says while it works: a progress bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_console = Console(stderr=True, highlight=False)
_started = time.monotonic()


def say(line: str) -> None:
    """A line with the minutes and seconds since the command started."""
    minutes, seconds = divmod(int(time.monotonic() - _started), 60)
    _console.print(f"[{minutes:3d}:{seconds:02d}] {line}", markup=False, soft_wrap=True)


@contextmanager
def track(doing: str, total: int) -> Iterator[Callable[..., None]]:
    """Gives a function to call as each of `total` pieces of work is done, or with how many of them are."""
    if _console.is_terminal:
        columns = (
            TextColumn("       {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=_console, transient=True) as bar:
            task = bar.add_task(doing, total=total)
            yield lambda pieces=1: bar.advance(task, pieces)
        return
    done = 0

    def advance(pieces: int = 1) -> None:
        nonlocal done
        before, done = done, done + pieces
        if done * 10 // max(total, 1) > before * 10 // max(total, 1):
            say(f"{doing}: {done} of {total}")

    yield advance
