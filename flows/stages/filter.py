"""filter: judges each trace and keeps those that are training data.

    stillhouse filter RUN

Writes filter/kept.jsonl, filter/rejected.jsonl (each trace with its verdict) and filter/ledger.json, which counts both.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, cast

from flows.activity import Numbers
from flows.generation.shards import read_traces
from flows.progress import log, track
from flows.run_context import RunContext
from flows.stages.stage import Stage
from schemas.errors import StageError
from schemas.files import open_jsonl, read_jsonl, write_json
from schemas.ledger import LedgerCount
from schemas.task import Task
from schemas.trace import Trace, is_kept


@partial(
    Stage,
    name="filter",
    reads=("filter", "train.max_length", "train.overflow", "train.images"),
    models=("student",),  # whose tokenizer counts a trace's tokens
    earlier={"plan": "tasks/exam.jsonl", "generate": ""},
    outputs=("filter/kept.jsonl", "filter/rejected.jsonl", "filter/ledger.json"),
)
def filter_traces(context: RunContext) -> dict[str, Any]:
    from schemas.filter import FilterSettings
    from schemas.filter_run import judge_run
    from student.rendering.examples import turns

    renderer = context.renderer()
    train, limits = context.recipe.train, context.recipe.filter.model_dump()
    if train.overflow == "reject":
        limits["max_tokens"] = min(limits["max_tokens"], train.max_length)
    else:
        limits["max_turn"] = train.max_length

    def turn_lengths(trace: Trace) -> list[int]:
        return [len(turn) for turn in turns(trace, renderer)]

    count, first_crash, numbers = LedgerCount(), "", Numbers(good="kept", with_tokens=False)

    def read() -> Iterator[Trace]:
        return read_traces(context.directory)

    exam = cast(list[Task], list(read_jsonl(context.path("tasks", "exam.jsonl"))))
    generated = (context.run.receipt("generate") or {}).get("result", {})
    total = generated.get("traces", 0)
    with (
        open_jsonl(context.path("filter", "kept.jsonl")) as keep,
        open_jsonl(context.path("filter", "rejected.jsonl")) as reject,
        track("traces judged", total, numbers=numbers) as advance,
    ):
        settings = FilterSettings(**limits)
        look = context.image_store.fingerprint
        for trace in judge_run(read, exam, settings, turn_lengths, look, advance):
            count.add(trace)
            (keep if is_kept(trace) else reject)(trace)
            verdict: Any = trace["verdict"] or {}
            numbers.add(trace, verdict.get("reason"))
            if verdict.get("reason") == "tool_crashed":
                first_crash = first_crash or str(verdict.get("detail"))
    ledger = count.ledger()
    if "rewritten" in generated:
        ledger["rewritten"] = generated["rewritten"]
    ledger_file = context.path("filter", "ledger.json")
    write_json(ledger_file, ledger)
    reasons = ", ".join(f"{count} {reason}" for reason, count in ledger["rejected"].items())
    log(
        f"{ledger['traces']} traces = {ledger['kept']} kept"
        f" + {ledger['traces'] - ledger['kept']} rejected{f' ({reasons})' if reasons else ''}"
    )
    if crashes := ledger["rejected"].get("tool_crashed"):
        log(f"  a tool of the pack failed in {crashes} episodes, first as: {first_crash}")
    if not ledger["kept"]:
        raise StageError(
            f"{ledger_file}: no trace was kept, so there is nothing to train on: see rejected.jsonl"
        )
    return {"traces": ledger["traces"], "kept": ledger["kept"]}
