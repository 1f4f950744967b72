"""`stillhouse export-traces`: writes the kept traces of a run in a format that others read."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.output import JsonOut, write_result
from schemas.errors import InputError


def export_traces(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="The directory of a run whose traces were filtered."),
    ],
    format: Annotated[
        str, typer.Option("--format", "-f", metavar="F", help="atif, sts, sharegpt or openai.")
    ],
    to: Annotated[
        Path, typer.Option("--to", metavar="DIR", help="A new or an empty directory to write.")
    ],
    json_: JsonOut = None,
) -> None:
    """Writes the kept traces of a run in a format that others read.

    Each trace is loaded back before it counts, and must be equal to what the format carries of it. Traces that the
    format has no place for are left out and counted by the reason.

    \b
    atif      Harbor's Agent Trajectory Interchange Format v1.7: a JSON document a trace, with sub-agents
    sts       Hugging Face's Session Trace Simple Format: a JSON Lines file a session; no images
    sharegpt  ShareGPT rows with tools and a dataset_info.json, as LLaMA-Factory reads them
    openai    rows of messages and tools in OpenAI's chat format, as TRL reads them

    \b
    Examples:
      stillhouse export-traces runs/legal-local --format atif --to trajectories
      stillhouse export-traces runs/legal-local --format sharegpt --to data/legal
    """
    from flows import run_directory
    from flows.progress import track
    from schemas.files import read_jsonl
    from schemas.interchange.export import FORMATS, export

    if format not in FORMATS:
        raise InputError(f"--format {format}: expected one of {', '.join(FORMATS)}")
    run_directory.read(run)
    kept = run / "filter" / "kept.jsonl"
    if not kept.is_file():
        raise InputError(f"{kept}: no such file: run `stillhouse filter {run}` first")
    with track("writing traces", sum(1 for _ in read_jsonl(kept))) as advance:

        def rows():  # type: ignore[no-untyped-def]
            for trace in read_jsonl(kept):
                yield trace
                advance()

        result = export(rows(), format, to, run / "images")
    write_result(result, json_)
    if str(json_) == "-":
        return
    print(f"{to}: {result['written']} of {result['traces']} kept traces, as {format}")
    for reason, count in result["left_out"].items():
        print(f"  {count:6}  left out: {reason}")
