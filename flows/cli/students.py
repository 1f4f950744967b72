"""Commands about students: `stillhouse models`, `stillhouse pull` and `stillhouse verify`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.filesize import decimal

from flows.cli.output import JsonOut, print_table, write_result
from flows.progress import log, step, transfer
from schemas.errors import GateError


def models(
    name: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="Only these students. Default: all; some registries do not list what they have.",
        ),
    ] = None,
    json_: JsonOut = None,
) -> None:
    """Lists the published students with their exam results.

    The newest version is first. EXAM has the tasks passed with the whole toolbox and the 95 % interval, OTHER PARTS
    those passed in the exam's other parts. The store is the directory store/, or what STILLHOUSE_STORE names: a
    directory, or a registry as oci://HOST/NAMESPACE.

    \b
    Examples:
      stillhouse models
      stillhouse models legal --json -
      STILLHOUSE_STORE=oci://registry.example/students stillhouse models legal
    """
    from student.registry.lookup import list_models
    from student.registry.open_store import open_store

    store = open_store()
    rows = [
        {
            "name": model.name,
            "tag": model.tag,
            "tags": list(model.tags),
            "digest": model.digest,
            "gate_passed": model.gate_passed,
            "created": model.manifest["created"],
            "exam": _exam(model.manifest["scorecard"]),
            "variants": model.variants(),
        }
        for model in list_models(store, name or None, log)
    ]
    if json_ is not None:
        write_result(rows, json_)
    elif not rows:
        print(
            f"{store.location}: no published students yet: `stillhouse distill DOMAIN` publishes one"
        )
    else:
        print_table(
            ["NAME", "CREATED", "GATE", "EXAM", "OTHER PARTS", "VARIANTS"],
            [
                [
                    f"{row['name']}:{row['tag']}" + _further_tags(row),
                    row["created"][:16].replace("T", " "),
                    "passed" if row["gate_passed"] else "failed",
                    *_exam_cells(row["exam"]),
                    ", ".join(f"{name} {decimal(size)}" for name, size in row["variants"].items()),
                ]
                for row in rows
            ],
        )


def _exam(scorecard: dict[str, Any]) -> dict[str, Any]:
    """Returns a manifest's scorecard: the base's and the student's result of the headline, and the student's parts.

    parts: {} where the student was published before the exam had parts.
    """
    from schemas.scorecard import part_score

    tasks = scorecard["tasks"]
    return {
        "base": part_score(scorecard["base"], tasks),
        "student": part_score(scorecard["student"], tasks),
        "parts": {
            name: part_score(part["passed"], part["tasks"])
            for name, part in scorecard.get("parts", {}).items()
        },
    }


def _exam_cells(exam: dict[str, Any]) -> list[str]:
    from schemas.scorecard import HEADLINE, PART_TITLES, interval_text

    result = exam["student"]
    others = [
        f"{title} {exam['parts'][part]['passed']}/{exam['parts'][part]['tasks']}"
        for part, title in PART_TITLES.items()
        if part != HEADLINE and part in exam["parts"]
    ]
    headline = f"{result['passed']} of {result['tasks']} ({interval_text(result)})"
    return [headline, ", ".join(others) or "-"]


def _further_tags(row: dict[str, Any]) -> str:
    tags = ", ".join(tag for tag in row["tags"] if tag != row["tag"])
    return f" ({tags})" if tags else ""


def pull(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME[:TAG]", help="A published student. Default: its tag `latest`."
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="The target directory. Default: students/NAME."),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            "--variant",
            metavar="V",
            help="A variant to fetch, such as Q4_K_M; repeatable. Default: the evaluated one.",
        ),
    ] = None,
    json_: JsonOut = None,
) -> None:
    """Fetches a published student, ready to serve.

    It verifies the sha256 of every file, and continues a download that was interrupted. No file gets its name before
    all are there. At the end it prints the command that serves the student.

    \b
    Examples:
      stillhouse pull legal
      stillhouse pull legal:2 --variant Q4_K_M --to /srv/models/legal
    """
    from flows import commands
    from student.registry.artifact import PROJECTOR
    from student.registry.open_store import open_store
    from student.registry.pull import pull as fetch

    target = to or Path("students") / name.partition(":")[0]
    with transfer(f"pulling {name}") as progress:
        files = fetch(
            open_store(), name, target, variants=variant or None, progress=progress, report=log
        )
    if json_ is not None:
        write_result({"directory": str(target), "files": [str(file) for file in files]}, json_)
        return
    for file in files:
        print(f"{file}  {decimal(file.stat().st_size)}")
    gguf = [file for file in files if file.suffix == ".gguf"]
    projector = next((file for file in gguf if file.stem.endswith(f"-{PROJECTOR}")), None)
    if weights := next((file for file in gguf if file != projector), None):
        print(f"serve it: {commands.llama_server(weights, projector)}")
    elif (target / "vllm").is_dir():
        print(f"serve it: {commands.vllm_serve(target / 'vllm')}")


def verify(
    gguf: Annotated[Path, typer.Argument(metavar="GGUF", help="The exported model.")],
    against: Annotated[
        Path,
        typer.Option(
            "--against",
            metavar="HF_DIR",
            help="The original: config, tokenizer, chat template, and weights if they are to be compared.",
        ),
    ],
    mmproj: Annotated[
        Path | None,
        typer.Option(
            "--mmproj", metavar="FILE", help="Its vision tower as GGUF; checks images too."
        ),
    ] = None,
    traces: Annotated[
        Path | None,
        typer.Option(
            "--traces",
            metavar="FILE.jsonl",
            help="Conversations to check with, in the format of `validate`. Default: a built-in few.",
        ),
    ] = None,
    json_: JsonOut = None,
) -> None:
    """Checks an exported GGUF against its original.

    It compares the chat template's bytes and every tensor, serves the GGUF with llama.cpp and compares rendered
    prompts, token ids, next tokens, the end of a turn, the round trip of a tool call, and with --mmproj an image. For
    the tensors it needs as much free space in TMPDIR as the original has weights. Exit code 3 when a check fails.

    \b
    Examples:
      stillhouse verify legal-Q8_0.gguf --against runs/legal-local/export/vllm
      stillhouse verify model.gguf --against ./model --traces traces.jsonl --json verdict.json
    """
    from student.export.verify import verify as compare

    with step(f"checking {gguf.name}"):
        report = compare(gguf, against, projector=mmproj, conversations=traces)
    write_result(report, json_)
    if str(json_) != "-":
        for check in report["checks"]:
            status = {True: "ok", False: "failed", None: "-"}[check["passed"]]
            print(f"{status:6}  {check['name']}: {check['detail']}")
    failed = [check["name"] for check in report["checks"] if check["passed"] is False]
    if failed:
        raise GateError(f"{gguf}: differs from {against}: {', '.join(failed)}")
