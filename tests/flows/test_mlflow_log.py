"""A run in MLflow, read back from a real store (SQLite); and that a failure of MLflow ends no run."""

import contextlib
import os
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from report_run import finished

from flows import mlflow_log, recipe_file
from flows.cli import main
from flows.mlflow_log import recording
from flows.run_context import RunContext
from flows.run_directory import STAGES, read_receipt
from schemas.errors import GateError
from schemas.files import read_json, write_json

pytestmark = pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed")


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A store for all tests: MLflow takes seconds to make one. Artifacts lie beside it."""
    where = tmp_path_factory.mktemp("mlflow")
    with contextlib.chdir(where):
        yield f"sqlite:///{where}/mlflow.db"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undoes what MLflow's defaults set."""
    for name in (mlflow_log.VARIABLE, *mlflow_log._DEFAULTS):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def context_of(run: Path, *settings: str) -> RunContext:
    """What the sink reads of a context."""
    recipe = recipe_file.load("local", list(settings))
    domain = SimpleNamespace(name="pack")
    known = {"recipe": recipe, "domain": domain, "directory": run, "path": run.joinpath}
    return cast(RunContext, SimpleNamespace(**known))


def publish(run: Path) -> None:
    """A receipt of publish, of a student that was held back."""
    result = {"name": "pack", "tag": "4", "digest": f"sha256:{'1' * 64}", "store": "/store"}
    result["held_back"] = "worse than pack:3"
    receipt = {**(read_receipt(run, "evaluate") or {}), "stage": "publish", "result": result}
    write_json(run / "stages" / "publish.json", receipt)


def stored(run: Path, uri: str) -> tuple[Any, Any]:
    import mlflow  # takes a second

    client = mlflow.MlflowClient(uri)
    return client, client.get_run(read_json(run / "mlflow.json")["run_id"])


@pytest.mark.slow
def test_settings_measurements_scorecard_and_student_are_in_the_store(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished(tmp_path / "run")
    monkeypatch.setenv(mlflow_log.VARIABLE, uri)
    with recording(context_of(run, "train.epochs=7")) as record:
        record()
        publish(run)
    client, found = stored(run, uri)
    assert found.info.status == "FINISHED" and found.info.run_name == "run"
    parameters, metrics = found.data.params, found.data.metrics
    assert (parameters["train.epochs"], parameters["gate.against"]) == ("7.0", "null")
    assert parameters["recipe"] == "local" and parameters["domain"] == "pack"
    assert metrics["funnel.kept"] == 214 and metrics["funnel.rejected.wrong_answer"] == 150
    assert metrics["exam.student.headline.share"] == 0.8 and metrics["gate.passed"] == 1
    assert {f"{stage}.seconds" for stage in ("filter", "train", "evaluate")} <= metrics.keys()
    history = client.get_metric_history(found.info.run_id, "train.loss")
    assert [row.step for row in history] == list(range(5, 121, 5))
    tags = found.data.tags
    assert (
        tags["stillhouse.student"] == "pack:4" and tags["stillhouse.digest"] == f"sha256:{'1' * 64}"
    )
    assert tags["stillhouse.held_back"] == "worse than pack:3"
    listed = client.list_artifacts(found.info.run_id, "evaluate")
    assert [file.path for file in listed] == ["evaluate/scorecard.json"]


@pytest.mark.slow
def test_a_run_that_continues_is_recorded_once_and_after_a_change_in_a_new_run(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished(tmp_path / "run")
    monkeypatch.setenv(mlflow_log.VARIABLE, uri)
    with pytest.raises(ValueError), recording(context_of(run)) as record:
        record()
        raise ValueError("a stage failed")
    client, first = stored(run, uri)
    assert first.info.status == "FAILED"
    with pytest.raises(GateError), recording(context_of(run)) as record:
        publish(run)
        raise GateError("not published")
    _, again = stored(run, uri)
    assert again.info.run_id == first.info.run_id and again.info.status == "FINISHED"
    assert "stillhouse.student" in again.data.tags
    assert len(client.get_metric_history(first.info.run_id, "funnel.kept")) == 1
    with recording(context_of(run, "train.epochs=9")):
        pass
    _, other = stored(run, uri)
    assert other.info.run_id != first.info.run_id
    assert other.data.metrics["funnel.kept"] == 214


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["nobody", "silent", "a directory", "no scheme", "later"])
def test_a_failure_of_mlflow_is_one_line_and_ends_no_run(
    broken: str,
    uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = finished(tmp_path / "run")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setenv(
            mlflow_log.VARIABLE,
            {
                "nobody": "http://me:sesame@127.0.0.1:9",
                "silent": f"http://127.0.0.1:{port}",
                "a directory": str(tmp_path / "mlruns"),
                "no scheme": "what://ever",
                "later": uri,
            }[broken],
        )
        reached = []
        with recording(context_of(run)) as record:
            if broken == "later":
                (run / "train" / "log.jsonl").write_text("{torn")
            reached.append(True)
            for _ in STAGES:
                record()
    lines = [line for line in capfd.readouterr().err.splitlines() if "MLflow" in line]
    assert reached and len(lines) == 1 and "not recorded in MLflow any more: " in lines[0], lines
    assert not list(tmp_path.glob("mlruns"))
    assert "sesame" not in lines[0]


def test_without_a_uri_nothing_is_recorded(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    with recording(context_of(run)) as record:
        record()
    assert not (run / "mlflow.json").exists()


def test_a_login_in_the_uri_is_refused_and_not_repeated(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main._run(["--mlflow", "https://me:hunter2@mlflow.example", "models"]) == 2
    printed = capfd.readouterr().err
    assert "MLFLOW_TRACKING_PASSWORD" in printed and "hunter2" not in printed
    assert mlflow_log.VARIABLE not in os.environ


def test_without_the_extra_the_option_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mlflow_log, "find_spec", lambda name: None)
    assert main._run(["--mlflow", "sqlite:///x.db", "models"]) == 2
    assert "pip install 'stillhouse[mlflow]'" in capfd.readouterr().err
