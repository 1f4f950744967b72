"""filter: judges each trace and keeps those that are training data.

    stillhouse filter RUN

Writes filter/kept.jsonl, filter/rejected.jsonl (each trace with its verdict) and filter/ledger.json, which counts both.
"""

from functools import partial
from typing import Any, cast

from flows.progress import log
from flows.run_context import RunContext
from flows.stages.stage import Stage
from schemas.errors import StageError
from schemas.files import read_jsonl, write_json, write_jsonl
from schemas.task import Task
from schemas.trace import Trace, is_kept
from teacher.scenes.images import task_images


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
    from schemas.filter import filter_traces as judge_traces
    from student.rendering.examples import turns

    renderer = context.renderer()
    train, limits = context.recipe.train, context.recipe.filter.model_dump()
    if train.overflow == "reject":
        limits["max_tokens"] = min(limits["max_tokens"], train.max_length)
    else:
        limits["max_turn"] = train.max_length

    def turn_lengths(trace: Trace) -> list[int]:
        return [len(turn) for turn in turns(trace, renderer)]

    traces = cast(list[Trace], list(read_jsonl(context.path("traces.jsonl"))))
    exam = cast(list[Task], list(read_jsonl(context.path("tasks", "exam.jsonl"))))
    names = {name for trace in traces for name in trace["images"]}
    names |= {name for task in exam for name in task_images(task)}
    looks = {name: context.image_store.fingerprint(name) for name in names}
    judged, ledger = judge_traces(traces, exam, FilterSettings(**limits), turn_lengths, looks)
    write_jsonl(context.path("filter", "kept.jsonl"), [row for row in judged if is_kept(row)])
    rejected = [row for row in judged if not is_kept(row)]
    write_jsonl(context.path("filter", "rejected.jsonl"), rejected)
    ledger_file = context.path("filter", "ledger.json")
    write_json(ledger_file, ledger)
    reasons = ", ".join(f"{count} {reason}" for reason, count in ledger["rejected"].items())
    log(
        f"{ledger['traces']} traces = {ledger['kept']} kept"
        f" + {ledger['traces'] - ledger['kept']} rejected{f' ({reasons})' if reasons else ''}"
    )
    verdicts = [row["verdict"] for row in rejected if row["verdict"]]
    crashes = [each["detail"] for each in verdicts if each.get("reason") == "tool_crashed"]
    if crashes:
        log(f"  a tool of the pack failed in {len(crashes)} episodes, first as: {crashes[0]}")
    if not ledger["kept"]:
        raise StageError(
            f"{ledger_file}: no trace was kept, so there is nothing to train on: see rejected.jsonl"
        )
    return {"traces": ledger["traces"], "kept": ledger["kept"]}
