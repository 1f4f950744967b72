"""A process that judges values by schemas and that the kernel ends when one takes too long or too much memory.

    python -m schemas.schema_worker 2

reads two lines for each value from stdin, the schema and the value as JSON, and writes one line,
[problem, unsupported]. It ends itself where a value takes more than so many seconds of computing, and with its stdin,
so none outlives its parent.
"""

import atexit
import functools
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

from schemas.json_schema import Schema, SchemaNotSupported

SECONDS = 2  # of computing for one value; a real schema takes microseconds
_MEMORY = 4 * 2**30


class WorkerDied(Exception):
    """The process ended before it had an answer: the value took more than its budget."""


class SchemaWorker:
    """The process as its parent sees it. It starts with the first value, and again after one that ended it.

    seconds: of computing for one value.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._parent = os.getpid()
        self._lock = threading.Lock()

    def judge(self, schema_text: str, value_text: str) -> str | None:
        """What is wrong with a value by a schema, both as JSON in one line; None where it is valid.

        Raises:
            SchemaNotSupported: the schema is invalid or cannot be evaluated.
            WorkerDied: the value was not judged within `seconds` of computing and 4 GiB of memory.
        """
        if self._parent != os.getpid():  # a fork shares its parent's pipes and lock
            self.__init__(self.seconds)  # type: ignore[misc]
        with self._lock:
            process = self._running()
            assert process.stdin and process.stdout
            try:
                process.stdin.write(f"{schema_text}\n{value_text}\n".encode())
                process.stdin.flush()
                reply = process.stdout.readline()
            except BrokenPipeError:
                reply = b""
            except (
                BaseException
            ):  # Ctrl-C: the answer that is still to come would be taken for the next value's
                self._stop()
                raise
            if not reply.endswith(b"\n"):
                self._stop()
                raise WorkerDied
        problem, unsupported = json.loads(reply)
        if unsupported is not None:
            raise SchemaNotSupported(unsupported)
        return problem

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "schemas.schema_worker", str(self.seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=Path(__file__).resolve().parents[1],
                start_new_session=True,  # Ctrl-C is for the parent alone
            )
            atexit.register(self._stop)
        return self._process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None and self._parent == os.getpid():
            process.kill()
            process.communicate()
        atexit.unregister(self._stop)


def serve(seconds: float) -> None:
    """Answers until stdin ends. seconds: of computing for one value."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    lines = sys.stdin.buffer
    while schema_text := lines.readline():
        value_text = lines.readline()
        # SIGPROF comes after so many seconds of this process's computing; unhandled, it ends the process.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        answer = _answer(schema_text, value_text)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _answer(schema_text: bytes, value_text: bytes) -> tuple[str | None, str | None]:
    try:
        problem = _compiled(schema_text).problem(json.loads(value_text))
    except SchemaNotSupported as error:
        return None, str(error)
    except RecursionError:
        return None, "nested too deeply"
    return problem.text if problem else None, None


@functools.lru_cache(maxsize=256)
def _compiled(schema_text: bytes) -> Schema:
    return Schema(json.loads(schema_text))


if __name__ == "__main__":
    serve(float(sys.argv[1]))
