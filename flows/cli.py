"""The `stillhouse` command.

Exit codes: 0 done; 1 failed while running; 2 bad usage or bad input; 3 does not fit, or a gate was not
passed; 130 interrupted. An error is one line on stderr that says what was found, where and what was
expected. A bug's traceback goes to a log file, whose name is that line's end; `--debug` prints it instead.

What a command needs is imported in the command: `stillhouse --help` and `validate` start without torch.
"""

import contextlib
import errno
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

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
JsonOut = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="OUT", help="Writes the result as JSON to a file, or to stdout for -."
    ),
]

_INTERRUPTED = 128 + signal.SIGINT
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
    json_: JsonOut = None,
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
    json_: JsonOut = None,
) -> None:
    """Says what would run, on what and for how long.

    Samples the tasks and proves each solvable; asks no teacher.

    \b
    Example:
      stillhouse plan legal --set tasks.train=2000
    """
    _distill(domain, recipe, run, set_, "plan", json_)


def _distill(
    domain: str,
    recipe_name: str,
    directory: Path | None,
    settings: list[str] | None,
    until: str | None,
    json_: Path | None,
) -> None:
    from flows import recipe, run
    from teacher import domain as packs

    if until is not None and until not in run.STAGES:
        raise InputError(f"--until {until}: no such stage: expected one of {', '.join(run.STAGES)}")
    loaded = recipe.load(recipe_name, settings)
    if directory is None:
        directory = run.default_directory(packs.load(domain).name, loaded.name)
    _errors_are_logged_in(directory)

    from flows.distill import distill as run_stages

    _write_json(run_stages(domain, loaded, directory, until=until, only=None), json_)


def _one_stage(stage: str, text: str) -> None:
    """Adds the command that runs one stage of an existing run."""

    def command(run: RunArgument, json_: JsonOut = None) -> None:
        from flows import run as runs
        from flows.recipe import Recipe

        record = runs.read(run)
        _errors_are_logged_in(run)

        from flows.distill import distill as run_stages

        recipe = Recipe.model_validate(record["recipe"])
        summary = run_stages(record["domain"]["path"], recipe, run, until=None, only=stage)
        _write_json(summary, json_)

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
    from flows.report import write

    print(write(run))


# ------------------------------------------------------------------------------------- students


@app.command()
def models(json_: JsonOut = None) -> None:
    """Lists the published students, the newest version first.

    The store is the directory store/, or what STILLHOUSE_STORE names.

    \b
    Examples:
      stillhouse models
      stillhouse models --json -
    """
    from student.store import list_models, store_directory

    store = store_directory()
    found = list_models(store)
    rows = [
        {
            "name": model.name,
            "tag": model.tag,
            "tags": list(model.tags),
            "digest": model.digest,
            "gate_passed": model.gate_passed,
            "created": model.manifest["created"],
            "variants": model.variants(),
        }
        for model in found
    ]
    if json_ is not None:
        _write_json(rows, json_)
    elif not rows:
        print(
            f"{store}: nothing was published yet: `stillhouse distill DOMAIN` publishes a student"
        )
    else:
        _print_table(
            ["NAME", "CREATED", "GATE", "VARIANTS"],
            [
                [
                    f"{row['name']}:{row['tag']}"
                    + (" (latest)" if "latest" in row["tags"] else ""),
                    row["created"][:16].replace("T", " "),
                    "passed" if row["gate_passed"] else "failed",
                    ", ".join(f"{name} {_size(size)}" for name, size in row["variants"].items()),
                ]
                for row in rows
            ],
        )


@app.command()
def pull(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME[:TAG]", help="A published student; without a tag the latest."),
    ],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Where to; default students/NAME.")
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            "--variant",
            metavar="V",
            help="A variant, several times for several; default the one examined.",
        ),
    ] = None,
    json_: JsonOut = None,
) -> None:
    """Fetches a published student, ready to be served.

    Every file's sha256 is verified; a fetch that was cut short is continued.

    \b
    Examples:
      stillhouse pull legal
      stillhouse pull legal:2 --variant Q4_K_M --to /srv/models/legal
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    from student.store import pull as fetch
    from student.store import store_directory

    target = to or Path("students") / name.partition(":")[0]
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(name, total=None)
        files = fetch(
            store_directory(),
            name,
            target,
            variants=variant or None,
            progress=lambda done, total, file: bar.update(
                task, completed=done, total=total, description=file
            ),
        )
    if json_ is not None:
        _write_json({"directory": str(target), "files": [str(file) for file in files]}, json_)
        return
    for file in files:
        print(f"{file}  {_size(file.stat().st_size)}")
    gguf = [file for file in files if file.suffix == ".gguf"]
    if gguf:
        print(f"serve it: llama-server --jinja -m {gguf[0]}")
    elif (target / "vllm").is_dir():
        print(f"serve it: vllm serve {target / 'vllm'}")


# ------------------------------------------------------------------------------------- traces and domains


@app.command()
def validate(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.jsonl", help="Rows with messages and tools.")
    ],
    json_: JsonOut = None,
    kept: Annotated[
        Path | None,
        typer.Option("--kept", metavar="OUT.jsonl", help="Writes the rows that pass there."),
    ] = None,
) -> None:
    """Checks chat-format traces: their calls and their form.

    Every call is checked against its tool's JSON Schema, every turn for its form.
    A row is {"id"?, "messages": [...], "tools": [...]} in OpenAI's format. Every line is judged; one that is
    not JSON is a malformed_trace. Exit code 0 whenever every line was judged.

    \b
    Examples:
      stillhouse validate traces.jsonl
      stillhouse validate traces.jsonl --json verdicts.json --kept kept.jsonl
    """
    from schemas.validate import judge_file

    judged = judge_file(file, kept)
    if json_ is not None:
        _write_json(judged, json_)
        if str(json_) == "-":
            return
    rows, rejected = judged["rows"], judged["rows"] - judged["kept"]
    print(f"{file}: {rows} rows: {judged['kept']} kept, {rejected} rejected")
    for reason, count in sorted(judged["rejected"].items(), key=lambda item: -item[1]):
        first = next(v for v in judged["verdicts"] if v["reason"] == reason)
        print(f"  {count:6}  {reason}, such as {first['id']}: {_short(first['detail'])}")
    for path in (json_, kept):
        if path is not None:
            print(f"wrote {path}")


@app.command("new-domain")
def new_domain(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A directory that does not exist yet.")
    ],
) -> None:
    """Writes a small working domain pack to begin with.

    A world, its tools, and a template for each of two kinds of task, to be replaced by your own.

    \b
    Example:
      stillhouse new-domain ./my-domain && stillhouse distill ./my-domain
    """
    import re

    from schemas.files import whole

    name = re.sub(r"[^a-z0-9]+", "-", path.resolve().name.lower()).strip("-")
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,39}", name):
        raise InputError(
            f"{path}: expected a name that begins with a letter, of at most 40 letters, digits and -"
        )
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{path}: exists already, expected a new or an empty directory")
    starter = Path(__file__).resolve().parent / "starter"
    with whole(path) as temporary:
        temporary.mkdir()
        for file in ("domain.yaml", "environment.py"):
            text = (starter / file).read_text(encoding="utf-8")
            (temporary / file).write_text(
                text.replace("name: NAME", f"name: {name}"), encoding="utf-8"
            )
    shown = path if path.is_absolute() or str(path).startswith(".") else f"./{path}"
    print(f"wrote {path}/domain.yaml and {path}/environment.py")
    print(f"try it: stillhouse plan {shown}")


# ------------------------------------------------------------------------------------- output


def _write_json(value: Any, out: Path | None) -> None:
    from schemas.files import write_json

    if out is None:
        return
    if str(out) == "-":
        print(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        write_json(out, value)


def _print_table(head: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _short(text: str | None) -> str:
    text = " ".join((text or "").split())
    return text if len(text) <= 160 else f"{text[:157]}..."


# ------------------------------------------------------------------------------------- errors


def _errors_are_logged_in(run: Path) -> None:
    global _error_log
    _error_log = run / "logs" / "error.log"


def _quieten_libraries() -> None:
    """Has the libraries keep their own progress bars to themselves; set before any of them is imported."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def main() -> None:
    """Runs the command and exits with its code; the only place where an error becomes a line."""
    _quieten_libraries()
    # A polite kill unwinds the stack, so that servers are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
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
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        # torch and safetensors say it in exceptions of their own.
        if os.strerror(errno.ENOSPC) in str(error):
            file = getattr(error, "filename", None)
            place = f"{file}: " if file else ""
            return _say(f"{place}the disk is full: make room and run the same command again", 1)
        return _say(f"unexpected {type(error).__name__}: {_short(str(error))}{_logged()}", 1)


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


if __name__ == "__main__":
    main()
