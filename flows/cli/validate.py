"""`stillhouse validate`: checks any file of chat-format traces."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.output import JsonOut, shorten, write_result


def validate(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE.jsonl", help="One row a line, with messages and tools."),
    ],
    json_: JsonOut = None,
    kept: Annotated[
        Path | None,
        typer.Option("--kept", metavar="OUT.jsonl", help="Write the rows that pass to this file."),
    ] = None,
) -> None:
    """Checks chat-format traces and their tool calls.

    It checks every call against its tool's JSON Schema and every turn for its form. A row is
    {"id"?, "messages": [...], "tools": [...]} in OpenAI's format. Every line gets a verdict; a line that is not JSON
    is a malformed_trace. Exit code 0 when every line was judged, also if some were rejected.

    \b
    Examples:
      stillhouse validate traces.jsonl
      stillhouse validate traces.jsonl --json verdicts.json --kept kept.jsonl
    """
    from schemas.trace_file import judge_file

    report = judge_file(file, kept)
    if json_ is not None:
        write_result(report, json_)
        if str(json_) == "-":
            return
    rows, rejected = report["rows"], report["rows"] - report["kept"]
    print(f"{file}: {rows} rows: {report['kept']} kept, {rejected} rejected")
    for reason, count in sorted(report["rejected"].items(), key=lambda item: -item[1]):
        first = next(verdict for verdict in report["verdicts"] if verdict["reason"] == reason)
        print(f"  {count:6}  {reason}, such as {first['id']}: {shorten(first['detail'])}")
    for path in (json_, kept):
        if path is not None:
            print(f"wrote {path}")
