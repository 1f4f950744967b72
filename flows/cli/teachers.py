"""Verbs of the `stillhouse` command that are about one thing: a teacher, published students, traces, a new domain.

flows/cli/main.py registers them. What a verb needs is imported in the verb.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from schemas.errors import GateError, InputError

JsonOut = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="OUT", help="Writes the result as JSON to a file, or to stdout for -."
    ),
]

# Tokens of the longest conversation that `stillhouse serve` makes room for where the recipe does not say.
_SERVED_CONTEXT = 131_072

# ------------------------------------------------------------------------------------- teachers


def serve(
    teacher: Annotated[
        str, typer.Argument(metavar="TEACHER", help="A teacher of teacher/models, or a YAML file.")
    ],
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe", "-r", metavar="R", help="The recipe whose `serve` section to use."
        ),
    ] = "local",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="A.B=C", help="Sets a field of the recipe."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url", metavar="URL", help="An API that serves it already: says whether it does."
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="Default a free one.")
    ] = None,
    log: Annotated[
        Path | None, typer.Option("--log", metavar="FILE", help="Default runs/serve-TEACHER.log.")
    ] = None,
) -> None:
    """Serves a teacher as a run would, until it is stopped.

    Says its address; the key that it wants is in a file that only you can read. Several runs can share it:
    `stillhouse distill DOMAIN --set serve.url=URL`.

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
    if url:
        endpoint = launch.connect(description, url)
        print(f"{endpoint.model} is served at {endpoint.url}")
        return
    loaded = recipe_file.load(recipe, set_)
    options = loaded.serve
    if description["engine"] == "vllm" and "memory" in description:
        wanted = loaded.serve.max_model_len or _SERVED_CONTEXT
        found = memory.fit(description, hardware.find(), wanted, loaded.serve)
        if not found.fits:
            raise GateError(f"{description['name']}: does not fit: {found.reason}")
        options = options.model_copy(update=memory.chosen(found))
    target = log or Path("runs") / f"serve-{description['name']}.log"
    concurrency = loaded.generate.concurrency
    launch.run_forever(
        description, options, log=target, concurrency=concurrency, report=print, port=port
    )


def check_teacher(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Base address, such as http://127.0.0.1:8000/v1.")
    ],
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="The name it is served under.")
    ],
    teacher: Annotated[
        str, typer.Option("--teacher", metavar="T", help="What it is judged as.")
    ] = "kimi-k2.5",
    domain: Annotated[
        str, typer.Option("--domain", metavar="DOMAIN", help="Whose tools and tasks are used.")
    ] = "legal",
    mode: Annotated[
        str | None,
        typer.Option("--mode", metavar="M", help="One of the teacher's modes; its default."),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            "--tokenizer", metavar="DIR", help="The teacher's tokenizer: prompt tokens are counted."
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            metavar="FILE",
            help="Replies of the official API (--record); else the domain's proven tasks.",
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            "--record",
            metavar="FILE",
            help="Judge nothing; write a reference of this endpoint's replies.",
        ),
    ] = None,
    json_: JsonOut = None,
) -> None:
    """Checks a served teacher before much is asked of it.

    Health, name, tool calls against every schema, thinking and its round trip, images, the vendor verifier's
    two metrics, prompt tokens. About 50 requests. Exit code 3 when a check fails. An API's key is taken from
    STILLHOUSE_TEACHER_KEY, else from the teacher's own variable.

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
        endpoint = launch.connect({**description, "served_name": model}, url)
        rows = run.record(endpoint, description, packs.load(domain), record, mode=mode)
        print(f"wrote {record}: {rows} rows")
        return
    found = run.run(
        url, model, teacher, domain, mode=mode, tokenizer=tokenizer, reference_file=reference
    )
    write_result(found, json_)
    if str(json_) != "-":
        print("\n".join(run.lines(found)))
    failed = [check["name"] for check in found["checks"] if check["passed"] is False]
    if failed:
        raise GateError(f"{url}: {model}: {len(failed)} checks failed: {', '.join(failed)}")


# ------------------------------------------------------------------------------------- students


def models(json_: JsonOut = None) -> None:
    """Lists the published students, the newest version first.

    The store is the directory store/, or what STILLHOUSE_STORE names.

    \b
    Examples:
      stillhouse models
      stillhouse models --json -
    """
    from student.registry.lookup import list_models, store_directory

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
        write_result(rows, json_)
    elif not rows:
        print(
            f"{store}: nothing was published yet: `stillhouse distill DOMAIN` publishes a student"
        )
    else:
        _print_table(
            ["NAME", "CREATED", "GATE", "VARIANTS"],
            [
                [
                    f"{row['name']}:{row['tag']}" + _further(row),
                    row["created"][:16].replace("T", " "),
                    "passed" if row["gate_passed"] else "failed",
                    ", ".join(f"{name} {_size(size)}" for name, size in row["variants"].items()),
                ]
                for row in rows
            ],
        )


def _further(row: dict[str, Any]) -> str:
    names = ", ".join(tag for tag in row["tags"] if tag != row["tag"])
    return f" ({names})" if names else ""


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

    from student.registry.artifact import PROJECTOR
    from student.registry.lookup import store_directory
    from student.registry.model_card import weights_options
    from student.registry.pull import pull as fetch

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
        write_result({"directory": str(target), "files": [str(file) for file in files]}, json_)
        return
    for file in files:
        print(f"{file}  {_size(file.stat().st_size)}")
    gguf = [file for file in files if file.suffix == ".gguf"]
    tower = next((file for file in gguf if file.stem.endswith(f"-{PROJECTOR}")), None)
    if weights := next((file for file in gguf if file != tower), None):
        print(f"serve it: llama-server --jinja {weights_options(weights, tower)}")
    elif (target / "vllm").is_dir():
        print(f"serve it: vllm serve {target / 'vllm'}")


def verify(
    gguf: Annotated[Path, typer.Argument(metavar="GGUF", help="The exported model.")],
    against: Annotated[
        Path,
        typer.Option(
            "--against",
            metavar="HF_DIR",
            help="What it was made from: config, tokenizer, chat template; no weights needed.",
        ),
    ],
    mmproj: Annotated[
        Path | None,
        typer.Option("--mmproj", metavar="FILE", help="Its vision tower: pictures are checked."),
    ] = None,
    traces: Annotated[
        Path | None,
        typer.Option(
            "--traces",
            metavar="FILE.jsonl",
            help="Conversations to check with, as `validate` reads; default a few of our own.",
        ),
    ] = None,
    json_: JsonOut = None,
) -> None:
    """Checks an exported GGUF against its original.

    The chat template's bytes, rendered prompts, token ids, the end of a turn, a tool call that goes out and comes back,
    with --mmproj a picture: all asked of llama.cpp's server. Exit code 3 when a check fails.

    \b
    Examples:
      stillhouse verify legal-Q8_0.gguf --against runs/legal-local/export/vllm
      stillhouse verify model.gguf --against ./model --traces traces.jsonl --json verdict.json
    """
    from student.export.verify import verify as check

    found = check(gguf, against, mmproj, traces)
    write_result(found, json_)
    if str(json_) != "-":
        for one in found["checks"]:
            said = {True: "ok", False: "failed", None: "-"}[one["passed"]]
            print(f"{said:6}  {one['name']}: {one['detail']}")
    failed = [one["name"] for one in found["checks"] if one["passed"] is False]
    if failed:
        raise GateError(f"{gguf}: not as {against}: {', '.join(failed)}")


# ------------------------------------------------------------------------------------- traces and domains


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
    from schemas.trace_file import judge_file

    judged = judge_file(file, kept)
    if json_ is not None:
        write_result(judged, json_)
        if str(json_) == "-":
            return
    rows, rejected = judged["rows"], judged["rows"] - judged["kept"]
    print(f"{file}: {rows} rows: {judged['kept']} kept, {rejected} rejected")
    for reason, count in sorted(judged["rejected"].items(), key=lambda item: -item[1]):
        first = next(v for v in judged["verdicts"] if v["reason"] == reason)
        print(f"  {count:6}  {reason}, such as {first['id']}: {shortened(first['detail'])}")
    for path in (json_, kept):
        if path is not None:
            print(f"wrote {path}")


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
    starter = Path(__file__).resolve().parents[1] / "starter"
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


def write_result(value: Any, out: Path | None) -> None:
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


def shortened(text: str | None) -> str:
    text = " ".join((text or "").split())
    return text if len(text) <= 160 else f"{text[:157]}..."
