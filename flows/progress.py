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
def track(doing: str, total: int) -> Iterator[Callable[[], None]]:
    """Gives a function to call as each of `total` pieces of work is done."""
    if _console.is_terminal:
        columns = (
            TextColumn("       {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=_console, transient=True) as bar:
            task = bar.add_task(doing, total=total)
            yield lambda: bar.advance(task)
        return
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if done * 10 // max(total, 1) > (done - 1) * 10 // max(total, 1):
            say(f"{doing}: {done} of {total}")

    yield advance
