"""Starts, watches, drains and stops a model server.

A server runs in its own session, bound to 127.0.0.1 under a random key that only its environment holds, with its log
in the run. It is started again when it dies, and ended when it has requests and produces nothing (health answers 200
all the while). What a killed run leaves behind, the next run on the same directory finds by the mark in the process's
environment (flows/run_directory.py).
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from schemas.error_text import last_line
from schemas.errors import StageError
from teacher.inference.endpoint import Endpoint
from teacher.inference.llamacpp import binary

# A 70B student's 43 GB come from a slow disk; a server that ends at once is not waited for.
_READY_SECONDS = 600
_DRAIN_SECONDS = 20
# Before it is ready nothing is lost, and vLLM hears no SIGTERM while its workers start.
_UNREADY_DRAIN_SECONDS = 5
# llama.cpp reads a long prompt in batches, and a large model on few cores takes minutes for one.
_STALL_SECONDS = 1800
# Starts after the first, within so many seconds: a run of weeks may lose its server more often than a broken one.
_RESTARTS, _RESTARTS_WITHIN = 3, 6 * 3600
# A proxy of the environment is no way to 127.0.0.1.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Program:
    """A program that serves an OpenAI-compatible API and /metrics (Prometheus's text) on a port of its own.

    One without `produced` may serve anything over HTTP, as Prefect's server does.

    Attributes:
        name: what messages call it.
        environment: beside this process's own. The key travels in it: the process list shows command lines to all.
        ready_seconds, drain_seconds: how long it may take to answer, and to finish after SIGTERM.
        health: the path that answers 200 when it is ready.
        stall_seconds: how long it may produce nothing while it has requests.
        running: the metrics that count its requests. produced: those that grow while it works on them; none of them:
            it is not watched.
        listen: makes, for each start, what is given the log until the server answers. reason: finds in the log why it
            ended.
    """

    name: str
    command: list[str]
    port: int
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    ready_seconds: float = _READY_SECONDS
    drain_seconds: float = _DRAIN_SECONDS
    stall_seconds: float = _STALL_SECONDS
    running: tuple[str, ...] = ()
    produced: tuple[str, ...] = ()
    listen: Callable[[], Callable[[str], None]] = lambda: lambda text: None
    reason: Callable[[str], str] = last_line
    health: str = "/health"


class ServerProcess:
    """A running Program. As a context manager it serves for the time of the block.

    Args:
        endpoint: how it is reached; restarts and stalls are counted there.
        log: where its output goes, after what is there already.
        alone: whether all requests to the endpoint come here, so that one in flight is one that it has.
    """

    def __init__(self, program: Program, endpoint: Endpoint, log: Path, alone: bool = True) -> None:
        self.program, self.endpoint, self.log = program, endpoint, log
        self._alone = alone
        self._process: subprocess.Popen | None = None
        self._log_begin = 0  # of this start
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
        """Starts it and returns when it answers.

        Raises:
            StageError: it ended or did not get ready; the message carries the reason that its log gives.
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
            self._ready = self._wait_until_it_answers(process)
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
        """Lets it finish (SIGTERM to its own pid), then ends its whole group."""
        process = self._process
        if process is None:
            return
        try:
            if drain and process.poll() is None:
                process.terminate()
                limit = self.program.drain_seconds
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(limit if self._ready else min(limit, _UNREADY_DRAIN_SECONDS))
        finally:  # also where a second Ctrl-C ends the wait
            _kill_group(process)
            self._process = None

    def close(self) -> None:
        """Stops it for good, also where another thread is just starting it again."""
        self._closed = True
        self.stop()
        with self._restarting:
            self.stop()

    def restart_if_dead(self) -> None:
        """Starts it again if it has ended or says itself that it is broken. Returns when it answers.

        Raises:
            StageError: it does not start, or has died too often.
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
            self.stop(drain=False)  # what the dead one started may still live
            self.start()

    def answers(self) -> bool:
        """Whether it is ready for requests."""
        try:
            with self._get(self.program.health) as reply:
                return reply.status == 200
        except (OSError, http.client.HTTPException):
            return False

    def _broken(self) -> bool:
        """Whether a living process, which was ready once, is past help; slow to answer it may be.

        vLLM whose engine has died says 503, or closes its port and takes long to end.
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

    def _wait_until_it_answers(self, process: subprocess.Popen) -> bool:
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
        """Ends the server when it has requests and its counters stand still; the next request starts it again."""
        limit = self.program.stall_seconds
        produced, busy, since = 0.0, False, time.monotonic()
        while self.program.produced and process.poll() is None:
            time.sleep(min(10, limit / 4))
            numbers = self._metrics()
            now = time.monotonic()
            # Where /metrics does not answer either, what was true before still is.
            if numbers is not None:
                before, produced = produced, sum(numbers.get(n, 0) for n in self.program.produced)
                if produced != before:
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
        """Each metric's sum over its labels."""
        numbers: dict[str, float] = {}
        try:
            with self._get("/metrics") as reply:
                lines = reply.read().decode(errors="replace").splitlines()
            for line in lines:
                if line and not line.startswith("#"):
                    name = line.split("{")[0].split(" ")[0]
                    numbers[name] = numbers.get(name, 0.0) + float(line.rsplit(" ", 1)[1])
        except (OSError, http.client.HTTPException, ValueError, IndexError):
            return None
        return numbers

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


class LlamaServer(ServerProcess):
    """llama.cpp's server on one GGUF.

    Args:
        model: the GGUF. template: a chat template instead of the one inside it.
        slots: requests decoded together; context: tokens each of them may hold.
        log: where its output goes. port, key: any where they are not given.
        ready_seconds, stall_seconds: as a Program's. projector: the GGUF of the vision tower, for one that sees.
    """

    def __init__(
        self,
        model: Path,
        log: Path,
        slots: int,
        context: int,
        template: Path | None = None,
        port: int | None = None,
        key: str | None = None,
        ready_seconds: float | None = None,
        stall_seconds: float | None = None,
        projector: Path | None = None,
    ) -> None:
        port, key = port or free_port(), key or secrets.token_urlsafe(24)
        command = [str(binary("llama-server")), "--model", str(model), "--alias", "model"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--metrics"]
        command += ["--parallel", str(slots), "--ctx-size", str(slots * context)]
        command += ["--jinja", "--offline"]
        command += ["--chat-template-file", str(template)] if template else []
        command += ["--mmproj", str(projector)] if projector else []
        program = Program(
            "llama-server",
            command,
            port,
            {"LLAMA_API_KEY": key},
            ready_seconds or _READY_SECONDS,
            _DRAIN_SECONDS,
            stall_seconds or _STALL_SECONDS,
            running=("llamacpp:requests_processing", "llamacpp:requests_deferred"),
            # Its count of tokens grows when a reply has ended, this one with every step.
            produced=("llamacpp:n_decode_total",),
        )
        endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", key, "model", self.restart_if_dead)
        super().__init__(program, endpoint, log)


@contextlib.contextmanager
def serve(
    model: Path,
    log: Path,
    slots: int,
    context: int,
    template: Path | None = None,
    projector: Path | None = None,
) -> Iterator[Endpoint]:
    """A llama.cpp server for the time of the block. Arguments as `LlamaServer`'s."""
    with LlamaServer(model, log, slots, context, template, projector=projector) as endpoint:
        yield endpoint


def free_port() -> int:
    """A port below those that Linux gives to connections by default: one of those could be taken meanwhile."""
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _kill_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):  # nobody of the group is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
