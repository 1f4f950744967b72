"""Decides which traces the student learns from: the ordered checks, and a ledger in which every row counts.

A trace is judged alone first (`check_trace`), then against the exam and against its peers
(`filter_traces`). Each rejected trace has one reason: the first check that it fails.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jsonschema.exceptions import best_match

from schemas.dedup import contaminations, near_duplicates, request_of, trace_text
from schemas.validation import (
    MESSAGE_REASONS,
    Verdict,
    check_messages,
    describe,
    kept,
    rejected,
    text_of,
    validator,
)
from schemas.wording import quotes_hint

# In the order of the checks, but for one: what a teacher's failure cut off is a teacher_error, not a
# malformed conversation, so that is asked before the messages are looked at.
REASONS = (
    *MESSAGE_REASONS,
    "teacher_error",
    "truncated",
    "step_limit",
    "tool_error_unrecovered",
    "wrong_answer",
    "wrong_state",
    "too_long",
    "answer_leaked",
    "contaminated",
    "near_duplicate",
    "over_represented",
)

# What a teacher's dialect finds in a reply (teacher/kimi.py), and the reason of a trace that ends on it: it could not
# be repaired, and a second try was no better.
DETECTED = {
    "answer_in_reasoning": "empty_turn",
    "call_in_reasoning": "marker_leak",
    "degenerate_output": "teacher_error",
    "empty_tool_calls": "empty_turn",
    "narrated_call": "narrated_call",
    "raw_markers": "marker_leak",
    "truncated_json": "invalid_json_arguments",
    "unknown_tool": "unknown_tool",
}

# Opens the system message that shows a teacher the plan; the stored messages must be without it.
HINT_HEADER = "Plan for this task (do not mention it):"

Trace = dict[str, Any]
CountTokens = Callable[[Trace], list[int]]


@dataclass(frozen=True)
class FilterSettings:
    """The recipe's `filter` section.

    max_tokens: the longest trace, as the student's template renders it.
    near_duplicate: similarity (0 to 1) from which a trace repeats an earlier one.
    contamination: similarity from which a request gives an exam task away.
    per_task: the most kept traces of one task.
    per_template: the most that one template may have of the traces that pass all else; None for no limit.
    max_turn: the most tokens at which a turn is still learned, where those beyond it are left out of a kept trace:
        one turn at least has to be within it.
    """

    max_tokens: int
    near_duplicate: float
    contamination: float
    per_task: int
    per_template: float | None = None
    max_turn: int | None = None


def check_trace(
    trace: Trace, settings: FilterSettings, count_tokens: CountTokens | None = None
) -> Verdict:
    """Judges one trace by itself: its form, its conversation, how its episode ended, what it says.

    Args:
        count_tokens: the student's tokens at the end of each turn that the trace teaches; without it nothing is
            too_long. A ValueError says that the student's template cannot show the trace: malformed_trace.

    Returns:
        {"kept", "reason", "detail", "message_index"}; the last three None where it is kept.
    """
    error = best_match(validator("trace").iter_errors({**trace, "verdict": None}))
    if error is not None:
        path = list(error.absolute_path)
        in_message = len(path) > 1 and path[0] == "messages"
        return rejected("malformed_trace", describe(error), path[1] if in_message else None)
    outcome, messages = trace["outcome"], trace["messages"]
    if outcome["ended"] == "teacher_error":
        return rejected("teacher_error", outcome["error"] or "the teacher gave no usable reply")
    if outcome["ended"] == "unusable_reply":
        return _unusable(trace)
    conversation = check_messages(messages, trace["tools"])
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    last_turn = turns[-1] if turns else None
    # A turn that was cut off is empty or no JSON because of that: it was still thinking, or writing.
    only_the_last = conversation["kept"] or conversation["message_index"] == last_turn
    if outcome["ended"] == "truncated" and only_the_last:
        return rejected("truncated", "the reply was cut off at max_tokens", last_turn)
    if not conversation["kept"]:
        return conversation

    if outcome["ended"] == "step_limit":
        return rejected("step_limit", f"no answer after {outcome['steps']} steps", last_turn)
    errors = outcome["tool_errors"]
    results = {i for i, message in enumerate(messages) if message["role"] == "tool"}
    if errors and not any(i > max(errors) for i in results - set(errors)):
        return rejected("tool_error_unrecovered", "no call succeeded after the error", max(errors))
    if outcome["checks"]["answer"] is False:
        return rejected("wrong_answer", "the last message does not give the answer", last_turn)
    if not outcome["checks"]["state"]:
        return rejected("wrong_state", "the world is not in the state that the plan leads to")
    return (
        (_length(trace, settings, count_tokens) if count_tokens else None) or _leak(trace) or kept()
    )


def _length(trace: Trace, settings: FilterSettings, count_tokens: CountTokens) -> Verdict | None:
    try:
        turns = count_tokens(trace)
    except ValueError as error:
        return rejected("malformed_trace", str(error))
    if not turns:
        return rejected(
            "tool_error_unrecovered", "each of its turns met an error: none may be learned"
        )
    if max(turns) > settings.max_tokens:
        return rejected("too_long", f"{max(turns)} tokens, at most {settings.max_tokens}")
    if settings.max_turn is not None and min(turns) > settings.max_turn:
        return rejected(
            "too_long", f"{min(turns)} tokens in its first turn, at most {settings.max_turn}"
        )
    return None


def _unusable(trace: Trace) -> Verdict:
    """The rejection of a trace that ended on a reply in which a known failure was found."""
    detected = trace["outcome"].get("detected")
    name = detected[-1]["name"] if detected else ""
    detail = trace["outcome"]["error"] or name or "a reply that cannot be used"
    return rejected(DETECTED.get(name, "teacher_error"), detail, len(trace["messages"]) - 1)


def _leak(trace: Trace) -> Verdict | None:
    """Whether the plan that a teacher was shown can be read in what it says."""
    for index, message in enumerate(trace["messages"]):
        text = text_of(message.get("content"))
        if HINT_HEADER in text:
            return rejected("answer_leaked", "the hint is still in the messages", index)
        if trace["hinted"] and message["role"] == "assistant":
            said = "\n".join([message.get("reasoning_content") or "", text])
            if quote := quotes_hint(said):
                return rejected("answer_leaked", f"says {quote!r}", index)
    return None


def filter_traces(
    traces: Iterable[Trace],
    exam_tasks: Sequence[dict[str, Any]],
    settings: FilterSettings,
    count_tokens: CountTokens | None = None,
) -> tuple[list[Trace], dict[str, Any]]:
    """Judges all traces of a run. Of traces that repeat each other, the first is kept.

    Args:
        traces: as teacher.episode wrote them; an earlier verdict is replaced.
        exam_tasks: what the student will be examined on; their `request` is compared.

    Returns:
        The traces with their verdicts, in the order given, and the ledger: {"traces", "kept", "rejected":
        {reason: count}, "tasks", "tasks_without_kept": [id], "hinted": {"traces", "kept"}, "by_template":
        {template: {"traces", "kept"}}}, where traces = kept + the sum of rejected.
    """
    traces = list(traces)
    verdicts = [check_trace(trace, settings, count_tokens) for trace in traces]

    def passing() -> list[int]:
        return [i for i, verdict in enumerate(verdicts) if verdict["kept"]]

    left = passing()
    requests = [request_of(traces[i]["messages"]) for i in left]
    exam_requests = [task["request"] for task in exam_tasks]
    found = contaminations(requests, exam_requests, settings.contamination)
    for i, task in zip(left, found, strict=True):
        if task is not None:
            verdicts[i] = rejected("contaminated", f"like the exam task {exam_tasks[task]['id']}")

    left = passing()
    texts = [trace_text(traces[i]["messages"]) for i in left]
    twins = near_duplicates(texts, settings.near_duplicate)
    for i, twin in zip(left, twins, strict=True):
        if twin is not None:
            verdicts[i] = rejected("near_duplicate", f"like {traces[left[twin]]['id']}")

    _limit(verdicts, traces, passing(), "id", settings.per_task)
    if settings.per_template is not None:
        left = passing()
        most = max(1, math.floor(settings.per_template * len(left)))
        _limit(verdicts, traces, left, "template", most)

    judged = [
        {**trace, "verdict": {"kept": True} if verdict["kept"] else verdict}
        for trace, verdict in zip(traces, verdicts, strict=True)
    ]
    return judged, _ledger(judged)


def _limit(
    verdicts: list[Verdict], traces: list[Trace], left: list[int], field: str, most: int
) -> None:
    """Rejects what is left beyond the first `most` traces that share a field of their task."""
    counts: Counter[str] = Counter()
    for i in left:
        value = traces[i]["task"][field]
        counts[value] += 1
        if counts[value] > most:
            what = "task" if field == "id" else field
            detail = f"{what} {value} has {most} kept traces already"
            verdicts[i] = rejected("over_represented", detail)


def _ledger(judged: list[Trace]) -> dict[str, Any]:
    """The account of a run. A malformed trace may lack its task: its task and template are then ""."""
    kept_traces = [trace for trace in judged if trace["verdict"]["kept"]]
    reasons = Counter(t["verdict"]["reason"] for t in judged if not t["verdict"]["kept"])
    tasks = dict.fromkeys(_task(trace, "id") for trace in judged)
    solved = {_task(trace, "id") for trace in kept_traces}
    by_template = {
        template: {
            "traces": sum(_task(trace, "template") == template for trace in judged),
            "kept": sum(_task(trace, "template") == template for trace in kept_traces),
        }
        for template in sorted({_task(trace, "template") for trace in judged})
    }
    assert len(judged) == len(kept_traces) + reasons.total()
    return {
        "traces": len(judged),
        "kept": len(kept_traces),
        "rejected": {reason: reasons[reason] for reason in REASONS if reasons[reason]},
        "tasks": len(tasks),
        "tasks_without_kept": [task for task in tasks if task not in solved],
        "hinted": {
            "traces": sum(trace.get("hinted") is True for trace in judged),
            "kept": sum(trace["hinted"] for trace in kept_traces),
        },
        "by_template": by_template,
    }


def _task(trace: Trace, field: str) -> str:
    task = trace.get("task")
    value = task.get(field) if isinstance(task, dict) else None
    return value if isinstance(value, str) else ""
