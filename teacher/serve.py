"""Starts, watches, drains and stops a model server.

A server runs in its own session, bound to 127.0.0.1 under a random key that only its environment holds, with its log
in the run. It is started again when it dies. What a killed run leaves behind, the next run on the same directory finds
by the mark in the process's environment (flows/run.py).
"""

import asyncio
import contextlib
import http.client
import os
import secrets
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from schemas.errors import StageError
from teacher.llamacpp import binary, last_line

_READY_SECONDS = 120
_DRAIN_SECONDS = 20
_RESTARTS = 3
# A proxy of the environment is no way to 127.0.0.1.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class Endpoint:
    """An OpenAI-compatible API: base URL, key, served model name; `restart` brings a dead server back."""

    url: str
    key: str = field(repr=False)
    model: str
    restart: Callable[[], None] | None = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    async def revive(self) -> None:
        """Starts the server again if it is ours and dead. Returns when it answers; one caller does the work."""
        if self.restart:
            async with self._lock:
                await asyncio.to_thread(self.restart)


class LlamaServer:
    """llama.cpp's server on one GGUF.

    Args:
        model: the GGUF. template: a chat template instead of the one inside it.
        slots: requests decoded together; context: tokens each of them may hold.
        log: where its output goes.
    """

    def __init__(
        self, model: Path, log: Path, slots: int, context: int, template: Path | None = None
    ) -> None:
        self._log = log
        self._port, self._key = _free_port(), secrets.token_urlsafe(24)
        self._command = [
            str(binary("llama-server")),
            *(
                "--model",
                str(model),
                "--alias",
                "model",
                "--host",
                "127.0.0.1",
                "--port",
                str(self._port),
            ),
            *("--parallel", str(slots), "--ctx-size", str(slots * context), "--jinja", "--offline"),
            *(("--chat-template-file", str(template)) if template else ()),
        ]
        self._process: subprocess.Popen | None = None
        self._starts = 0
        self.endpoint = Endpoint(
            f"http://127.0.0.1:{self._port}/v1", self._key, "model", self._restart_if_dead
        )

    def start(self) -> None:
        """Starts it and returns when it answers.

        Raises:
            StageError: it ended or did not get ready; the message carries the last error of its log.
        """
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._starts += 1
        with self._log.open("ab") as log:
            try:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    # The key travels in the environment: the process list shows command lines to everyone.
                    env={**os.environ, "LLAMA_API_KEY": self._key},
                )
            except OSError as error:
                raise StageError(f"{self._command[0]}: cannot be run: {error.strerror}") from error
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            if self._answers():
                return
            time.sleep(0.1)
        self.stop()
        reason = last_line(self._log.read_text(errors="replace")[-20_000:])
        raise StageError(f"llama-server did not start: {reason} (see {self._log})")

    def stop(self) -> None:
        """Lets it finish (SIGTERM to its own pid), then ends its whole group."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_DRAIN_SECONDS)
        with contextlib.suppress(ProcessLookupError):  # nobody of the group is left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._process = None

    def _restart_if_dead(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        if self._starts > _RESTARTS:
            reason = last_line(self._log.read_text(errors="replace")[-20_000:])
            raise StageError(f"llama-server died {self._starts} times: {reason} (see {self._log})")
        self.stop()  # what the dead one started may still live
        self.start()

    def _answers(self) -> bool:
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/health")
        try:
            with _DIRECT.open(request, timeout=2) as reply:
                return reply.status == 200
        except (OSError, http.client.HTTPException):
            return False


@contextlib.contextmanager
def serve(
    model: Path, log: Path, slots: int, context: int, template: Path | None = None
) -> Iterator[Endpoint]:
    """A llama.cpp server for the time of the block. Arguments as `LlamaServer`'s."""
    server = LlamaServer(model, log, slots, context, template)
    server.start()
    try:
        yield server.endpoint
    finally:
        server.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
