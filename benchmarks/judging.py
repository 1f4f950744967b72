"""Measures how many traces the filter judges in a second of CPU time, without and with the student's tokenizer.

    python -m benchmarks.judging [FILE.jsonl] [--rows 1000] [--max-tokens 8192 32768]

The traces are the solutions of 400 tasks of the legal pack, or the conversations of a file in chat format
({"messages", "tools"} a line), repeated with another number in each request until there are enough. Judged alone means
schemas/filter.py and the sketch of the request; reading and writing of files is left out (benchmarks/scale.py has it).
"""

import argparse
import itertools
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import scale
from flows.generation.shards import read_traces
from flows.generation.student_worker import token_counter
from flows.stages import PIPELINE
from schemas.files import read_jsonl
from schemas.filter import FilterSettings
from schemas.filter_run import JudgeAlone


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, nargs="?", help="conversations in chat format")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--max-tokens", type=int, nargs="+", default=[8192, 32768])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work, scale.context(Path(work, "run")) as context:
        PIPELINE["plan"].run(context)
        scale.repeat_traces(context.directory, scale.SEEDS)
        traces = list(read_traces(context.directory))
        if arguments.file:
            chat = ({**row, "id": f"row-{n}"} for n, row in enumerate(read_jsonl(arguments.file)))
            first: Any = traces[0]
            traces = [first | _conversation(row) for row in chat]
        repeated = list(itertools.islice(_numbered(traces), arguments.rows))
        exam = list(read_jsonl(context.path("tasks", "exam.jsonl")))
        counter = token_counter(context.renderer())
        print("limit | tokens counted | traces | CPU ms a trace | traces/s | verdicts")
        for limit in arguments.max_tokens:
            limits: Any = {**context.recipe.filter.model_dump(), "max_tokens": limit}
            settings = FilterSettings(**limits)
            for counts in (None, counter):
                judge, began = JudgeAlone(exam, settings, counts), time.process_time()
                judged = [judge(trace) for trace in repeated]
                each = (time.process_time() - began) / len(repeated)
                reasons = Counter(
                    row["rejected"]["reason"] if row["rejected"] else "passed" for row in judged
                )
                print(
                    f"{limit} | {'yes' if counts else 'no'} | {len(repeated)} | {1000 * each:.2f}"
                    f" | {1 / each:.0f} | {dict(reasons)}"
                )


def _conversation(row: dict[str, Any]) -> dict[str, Any]:
    return {"id": row["id"], "messages": row["messages"], "tools": row.get("tools") or []}


def _numbered(traces: list[Any]) -> Iterator[Any]:
    """Yields the traces again and again, with a number in each text of the user and of tools."""
    for number in itertools.count():
        for trace in traces:
            messages = [
                {**message, "content": f"{message['content']} ({number})"}
                if message["role"] in ("user", "tool") and isinstance(message["content"], str)
                else message
                for message in trace["messages"]
            ]
            yield {**trace, "id": f"{trace['id']}-{number}", "messages": messages}


if __name__ == "__main__":
    main()
