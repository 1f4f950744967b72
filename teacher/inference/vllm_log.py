"""Reads vLLM's log: how far a start is, and why a server ended."""

import re
from collections.abc import Callable

# What vLLM 0.32 logs while it starts, and the message reported for it. A progress bar is reported at each tenth,
# everything else once.
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


class StartProgress:
    """Reads vLLM's log piece by piece while the server starts, and reports how far it is."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._rest = ""
        self._reported: set[tuple[str, int]] = set()

    def __call__(self, text: str) -> None:
        *lines, self._rest = re.split(r"[\r\n]", self._rest + text)  # a moving bar ends in \r
        for line in lines:
            for pattern, message in _BARS:
                if (match := pattern.search(line)) and int(match[1]):
                    done, total = int(match[1]), int(match[2])
                    self._report_once(message, done * 10 // total, message.format(done, total))
            for pattern, message in _EVENTS:
                if match := pattern.search(line):
                    self._report_once(message, 0, message.format(match[1]))

    def _report_once(self, kind: str, tenth: int, text: str) -> None:
        if (kind, tenth) not in self._reported:
            self._reported.add((kind, tenth))
            self._report(text)


# Errors that only repeat that another process failed, whose own error stands earlier in the log.
_SECONDARY = re.compile(
    r"(See|check) (the )?(root cause|stack trace)|background process|died unexpectedly|CancelledError|: cancelled$"
)
_WARNING = re.compile(r"\b(DEBUG|INFO|WARNING) \d\d-\d\d ")
_ERROR = re.compile(r"((?:\w+\.)*\w+(?:Error|Exception)(?:: .*)?$|No module named .*|\berror: .*)")


def failure_reason(log: str) -> str:
    """Why vLLM ended: the first error in its log that is not the consequence of another one."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    # A warning may name an error that has not happened, such as too many open files.
    lines = [line for line in lines if not _WARNING.search(line)] or lines
    errors = [match[1] for line in lines if (match := _ERROR.search(line))]
    primary = [error for error in errors if not _SECONDARY.search(error)]
    # Without any error, the server was killed from outside, for example by the kernel when memory ran out.
    return (primary or errors[-1:] or lines[-1:] or ["no output"])[0][:300]
