"""The flow: plan > generate > filter > train > export > evaluate > publish.

    stillhouse distill legal            runs it here; Prefect records it, with nothing to set up
    stillhouse deploy                   makes the deployments whose runs Prefect's workers start: `distill_flow`

Every run goes through `distill`, also one that a deployment starts.
"""

import functools
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows import mlflow_log, prefect_records, prefect_server, recipe_file
from flows.progress import log, step
from flows.run_context import RunContext, prepare
from flows.run_directory import STAGES, default_directory
from flows.stages import PIPELINE
from flows.stages.plan import LARGE_RUN, SAMPLED, check_fit, check_training_fits
from flows.student_check import check_student
from flows.summary import log_summary, relative, summarize
from schemas.errors import InputError
from schemas.recipe import Recipe
from teacher.domain import pack
from teacher.inference.host import TRAINING_SPINS, thread_policy

# Whose hardware a stage needs; filter and publish run anywhere.
_HARDWARE = {
    "plan": "teacher",
    "generate": "teacher",
    "train": "student",
    "export": "student",
    "evaluate": "student",
}


def distill(
    domain: str,
    recipe: Recipe,
    directory: Path,
    *,
    until: str | None = None,
    only: str | None = None,
    stages: Sequence[str] | None = None,
    hardware: str | None = None,
) -> dict[str, Any]:
    """Runs the flow in this process and returns its summary (flows/summary.py).

    Args:
        domain: a pack's name or directory. directory: the run's; a run that started there continues.
        until: the last stage to run. only: the one stage to run, of a run whose earlier stages are done.
        stages: those that this machine has the hardware for, of a run whose earlier stages are done.
        hardware: what to plan for, such as 8xH200; None for this machine.

    Raises:
        InputError, StageError, GateError: as the stages raise them.
    """
    os.environ.update(thread_policy(TRAINING_SPINS))
    with prepare(domain, recipe, directory, hardware) as context:
        if stages and "train" in stages and "plan" not in stages:
            check_training_fits(context)  # the plan was another machine's
        # The plan takes a second, Prefect's server ten to start.
        if prefect_server.in_flow() or until == "plan":
            return run_stages(context, until, only, stages)
        return prefect_server.run_flow(
            context.directory, lambda: run_stages(context, until, only, stages)
        )


def _until(last: str | None) -> Sequence[str]:
    return STAGES[: STAGES.index(last) + 1] if last else STAGES


def run_stages(
    context: RunContext,
    until: str | None = None,
    only: str | None = None,
    stages: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Runs the stages in order, writes the report, prints and returns the summary."""
    names = stages or ([only] if only else _until(until))
    recipe, directory = context.recipe.name, relative(context.directory)
    log(f"{context.domain.name} with recipe {recipe}, in {directory}")
    try:
        with (
            prefect_records.progress_bar(context, names) as begin,
            (
                mlflow_log.recording(context) if until != "plan" else nullcontext(lambda: None)
            ) as record,
        ):
            for name in names:
                begin(name)
                if name in ("generate", "filter") and not PIPELINE[name].is_current(context):
                    check_student(context, trains=names[-1] != "generate")
                log(name)
                is_preview = name == until == "plan" and context.recipe.tasks.train > LARGE_RUN
                with step(name):
                    if is_preview and not PIPELINE[name].is_current(context):
                        PIPELINE[name].preview(replace(context, sampled=SAMPLED))
                    else:
                        prefect_server.run_task(
                            name, functools.partial(PIPELINE[name].run, context)
                        )
                if name == "plan":
                    if until == "plan":  # also for a machine that the models do not fit
                        check_student(context, install=False)
                    check_fit(context, STAGES if until == "plan" else names)
                prefect_records.record_stage(context, name)
                record()
    finally:
        summary = summarize(context)
    log_summary(context, summary)
    return summary


@prefect_server.flow(name="distill")
def distill_flow(
    domain: str,
    recipe: str = "local",
    run: str | None = None,
    settings: list[str] | None = None,
    fresh: bool = False,
    until: str | None = None,
    elsewhere: dict[str, str] | None = None,
    limit: int = 1,
    overlap: str = "cancel",
) -> Any:
    """What a deployment runs: `distill`, with parameters that Prefect can store.

    Args:
        domain: a pack's name or directory.
        recipe: a recipe's name or file.
        run: the run's directory; by default runs/DOMAIN-RECIPE.
        settings: overrides such as "tasks.train=40".
        fresh: a new directory, named by the time for which the run is scheduled, so that each scheduled run makes a
            new student, of training tasks of its own: `tasks.date` is that day where the recipe has none. A retry or
            restart of a flow run continues in its directory.
        until: the last stage to run; by default all run.
        elsewhere: the deployments of `stages_flow` that run the stages of the teacher (plan, generate) and of the
            student (train, export, evaluate) where their hardware is: {"teacher": "stages/weekly-teacher", ...}. The
            others run in this flow run.
        limit: how many flow runs of the deployment work at a time.
        overlap: what a flow run does that is one too many: cancel, or wait for the others.
    """
    if until is not None and until not in STAGES:
        raise InputError(f"until: found {until!r}, expected one of {', '.join(STAGES)}")
    if others := prefect_server.turn(limit, waits=overlap == "wait"):
        return prefect_server.Cancelled(message=others)
    loaded_recipe, (time, due) = recipe_file.load(recipe, settings), prefect_server.due()
    if fresh and loaded_recipe.tasks.date is None:
        dated = loaded_recipe.tasks.model_copy(update={"date": time.date()})
        loaded_recipe = loaded_recipe.model_copy(update={"tasks": dated})
    directory = Path(run) if run else default_directory(pack.load(domain).name, loaded_recipe.name)
    if fresh:
        directory = directory.with_name(f"{directory.name}-{due}")
    summary: dict[str, Any] = {"run": str(directory)}
    for deployment, names in _by_place(_until(until), elsewhere or {}):
        if not elsewhere:
            summary = distill(domain, loaded_recipe, directory, until=until)
        elif deployment is None:
            summary = distill(domain, loaded_recipe, directory, stages=names)
        else:
            parameters = {
                "domain": domain,
                "recipe": recipe,
                "run": str(directory),
                "settings": [*(settings or []), f"tasks.date={loaded_recipe.tasks.date or 'null'}"],
                "stages": names,
            }
            name = f"{directory.name}: {', '.join(names)}"
            prefect_server.run_deployment(deployment, name, parameters)
    return summary


@prefect_server.flow(name="stages")
def stages_flow(
    domain: str, recipe: str, run: str, settings: list[str], stages: list[str]
) -> dict[str, Any]:
    """Some stages of a run, on a machine with their hardware; a flow run of `distill` starts it.

    Args:
        domain: a pack's name or directory.
        recipe: a recipe's name or file.
        run: the run's directory, which is shared with the machine of the flow run of `distill`.
        settings: overrides such as "tasks.train=40".
        stages: the names of the stages.
    """
    return distill(domain, recipe_file.load(recipe, settings), Path(run), stages=stages)


def _by_place(
    names: Sequence[str], elsewhere: Mapping[str, str]
) -> Iterator[tuple[str | None, list[str]]]:
    """Stages that follow each other in one place, with the deployment that runs them; None for this flow run."""
    for deployment, group in itertools.groupby(
        names, key=lambda name: elsewhere.get(_HARDWARE.get(name, ""))
    ):
        yield deployment, list(group)
