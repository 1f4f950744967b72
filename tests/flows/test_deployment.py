"""The scheduled deployment on a real local Prefect server: it is created, triggered and runs to its end."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

from flows.run_directory import STAGES
from teacher.inference.process import free_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def wait_for(condition: Any, seconds: float) -> Any:
    """Returns the first true value of `condition`, called twice a second."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.5)
    raise AssertionError(f"not within {seconds:g} seconds")


def test_the_weekly_deployment_is_served_triggered_and_run_to_its_end(tmp_path: Path) -> None:
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    environment = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": api,
        "STILLHOUSE_STORE": str(tmp_path / "store"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    # While its SQLite is busy the server answers 503; this client retries.
    client = SyncPrefectClient(api)
    processes = []

    def start(*arguments: str, log: str) -> None:
        with (tmp_path / log).open("w") as output:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", *arguments],
                    cwd=ROOT,
                    env=environment,
                    stdout=output,
                    stderr=output,
                )
            )

    try:
        start(
            "prefect",
            "server",
            "start",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            log="server.log",
        )
        wait_for(lambda: client.api_healthcheck() is None, 600)
        start("flows.distill", log="serve.log")
        deployment = wait_for(client.read_deployments, 600)[0]
        assert deployment.name == "weekly"
        assert deployment.schedules[0].schedule.cron == "0 2 * * 1"
        settings = [
            "tasks.train=10",
            "tasks.exam=2",
            "tasks.mix={lookup: 1, workflow: 0}",
            # With fewer steps the student learns no call at all, and the export gate fails.
            "train.epochs=5",
            "train.batch_size=2",
            "train.holdout=0",
            "gate.min_gain=-1",
            "gate.min_well_formed=0",
            "export.variants=[Q8_0]",
        ]
        parameters = {
            "domain": "legal",
            "run": str(tmp_path / "run"),
            "settings": settings,
            "fresh": False,
        }
        run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)

        def ended() -> str | None:
            state = client.read_flow_run(run.id).state
            return state.type.value if state is not None and state.is_final() else None

        assert wait_for(ended, 1800) == "COMPLETED", (tmp_path / "serve.log").read_text()[-4000:]
        of_this_run = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))

        def recorded() -> bool:
            """Whether all tasks are recorded: the server writes them from events, maybe after the flow has ended."""
            tasks = client.read_task_runs(flow_run_filter=of_this_run)
            return sorted(task.name.rsplit("-", 1)[0] for task in tasks) == sorted(STAGES)

        assert wait_for(recorded, 120)
        assert (tmp_path / "store" / "index.json").is_file()
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
