"""Records a run in MLflow: its settings, what each finished stage measured, its scorecard, the published student.

    stillhouse --mlflow sqlite:///mlflow.db distill legal
    MLFLOW_TRACKING_URI=https://mlflow.example stillhouse distill legal

Needs the extra `mlflow` (mlflow-skinny; Prefect brings what it lacks for SQLite and PostgreSQL). MLflow's variables,
such as MLFLOW_TRACKING_TOKEN and MLFLOW_EXPERIMENT_NAME, mean what they always do. RUN/mlflow.json names the run of
MLflow, so that a run that continues is recorded in the same one; after a change of settings, which MLflow does not
allow, in a new one.

What it guarantees: a failure of MLflow ends no run and is one line, after which it is left alone.
"""

import contextlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flows.progress import log
from flows.run_context import RunContext
from flows.run_directory import STAGES, read_receipt
from schemas.error_text import one_line, without_logins
from schemas.errors import GateError, InputError
from schemas.files import read_json, sha256_text, write_json
from schemas.recipe import flat

VARIABLE = "MLFLOW_TRACKING_URI"
_EXPERIMENT = "MLFLOW_EXPERIMENT_NAME"
_DEFAULTS = {
    # By itself, MLflow tries a server that does not answer for some minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # there is the result of --json
}
_MOST_PARAMETERS, _MOST_METRICS = 100, 1000  # in one request (mlflow/utils/validation.py)
_NOT_IN_A_NAME = re.compile(r"[^\w./ -]")


def use(uri: str) -> None:
    """Makes this process, and those that it starts, record runs at a tracking URI.

    Raises:
        InputError: MLflow is not installed, or the URI holds a login, which every user of the machine could read.
    """
    if "@" in urlsplit(uri).netloc:
        raise InputError(
            "--mlflow: found a login in the URI, expected it in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    if find_spec("mlflow") is None:
        raise InputError("--mlflow: MLflow is not installed: pip install 'stillhouse[mlflow]'")
    os.environ[VARIABLE] = uri


@contextlib.contextmanager
def recording(context: RunContext) -> Iterator[Callable[[], None]]:
    """Yields a function that records the stages that have finished since it was last called; it does so at the end too.

    Without a tracking URI in the environment the function does nothing.
    """
    if not os.environ.get(VARIABLE):
        yield lambda: None
        return
    recorder = _Recorder(context)
    status = "FAILED"
    recorder.attempt(recorder.begin)
    try:
        yield lambda: recorder.attempt(recorder.add_stages)
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    except GateError:
        status = "FINISHED"  # the run did what it should; the scorecard says what the gate found
        raise
    finally:
        recorder.attempt(recorder.add_stages)
        recorder.attempt(lambda: recorder.end(status))


class _Recorder:
    """One run of MLflow, and which stages are recorded there. attempt: does something, unless MLflow has failed."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._file = context.path("mlflow.json")
        self._client: Any = None
        self._id = ""
        self._stages: dict[str, str] = {}  # when each recorded stage was started
        self._failed = False

    def attempt(self, work: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            work()
        except Exception as error:  # whatever MLflow and its stores raise
            self._failed = True
            reason = one_line(without_logins(str(error)), 200) or type(error).__name__
            log(f"not recorded in MLflow any more: {reason}")

    def begin(self) -> None:
        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):  # MLflow sets its own level when it is imported
            logging.getLogger(name).setLevel(logging.ERROR)
        uri = os.environ[VARIABLE]
        self._client = MlflowClient(uri)
        parameters = _parameters(self._context)
        known = {"uri": sha256_text(uri), "parameters": sha256_text(json.dumps(parameters))}
        before = read_json(self._file) if self._file.is_file() else {}
        if {key: before.get(key) for key in known} == known:
            self._id, self._stages = before["run_id"], before["stages"]
            self._client.update_run(self._id, status="RUNNING")
        else:
            self._id = self._create(parameters)
        self._known = known

    def _create(self, parameters: Mapping[str, str]) -> str:
        from mlflow.entities import Param

        client, context = self._client, self._context
        name = os.environ.get(_EXPERIMENT, f"stillhouse/{context.domain.name}")
        found = client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else client.create_experiment(name)
        tags = {"stillhouse.run": str(context.directory), "stillhouse.domain": context.domain.name}
        run = client.create_run(experiment, tags=tags, run_name=context.directory.name)
        rows = [Param(key, value) for key, value in parameters.items()]
        for start in range(0, len(rows), _MOST_PARAMETERS):
            client.log_batch(run.info.run_id, params=rows[start : start + _MOST_PARAMETERS])
        return str(run.info.run_id)

    def add_stages(self) -> None:
        from mlflow.entities import Metric, RunTag

        directory, now = self._context.directory, int(1000 * time.time())
        for stage in STAGES:
            receipt = read_receipt(directory, stage)
            if receipt is None or self._stages.get(stage) == receipt["started"]:
                continue
            rows = [
                Metric(key, value, now, step) for key, value, step in measured(directory, stage)
            ]
            for start in range(0, len(rows), _MOST_METRICS):
                self._client.log_batch(self._id, metrics=rows[start : start + _MOST_METRICS])
            if stage == "publish":
                result = receipt["result"]
                named = {"student": f"{result['name']}:{result['tag']}", **result}
                keys = ("student", "digest", "store", "held_back")
                tags = [RunTag(f"stillhouse.{key}", named[key]) for key in keys if key in named]
                self._client.log_batch(self._id, tags=tags)
            for file in (directory / path for path in _DOCUMENTS.get(stage, ())):
                if file.is_file():
                    self._client.log_artifact(self._id, str(file), stage)
            self._stages[stage] = receipt["started"]
        write_json(self._file, {**self._known, "run_id": self._id, "stages": self._stages})

    def end(self, status: str) -> None:
        self._client.set_terminated(self._id, status)


_DOCUMENTS = {
    "filter": ("filter/ledger.json",),
    "evaluate": ("evaluate/scorecard.json",),
    "publish": ("publish/scorecard.json", "publish/README.md"),
}


def _parameters(context: RunContext) -> dict[str, str]:
    """Returns the settings of a run: the domain, and each field of the recipe."""
    recipe = context.recipe.model_dump(mode="json")
    values = {"domain": context.domain.name, "recipe": recipe.pop("name"), **dict(flat(recipe))}
    return {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()
    }


def measured(directory: Path, stage: str) -> Iterator[tuple[str, float, int]]:
    """Yields what a finished stage measured, as (name, value, step); the step is 0 but for rows of the training log."""
    receipt = read_receipt(directory, stage) or {"result": {}, "seconds": 0.0}
    for key, value in flat({**receipt["result"], "seconds": receipt["seconds"]}):
        if isinstance(value, int | float):
            yield _name(f"{stage}.{key}"), float(value), 0
    if stage == "filter":
        ledger = read_json(directory / "filter" / "ledger.json")
        counts = {key: ledger[key] for key in ("tasks", "traces", "kept", "rejected")}
        for key, value in flat(counts):
            yield _name(f"funnel.{key}"), float(value), 0
    if stage == "train":
        for line in (directory / "train" / "log.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            for key, value in row.items():
                if key != "step" and isinstance(value, int | float):
                    yield _name(f"train.{key}"), float(value), row["step"]
    if stage == "evaluate":
        scorecard = read_json(directory / "evaluate" / "scorecard.json")
        yield "gate.passed", float(scorecard["gate"]["passed"]), 0
        for model, score in scorecard["models"].items():
            parts = score.get("parts") or {"headline": score}
            for part, count in parts.items():
                yield f"exam.{model}.{part}.passed", float(count["passed"]), 0
                yield f"exam.{model}.{part}.tasks", float(count["tasks"]), 0
                if count["tasks"]:
                    yield f"exam.{model}.{part}.share", count["passed"] / count["tasks"], 0
        for variant, result in scorecard.get("variants", {}).items():
            if "drift" in result:
                yield _name(f"export.{variant}.kl"), float(result["drift"]["kl"]), 0


def _name(text: str) -> str:
    return _NOT_IN_A_NAME.sub("_", text)
