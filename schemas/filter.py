"""Decides which traces the student learns from: the ordered checks, and a ledger in which every row counts.

A trace is judged alone first (`check_trace`), then against the exam and against its peers
(`filter_traces`). Each rejected trace has one reason: the first check that it fails.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jsonschema.exceptions import best_match

from schemas.dedup import (
    contaminations,
    near_duplicates,
    request_of,
    same_pictures,
    trace_text,
)
from schemas.documents import validator
from schemas.error_text import describe
from schemas.messages import MESSAGE_REASONS, Verdict, check_messages, kept, rejected, text_of
from schemas.text_heuristics import quotes_hint

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
    "blind_answerable",
    "disagreed",
    "contaminated",
    "near_duplicate",
    "over_represented",
)

# What a teacher's dialect finds in a reply (teacher/dialects/base.py), and the reason of a trace that ends on it: it could
# not be repaired, and a second try was no better.
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
    agreement: how many of a task's attempts, hinted ones not counted, must pass; None for no such condition.
    """

    max_tokens: int
    near_duplicate: float
    contamination: float
    per_task: int
    per_template: float | None = None
    max_turn: int | None = None
    agreement: int | None = None


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
    conversation = check_messages(messages, trace["tools"], trace["images"])
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
        (_length(trace, settings, count_tokens) if count_tokens else None)
        or _leak(trace)
        or _blind(trace)
        or kept()
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


def _blind(trace: Trace) -> Verdict | None:
    """Whether the task was solved without its images: what such a trace says of them may be a guess."""
    if not trace["outcome"].get("blind"):
        return None
    return rejected("blind_answerable", "the teacher solved the task without its images, too")


def filter_traces(
    traces: Iterable[Trace],
    exam_tasks: Sequence[dict[str, Any]],
    settings: FilterSettings,
    count_tokens: CountTokens | None = None,
    pictures: Mapping[str, tuple[str, str]] | None = None,
) -> tuple[list[Trace], dict[str, Any]]:
    """Judges all traces of a run. Of traces that repeat each other, the first is kept.

    Args:
        traces: as teacher.rollout.agent_loop wrote them; an earlier verdict is replaced.
        exam_tasks: what the student will be examined on; their `request` and `pictures` are compared.
        pictures: (difference hash, what it shows) of each picture, by its sha256; without it only the same file is the
            same picture.

    Returns:
        The traces with their verdicts, in the order given, and the ledger: {"traces", "kept", "rejected":
        {reason: count}, "tasks", "tasks_without_kept": [id], "hinted": {"traces", "kept"}, "by_template":
        {template: {"traces", "kept"}}}, where traces = kept + the sum of rejected.
    """
    traces = list(traces)
    verdicts = [check_trace(trace, settings, count_tokens) for trace in traces]

    def passing() -> list[int]:
        return [i for i, verdict in enumerate(verdicts) if verdict["kept"]]

    if settings.agreement is not None:
        _agree(verdicts, traces, settings.agreement)

    looks = _looks([*traces, *exam_tasks], pictures or {})
    left = passing()
    requests = [
        _with_pictures(request_of(traces[i]["messages"]), traces[i]["images"], looks) for i in left
    ]
    exam_requests = [
        _with_pictures(task["request"], _pictures_of(task), looks) for task in exam_tasks
    ]
    found = contaminations(requests, exam_requests, settings.contamination)
    for i, task in zip(left, found, strict=True):
        if task is not None:
            verdicts[i] = rejected("contaminated", f"like the exam task {exam_tasks[task]['id']}")

    left = passing()
    texts = [
        _with_pictures(trace_text(traces[i]["messages"]), traces[i]["images"], looks) for i in left
    ]
    twins = near_duplicates(texts, settings.near_duplicate)
    for i, twin in zip(left, twins, strict=True):
        if twin is not None:
            verdicts[i] = rejected("near_duplicate", f"like {traces[left[twin]]['id']}")
    _same_look(verdicts, traces, passing(), looks)

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


def _agree(verdicts: list[Verdict], traces: list[Trace], wanted: int) -> None:
    """Rejects what is left of tasks of which fewer than `wanted` attempts passed without a hint."""
    passed = Counter(
        trace["task"]["id"]
        for trace, verdict in zip(traces, verdicts, strict=True)
        if verdict["kept"] and not trace["hinted"]
    )
    for i, trace in enumerate(traces):
        if verdicts[i]["kept"] and passed[trace["task"]["id"]] < wanted:
            detail = (
                f"{passed[trace['task']['id']]} attempts without a hint passed, {wanted} wanted"
            )
            verdicts[i] = rejected("disagreed", detail)


def _looks(
    rows: Sequence[dict[str, Any]], pictures: Mapping[str, tuple[str, str]]
) -> dict[str, str]:
    """For each picture the first one that looks and says the same."""
    names = [
        name for name in dict.fromkeys(n for r in rows for n in _pictures_of(r)) if name in pictures
    ]
    return {
        name: names[first]
        for name, first in zip(names, same_pictures([pictures[n] for n in names]), strict=True)
    }


def _pictures_of(row: dict[str, Any]) -> list[str]:
    """The pictures of a trace or a task. A trace may be malformed."""
    pictures = row.get("pictures", row.get("images", []))
    if not isinstance(pictures, list):
        return []
    names = [p.get("sha256") if isinstance(p, dict) else p for p in pictures]
    return [name for name in names if isinstance(name, str)]


def _with_pictures(text: str, names: Sequence[str], looks: Mapping[str, str]) -> str:
    """A text that is another one where it is about another picture: a hash is a particular of it."""
    return " ".join([text, *(looks.get(name, name) for name in names)])


def _same_look(
    verdicts: list[Verdict], traces: list[Trace], left: list[int], looks: Mapping[str, str]
) -> None:
    """Rejects what is left of traces whose pictures all look like those of an earlier one of another task."""
    first: dict[tuple[str, ...], Trace] = {}
    for i in left:
        shown = tuple(looks.get(name, name) for name in traces[i]["images"])
        if not shown:
            continue
        earlier = first.setdefault(shown, traces[i])
        if earlier["task"]["id"] != traces[i]["task"]["id"]:
            verdicts[i] = rejected("near_duplicate", f"shows the pictures of {earlier['id']}")


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
        **_grounding(judged, kept_traces),
    }


def _grounding(judged: list[Trace], kept_traces: list[Trace]) -> dict[str, Any]:
    """Of the traces with images, how many a teacher made who saw them, and who read what they show."""
    if not any(trace.get("images") for trace in judged):
        return {}
    return {
        "images": {
            name: {
                "traces": sum(trace.get("grounding") == name for trace in judged),
                "kept": sum(trace.get("grounding") == name for trace in kept_traces),
            }
            for name in ("pixels", "source")
        }
    }


def _task(trace: Trace, field: str) -> str:
    task = trace.get("task")
    value = task.get(field) if isinstance(task, dict) else None
    return value if isinstance(value, str) else ""
