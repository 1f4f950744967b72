"""filter: judges each trace and keeps those that are training data.

    stillhouse filter RUN

Writes filter/kept.jsonl, filter/rejected.jsonl (each trace with its verdict) and filter/ledger.json, which counts both.
With train.salvage also filter/salvaged.jsonl: rejected traces of which some turns are trained.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from flows.activity import Numbers
from flows.generation import runners
from flows.generation.shards import read_traces, trace_files
from flows.generation.student_worker import judge_shard, judged_path, token_counter, write_job
from flows.progress import log, track
from flows.run_context import RunContext
from flows.stages.stage import Stage
from schemas.canonical import Refused
from schemas.errors import StageError
from schemas.files import open_jsonl, read_jsonl, write_json
from schemas.filter_run import Alone
from schemas.ledger import LedgerCount, Salvaged
from schemas.task import Task
from schemas.trace import Trace, is_kept, nodes

if TYPE_CHECKING:
    from schemas.filter import FilterSettings


@partial(
    Stage,
    name="filter",
    reads=("filter", "train.max_length", "train.overflow", "train.images", "train.salvage"),
    also_reads=("generate.runner", "generate.runner_address", "generate.workers"),
    models=("student",),  # whose tokenizer counts a trace's tokens
    earlier={"plan": "tasks/exam.jsonl", "generate": ""},
    outputs=("filter/kept.jsonl", "filter/rejected.jsonl", "filter/ledger.json"),
)
def filter_traces(context: RunContext) -> dict[str, Any]:
    from schemas.filter import FilterSettings
    from schemas.filter_run import compare_run, judge_run

    train, limits = context.recipe.train, context.recipe.filter.model_dump()
    if train.overflow == "reject":
        limits["max_tokens"] = min(limits["max_tokens"], train.max_length)
    else:
        limits["max_turn"] = train.max_length

    count, first_crash, numbers = LedgerCount(), "", Numbers(good="kept", with_tokens=False)

    def read() -> Iterator[Trace]:
        # A sub-agent's trace is judged and trained as its own, and an orchestrator's row still holds it for the report.
        for trace in read_traces(context.directory):
            yield from nodes(trace)

    exam = cast(list[Task], list(read_jsonl(context.path("tasks", "exam.jsonl"))))
    generated = (context.run.receipt("generate") or {}).get("result", {})
    total = generated.get("traces", 0) + generated.get("sub_agents", 0)
    with (
        open_jsonl(context.path("filter", "kept.jsonl")) as keep,
        open_jsonl(context.path("filter", "rejected.jsonl")) as reject,
        track("traces judged", total, numbers=numbers) as advance,
    ):
        settings = FilterSettings(**limits)
        look = context.image_store.fingerprint
        if context.recipe.generate.runner == "local":
            tokens = token_counter(context.renderer())
            judged = judge_run(read, exam, settings, tokens, look, advance)
        else:
            judged = compare_run(
                read, _judged_by_workers(context, limits, advance), exam, settings, look
            )
        for trace in judged:
            count.add(trace)
            (keep if is_kept(trace) else reject)(trace)
            verdict: Any = trace["verdict"] or {}
            numbers.add(trace, verdict.get("reason"))
            if verdict.get("reason") == "tool_crashed":
                first_crash = first_crash or str(verdict.get("detail"))
    shutil.rmtree(context.path("filter", ".judged"), ignore_errors=True)
    ledger = count.ledger()
    salvaged = context.path("filter", "salvaged.jsonl")
    salvaged.unlink(missing_ok=True)
    if train.salvage:
        ledger["salvaged"] = _salvage(context, exam, settings)
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
    if agents := ledger.get("sub_agents"):
        log(f"  {agents['traces']} of them are sub-agents', {agents['kept']} kept")
    return {"traces": ledger["traces"], "kept": ledger["kept"]}


def _judged_by_workers(
    context: RunContext, limits: dict[str, Any], advance: Callable[..., None]
) -> Iterator[Alone]:
    """Has workers judge each trace alone, and yields what they found in the order of the traces.

    Raises:
        StageError: a worker failed, or a file has other traces than its worker counted.
    """
    run, files = context.directory, trace_files(context.directory)
    write_job(context, "filter", limits=limits)
    receipts: dict[int, dict[str, Any]] = {}
    settings = context.recipe.generate
    for number, receipt in runners.results(
        settings, judge_shard, str(run), range(len(files)), "the file of traces"
    ):
        receipts[number] = receipt
        advance(receipt["traces"])
    for number in range(len(files)):
        rejected: Counter[str] = Counter()
        traces = 0
        for alone in cast(Iterator[Alone], read_jsonl(judged_path(run, number))):
            traces += 1
            if alone["rejected"]:
                rejected[str(alone["rejected"]["reason"])] += 1
            yield alone
        if {"traces": traces, "rejected": dict(rejected)} != receipts[number]:
            raise StageError(
                f"{judged_path(run, number)}: found {traces} judged traces, expected {receipts[number]}"
            )


def _salvage(
    context: RunContext,
    exam: list[Task],
    settings: "FilterSettings",
) -> Salvaged:
    """Writes filter/salvaged.jsonl: of each task that no kept trace solves, the failed one with most harmless turns.

    A trace that was made with a hint, has images or sub-agents, repeats an exam request or is too long is left out.
    """
    from schemas.filter_run import repeats_exam
    from teacher.rollout.salvage import REASONS, harmless_turns, has_words_alone

    solved = {row["task"]["id"] for row in read_jsonl(context.path("filter", "kept.jsonl"))}
    tasks = {row["id"]: row for row in read_jsonl(context.path("tasks", "train.jsonl"))}
    is_contaminated = repeats_exam(exam, settings)
    turn_lengths = token_counter(context.renderer())
    best: dict[str, Trace] = {}
    for trace in cast(Iterator[Trace], read_jsonl(context.path("filter", "rejected.jsonl"))):
        name, verdict = trace["task"]["id"], trace["verdict"]
        reason = verdict.get("reason") if verdict else None
        if name in solved or name not in tasks or reason not in REASONS:
            continue
        if trace["hinted"] or not has_words_alone(trace) or is_contaminated(trace):
            continue
        turns = harmless_turns(trace, tasks[name], context.domain)
        if len(turns) > len(best[name]["trained"] if name in best else ()):
            trace["trained"] = turns
            limit = settings.max_turn or settings.max_tokens
            try:
                lengths = turn_lengths(trace, limit)
            except (Refused, ValueError):  # as of a trace that the filter judges
                continue
            if max(lengths) <= limit:
                best[name] = trace
    with open_jsonl(context.path("filter", "salvaged.jsonl")) as write:
        for trace in best.values():
            write(trace)
    turns_in_all = sum(len(trace["trained"]) for trace in best.values())
    log(f"{turns_in_all} turns of {len(best)} rejected traces are salvaged (train.salvage)")
    return {"traces": len(best), "turns": turns_in_all}
