"""A server process of the run: start, watch, restart, drain.

Each server runs in its own session, bound to 127.0.0.1, under a random key that only its environment holds; its log
lies in the run. `ServerProcess` restarts a server that died, and kills one that has requests and produces nothing,
because /health answers 200 all the while. A server's group is killed when this process ends, even by SIGKILL. What
leaves that group is found by the next run on the same directory, by the mark in the process's environment
(flows/run_directory.py).
"""

import contextlib
import http.client
import os
import secrets
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from schemas.error_text import last_line
from schemas.errors import StageError
from teacher.inference.endpoint import Endpoint
from teacher.inference.load import parse

# Before a server is ready there is nothing to lose, and vLLM ignores SIGTERM while its workers start.
_UNREADY_DRAIN_SECONDS = 5
# Restarts allowed within so many seconds: a run of weeks may lose its server more often than a broken server allows.
_RESTARTS, _RESTARTS_WITHIN = 3, 6 * 3600
# Requests to 127.0.0.1 bypass a proxy of the environment.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program that listens on a port of this machine, usually with an OpenAI-compatible API.

    Attributes:
        name: how messages name it.
        environment: variables added to this process's own. The key is passed here, because every user can read command
            lines in the process list.
        ready_seconds: how long it may take until it answers. drain_seconds: how long it may take to end after SIGTERM.
        health: the path that answers 200 when it is ready.
        stall_seconds: how long it may produce nothing while it has requests.
        running: names of the metrics (/metrics, Prometheus's text) that count its requests.
        produced: names of the metrics that grow while it works on requests; without any, it is not watched.
        listen: called at each start; returns the function that receives the log's new text until the server answers.
        reason: finds in the log's text why the server ended.
    """

    name: str
    command: list[str]
    port: int
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    ready_seconds: float = 600
    drain_seconds: float = 20
    stall_seconds: float = 600
    running: tuple[str, ...] = ()
    produced: tuple[str, ...] = ()
    listen: Callable[[], Callable[[str], None]] = lambda: lambda text: None
    reason: Callable[[str], str] = last_line
    health: str = "/health"


class ServerProcess:
    """A running Program. As a context manager, it serves for the time of the block.

    Args:
        endpoint: the program's address and key; restarts and stalls are counted there.
        log: the file to which the program's output is appended.
        alone: whether all requests to the endpoint reach this server. If so, a request in flight at the endpoint counts
            as a request of this server.
    """

    def __init__(self, program: Program, endpoint: Endpoint, log: Path, alone: bool = True) -> None:
        self.program, self.endpoint, self.log = program, endpoint, log
        self._alone = alone
        self._process: subprocess.Popen | None = None
        self._guard: subprocess.Popen | None = None
        self._log_begin = 0  # position in the log where the current start begins
        self._ready = False
        self._starts: list[float] = []
        self._closed = False
        self._restarting = threading.Lock()

    def __enter__(self) -> Endpoint:
        self.start()
        return self.endpoint

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Starts the program and returns when it answers.

        Raises:
            StageError: the program ended or was not ready in time; the message has the reason from its log.
        """
        program = self.program
        self._starts.append(time.monotonic())
        self._ready = False
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._log_begin = log.tell()
            try:
                self._process = process = subprocess.Popen(
                    program.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env={**os.environ, **program.environment},
                )
            except OSError as error:
                raise StageError(
                    f"{program.command[0]}: cannot be run: {error.strerror}"
                ) from error
        try:
            self._guard = _guard(process)
            self._ready = self._wait_until_ready(process)
        except BaseException:
            self.stop()
            raise
        if self._ready:
            threading.Thread(target=self._watch, args=(process,), daemon=True).start()
            return
        late = "" if process.poll() is not None else f"not ready in {program.ready_seconds:g} s: "
        self.stop()
        raise StageError(f"{program.name} did not start: {late}{self._reason()} (see {self.log})")

    def stop(self, drain: bool = True) -> None:
        """Drains the server (SIGTERM to its own process only), then kills its process group."""
        process = self._process
        if process is None:
            return
        try:
            if drain and process.poll() is None:
                process.terminate()
                limit = self.program.drain_seconds
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(limit if self._ready else min(limit, _UNREADY_DRAIN_SECONDS))
        finally:  # also when a second Ctrl-C interrupts the wait
            _kill_group(process)
            self._process = None
            guard, self._guard = self._guard, None
            if guard is not None:
                guard.kill()
                guard.communicate()

    def close(self) -> None:
        """Stops the server for good, even if another thread is restarting it."""
        self._closed = True
        self.stop()
        with self._restarting:
            self.stop()

    def restart_if_dead(self) -> None:
        """Restarts the server if it ended or reports that it is broken. Returns when it answers.

        Raises:
            StageError: the server does not start, died too often, or was closed.
        """
        with self._restarting:
            if self._closed:
                raise StageError(f"{self.program.name} was stopped")
            if self._process is not None and self._process.poll() is None and not self._broken():
                return
            now = time.monotonic()
            starts = sum(now - start < _RESTARTS_WITHIN for start in self._starts)
            if starts > _RESTARTS:
                raise StageError(
                    f"{self.program.name} died {starts} times: {self._reason()} (see {self.log})"
                )
            self.endpoint.restarts += 1
            self.stop(drain=False)  # child processes of the dead server may still run
            self.start()

    def answers(self) -> bool:
        """Whether the server is ready for requests."""
        try:
            with self._get(self.program.health) as reply:
                return reply.status == 200
        except (OSError, http.client.HTTPException):
            return False

    def _broken(self) -> bool:
        """Whether a running server that was ready once can no longer serve. A slow answer does not count as broken.

        vLLM whose engine has died answers 503, or closes its port and takes long to end.
        """
        try:
            with self._get(self.program.health):
                return False
        except urllib.error.HTTPError as error:
            return error.code == 503
        except urllib.error.URLError as error:
            return isinstance(error.reason, ConnectionRefusedError)
        except (OSError, http.client.HTTPException):
            return False

    def _wait_until_ready(self, process: subprocess.Popen) -> bool:
        deadline = time.monotonic() + self.program.ready_seconds
        listen = self.program.listen()
        with self.log.open(errors="replace") as log:
            log.seek(self._log_begin)
            while time.monotonic() < deadline and process.poll() is None and not self._closed:
                listen(log.read())
                if self.answers():
                    return True
                time.sleep(0.1)
        return False

    def _watch(self, process: subprocess.Popen) -> None:
        """Kills the server when it has requests and its counters stand still; the next request restarts it."""
        limit = self.program.stall_seconds
        produced, busy, since = 0.0, False, time.monotonic()
        while self.program.produced and process.poll() is None:
            time.sleep(min(10, limit / 4))
            numbers = self._metrics()
            now = time.monotonic()
            # While /metrics does not answer, the last known numbers stay valid.
            if numbers is not None:
                previous, produced = produced, sum(numbers.get(n, 0) for n in self.program.produced)
                if produced != previous:
                    since = now
                busy = any(numbers.get(name, 0) > 0 for name in self.program.running)
            if not busy and not (self._alone and self.endpoint.in_flight):
                since = now
            if now - since > limit and process.poll() is None:
                with self.log.open("a") as log:
                    log.write(
                        f"\nstillhouse: requests running and no token for {limit:g} s: ended\n"
                    )
                self.endpoint.stalls += 1
                _kill_group(process)

    def _metrics(self) -> dict[str, float] | None:
        """The metrics by their names; None if /metrics does not answer."""
        try:
            with self._get("/metrics") as reply:
                return parse(reply.read().decode(errors="replace"))
        except (OSError, http.client.HTTPException, ValueError):
            return None

    def _get(self, path: str) -> http.client.HTTPResponse:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.program.port}{path}",
            headers={"Authorization": f"Bearer {self.endpoint.key}"},
        )
        return _DIRECT.open(request, timeout=2)

    def _reason(self) -> str:
        with self.log.open("rb") as log:
            log.seek(max(self._log_begin, log.seek(0, os.SEEK_END) - 200_000))
            return self.program.reason(log.read().decode(errors="replace"))


def free_port() -> int:
    """A free port below Linux's default range of outgoing connections, which could take it in the meantime."""
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _guard(process: subprocess.Popen) -> subprocess.Popen:
    """Starts a shell that kills the process's group when this process ends, because its input ends then.

    PR_SET_PDEATHSIG would follow the thread that started the server, and a worker's thread may restart it.
    """
    return subprocess.Popen(
        ["/bin/sh", "-c", 'read -r line || kill -s KILL -- "-$0"', str(process.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a signal to this process's group must not end it first
        env={},  # without the run's mark: the next run need not end it
    )


def _kill_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):  # no process of the group is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
