"""The `stillhouse` command: the app, the pipeline's commands, and how errors become exit codes.

Exit codes: 0 done; 1 failed while running; 2 bad usage or bad input; 3 does not fit, or a gate was not passed; 130
interrupted; 143 stopped by SIGTERM. An error is one line on stderr: where, what was found, what was expected. The
traceback of a bug goes to a log file that this line names; `--debug` prints it instead.

A command imports what it needs in its body, so that `stillhouse --help` and `validate` start without torch.
"""

import contextlib
import errno
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from flows import progress
from flows.cli.check_domain import check_domain
from flows.cli.deploy import deploy
from flows.cli.export_traces import export_traces
from flows.cli.new_domain import new_domain
from flows.cli.output import JsonOut, shorten, write_result
from flows.cli.store import promote, push, rm, rollback, show
from flows.cli.students import models, pull, verify
from flows.cli.teachers import check_teacher, serve
from flows.cli.validate import validate
from schemas.errors import InputError, StillhouseError
from teacher.inference.endpoint import keep_this_machine_off_proxies

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Domain = Annotated[
    str,
    typer.Argument(
        metavar="DOMAIN", help="A domain in data/, or the directory of a pack, such as ./my-domain."
    ),
]
RecipeName = Annotated[
    str,
    typer.Option(
        "--recipe", "-r", metavar="R", help="A recipe in flows/recipes, or the path of a YAML file."
    ),
]
RunOption = Annotated[
    Path | None,
    typer.Option("--run", metavar="DIR", help="The run's directory. Default: runs/DOMAIN-RECIPE."),
]
RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="The directory of a run, such as runs/legal-local.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="A.B=C",
        help="Override a setting of the recipe; repeatable.",
    ),
]
_INTERRUPTED = 128 + signal.SIGINT
_TERMINATED = 128 + signal.SIGTERM
_error_log = Path("stillhouse-error.log")


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        print(version("stillhouse"))
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="Print the traceback of an error.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Print each line of progress as a JSON object.")
    ] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port",
            metavar="N",
            min=0,
            max=65535,
            help="Serve OpenMetrics of the run on 127.0.0.1; 0 takes a free port.",
        ),
    ] = None,
    mlflow: Annotated[
        str | None,
        typer.Option(
            "--mlflow",
            metavar="URI",
            help="Record the run in MLflow, such as sqlite:///mlflow.db. Default: MLFLOW_TRACKING_URI, if set.",
        ),
    ] = None,
) -> None:
    """Distils a large teacher's verified traces into a small student.

    \b
    Run the whole pipeline on this machine:   stillhouse distill legal
    Write its report:                         stillhouse report runs/legal-local
    Fetch the student, ready to serve:        stillhouse pull legal
    Start a domain of your own:               stillhouse new-domain ./my-domain
    """
    progress.write_json(log_json)
    if metrics_port is not None:
        from flows.metrics import serve as serve_metrics

        context.with_resource(serve_metrics(metrics_port))
    if mlflow is not None:
        from flows import mlflow_log

        mlflow_log.use(mlflow)


# ------------------------------------------------------------------------------------- the pipeline


@app.command()
def distill(
    domain: Domain,
    recipe: RecipeName = "local",
    run: RunOption = None,
    set_: Settings = None,
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="STAGE", help="The last stage to run. Default: publish."),
    ] = None,
    json_: JsonOut = None,
) -> None:
    """Runs the whole pipeline, from plan to publish.

    The stages are plan, generate, filter, train, export, evaluate, publish. Run the same command again to continue a
    run that stopped: finished stages are not repeated, and no request that the teacher answered is sent again. A
    changed setting repeats the stages that read it.

    \b
    Examples:
      stillhouse distill legal
      stillhouse distill legal --set tasks.train=40 --set train.epochs=1 --run runs/small
      stillhouse distill ./my-domain --recipe local --until filter
    """
    _distill(domain, recipe, run, set_, until=until, json_=json_)


@app.command()
def plan(
    domain: Domain,
    recipe: RecipeName = "local",
    run: RunOption = None,
    set_: Settings = None,
    gpus: Annotated[
        str | None,
        typer.Option(
            "--gpus",
            metavar="G",
            help="Plan for 8xH200, 2x8xH100-80GB, cpu-768GB, ... Default: this machine.",
        ),
    ] = None,
    json_: JsonOut = None,
) -> None:
    """Plans a run: what fits, how long it takes, what it costs.

    It also prints the command that serves the teacher. It samples the tasks and proves that each can be solved; it
    sends no request to the teacher. Exit code 3 when something does not fit.

    \b
    Examples:
      stillhouse plan legal --set tasks.train=2000
      stillhouse plan legal --recipe kimi-k2.5-qwen3-32b --gpus 8xH200 --set serve.price_per_gpu_hour=3.5
    """
    _distill(domain, recipe, run, set_, until="plan", gpus=gpus, json_=json_)


def _distill(
    domain: str,
    recipe_name: str,
    directory: Path | None,
    settings: list[str] | None,
    *,
    until: str | None,
    gpus: str | None = None,
    json_: Path | None,
) -> None:
    from flows import recipe_file, run_directory
    from teacher.domain import pack as packs

    stages = run_directory.STAGES
    if until is not None and until not in stages:
        raise InputError(f"--until {until}: no such stage: expected one of {', '.join(stages)}")
    loaded = recipe_file.load(recipe_name, settings)
    if directory is None:
        directory = run_directory.default_directory(packs.load(domain).name, loaded.name)
    _log_errors_in(directory)

    from flows.distill import distill as run_flow

    summary = run_flow(domain, loaded, directory, until=until, hardware=gpus)
    write_result(summary, json_)


def _one_stage(stage: str, text: str) -> None:
    """Adds the command that runs one stage of an existing run."""

    def command(run: RunArgument, json_: JsonOut = None) -> None:
        from flows import run_directory
        from schemas.recipe import Recipe

        record = run_directory.read(run)
        _log_errors_in(run)

        from flows.distill import distill as run_flow

        recipe = Recipe.model_validate(record["recipe"])
        summary = run_flow(record["domain"]["path"], recipe, run, only=stage)
        write_result(summary, json_)

    example = f"\b\nExample:\n  stillhouse {stage} runs/legal-local"
    command.__doc__ = (
        f"{text}\n\nRuns one stage of a run that `stillhouse distill` started.\n\n{example}"
    )
    app.command(stage)(command)


_one_stage("generate", "Generates traces: the teacher solves the tasks.")
_one_stage("filter", "Checks the traces and keeps those that pass.")
_one_stage("train", "Trains the student on the kept traces.")
_one_stage("export", "Exports the student as GGUF files and for vLLM.")
_one_stage("evaluate", "Evaluates base and student on the held-out exam.")
_one_stage("publish", "Publishes a student that passed the gate.")


@app.command()
def report(
    run: RunArgument,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="RUN2|NAME:TAG",
            help="Also compare with another run, or with a published student.",
        ),
    ] = None,
) -> None:
    """Writes the HTML report of a run and prints its path.

    It has the run's numbers and a viewer of its traces, and needs nothing but a browser.

    \b
    Examples:
      stillhouse report runs/legal-local
      stillhouse report runs/legal-local --against runs/legal-before
      stillhouse report runs/legal-local --against legal:latest
    """
    from flows.report.html import write

    print(write(run, against))


# ------------------------------------------------------------------------------------- the other commands

for command in (
    deploy,
    serve,
    check_teacher,
    models,
    show,
    pull,
    push,
    promote,
    rollback,
    rm,
    validate,
    export_traces,
    verify,
    check_domain,
    new_domain,
):
    app.command(command.__name__.replace("_", "-"))(command)


# ------------------------------------------------------------------------------------- errors


def _log_errors_in(run: Path) -> None:
    global _error_log
    _error_log = run / "logs" / "error.log"


def _silence_libraries() -> None:
    """Turns off the libraries' own progress bars. Call it before any of them is imported."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # It warns about a missing kernel of the hub, which is optional.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def main() -> None:
    """Runs the command and exits with its code. This is the only place that turns an error into one line."""
    _silence_libraries()
    keep_this_machine_off_proxies()
    # SIGTERM raises SystemExit, so that the stack unwinds and servers are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    try:
        code = app(arguments or ["--help"], prog_name="stillhouse", standalone_mode=False)
        if code == _INTERRUPTED:  # typer turns Ctrl-C into an exit code
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except StillhouseError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        return _print_error(str(error), error.exit_code)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "stillhouse"
        return _print_error(
            f"{error.format_message().rstrip('.')} (see `{command} --help`)", error.exit_code
        )
    except (KeyboardInterrupt, typer.Abort):
        return _print_error("interrupted: run the same command again to continue", _INTERRUPTED)
    except SystemExit as ended:
        if ended.code != _TERMINATED:
            raise
        return _print_error(
            "stopped by SIGTERM: run the same command again to continue", _TERMINATED
        )
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        # torch and safetensors raise their own exceptions for a full disk.
        if os.strerror(errno.ENOSPC) in str(error):
            file = getattr(error, "filename", None)
            place = f"{file}: " if file else ""
            return _print_error(
                f"{place}the disk is full: make room and run the same command again", 1
            )
        return _print_error(
            f"unexpected {type(error).__name__}: {shorten(str(error))}{_log_traceback()}", 1
        )


def _print_error(message: str, code: int) -> int:
    """Prints the message to stderr as one line and returns the exit code."""
    progress.log_error(" ".join(message.split()), code)
    return code


def _log_traceback() -> str:
    """Appends the traceback of the current exception to the log; returns a text that names the log."""
    with contextlib.suppress(OSError):
        _error_log.parent.mkdir(parents=True, exist_ok=True)
        with _error_log.open("a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(sys.argv)} (pid {os.getpid()})\n{traceback.format_exc()}\n")
        return f" (the traceback is in {_error_log})"
    return " (run it with `stillhouse --debug ...` for the traceback)"
