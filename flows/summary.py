"""Summarizes a run: as data for --json, and as the last lines that the command prints."""

import contextlib
from pathlib import Path
from typing import Any

from flows import commands
from flows.commands import shell_path
from flows.estimate import planned_seconds
from flows.progress import log, step
from flows.report.html import write
from flows.request_lines import request_lines
from flows.run_context import RunContext
from flows.run_directory import STAGES
from schemas.files import read_json
from schemas.scorecard import Count, Score, conduct_text, interval_text, titled_parts
from student.registry.artifact import PROJECTOR


def summarize(context: RunContext) -> dict[str, Any]:
    """Writes the report and returns what the run has so far.

    Returns:
        {"run", "domain", "stages": seconds of each finished stage, "planned": seconds of stages by plan.json, "report":
        its path, "requests": lines about those to the teacher, "funnel": filter/ledger.json, "scorecard":
        evaluate/scorecard.json, "published": {"name", "tag", "digest", "store"} and with gate.against "held_back", the
        reason why `latest` was not moved to it}; the last four where their stages have run.
    """
    receipts = {name: context.run.receipt(name) for name in STAGES}
    with step("writing the report"):
        report = write(context.directory)
    summary: dict[str, Any] = {
        "run": str(context.directory),
        "domain": context.domain.name,
        "stages": {name: receipt["seconds"] for name, receipt in receipts.items() if receipt},
        "planned": planned_seconds(context.directory),
        "report": str(report),
    }
    if receipts["generate"]:
        summary["requests"] = request_lines(receipts["generate"]["result"])
    for key, file in (("funnel", "filter/ledger.json"), ("scorecard", "evaluate/scorecard.json")):
        if context.path(file).is_file():
            summary[key] = read_json(context.path(file))
    if receipts["publish"]:
        summary["published"] = receipts["publish"]["result"]
    return summary


def log_summary(context: RunContext, summary: dict[str, Any]) -> None:
    """Prints a summary for the person at the terminal, with the next command to try."""
    log("-" * 60)
    if funnel := summary.get("funnel"):
        log(
            f"funnel     {funnel['tasks']} tasks > {funnel['traces']} traces > {funnel['kept']} kept"
            f" ({funnel['hinted']['kept']} with a hint)"
        )
    for line in summary.get("requests", []):
        log(f"requests   {line}")
    if scorecard := summary.get("scorecard"):
        _log_exam(scorecard["models"]["base"], scorecard["models"]["student"])
    _log_time(summary["stages"], summary.get("planned", {}))
    log(f"report     {shell_path(summary['report'])}")
    if published := summary.get("published"):
        name, store = published["name"], published["store"]
        version = f"{name}:{published['tag']}"
        log(f"published  {version} in {commands.store_name(store)}")
        if reason := published.get("held_back"):
            log(f"held back  {name}:latest stays as it is: {version} is {reason}")
            log(f"to move it {commands.stillhouse()} promote {version} latest")
        log(f"get it     {commands.pull(version if reason else name, store)}")
        pulled = Path("students", name)
        weights = pulled / context.gguf_name(context.recipe.evaluate.variant)
        projector = pulled / context.gguf_name(PROJECTOR) if context.student_reads_pixels else None
        if context.recipe.evaluate.engine == "vllm":
            log(f"talk to it {commands.vllm_serve(pulled / 'vllm')}")
        else:
            log(f"talk to it {commands.llama_server(weights, projector)}")


def _log_time(seconds: dict[str, float], planned: dict[str, float]) -> None:
    """Prints the minutes of each stage, and those that the plan expected of the stages that it knows."""
    by_stage = [
        f"{name} {value / 60:.1f}"
        + (f" of {planned[name] / 60:.1f} planned" if name in planned else "")
        for name, value in seconds.items()
    ]
    # Of a large teacher the plan knows only some stages.
    is_whole = "the rest" in planned and planned.keys() - {"the rest"} <= seconds.keys()
    whole = f" of {sum(planned.values()) / 60:.1f} planned" if is_whole else ""
    log(f"time       {sum(seconds.values()) / 60:.1f} min{whole} ({', '.join(by_stage)})")


def _log_exam(base: Score, student: Score) -> None:
    """Prints the tasks passed before and after training, by part and, of the headline, by the calls needed."""
    log(f"exam                    {'before':>12}{'after':>12}  95 % interval")
    before, parts = dict(titled_parts(base)), titled_parts(student)
    for title, after in parts:
        counts = _passed(before.get(title)) + _passed(after)
        log(f"  {title:22}{counts}  {interval_text(after)}")
    for calls, after_calls in student["by_calls"].items():
        name = {"0": "no call", "1": "one call"}.get(calls, f"{calls} calls")
        log(f"  {name:22}{_passed(base['by_calls'].get(calls))}{_passed(after_calls)}")
    writes = [
        f"{part['unasked_write']['tasks']} of {part['tasks']} ({title})"
        for title, part in parts
        if "unasked_write" in part
    ]
    if writes:
        log(f"  tasks with unasked writes: {', '.join(writes)}")
    for title, part in parts:
        if text := conduct_text(part):
            log(f"  {title}: {text}")


def _passed(count: Count | None) -> str:
    return f"{count['passed']} of {count['tasks']}".rjust(12) if count else f"{'-':>12}"


def relative(path: Path) -> str:
    """A path as the terminal shows it: from the working directory on, where it lies in it."""
    with contextlib.suppress(ValueError):
        return str(path.resolve().relative_to(Path.cwd()))
    return str(path)
