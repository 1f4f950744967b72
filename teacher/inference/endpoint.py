"""Where a model is served: `Endpoint`."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from schemas.trace import Served

# Self-hosted servers often need no key, but the client has to send one.
NO_KEY = "EMPTY"
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")


def keep_this_machine_off_proxies() -> None:
    """Adds this machine to no_proxy, for libraries that read the environment's proxies by themselves.

    Prefect's client and the programs that a run starts are among them. Both spellings are set, because a library reads
    either, and the lower-case one wins.
    """
    names = [name for name in os.environ.get("no_proxy", os.environ.get("NO_PROXY", "")).split(",")]
    names = [name.strip() for name in names if name.strip()]
    if "*" not in names:
        names += [name for name in _THIS_MACHINE if name not in names]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(names)


@dataclass
class Endpoint:
    """An OpenAI-compatible API: base URL, key, name of the served model.

    Attributes:
        restart: restarts the server if it is dead; None for an API that another process runs.
        in_flight: requests of this process that are not answered yet.
        restarts: how often the server was restarted.
        stalls: how often the server was killed because it produced nothing.
        engine: vllm, llama.cpp, or openai for any other API. served: what an API of another process says of itself;
            None for a server of this process.
        reply_seconds: how long one reply may take.
        servers: addresses of several servers, which have the metrics; empty where the endpoint has them. A router
            stands before them, unless the endpoint is the first of them.
    """

    url: str
    key: str = field(repr=False)
    model: str
    restart: Callable[[], None] | None = None
    in_flight: int = 0
    restarts: int = 0
    stalls: int = 0
    engine: str = "openai"
    served: Served | None = None
    reply_seconds: float = 300
    servers: tuple[str, ...] = ()
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _revival: Future[None] | None = field(default=None, repr=False)

    @property
    def urls(self) -> tuple[str, ...]:
        """The base URLs that take requests: one, or that of each server where no router stands before them."""
        if self.url.removesuffix("/v1") in self.servers:
            return tuple(f"{server}/v1" for server in self.servers)
        return (self.url,)

    @contextlib.contextmanager
    def request_in_flight(self) -> Iterator[None]:
        """Counts a request as in flight for the time of the block."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    async def revive(self) -> None:
        """Restarts a dead server of this run, and returns when it answers.

        All that ask meanwhile, in whichever event loop, wait for the one restart. A caller that is cancelled leaves it
        to the others: its thread is not waited for, because loading weights takes long.
        """
        if self.restart is None:
            return
        with self._lock:
            revival = self._revival
            if revival is None or revival.done():
                self._revival = revival = _start_in_thread(self.restart)
        await asyncio.wrap_future(revival)


def _start_in_thread(work: Callable[[], None]) -> Future[None]:
    """The future of a call in a thread that the end of the process does not wait for."""
    future: Future[None] = Future()
    future.set_running_or_notify_cancel()  # so that no caller's cancellation reaches it

    def run() -> None:
        try:
            work()
        except BaseException as raised:  # raised again where it is waited for
            future.set_exception(raised)
        else:
            future.set_result(None)

    threading.Thread(target=run, daemon=True).start()
    return future
