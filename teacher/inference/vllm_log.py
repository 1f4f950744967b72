"""What vLLM's log says: how far its start is, and why it ended."""

import re
from collections.abc import Callable

# What vLLM 0.32 logs while it starts, and what it means. A bar is said at each tenth, everything else once.
_BARS = (
    (
        re.compile(r"Loading \S+ checkpoint shards.*?\| (\d+)/(\d+) "),
        "loading weights: {} of {} files",
    ),
    (re.compile(r"Capturing .*?graphs.*?\| (\d+)/(\d+) "), "capturing CUDA graphs: {} of {}"),
)
_EVENTS = (
    (re.compile(r"Loading weights took ([\d.]+) s"), "weights loaded in {} s"),
    (re.compile(r"torch\.compile took ([\d.]+) s"), "compiled in {} s"),
    (re.compile(r"KV cache size: ([\d,]+) tokens"), "KV cache: {} tokens"),
    (
        re.compile(r"Maximum concurrency for ([\d,]+ tokens per request: [\d.]+)x"),
        "room for {} at once",
    ),
)


class StartUp:
    """Reads vLLM's log piece by piece while it starts, and says how far it is."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._rest = ""
        self._said: set[tuple[str, int]] = set()

    def __call__(self, text: str) -> None:
        *lines, self._rest = re.split(r"[\r\n]", self._rest + text)  # a bar that moves ends in \r
        for line in lines:
            for pattern, wording in _BARS:
                if (found := pattern.search(line)) and int(found[1]):
                    done, of = int(found[1]), int(found[2])
                    self._once(wording, done * 10 // of, wording.format(done, of))
            for pattern, wording in _EVENTS:
                if found := pattern.search(line):
                    self._once(wording, 0, wording.format(found[1]))

    def _once(self, kind: str, step: int, text: str) -> None:
        if (kind, step) not in self._said:
            self._said.add((kind, step))
            self._say(text)


# Errors that only say that another process, whose error stands further up, has failed.
_SECONDARY = re.compile(
    r"(See|check) (the )?(root cause|stack trace)|background process|died unexpectedly|CancelledError|: cancelled$"
)
_WARNING = re.compile(r"\b(DEBUG|INFO|WARNING) \d\d-\d\d ")
_ERROR = re.compile(r"((?:\w+\.)*\w+(?:Error|Exception)(?:: .*)?$|No module named .*|\berror: .*)")


def reason(log: str) -> str:
    """Why vLLM ended, as its log has it: the first error that is not the consequence of another."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    # A warning may name an error that has not happened, such as too many open files.
    lines = [line for line in lines if not _WARNING.search(line)] or lines
    errors = [found[1] for line in lines if (found := _ERROR.search(line))]
    primary = [error for error in errors if not _SECONDARY.search(error)]
    # Without any, it was ended from outside: the kernel, when memory is short, leaves no word here.
    return (primary or errors[-1:] or lines[-1:] or ["no output"])[0][:300]
