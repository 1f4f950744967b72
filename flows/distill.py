"""The flow: plan > generate > filter > train > export > evaluate > publish.

    stillhouse distill legal            runs it here, with Prefect's own ephemeral server, nothing to set up
    python -m flows.distill             serves it: a weekly scheduled deployment, on this host (`make serve`)

Where PREFECT_API_URL names a server, the run is recorded there instead; a schedule needs one.
"""

import atexit
import contextlib
import datetime as dt
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Prefect reads these as it is imported.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "300")  # of `make serve`
os.environ.setdefault("DO_NOT_TRACK", "1")

import prefect.settings as prefect_settings  # noqa: E402
from prefect import flow  # noqa: E402
from prefect.context import FlowRunContext  # noqa: E402

from flows import recipe_file  # noqa: E402
from flows.progress import say  # noqa: E402
from flows.run_context import Work  # noqa: E402
from flows.run_directory import STAGES, Run, default_directory  # noqa: E402
from flows.stages import stages  # noqa: E402
from schemas.files import read_json  # noqa: E402
from schemas.recipe import Recipe  # noqa: E402
from student.models import base  # noqa: E402
from student.registry.model_card import weights_options  # noqa: E402
from student.registry.oci_layout import read_index  # noqa: E402
from student.registry.publish import PROJECTOR, store_directory  # noqa: E402
from student.training import mixture  # noqa: E402
from teacher.domain import pack as domains  # noqa: E402
from teacher.inference.endpoint import Endpoint  # noqa: E402
from teacher.inference.process import Program, ServerProcess, free_port  # noqa: E402
from teacher.models import catalog  # noqa: E402
from teacher.planning import hardware as gpus  # noqa: E402

_STAGES = {
    "plan": stages.plan,
    "generate": stages.generate,
    "filter": stages.filter_,
    "train": stages.train,
    "export": stages.export,
    "evaluate": stages.evaluate,
    "publish": stages.publish,
}


def distill(
    domain: str,
    recipe: Recipe,
    directory: Path,
    until: str | None = None,
    only: str | None = None,
    hardware: str | None = None,
) -> dict[str, Any]:
    """Runs the flow in this process and returns its summary.

    Args:
        domain: a pack's name or directory. directory: the run's; a run begun there is continued.
        until: the last stage to run. only: the one stage to run, of a run whose earlier stages are done.
        hardware: what to plan for, such as 8xH200; what this machine has, when None.

    Raises:
        InputError, StageError, GateError: as the stages raise them.
    """
    work = prepare(domain, recipe, hardware)  # bad input is said before a server is started
    with Run.open(directory, recipe, work["domain"].name, work["domain"].path) as run:
        for line in run.reaped:
            say(f"ended what a killed run had left: {line}")
        if until == "plan":  # it takes a second, and Prefect's server ten to start
            return run_stages(run, recipe, work, until, only)
        on_sigterm = signal.getsignal(signal.SIGTERM)

        @flow(name="distill", flow_run_name=lambda: run.directory.name)
        def recorded() -> dict[str, Any]:
            # Prefect's handler raises what asyncio keeps to the one task that it hits, and the others work on.
            if callable(on_sigterm):
                signal.signal(signal.SIGTERM, on_sigterm)
            return run_stages(run, recipe, work, until, only)

        with _embedded(run.directory):
            return recorded()


def prepare(domain: str, recipe: Recipe, hardware: str | None = None) -> dict[str, Any]:
    """Loads what a run needs and refuses what cannot run."""
    teacher = catalog.load(recipe.teacher, catalog.TEACHERS, "teacher")
    catalog.sampling(teacher, recipe.generate.mode)  # the mode is one of its own
    if recipe.train.replay:
        mixture.replay_file(recipe.train.replay.path)  # it is there
    read_index(store_directory(recipe.publish.store))  # a store, or nothing yet
    return {
        "domain": domains.load(domain),
        "teacher": teacher,
        "student": base.load(recipe.student),
        "hardware": gpus.parse(hardware) if hardware else gpus.find(),
    }


@flow(name="distill")
def distill_flow(
    domain: str,
    recipe: str = "local",
    run: str | None = None,
    settings: list[str] | None = None,
    fresh: bool = False,
) -> dict[str, Any]:
    """Distils a domain: what a deployment runs.

    Args:
        domain: a pack's name or directory. recipe: a recipe's name or file. run: the run's directory.
        settings: overrides such as "tasks.train=40".
        fresh: a new directory, named by the time, so that each scheduled run makes a new student.
    """
    loaded_recipe = recipe_file.load(recipe, settings)
    loaded = prepare(domain, loaded_recipe)
    directory = Path(run) if run else default_directory(loaded["domain"].name, loaded_recipe.name)
    if fresh:
        directory = directory.with_name(f"{directory.name}-{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}")
    with Run.open(directory, loaded_recipe, loaded["domain"].name, loaded["domain"].path) as opened:
        return run_stages(opened, loaded_recipe, loaded)


def run_stages(
    run: Run,
    recipe: Recipe,
    loaded: dict[str, Any],
    until: str | None = None,
    only: str | None = None,
) -> dict[str, Any]:
    """Runs the stages in order, as tasks where it is in a flow, writes the report and says the summary."""
    work = Work(run=run, recipe=recipe, **loaded)
    chosen = [only] if only else STAGES[: STAGES.index(until) + 1] if until else STAGES
    say(f"{work.domain.name} with recipe {recipe.name}, in {_shown(run.directory)}")
    try:
        for name in chosen:
            before = run.receipt(name)
            say(f"{name}")
            stage = _STAGES[name]
            (stage if FlowRunContext.get() else stage.fn)(work)
            if before is not None and before == run.receipt(name):
                say(f"{name} is done already")
            if name == "plan":
                stages.must_fit(work, STAGES if until == "plan" else chosen)
    finally:
        summary = _summary(work)
    _say_summary(work, summary)
    return summary


def _summary(work: Work) -> dict[str, Any]:
    from flows.report.html import write

    receipts = {name: work.run.receipt(name) for name in STAGES}
    summary: dict[str, Any] = {
        "run": str(work.directory),
        "domain": work.domain.name,
        "stages": {name: receipt["seconds"] for name, receipt in receipts.items() if receipt},
        "report": str(write(work.directory)),
    }
    for key, file in (("funnel", "filter/ledger.json"), ("scorecard", "evaluate/scorecard.json")):
        if work.path(file).is_file():
            summary[key] = read_json(work.path(file))
    if receipts["publish"]:
        summary["published"] = receipts["publish"]["result"]
    return summary


def _say_summary(work: Work, summary: dict[str, Any]) -> None:
    say("-" * 60)
    if funnel := summary.get("funnel"):
        hinted = funnel["hinted"]["kept"]
        say(
            f"funnel     {funnel['tasks']} tasks > {funnel['traces']} traces > {funnel['kept']} kept"
            f" ({hinted} with a hint)"
        )
    if scorecard := summary.get("scorecard"):
        base_score, student_score = scorecard["models"]["base"], scorecard["models"]["student"]
        say(f"exam       {'before':>10} {'after':>10}")
        for calls in student_score["by_calls"]:
            before, after = base_score["by_calls"][calls], student_score["by_calls"][calls]
            name = {"0": "no call", "1": "one call"}.get(calls, f"{calls} calls")
            say(
                f"  {name:9}{before['passed']:>4} of {before['tasks']:<3}{after['passed']:>4} of {after['tasks']:<3}"
            )
    total = sum(summary["stages"].values())
    say(
        f"time       {total / 60:.1f} min ({', '.join(f'{k} {v / 60:.1f}' for k, v in summary['stages'].items())})"
    )
    say(f"report     {_shown(Path(summary['report']))}")
    if published := summary.get("published"):
        say(f"published  {published['name']}:{published['tag']} in {published['store']}")
        say(f"get it     make pull DOMAIN={work.domain.name}")
        pulled = Path("students", work.domain.name)
        weights = pulled / work.gguf_name(work.recipe.evaluate.variant)
        tower = pulled / work.gguf_name(PROJECTOR) if work.student_sees else None
        say(f"talk to it llama-server --jinja {weights_options(weights, tower)}")


def _shown(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.resolve().relative_to(Path.cwd()))
    return str(path)


@contextlib.contextmanager
def _embedded(directory: Path) -> Iterator[None]:
    """Prefect with its own server and a database in the run's directory, unless a server is named."""
    # Its log would repeat every error as a traceback; ours is the line that the command ends with.
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "prefect":
            logging.getLogger(name).setLevel(logging.CRITICAL)
    if prefect_settings.PREFECT_API_URL.value():
        yield
        return
    server = _prefect_server(directory)
    server.start()
    # At the end of the process, after Prefect's own threads have told it what they still hold.
    atexit.register(server.close)
    with prefect_settings.temporary_settings(
        {
            prefect_settings.PREFECT_HOME: directory / "prefect",
            prefect_settings.PREFECT_API_URL: server.endpoint.url,
        }
    ):
        yield


def _prefect_server(directory: Path) -> ServerProcess:
    """Prefect's server as Prefect starts its temporary one, but in a session of its own.

    In this process's group Ctrl-C would end both, and the flow would ask the dead server for minutes to note the end.
    """
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    program = Program(
        "Prefect's server",
        command,
        port,
        {
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


def main() -> None:
    """Serves the deployment `distill/weekly-legal` on this host until it is stopped."""
    distill_flow.serve(
        name="weekly",
        cron="0 2 * * 1",
        parameters={
            "domain": os.environ.get("DOMAIN", "legal"),
            "recipe": os.environ.get("RECIPE", "local"),
            "fresh": True,
        },
    )


if __name__ == "__main__":
    main()
