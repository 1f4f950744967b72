"""The `stillhouse` command.

Exit codes: 0 done; 1 failed while running; 2 bad usage or bad input; 3 does not fit, or a gate was not
passed; 130 interrupted; 143 stopped by SIGTERM. An error is one line on stderr that says what was found,
where and what was expected. A bug's traceback goes to a log file, whose name is that line's end; `--debug`
prints it instead.

What a command needs is imported in the command: `stillhouse --help` and `validate` start without torch.
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

from flows.cli import verbs
from schemas.errors import InputError, StillhouseError

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Domain = Annotated[
    str,
    typer.Argument(
        metavar="DOMAIN", help="A domain of data/, or a pack's directory such as ./my-domain."
    ),
]
RecipeName = Annotated[
    str,
    typer.Option("--recipe", "-r", metavar="R", help="A recipe of flows/recipes, or a YAML file."),
]
RunOption = Annotated[
    Path | None,
    typer.Option("--run", metavar="DIR", help="The run's directory; default runs/DOMAIN-RECIPE."),
]
RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run's directory, such as runs/legal-local.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="A.B=C",
        help="Sets a field of the recipe; may be given several times.",
    ),
]
_INTERRUPTED = 128 + signal.SIGINT
_TERMINATED = 128 + signal.SIGTERM
_error_log = Path("stillhouse-error.log")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(version("stillhouse"))
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Print the traceback of an error.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Distils a large teacher's verified work into a small student.

    \b
    The whole pipeline, on this machine:   stillhouse distill legal
    What it made:                          stillhouse report runs/legal-local
    The student, ready to serve:           stillhouse pull legal
    A domain of your own:                  stillhouse new-domain ./my-domain
    """


# ------------------------------------------------------------------------------------- the pipeline


@app.command()
def distill(
    domain: Domain,
    recipe: RecipeName = "local",
    run: RunOption = None,
    set_: Settings = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="STAGE", help="The last stage to run.")
    ] = None,
    json_: verbs.JsonOut = None,
) -> None:
    """Runs the whole pipeline, from plan to publish.

    Its stages: plan, generate, filter, train, export, evaluate, publish.
    The same command started again goes on where the run stopped: finished stages are not repeated, and no
    reply of the teacher is asked for twice. A changed setting repeats the stages that read it.

    \b
    Examples:
      stillhouse distill legal
      stillhouse distill legal --set tasks.train=40 --set train.epochs=1 --run runs/small
      stillhouse distill ./my-domain --recipe local --until filter
    """
    _distill(domain, recipe, run, set_, until, json_)


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
            help="Plan for 8xH200, 2x8xH100-80GB, cpu-768GB, ...; default what is found here.",
        ),
    ] = None,
    json_: verbs.JsonOut = None,
) -> None:
    """Says what would run, whether it fits, and for how long.

    Says also the command that serves the teacher, and its price. Samples the tasks and proves each solvable;
    asks no teacher. Exit code 3 where something does not fit.

    \b
    Examples:
      stillhouse plan legal --set tasks.train=2000
      stillhouse plan legal --recipe kimi-k2.5-qwen3-32b --gpus 8xH200 --set serve.price_per_gpu_hour=3.5
    """
    _distill(domain, recipe, run, set_, "plan", json_, gpus)


def _distill(
    domain: str,
    recipe_name: str,
    directory: Path | None,
    settings: list[str] | None,
    until: str | None,
    json_: Path | None,
    gpus: str | None = None,
) -> None:
    from flows import recipe_file
    from flows import run_directory as run
    from teacher.domain import pack as packs

    if until is not None and until not in run.STAGES:
        raise InputError(f"--until {until}: no such stage: expected one of {', '.join(run.STAGES)}")
    loaded = recipe_file.load(recipe_name, settings)
    if directory is None:
        directory = run.default_directory(packs.load(domain).name, loaded.name)
    _errors_are_logged_in(directory)

    from flows.distill import distill as run_stages

    summary = run_stages(domain, loaded, directory, until=until, only=None, hardware=gpus)
    verbs.write_result(summary, json_)


def _one_stage(stage: str, text: str) -> None:
    """Adds the command that runs one stage of an existing run."""

    def command(run: RunArgument, json_: verbs.JsonOut = None) -> None:
        from flows import run_directory as runs
        from schemas.recipe import Recipe

        record = runs.read(run)
        _errors_are_logged_in(run)

        from flows.distill import distill as run_stages

        recipe = Recipe.model_validate(record["recipe"])
        summary = run_stages(record["domain"]["path"], recipe, run, until=None, only=stage)
        verbs.write_result(summary, json_)

    example = f"\b\nExample:\n  stillhouse {stage} runs/legal-local"
    command.__doc__ = f"{text}\n\nOne stage of a run that `stillhouse distill` began.\n\n{example}"
    app.command(stage)(command)


_one_stage("generate", "Has the teacher solve the tasks.")
_one_stage("filter", "Checks the traces and keeps those that pass.")
_one_stage("train", "Trains the student on the kept traces.")
_one_stage("export", "Writes the student as GGUF and for vLLM.")
_one_stage("evaluate", "Has base and exported student sit the exam.")
_one_stage("publish", "Puts a student that passed the gate into the store.")


@app.command()
def report(run: RunArgument) -> None:
    """Writes the HTML report of a run and prints its path.

    \b
    Example:
      stillhouse report runs/legal-local
    """
    from flows.report.html import write

    print(write(run))


# ------------------------------------------------------------------------------------- the other verbs

for verb in (
    verbs.serve,
    verbs.check_teacher,
    verbs.models,
    verbs.pull,
    verbs.validate,
    verbs.verify,
    verbs.new_domain,
):
    app.command(verb.__name__.replace("_", "-"))(verb)


# ------------------------------------------------------------------------------------- errors


def _errors_are_logged_in(run: Path) -> None:
    global _error_log
    _error_log = run / "logs" / "error.log"


def _quieten_libraries() -> None:
    """Has the libraries keep their own progress bars to themselves; set before any of them is imported."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # It warns that a kernel of the hub is not there, which is optional.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def main() -> None:
    """Runs the command and exits with its code; the only place where an error becomes a line."""
    _quieten_libraries()
    # A polite kill unwinds the stack, so that servers are stopped.
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
        return _say(str(error), error.exit_code)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "stillhouse"
        return _say(
            f"{error.format_message().rstrip('.')} (see `{command} --help`)", error.exit_code
        )
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted: the same command goes on where this stopped", _INTERRUPTED)
    except SystemExit as ended:
        if ended.code != _TERMINATED:
            raise
        return _say("stopped by SIGTERM: the same command goes on where this stopped", _TERMINATED)
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        # torch and safetensors say it in exceptions of their own.
        if os.strerror(errno.ENOSPC) in str(error):
            file = getattr(error, "filename", None)
            place = f"{file}: " if file else ""
            return _say(f"{place}the disk is full: make room and run the same command again", 1)
        return _say(
            f"unexpected {type(error).__name__}: {verbs.shortened(str(error))}{_logged()}", 1
        )


def _say(message: str, code: int) -> int:
    print(f"stillhouse: {' '.join(message.split())}", file=sys.stderr)
    return code


def _logged() -> str:
    """Appends the traceback of the current exception to the log; returns the words that name it."""
    with contextlib.suppress(OSError):
        _error_log.parent.mkdir(parents=True, exist_ok=True)
        with _error_log.open("a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(sys.argv)} (pid {os.getpid()})\n{traceback.format_exc()}\n")
        return f" (the traceback is in {_error_log})"
    return " (run it with `stillhouse --debug ...` for the traceback)"
