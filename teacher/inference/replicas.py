"""Several servers of one model, with or without a router. One that dies is restarted while the others continue."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from schemas.errors import StageError
from teacher.inference.endpoint import Endpoint
from teacher.inference.process import Program, ServerProcess

_CHECK_SECONDS = 5


@contextlib.contextmanager
def run_replicas(
    programs: list[Program],
    make_router: Callable[[list[str]], Program] | None,
    endpoint: Endpoint,
    log: Path,
    report: Callable[[str], None],
) -> Iterator[None]:
    """Runs the servers, and a router in front of them, for the time of the block.

    Args:
        programs: the servers.
        make_router: returns the router's program for a list of the servers' addresses. None where clients choose the
            server (teacher/inference/placement.py).
        endpoint: the address and key of the router, or of the first server; its `restart` is set here.
        log: the router's log; a server's log has its number added to the name.
        report: receives a message when a server is given up.

    Raises:
        StageError: one of the programs does not start.
    """
    servers = [
        ServerProcess(
            program, endpoint, log.with_name(f"{log.stem}-{number}{log.suffix}"), alone=False
        )
        for number, program in enumerate(programs)
    ]
    addresses = [f"http://127.0.0.1:{program.port}" for program in programs]
    endpoint.servers = tuple(addresses)
    router = ServerProcess(make_router(addresses), endpoint, log) if make_router else None
    closing = threading.Event()
    failures: list[StageError] = []  # of the servers that were given up

    def keep_alive(server: ServerProcess) -> None:
        while not closing.wait(_CHECK_SECONDS):
            try:
                server.restart_if_dead()
            except StageError as error:
                if not closing.is_set():
                    failures.append(error)
                    report(
                        f"{len(servers) - len(failures)} of {len(servers)} servers left: {error}"
                    )
                return

    def restart() -> None:
        """Returns when at least one server answers, and the router too, if there is one."""
        while not closing.is_set() and not any(server.answers() for server in servers):
            if len(failures) == len(servers):
                raise failures[-1]
            time.sleep(0.5)
        if router:
            router.restart_if_dead()

    endpoint.restart = restart
    try:
        _start_all(servers)
        if router:
            router.start()
        for server in servers:
            threading.Thread(target=keep_alive, args=(server,), daemon=True).start()
        yield
    finally:
        closing.set()
        if router:
            router.close()
        with ThreadPoolExecutor(len(servers)) as pool:
            list(pool.map(ServerProcess.close, servers))


def _start_all(servers: list[ServerProcess]) -> None:
    with ThreadPoolExecutor(len(servers)) as pool:
        try:
            for start in as_completed([pool.submit(server.start) for server in servers]):
                start.result()
        except BaseException:
            for server in servers:  # ends the other starts, which the pool waits for
                server.close()
            raise
