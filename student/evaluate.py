"""The exam: a GGUF file, served by llama.cpp, at held-out tasks through the same agent loop as the teacher's.

No worked examples, no hints, no constrained decoding: what a user of the file will get.
"""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from schemas.messages import text_of
from schemas.text_heuristics import marker_in
from schemas.tool_calls import call_problem, functions_by_name
from teacher.domain.pack import Domain
from teacher.inference.client import Client
from teacher.inference.journal import Journal
from teacher.inference.process import serve
from teacher.rollout import agent_loop
from teacher.rollout.scheduler import rollouts
from teacher.scenes.images import Album, Grounding

_REPLY_SECONDS = 300


async def sit(
    gguf: Path,
    sha256: str,
    tasks: list[dict[str, Any]],
    domain: Domain,
    settings: Any,
    context: int,
    template: Path | None,
    journal: Path,
    log: Path,
    progress: Callable[[], None],
    images: Grounding = "source",
    album: Album | None = None,
    projector: Path | None = None,
) -> list[dict[str, Any]]:
    """Has a model sit the exam; returns a trace for each task, in the tasks' order.

    Args:
        gguf, sha256: the file, and the digest that names it in the journal.
        settings: the recipe's `evaluate` section. context: tokens of one conversation.
        template: a chat template instead of the file's own (for a base that has none with tools).
        progress: called as each episode ends.
        images: what the model is shown of the tasks' pictures, which lie in `album`.
        projector: the file by which it sees their pixels (llama.cpp's mmproj).
    """
    identity = {"model": gguf.name, "revision": sha256}
    model = {**identity, "engine": "llama.cpp", "licence": "see the model card"}
    loop = agent_loop.Settings(
        min(settings.max_steps, domain.spec["budgets"]["steps"]),
        settings.max_tokens,
        settings.temperature,
        top_p=1.0,
        images=images,
        album=album,
    )
    replies = Journal(journal)
    traces = {}
    with serve(gguf, log, settings.concurrency, context, template, projector) as endpoint:
        async with Client(
            endpoint, identity, replies, settings.concurrency, _REPLY_SECONDS, album
        ) as client:
            async for trace in rollouts(tasks, domain, client, loop, model, settings.concurrency):
                traces[trace["task"]["id"]] = trace
                progress()
    replies.close()
    return [traces[task["id"]] for task in tasks]


def score(
    traces: list[dict[str, Any]], tasks: list[dict[str, Any]], name: str, file: str, sha256: str
) -> dict[str, Any]:
    """A model's part of the scorecard (schemas/scorecard.schema.json)."""
    by_kind, by_calls, by_template = _counts(), _counts(), _counts()
    turns = {"total": 0, "well_formed": 0}
    for trace, task in zip(traces, tasks, strict=True):
        calls = str(len(task["plan"])) if len(task["plan"]) < 2 else "2+"
        for part in (by_kind[task["kind"]], by_calls[calls], by_template[task["template"]]):
            part["tasks"] += 1
            part["passed"] += agent_loop.passed(trace)
        for message in trace["messages"]:
            if message["role"] == "assistant":
                turns["total"] += 1
                turns["well_formed"] += well_formed(message, trace["tools"])
    return {
        "name": name,
        "file": file,
        "sha256": sha256,
        "tasks": len(traces),
        "passed": sum(agent_loop.passed(trace) for trace in traces),
        "by_kind": dict(sorted(by_kind.items())),
        "by_calls": dict(sorted(by_calls.items())),
        "by_template": dict(sorted(by_template.items())),
        "turns": turns,
        "seconds": round(sum(call["seconds"] for trace in traces for call in trace["calls"]), 1),
    }


def _counts() -> dict[str, dict[str, int]]:
    return defaultdict(lambda: {"tasks": 0, "passed": 0})


def well_formed(message: dict[str, Any], tools: list[dict[str, Any]]) -> bool:
    """Whether a turn is valid calls, or text that a user can be shown."""
    calls = message.get("tool_calls") or []
    content = text_of(message.get("content"))
    if marker_in(content):
        return False
    if not calls:
        return bool(content.strip())
    functions = functions_by_name(tools)
    return all(
        call_problem(call["function"]["name"], call["function"]["arguments"], functions) is None
        for call in calls
    )


def gate(
    base: dict[str, Any],
    student: dict[str, Any],
    min_gain: float,
    min_well_formed: float,
    min_success: float = 0,
) -> dict[str, Any]:
    """Whether the student may be published: better than its base by the margin, and its turns in form.

    min_gain, min_well_formed: the recipe's; min_success: the domain's (exam.min_success). All are shares, 0 to 1.
    """
    before, after = (model["passed"] / max(1, model["tasks"]) for model in (base, student))
    form = student["turns"]["well_formed"] / max(1, student["turns"]["total"])
    checks = [
        {
            "name": "better_than_base",
            # Rounded, because 18/60 - 15/60 is less than 0.05 in floating point.
            "passed": round(after - before, 9) >= min_gain,
            "detail": f"{after:.0%} of the exam against {before:.0%}, a gain of {min_gain:.0%} wanted",
        },
        {
            "name": "well_formed",
            "passed": form >= min_well_formed,
            "detail": f"{form:.0%} of the turns, {min_well_formed:.0%} wanted",
        },
        {
            "name": "good_enough",
            "passed": after >= min_success,
            "detail": f"{after:.0%} of the exam, {min_success:.0%} wanted by the domain",
        },
    ]
    return {"passed": all(check["passed"] for check in checks), "checks": checks}
