"""Deployments at work, on a real Prefect server with SQLite and with PostgreSQL: scheduled, through the workers of two
pools, doubled, cancelled in generate, killed with their worker, retried; nothing asked twice and nothing left."""

import fcntl
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
import yaml
from postgres import postgres, program
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling
from prefect_host import PrefectHost, wait_for
from solving_teacher import solving_teacher

from flows.generation.shards import read_traces
from schemas.files import read_json
from teacher.inference import llamacpp

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]


class Team(PrefectHost):
    """A host with a deployment of two pools whose teacher solves its tasks slowly."""

    def __init__(self, directory: Path, database: str | None) -> None:
        self.served = directory / "served.jsonl"
        tasks = directory / "runs" / "*" / "tasks" / "train.jsonl"
        others = llamacpp.binary("llama-server")
        settings, environment = solving_teacher(
            directory / "teacher", tasks, self.served, 2.0, others
        )
        super().__init__(directory, database, **environment)
        entry = {
            "name": "often",
            "domain": str(ROOT / "tests" / "data" / "stock_room"),
            "recipe": "local",
            "set": [*settings, "tasks.train=60", "tasks.mix={lookup: 1, workflow: 1}"],
            "schedule": {"cron": "* * * * *", "timezone": "UTC"},
            "until": "filter",
            "pool": "cpu",
            "teacher_pool": "teacher-gpu",
        }
        file = {"pools": {"teacher-gpu": {"limit": 1}}, "deployments": [entry]}
        (directory / "deployments.yaml").write_text(yaml.safe_dump(file))

    def requests(self) -> list[str]:
        """The requests that the teacher's servers got so far."""
        text = self.served.read_text() if self.served.exists() else ""
        rows = [json.loads(line) for line in text.splitlines()]
        return [row["request"] for row in rows if "request" in row]

    def run(self) -> Path:
        """The directory of the only run."""
        (directory,) = (self.directory / "runs").iterdir()
        return directory

    def answered(self) -> list[str]:
        """The requests whose replies are on disk."""
        return [
            json.loads(line)["reply"]["message"]["request"]
            for segment in (self.run() / "journal").glob("*.jsonl")
            for line in segment.read_bytes().splitlines(keepends=True)
            if line.endswith(b"\n")
        ]

    def state(self, flow_run: UUID) -> str:
        state = self.client.read_flow_run(flow_run).state
        return state.type.value if state else ""

    def stages_of(self, flow_run: UUID) -> list[FlowRun]:
        """The flow runs that another started, the newest last."""
        parent = FlowRunFilterParentFlowRunId(any_=[flow_run])
        found = self.client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=parent))
        return sorted(found, key=lambda each: str(each.created))

    def retry(self, flow_run: UUID) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "flow-run", "retry", str(flow_run)],
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def left(self) -> list[str]:
        """What still works on the run: its processes, the servers of its teacher, and its lock."""
        marked = [
            process.name()
            for process in psutil.process_iter()
            if _environment(process).get("STILLHOUSE_RUN") == str(self.run())
        ]
        rows = [json.loads(line) for line in self.served.read_text().splitlines()]
        servers = [
            f"server {pid}" for pid in {row["pid"] for row in rows} if psutil.pid_exists(pid)
        ]
        with (self.run() / ".lock").open("a") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return marked + servers
            except OSError:
                return [*marked, *servers, "the lock"]


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return {}


@pytest.fixture(params=["sqlite", "postgresql"])
def team(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Team]:
    if request.param == "sqlite":
        opened = Team(tmp_path / "team", None)
        yield opened
        opened.close()
        return
    if not program("postgres") or not program("initdb"):
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with postgres() as database:
        opened = Team(tmp_path / "team", database)
        yield opened
        opened.close()


def test_a_scheduled_run_is_cancelled_killed_and_retried_and_asks_and_leaves_nothing_twice(
    team: Team,
) -> None:
    done = team.stillhouse("deploy")
    assert done.returncode == 0, done.stderr
    workers = {pool: team.worker(pool) for pool in ("cpu", "teacher-gpu")}
    log = team.directory / "teacher-gpu.log"
    deployment = team.client.read_deployment_by_name("distill/often")

    # It runs by its schedule, and what is due a minute later is not run beside it.
    wait_for(lambda: len(team.requests()) > 4, 300, log)
    flow_run = min(runs_of(team), key=lambda each: each.expected_start_time)
    assert flow_run.auto_scheduled
    schedule = deployment.schedules[0]
    team.client.update_deployment_schedule(deployment.id, schedule.id, active=False)
    again = team.client.create_flow_run_from_deployment(deployment.id)
    wait_for(lambda: team.state(again.id) == "CANCELLED", 120, log)
    (stages,) = team.stages_of(flow_run.id)
    assert (stages.work_pool_name, flow_run.work_pool_name) == ("teacher-gpu", "cpu")
    assert stages.name.endswith(": plan, generate")

    # Cancelled in generate, both flow runs end and leave nothing.
    team.client.set_flow_run_state(flow_run.id, Cancelling())
    wait_for(lambda: team.state(flow_run.id) == "CANCELLED", 120, log)
    wait_for(lambda: team.state(stages.id) == "CANCELLED", 180, log)
    assert team.left() == []
    assert not (team.run() / "stages" / "generate.json").exists()

    # A retry continues in the same directory; then the machine of its worker dies.
    asked = len(team.requests())
    team.retry(flow_run.id)
    wait_for(lambda: len(team.requests()) > asked + 4, 300, log)
    stages = team.stages_of(flow_run.id)[-1]
    children = psutil.Process(workers["teacher-gpu"].pid).children(recursive=True)
    for process in [psutil.Process(workers["teacher-gpu"].pid), *children]:
        process.send_signal(signal.SIGKILL)
    # Prefect learns of it by the automation, as no one else can tell.
    wait_for(lambda: team.state(stages.id) == "CRASHED", 400, team.directory / "server.log")
    wait_for(lambda: team.state(flow_run.id) == "FAILED", 120, team.directory / "cpu.log")
    wait_for(lambda: team.left() == [], 60)

    # With another worker, it ends well.
    answered = team.answered()
    team.worker("teacher-gpu")
    asked = len(team.requests())
    team.retry(flow_run.id)
    ended = ("COMPLETED", "FAILED", "CRASHED")
    wait_for(lambda: team.state(flow_run.id) in ended, 600, log)
    assert team.state(flow_run.id) == "COMPLETED", (team.directory / "cpu.log").read_text()[-4000:]
    assert not {*answered} & {*team.requests()[asked:]}
    assert len(team.answered()) == len({*team.answered()})
    ledger = read_json(team.run() / "filter" / "ledger.json")
    assert ledger["traces"] == len([*read_traces(team.run())]) > 0
    assert ledger["traces"] == ledger["kept"] + sum(ledger["rejected"].values())
    assert team.left() == []
    keys = {artifact.key: artifact for artifact in team.client.read_artifacts()}
    assert {"stock-plan", "stock-generate", "stock-filter", "stock-funnel", "stock-progress"} <= {
        *keys
    }


def runs_of(team: Team) -> list[Any]:
    """The flow runs that worked or work, but for those that others started."""
    runs = team.client.read_flow_runs()
    return [each for each in runs if each.run_count and each.parent_task_run_id is None]
