"""Hosts Prefect. Besides this module only flows/prefect_records.py and flows/deployments/ import it, after this one.

A run's stages are the tasks of a Prefect flow. The server that PREFECT_API_URL names records the run. Without the
variable, the run starts a server of its own, with its database in RUN/prefect.
"""

import atexit
import contextlib
import datetime as dt
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

from teacher.inference.endpoint import Endpoint, keep_this_machine_off_proxies

# Prefect reads these as it is imported, and its clients the proxies as they are made.
keep_this_machine_off_proxies()
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "300")
os.environ.setdefault("DO_NOT_TRACK", "1")

import prefect.settings as prefect_settings  # noqa: E402
import prefect.utilities.engine as prefect_engine  # noqa: E402
from prefect import flow as flow  # noqa: E402
from prefect import task  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.client.orchestration import get_client  # noqa: E402
from prefect.client.schemas.filters import (  # noqa: E402
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterName,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, StateType  # noqa: E402
from prefect.client.schemas.schedules import CronSchedule  # noqa: E402
from prefect.context import FlowRunContext  # noqa: E402
from prefect.deployments import run_deployment as start_deployment  # noqa: E402
from prefect.exceptions import TerminationSignal  # noqa: E402
from prefect.states import Cancelled as Cancelled  # noqa: E402
from pydantic import ValidationError  # noqa: E402

from schemas.error_text import one_line  # noqa: E402
from schemas.errors import StageError  # noqa: E402
from teacher.inference.process import Program, ServerProcess, free_port  # noqa: E402

Result = TypeVar("Result")
POLL_SECONDS = 5.0


class Terminated(TerminationSignal, SystemExit):
    """SIGTERM to the process of a flow run, as Prefect cancels it.

    asyncio hands a SystemExit on from any task and callback. Of another exception it would tell the one task that just
    ran, while the others went on until Prefect kills the process after 30 s.
    """


def _terminate(sig_num: int, *args: object) -> NoReturn:
    raise Terminated(signal=sig_num)


# Prefect looks its handler up here, and acknowledges a cancellation only while this very handler is installed.
assert callable(prefect_engine._prefect_sigterm_handler)
prefect_engine._prefect_sigterm_handler = _terminate


def in_flow() -> bool:
    """Whether a Prefect flow is running."""
    return FlowRunContext.get() is not None


def due() -> tuple[dt.datetime, str]:
    """Returns when the running flow run was to start, in UTC, and a name that all its attempts have in common.

    The name is that time, so that two flow runs which a schedule makes for one time share it; with the end of the
    flow run's id, if a person started it. Prefect keeps the time through retries and restarts. Without a flow run it
    is now.
    """
    context = FlowRunContext.get()
    flow_run = context.flow_run if context else None
    if flow_run is None:
        time, own = dt.datetime.now(dt.UTC), ""
    else:
        assert flow_run.expected_start_time is not None  # the server sets it with the first state
        time = flow_run.expected_start_time.astimezone(dt.UTC)
        # The end of the id: a UUIDv7 begins with the time.
        own = "" if flow_run.auto_scheduled else f"-{flow_run.id.hex[-8:]}"
    return time, f"{time:%Y%m%d-%H%M%S}{own}"


def is_cron(text: str) -> bool:
    """Whether Prefect reads a text as a cron expression."""
    try:
        CronSchedule(cron=text)
    except ValidationError:
        return False
    return True


def run_flow(directory: Path, body: Callable[[], Result]) -> Result:
    """Runs `body` as a run of the flow `distill`, named after the run's directory."""
    on_sigterm = signal.getsignal(signal.SIGTERM)

    @flow(name="distill", flow_run_name=lambda: directory.name)
    def distill() -> Result:
        # Prefect's handler raises an exception that asyncio delivers to one task only; the others would go on.
        if callable(on_sigterm):
            signal.signal(signal.SIGTERM, on_sigterm)
        return body()

    with _server(directory):
        return distill()


def run_task(name: str, body: Callable[[], None]) -> None:
    """Runs `body` as a task of the running flow; without a flow, calls it directly."""
    if not in_flow():
        body()
        return

    # Receipts decide what is repeated (flows/run_directory.py), so Prefect neither caches nor stores results.
    @task(name=name, cache_policy=NO_CACHE, persist_result=False)
    def run() -> None:
        body()

    run()


def quieten() -> None:
    """Ends Prefect's own log, which has a traceback for every error: a command ends with one line about it."""
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "prefect":
            logging.getLogger(name).setLevel(logging.CRITICAL)


def turn(limit: int, waits: bool) -> str | None:
    """Whether the running flow run may work: at most `limit` of its deployment do at a time.

    Returns None if it may, else a line that names those that came before it; with `waits`, it returns when it may.
    Prefect's own limit of a deployment is a lease: a flow run whose lease the server loses, by a restart or at a retry,
    is ended in the middle of its work.
    """
    context = FlowRunContext.get()
    flow_run = context.flow_run if context else None
    if flow_run is None or flow_run.deployment_id is None:
        return None
    at_work = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[flow_run.deployment_id]),
        state=FlowRunFilterState(
            type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING])
        ),
    )
    with get_client(sync_client=True) as client:
        while True:
            found = client.read_flow_runs(flow_run_filter=at_work)
            order = [each.id for each in sorted(found, key=_since)]
            before = order[: order.index(flow_run.id)] if flow_run.id in order else order
            if len(before) < limit:
                return None
            if not waits:
                names = ", ".join(each.name for each in found if each.id in before)
                return f"at work already: {names} (limit of the deployment: {limit})"
            time.sleep(POLL_SECONDS)


def _since(flow_run: FlowRun) -> tuple[bool, dt.datetime, str]:
    """Sorts flow runs by when they began to work, those that are being cancelled first."""
    assert flow_run.state is not None  # by which they were found
    return flow_run.state.is_running(), flow_run.state.timestamp, str(flow_run.id)


def run_deployment(deployment: str, name: str, parameters: dict[str, Any]) -> None:
    """Runs a deployment as a part of the running flow, and returns when it is done.

    If an earlier attempt of this flow run started one with this name that is still at work, that is waited for: its
    worker did not end with the worker of this one. When this flow run is cancelled, Prefect cancels the other.

    Raises:
        StageError: it failed, or was cancelled.
    """
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None
    unfinished = FlowRunFilter(
        name=FlowRunFilterName(any_=[name]),
        parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[context.flow_run.id]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(not_any_=[*TERMINAL_STATES])),
    )
    with get_client(sync_client=True) as client:
        running = client.read_flow_runs(flow_run_filter=unfinished)
        if not running:
            start = cast(Callable[..., FlowRun], start_deployment)  # this thread has no event loop
            running = [start(deployment, parameters=parameters, flow_run_name=name, timeout=0)]
        flow_run = running[0]
        while not (state := client.read_flow_run(flow_run.id).state) or not state.is_final():
            time.sleep(POLL_SECONDS)
    if not state.is_completed():
        raise StageError(f"{deployment}: {name}: {state.name}: {one_line(state.message or '')}")


@contextlib.contextmanager
def _server(directory: Path) -> Iterator[None]:
    """Prefect's server for the time of the block: the one that PREFECT_API_URL names, or one of the run's own."""
    quieten()
    if prefect_settings.PREFECT_API_URL.value():
        yield
        return
    server = _own_server(directory)
    server.start()
    # At the end of the process, after Prefect's own threads have sent what they still hold.
    atexit.register(server.close)
    with prefect_settings.temporary_settings(
        {
            prefect_settings.PREFECT_HOME: directory / "prefect",
            prefect_settings.PREFECT_API_URL: server.endpoint.url,
        }
    ):
        yield


def _own_server(directory: Path) -> ServerProcess:
    """Prefect's server, as Prefect starts its temporary one, but in a session of its own.

    In this process's group Ctrl-C would end both, and the flow would try for minutes to report its end to the dead
    server.
    """
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    program = Program(
        name="Prefect's server",
        command=command,
        port=port,
        environment={
            "PREFECT_HOME": str(directory / "prefect"),
            "PREFECT__SERVER_EPHEMERAL": "1",
            "PREFECT__SERVER_FINAL": "1",
        },
        ready_seconds=300,
        drain_seconds=5,
        health="/api/health",
    )
    endpoint = Endpoint(f"http://127.0.0.1:{port}/api", key="", model="")
    return ServerProcess(program, endpoint, directory / "logs" / "prefect.log")
