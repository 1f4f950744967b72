"""Commands about a teacher: `stillhouse serve` and `stillhouse check-teacher`."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.output import JsonOut, write_result
from flows.progress import step
from schemas.errors import GateError

# Tokens of the longest conversation that `stillhouse serve` reserves memory for where the recipe sets none.
_SERVED_CONTEXT = 131_072


def serve(
    teacher: Annotated[
        str,
        typer.Argument(
            metavar="TEACHER", help="A teacher in teacher/models, or the path of a YAML file."
        ),
    ],
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            "-r",
            metavar="R",
            help="The recipe whose `serve` section sets how it is served.",
        ),
    ] = "local",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", "-s", metavar="A.B=C", help="Override a setting of the recipe; repeatable."
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            metavar="URL",
            help="Start no server; check that this API serves the teacher and print its name.",
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", min=1, max=65535, help="Port of the server. Default: any free port."
        ),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            "--log",
            metavar="FILE",
            help="File for the server's output. Default: runs/serve-TEACHER.log.",
        ),
    ] = None,
) -> None:
    """Serves a teacher until you stop it.

    It starts the same server as a run would, and restarts it when it dies. It prints the server's URL; the API key
    is in a file that only you can read. Several runs can share the server:
    `stillhouse distill DOMAIN --set serve.url=URL`. Exit code 3 when the teacher does not fit on this machine.

    \b
    Examples:
      stillhouse serve smollm2-135m
      stillhouse serve kimi-k2.5 --recipe kimi-k2.5-qwen3-32b
    """
    from flows import recipe_file
    from teacher.inference import launch
    from teacher.models import catalog
    from teacher.planning import hardware, memory

    description = catalog.load(teacher, catalog.TEACHERS, "teacher")
    loaded = recipe_file.load(recipe, set_)
    if url:
        endpoint = launch.connect(description, url, loaded.serve.model)
        print(f"{endpoint.model} is served at {endpoint.url}")
        return
    options = loaded.serve
    if description["engine"] == "vllm" and "memory" in description:
        context = loaded.serve.max_model_len or _SERVED_CONTEXT
        fit = memory.fit(description, hardware.find(), context, loaded.serve)
        if not fit.fits:
            raise GateError(f"{description['name']}: does not fit: {fit.reason}")
        options = options.model_copy(update=memory.chosen(fit))
    target = log or Path("runs") / f"serve-{description['name']}.log"
    concurrency = loaded.generate.concurrency
    launch.run_forever(
        description, options, log=target, concurrency=concurrency, report=print, port=port
    )


def check_teacher(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL", help="Base URL of the API, such as http://127.0.0.1:8000/v1."
        ),
    ],
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="The model's name in that API.")
    ],
    teacher: Annotated[
        str,
        typer.Option(
            "--teacher", metavar="T", help="The teacher (in teacher/models) to check it as."
        ),
    ] = "kimi-k2.5",
    domain: Annotated[
        str,
        typer.Option(
            "--domain", metavar="DOMAIN", help="The domain whose tools and tasks it uses."
        ),
    ] = "legal",
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode", metavar="M", help="One of the teacher's modes. Default: the teacher's own."
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            "--tokenizer",
            metavar="DIR",
            help="The teacher's tokenizer; with it, prompt tokens are compared too.",
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            metavar="FILE",
            help="Replies of the official API, written by --record. Default: the domain's tasks.",
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            "--record",
            metavar="FILE",
            help="Check nothing; write this endpoint's replies to FILE, for --reference.",
        ),
    ] = None,
    json_: JsonOut = None,
) -> None:
    """Checks a served teacher before generation.

    About 50 requests check its health and name, tool calls against every schema, reasoning and its round trip,
    images, the two metrics of the vendor's verifier, and prompt tokens. Exit code 3 when a check fails. The API
    key is read from STILLHOUSE_TEACHER_KEY, or from the variable that the teacher's `key` names.

    \b
    Examples:
      stillhouse check-teacher http://127.0.0.1:8000/v1 --model teacher
      stillhouse check-teacher https://api.moonshot.ai/v1 --model kimi-k2.5 --record reference.jsonl
    """
    from teacher.domain import pack as packs
    from teacher.inference import launch
    from teacher.models import catalog
    from teacher.preflight import run

    if record is not None:
        description = catalog.load(teacher, catalog.TEACHERS, "teacher")
        endpoint = launch.connect(description, url, model, must_list=False)
        rows = run.record(endpoint, description, packs.load(domain), record, mode=mode)
        print(f"wrote {record}: {rows} rows")
        return
    with step(f"checking {model}"):
        report = run.check_url(
            url, model, teacher, domain, mode=mode, tokenizer=tokenizer, reference_file=reference
        )
    write_result(report, json_)
    if str(json_) != "-":
        print("\n".join(run.format_lines(report)))
    failed = [check["name"] for check in report["checks"] if check["passed"] is False]
    if failed:
        raise GateError(f"{url}: {model}: {len(failed)} checks failed: {', '.join(failed)}")
