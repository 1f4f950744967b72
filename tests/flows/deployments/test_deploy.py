"""`stillhouse deploy`: what deployments.yaml may say, and what the command makes of it on a real Prefect server."""

import json
import queue
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from http_server import Handler, HttpServer
from prefect.client.schemas.schedules import CronSchedule
from prefect.states import Failed, State
from prefect_host import PrefectHost

from flows.cli import main
from flows.deployments import file as deployments
from flows.deployments.automations import FAILED, LOST
from flows.distill import distill_flow
from schemas.errors import InputError

ROOT = Path(__file__).resolve().parents[3]
WEEKLY = {
    "name": "weekly",
    "domain": "legal",
    "recipe": "local",
    "schedule": {"cron": "0 2 * * 1", "timezone": "Europe/Berlin"},
    "pool": "cpu",
}


def written(target: Path, *entries: dict[str, Any], **fields: Any) -> Path:
    path = target / "deployments.yaml"
    path.write_text(yaml.safe_dump({**fields, "deployments": [*entries]}))
    return path


def test_the_file_of_this_repository_is_valid_and_schedules_the_week() -> None:
    read = deployments.read(ROOT / "deployments.yaml")
    (weekly,) = read.deployments
    assert read.directory == ROOT
    assert (weekly.name, weekly.cron, weekly.timezone) == ("weekly", "0 2 * * 1", "UTC")
    assert weekly.fresh and weekly.limit == 1 and weekly.overlap == "cancel"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool": None}, "deployments[0].pool: found None, expected"),
        ({"crone": "1"}, "deployments[0].crone: unknown field"),
        ({"name": "../x"}, "deployments[0].name: found '../x'"),
        ({"domain": "leagl"}, "deployments[0].domain: leagl: no such domain"),
        ({"domain": "./none"}, "deployments[0].domain: ./none: no such domain"),
        ({"recipe": "locale"}, "deployments[0]: --recipe locale: no such recipe"),
        ({"recipe": "./none.yaml"}, "deployments[0]: none.yaml: no such recipe file"),
        ({"set": ["train.epoch=3"]}, "deployments[0]: --set train.epoch=3: train.epoch: unknown"),
        ({"set": ["train.epochs=-1"]}, "deployments[0]: --set train.epochs=-1: train.epochs"),
        ({"set": "tasks.train=2"}, "deployments[0].set: found 'tasks.train=2', expected"),
        (
            {"schedule": {"cron": "0 25 * * 1", "timezone": "UTC"}},
            "deployments[0].schedule.cron: found '0 25 * * 1', expected five fields",
        ),
        (
            {"schedule": {"cron": "0 0 2 * * 1", "timezone": "UTC"}},
            "deployments[0].schedule.cron: found '0 0 2 * * 1', expected five fields",
        ),
        (
            {"schedule": {"cron": "0 2 * * 1", "timezone": "Berlin"}},
            "deployments[0].schedule.timezone: found 'Berlin', expected a name",
        ),
        ({"schedule": {"cron": "0 2 * * 1"}}, "deployments[0].schedule.timezone: missing"),
        ({"limit": 0}, "deployments[0].limit: found 0"),
        ({"overlap": "both"}, "deployments[0].overlap: found 'both'"),
    ],
)
def test_an_invalid_entry_is_one_line_with_its_place_and_exit_code_2(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    message: str,
) -> None:
    path = written(tmp_path, {**WEEKLY, **changes})
    assert main._run(["deploy", "--file", str(path)]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"stillhouse: [^\n]+\n", error), error
    assert f"{path}: {message}" in error


@pytest.mark.parametrize(
    ("entries", "fields", "message"),
    [
        ([WEEKLY, WEEKLY], {}, r"deployments\[1\].name: found weekly twice"),
        ([WEEKLY], {"directory": "none"}, "directory: found .*/none, expected a directory"),
        ([WEEKLY], {"pools": {"gpu": {"limit": 1}}}, "pools.gpu: no deployment uses it"),
    ],
)
def test_entries_that_do_not_belong_together_are_refused(
    tmp_path: Path, entries: list[dict[str, Any]], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        deployments.read(written(tmp_path, *entries, **fields))


def test_domain_and_recipe_may_be_files_of_the_runs_directory(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "pack").symlink_to(ROOT / "data" / "legal")
    (shared / "mine.yaml").symlink_to(ROOT / "flows" / "recipes" / "local.yaml")
    entry = {**WEEKLY, "domain": "./pack", "recipe": "./mine.yaml"}
    read = deployments.read(written(tmp_path, entry, directory="shared"))
    assert read.directory == shared
    assert read.deployments[0].domain == "./pack" and read.deployments[0].recipe == "./mine.yaml"


def test_without_a_server_the_command_says_how_to_name_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    assert main._run(["deploy", "--file", str(written(tmp_path, WEEKLY))]) == 2
    error = capsys.readouterr().err
    assert error.startswith("stillhouse: PREFECT_API_URL: not set: expected") and error[-1] == "\n"


# ------------------------------------------------------------------------------------- on a real server


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectHost]:
    opened = PrefectHost(tmp_path_factory.mktemp("host"))
    yield opened
    opened.close()


def deploy(host: PrefectHost, *arguments: str) -> dict[str, dict[str, Any]]:
    """Runs the command and returns the rows of its JSON by name."""
    done = host.stillhouse("deploy", "--json", "-", *arguments)
    assert done.returncode == 0, done.stderr
    return {row["name"]: row for row in json.loads(done.stdout)}


@pytest.mark.slow
def test_deploy_makes_what_the_file_names_once_and_removes_only_what_it_made(
    host: PrefectHost,
) -> None:
    client, other = host.client, {**WEEKLY, "name": "nightly"}
    theirs = client.create_deployment(client.create_flow_from_name("distill"), "by-hand")
    two_pools = {**WEEKLY, "teacher_pool": "teacher-gpu"}
    written(host.directory, two_pools, other, pools={"teacher-gpu": {"limit": 1}})

    dry = deploy(host, "--dry-run")
    assert {row["action"] for row in dry.values()} == {"create"}
    assert client.read_work_pools() == []

    assert deploy(host).keys() == {
        "cpu",
        "teacher-gpu",
        "stages/weekly-teacher",
        "distill/weekly",
        "distill/nightly",
        LOST,
    }
    stages = client.read_deployment_by_name("stages/weekly-teacher")
    assert (stages.work_pool_name, stages.schedules) == ("teacher-gpu", [])
    pools = {pool.name: (pool.type, pool.concurrency_limit) for pool in client.read_work_pools()}
    assert pools == {"cpu": ("process", None), "teacher-gpu": ("process", 1)}
    weekly = client.read_deployment_by_name("distill/weekly")
    schedule = weekly.schedules[0].schedule
    assert isinstance(schedule, CronSchedule)
    assert (schedule.cron, schedule.timezone) == ("0 2 * * 1", "Europe/Berlin")
    assert weekly.parameters == {
        "domain": "legal",
        "recipe": "local",
        "settings": [],
        "fresh": True,
        "until": None,
        "elsewhere": {"teacher": "stages/weekly-teacher"},
        "limit": 1,
        "overlap": "cancel",
    }
    # The flow that a worker imports by this name.
    assert weekly.entrypoint == f"{distill_flow.fn.__module__}.{distill_flow.fn.__name__}"

    assert {row["action"] for row in deploy(host).values()} == {"none"}

    # What people pause stays paused; what the file says is changed, and nothing else.
    client.update_deployment_schedule(weekly.id, weekly.schedules[0].id, active=False)
    written(host.directory, {**WEEKLY, "set": ["tasks.train=40"], "overlap": "wait"})
    rows = deploy(host)
    assert {name: row["action"] for name, row in rows.items()} == {
        "cpu": "none",
        "distill/weekly": "update",
        "distill/nightly": "keep",
        "stages/weekly-teacher": "keep",
        LOST: "none",
    }
    assert rows["distill/weekly"]["fields"].keys() == {"parameters"}
    changed = client.read_deployment_by_name("distill/weekly")
    assert changed.id == weekly.id and not changed.schedules[0].active
    assert changed.parameters["settings"] == ["tasks.train=40"]
    assert changed.parameters["overlap"] == "wait"

    assert deploy(host, "--prune")["distill/nightly"]["action"] == "remove"
    names = {each.name for each in client.read_deployments()}
    assert names == {"weekly", "by-hand"}
    assert client.read_deployment(theirs).tags == []


@pytest.mark.slow
def test_a_failed_run_is_told_to_the_block_of_notify(host: PrefectHost, tmp_path: Path) -> None:
    told: queue.SimpleQueue[str] = queue.SimpleQueue()

    class Hook(Handler):
        def do_POST(self) -> None:
            told.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.reply(200, {})

    path, server = written(tmp_path, WEEKLY, notify="webhook/team"), HttpServer(Hook)
    try:
        done = host.stillhouse("deploy", "--file", str(path))
        assert done.returncode == 2
        assert done.stderr.startswith("stillhouse: notify: found webhook/team, expected")
        block = (
            f"from prefect.blocks.webhook import Webhook; Webhook(url={server.url!r}).save('team')"
        )
        subprocess.run([sys.executable, "-c", block], env=host.environment, check=True)
        assert deploy(host, "--file", str(path))[FAILED]["action"] == "create"
        assert deploy(host, "--file", str(path))[FAILED]["action"] == "none"
        # A run that fails as its worker would say it.
        deployment = host.client.read_deployment_by_name("distill/weekly")
        flow_run = host.client.create_flow_run_from_deployment(deployment.id)
        failure: State[Any] = Failed(message='GateError: "exam" below base')
        host.client.set_flow_run_state(flow_run.id, failure, force=True)
        text = json.loads(told.get(timeout=120))["text"]
        assert text == f'distill/weekly: {flow_run.name} is Failed: GateError: "exam" below base'
        written(tmp_path, WEEKLY)
        assert deploy(host, "--file", str(path))[FAILED]["action"] == "remove"
    finally:
        server.close()


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_one_line(host: PrefectHost, tmp_path: Path) -> None:
    path = written(tmp_path, WEEKLY)
    environment = {**host.environment, "PREFECT_API_URL": "http://me:sesame@127.0.0.1:9/api"}
    broken = PrefectHost.__new__(PrefectHost)
    broken.directory, broken.environment = tmp_path, environment
    done = broken.stillhouse("deploy", "--file", str(path))
    assert done.returncode == 1
    assert re.fullmatch(
        r"stillhouse: the Prefect server at http://127.0.0.1:9/api [^\n]+\n", done.stderr
    )
