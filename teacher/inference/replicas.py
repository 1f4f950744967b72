"""Several servers of one model behind a router. One that dies is started again while the others go on."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from schemas.errors import StageError
from teacher.inference.endpoint import Endpoint
from teacher.inference.process import Program, ServerProcess

_REVIVAL_SECONDS = 5


@contextlib.contextmanager
def replicas(
    programs: list[Program],
    router: Callable[[list[str]], Program],
    endpoint: Endpoint,
    log: Path,
    say: Callable[[str], None],
) -> Iterator[None]:
    """Runs the servers, and the router before them, for the time of the block.

    Args:
        router: makes the router's program of the servers' addresses; it listens where `endpoint` says.
        endpoint: given its `restart`, which counts on the servers being brought back here.
        log: the router's; the servers' have their number in the name.

    Raises:
        StageError: one of them does not start.
    """
    servers = [
        ServerProcess(
            program, endpoint, log.with_name(f"{log.stem}-{number}{log.suffix}"), alone=False
        )
        for number, program in enumerate(programs)
    ]
    front = ServerProcess(router([f"http://127.0.0.1:{p.port}" for p in programs]), endpoint, log)
    closing = threading.Event()
    given_up: list[StageError] = []

    def keep_alive(server: ServerProcess) -> None:
        while not closing.wait(_REVIVAL_SECONDS):
            try:
                server.restart_if_dead()
            except StageError as error:
                if not closing.is_set():
                    given_up.append(error)
                    say(f"{len(servers) - len(given_up)} of {len(servers)} servers left: {error}")
                return

    def restart() -> None:
        """Returns when the router answers, and one server at least behind it."""
        while not closing.is_set() and not any(server.answers() for server in servers):
            if len(given_up) == len(servers):
                raise given_up[-1]
            time.sleep(0.5)
        front.restart_if_dead()

    endpoint.restart = restart
    try:
        _start_all(servers)
        front.start()
        for server in servers:
            threading.Thread(target=keep_alive, args=(server,), daemon=True).start()
        yield
    finally:
        closing.set()
        front.close()
        with ThreadPoolExecutor(len(servers)) as pool:
            list(pool.map(ServerProcess.close, servers))


def _start_all(servers: list[ServerProcess]) -> None:
    with ThreadPoolExecutor(len(servers)) as pool:
        try:
            for started in as_completed([pool.submit(server.start) for server in servers]):
                started.result()
        except BaseException:
            for server in servers:  # the pool waits until their starts have ended
                server.close()
            raise
