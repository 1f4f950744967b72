"""The one way into a run, with stages that only write a file: order, --until, one stage, Prefect, the summary."""

import contextlib
import datetime as dt
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext

from flows import distill, prefect_records, prefect_server, recipe_file
from flows.run_context import RunContext
from flows.run_directory import STAGES, Run, read_receipt
from flows.stages.stage import Stage
from schemas.errors import GateError, InputError, StageError
from schemas.files import read_json, write_json
from teacher.domain.pack import PACKS
from teacher.inference.host import TRAINING_SPINS

RECIPE = recipe_file.load("local")


@pytest.fixture(autouse=True)
def bodies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Replaces the stages and Prefect; returns the names of the stages whose bodies ran, and of the flows."""
    ran: list[str] = []

    def body(name: str) -> Callable[[RunContext], dict[str, Any]]:
        def write(context: RunContext) -> dict[str, Any]:
            ran.append(name)
            fits = {"name": "m", "fits": context.recipe.name != "large", "reason": "too large"}
            write_json(context.path("plan.json" if name == "plan" else name), {"teacher": fits})
            if name == "plan":
                write_json(context.path("plan.json"), {"teacher": fits, "student": fits})
            if name == context.recipe.name:
                raise StageError("it failed")
            return {"name": "legal", "tag": "1", "store": "s", "requests": 1, "replayed": 0}

        return write

    def run_flow(directory: Path, run: Callable[[], Any]) -> Any:
        ran.append("flow")
        return run()

    pipeline = {
        name: Stage(
            body(name), name, outputs=("plan.json" if name == "plan" else name,), reads=("name",)
        )
        for name in STAGES
    }
    monkeypatch.setattr(distill, "PIPELINE", pipeline)
    monkeypatch.setattr(prefect_server, "run_flow", run_flow)
    monkeypatch.setattr(prefect_records, "record_stage", lambda context, stage: None)
    monkeypatch.setattr(
        prefect_records, "progress_bar", lambda *_: contextlib.nullcontext(lambda stage: None)
    )
    monkeypatch.chdir(tmp_path)
    return ran


def run(recipe_name: str = "local", **options: Any) -> dict[str, Any]:
    recipe = RECIPE.model_copy(update={"name": recipe_name})
    return distill.distill("legal", recipe, Path("run"), **options)


def test_all_stages_run_in_order_in_one_flow(bodies: list[str], tmp_path: Path) -> None:
    summary = run()
    assert bodies == ["flow", *STAGES]
    assert list(summary["stages"]) == list(STAGES)
    assert summary["run"] == str(tmp_path / "run") and summary["domain"] == "legal"
    assert summary["published"]["tag"] == "1"
    assert Path(summary["report"]).is_file()


def test_finished_stages_are_not_repeated(
    bodies: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    run()
    bodies.clear()
    run()
    assert bodies == ["flow"]
    assert capfd.readouterr().err.count("is done already") == len(STAGES)


def test_the_plan_alone_needs_no_flow(bodies: list[str]) -> None:
    run(until="plan", hardware="8xH200")
    assert bodies == ["plan"]


def test_until_ends_after_a_stage_and_only_runs_one(bodies: list[str]) -> None:
    run(until="filter")
    assert bodies == ["flow", "plan", "generate", "filter"]
    bodies.clear()
    run(only="train")
    assert bodies == ["flow", "train"]


def test_a_plan_that_does_not_fit_ends_the_run_before_the_teacher_starts(bodies: list[str]) -> None:
    with pytest.raises(GateError, match="m: does not fit: too large"):
        run("large")
    assert bodies == ["flow", "plan"]


def test_a_stage_that_fails_ends_the_run_and_the_report_has_what_is_there(
    bodies: list[str], tmp_path: Path
) -> None:
    with pytest.raises(StageError, match="it failed"):
        run("filter")
    assert bodies == ["flow", "plan", "generate", "filter"]
    assert read_receipt(tmp_path / "run", "filter") is None
    assert (tmp_path / "run" / "report.html").is_file()


def test_invalid_input_is_reported_before_anything_starts(
    bodies: list[str], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="generate.mode"):
        distill.distill("legal", recipe_file.load("local", ["generate.mode=x"]), Path("run"))
    assert bodies == [] and not (tmp_path / "run").exists()


def test_a_deployment_goes_the_same_way_in_a_directory_of_its_own(
    bodies: list[str], tmp_path: Path
) -> None:
    distill.distill_flow.fn("legal", settings=["train.epochs=1"])
    assert (tmp_path / "runs" / "legal-local" / "run.json").is_file()
    distill.distill_flow.fn("legal", fresh=True)
    distill.distill_flow.fn("legal", run="mine")
    assert bodies == ["flow", *STAGES] * 3
    assert len(list((tmp_path / "runs").glob("legal-local-20*"))) == 1
    assert (tmp_path / "mine" / "report.html").is_file()


def test_a_scheduled_run_takes_the_seeds_of_its_day(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []

    def start(*arguments: Any, until: str | None) -> dict[str, Any]:
        started.append(arguments)
        return {}

    monkeypatch.setattr(distill, "distill", start)
    for fresh, settings in ((True, []), (True, ["tasks.date=2026-11-02"]), (False, [])):
        distill.distill_flow.fn("legal", settings=settings, fresh=fresh)
    (_, scheduled, directory), (_, dated, _), (_, continued, _) = started
    day = scheduled.tasks.date
    assert day is not None and directory.name.startswith(f"legal-local-{day:%Y%m%d}-")
    assert str(dated.tasks.date) == "2026-11-02"
    assert continued.tasks.date is None


def test_stages_run_in_order_where_their_hardware_is(
    bodies: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[tuple[str, list[str]]] = []

    def start(deployment: str, name: str, parameters: dict[str, Any]) -> None:
        started.append((deployment, parameters["stages"]))
        assert name == f"{Path(parameters['run']).name}: {', '.join(parameters['stages'])}"
        distill.stages_flow.fn(**parameters)

    monkeypatch.setattr(prefect_server, "run_deployment", start)
    elsewhere = {"teacher": "stages/weekly-teacher", "student": "stages/weekly-student"}
    distill.distill_flow.fn("legal", settings=["train.epochs=1"], fresh=True, elsewhere=elsewhere)
    assert started == [
        ("stages/weekly-teacher", ["plan", "generate"]),
        ("stages/weekly-student", ["train", "export", "evaluate"]),
    ]
    assert [name for name in bodies if name != "flow"] == list(STAGES)
    (directory,) = (tmp_path / "runs").iterdir()
    recipe = read_json(directory / "run.json")["recipe"]
    # The settings and the day are those of the whole run.
    assert recipe["train"]["epochs"] == 1 and recipe["tasks"]["date"] is not None

    bodies.clear()
    started.clear()
    distill.distill_flow.fn("legal", until="filter", elsewhere={"student": "stages/x"})
    assert started == [] and [name for name in bodies if name != "flow"] == [*STAGES[:3]]


MONDAY = dt.datetime(2026, 11, 2, 2, tzinfo=dt.timezone(dt.timedelta(hours=9)))


def scheduled(auto_scheduled: bool = True) -> FlowRun:
    return FlowRun(flow_id=uuid.uuid4(), expected_start_time=MONDAY, auto_scheduled=auto_scheduled)


def start_fresh(
    monkeypatch: pytest.MonkeyPatch, flow_run: FlowRun, recipe: str = "local"
) -> dict[str, Any]:
    """An attempt of a flow run, as Prefect's engine makes it."""
    monkeypatch.setattr(prefect_server, "run_task", lambda name, body: body())
    fields: dict[str, Any] = {"flow_run": flow_run}
    with FlowRunContext.model_construct(**fields):  # without a deployment
        summary: dict[str, Any] = distill.distill_flow.fn("legal", recipe, fresh=True)
        return summary


def test_a_retry_of_a_fresh_flow_run_continues_in_its_directory(
    bodies: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flow_run, failing = scheduled(), tmp_path / "train.yaml"
    failing.write_text((recipe_file.RECIPES / "local.yaml").read_text())
    for _ in range(2):
        with pytest.raises(StageError, match="it failed"):
            start_fresh(monkeypatch, flow_run, str(failing))
    assert bodies == ["plan", "generate", "filter", "train", "train"]
    # In UTC, and by the time that it was scheduled for: the clock's is another.
    (directory,) = (tmp_path / "runs").iterdir()
    assert directory.name == "legal-train-20261101-170000"


def test_a_retry_after_midnight_keeps_the_tasks_of_the_scheduled_day(
    bodies: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = start_fresh(monkeypatch, scheduled())
    recipe = read_json(Path(summary["run"]) / "run.json")["recipe"]
    assert recipe["tasks"]["date"] == "2026-11-01"


def test_a_time_that_is_scheduled_twice_is_run_once(
    bodies: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    directory = tmp_path / "runs" / "legal-local-20261101-170000"
    pack = PACKS / "legal"
    with (
        Run.open(directory, RECIPE, "legal", pack),
        pytest.raises(InputError, match=rf"{directory}: is in use by pid \d+"),
    ):
        start_fresh(monkeypatch, scheduled())
    assert bodies == []
    start_fresh(monkeypatch, scheduled())
    start_fresh(monkeypatch, scheduled())
    assert bodies == list(STAGES)


def test_flow_runs_that_people_start_at_the_same_time_are_two(
    bodies: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second = scheduled(auto_scheduled=False), scheduled(auto_scheduled=False)
    for flow_run in (first, second, first):
        start_fresh(monkeypatch, flow_run)
    assert bodies == [*STAGES] * 2
    assert {directory.name for directory in (tmp_path / "runs").iterdir()} == {
        f"legal-local-20261101-170000-{flow_run.id.hex[-8:]}" for flow_run in (first, second)
    }


def test_the_command_plan_proves_a_sample_of_many_tasks_and_the_stage_has_not_run(
    tmp_path: Path, bodies: list[str]
) -> None:
    many = recipe_file.load("local", ["tasks.train=20001"])
    distill.distill("legal", many, tmp_path / "run", until="plan")
    assert bodies == ["plan"] and read_receipt(tmp_path / "run", "plan") is None
    distill.distill("legal", many, tmp_path / "run", until="generate")
    assert bodies.count("plan") == 2 and read_receipt(tmp_path / "run", "plan") is not None
    # A plan that a run has proven is not replaced by a sample.
    distill.distill("legal", many, tmp_path / "run", until="plan")
    assert bodies.count("plan") == 2 and read_receipt(tmp_path / "run", "plan") is not None


@pytest.mark.slow
def test_the_threads_of_a_run_sleep_while_they_wait_for_each_other() -> None:
    """OpenMP prints what it read when torch loads it, which is after `distill` has begun."""
    program = """
from pathlib import Path
from flows import distill, recipe_file
from schemas.errors import InputError
try:
    distill.distill("/no/such/domain", recipe_file.load("local"), Path("/no/such/run"))
except InputError:
    import torch
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr
    assert f"GOMP_SPINCOUNT = '{TRAINING_SPINS}'" in done.stderr
