"""The flow: plan > generate > filter > train > export > evaluate > publish.

    stillhouse distill legal            runs it here; Prefect records it, with nothing to set up
    stillhouse deploy                   makes the deployments whose runs Prefect's workers start: `distill_flow`

Every run goes through `distill`, also one that a deployment starts.
"""

import functools
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows import mlflow_log, prefect_server, recipe_file
from flows.progress import log, step
from flows.run_context import RunContext, prepare
from flows.run_directory import STAGES, default_directory
from flows.stages import PIPELINE
from flows.stages.plan import LARGE_RUN, SAMPLED, check_fit
from flows.student_check import check_student
from flows.summary import log_summary, relative, summarize
from schemas.errors import InputError
from schemas.recipe import Recipe
from teacher.domain import pack


def distill(
    domain: str,
    recipe: Recipe,
    directory: Path,
    *,
    until: str | None = None,
    only: str | None = None,
    hardware: str | None = None,
) -> dict[str, Any]:
    """Runs the flow in this process and returns its summary (flows/summary.py).

    Args:
        domain: a pack's name or directory. directory: the run's; a run that started there continues.
        until: the last stage to run. only: the one stage to run, of a run whose earlier stages are done.
        hardware: what to plan for, such as 8xH200; None for this machine.

    Raises:
        InputError, StageError, GateError: as the stages raise them.
    """
    with prepare(domain, recipe, directory, hardware) as context:
        # The plan takes a second, Prefect's server ten to start.
        if prefect_server.in_flow() or until == "plan":
            return run_stages(context, until, only)
        return prefect_server.run_flow(context.directory, lambda: run_stages(context, until, only))


def run_stages(
    context: RunContext, until: str | None = None, only: str | None = None
) -> dict[str, Any]:
    """Runs the stages in order, writes the report, prints and returns the summary."""
    names = [only] if only else STAGES[: STAGES.index(until) + 1] if until else STAGES
    recipe, directory = context.recipe.name, relative(context.directory)
    log(f"{context.domain.name} with recipe {recipe}, in {directory}")
    try:
        with (
            mlflow_log.recording(context)
            if until != "plan"
            else nullcontext(lambda: None) as record
        ):
            for name in names:
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
) -> dict[str, Any]:
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
    """
    if until is not None and until not in STAGES:
        raise InputError(f"until: found {until!r}, expected one of {', '.join(STAGES)}")
    loaded_recipe, (time, due) = recipe_file.load(recipe, settings), prefect_server.due()
    if fresh and loaded_recipe.tasks.date is None:
        dated = loaded_recipe.tasks.model_copy(update={"date": time.date()})
        loaded_recipe = loaded_recipe.model_copy(update={"tasks": dated})
    directory = Path(run) if run else default_directory(pack.load(domain).name, loaded_recipe.name)
    if fresh:
        directory = directory.with_name(f"{directory.name}-{due}")
    return distill(domain, loaded_recipe, directory, until=until)
