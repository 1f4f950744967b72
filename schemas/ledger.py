"""The ledger of a run's traces: every trace is counted, as kept or under one named rejection."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NotRequired, TypedDict

from schemas.messages import MESSAGE_REASONS
from schemas.trace import Trace, is_kept

# In the order of the checks, with one exception: a trace that a failure of the teacher or of a tool cut off is a
# teacher_error or tool_crashed and not a malformed conversation, so check_trace tests for that before the messages.
REASONS = (
    *MESSAGE_REASONS,
    "teacher_error",
    "tool_crashed",
    "truncated",
    "step_limit",
    "tool_error_unrecovered",
    "wrong_answer",
    "wrong_state",
    "unasked_write",
    "engines_differ",
    "too_long",
    "answer_leaked",
    "blind_answerable",
    "disagreed",
    "contaminated",
    "near_duplicate",
    "over_represented",
)


class Count(TypedDict):
    """traces: all of a group. kept: those of them that were kept."""

    traces: int
    kept: int


class Ledger(TypedDict):
    """The content of RUN/filter/ledger.json; traces = kept + the sum of rejected.

    rejected: count by reason. tasks_without_kept: ids of tasks. hinted: of traces made with the solution shown.
    by_template: by task template. images: by grounding (pixels, source), present where a trace has images.
    """

    traces: int
    kept: int
    rejected: dict[str, int]
    tasks: int
    tasks_without_kept: list[str]
    hinted: Count
    by_template: dict[str, Count]
    images: NotRequired[dict[str, Count]]


def make_ledger(judged: Sequence[Trace]) -> Ledger:
    """Counts traces that carry their verdicts. A malformed trace may lack its task: its id and template are then ""."""
    kept = [trace for trace in judged if is_kept(trace)]
    reasons = Counter(_reason(trace) for trace in judged if not is_kept(trace))
    tasks = dict.fromkeys(_task_field(trace, "id") for trace in judged)
    solved = {_task_field(trace, "id") for trace in kept}
    assert len(judged) == len(kept) + reasons.total()
    ledger: Ledger = {
        "traces": len(judged),
        "kept": len(kept),
        "rejected": {reason: reasons[reason] for reason in REASONS if reasons[reason]},
        "tasks": len(tasks),
        "tasks_without_kept": [task for task in tasks if task not in solved],
        "hinted": {
            "traces": sum(trace.get("hinted") is True for trace in judged),
            "kept": sum(trace["hinted"] for trace in kept),
        },
        "by_template": {
            template: {
                "traces": sum(_task_field(trace, "template") == template for trace in judged),
                "kept": sum(_task_field(trace, "template") == template for trace in kept),
            }
            for template in sorted({_task_field(trace, "template") for trace in judged})
        },
    }
    if any(trace.get("images") for trace in judged):
        ledger["images"] = {
            grounding: {
                "traces": sum(trace.get("grounding") == grounding for trace in judged),
                "kept": sum(trace.get("grounding") == grounding for trace in kept),
            }
            for grounding in ("pixels", "source")
        }
    return ledger


def _reason(trace: Trace) -> str | None:
    return trace["verdict"]["reason"] if trace["verdict"] else None


def _task_field(trace: Trace, field: Literal["id", "template"]) -> str:
    task = trace.get("task")
    value = task.get(field) if isinstance(task, dict) else None
    return value if isinstance(value, str) else ""
