"""Decides which traces the student learns from, by ordered checks; every trace gets a verdict.

A trace is judged alone first (`check_trace`), then against the exam and against the other traces (`filter_traces`).
A rejected trace has one reason: the first check that it fails.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, cast

from schemas.canonical import Refused
from schemas.dedup import (
    ImageLook,
    calls_of,
    contaminations,
    named_values,
    near_duplicates,
    request_of,
    same_images,
)
from schemas.documents import document_problem
from schemas.ledger import REASONS, Ledger, make_ledger
from schemas.messages import check_messages, kept, rejected, text_of
from schemas.recipe_teacher import Filter
from schemas.task import Task
from schemas.text_heuristics import quotes_hint
from schemas.trace import End, Trace, Verdict

__all__ = [
    "DETECTED",
    "HINT_HEADER",
    "REASONS",
    "CountTokens",
    "FilterSettings",
    "check_trace",
    "filter_traces",
]

# Failures that a teacher's dialect detects in a reply (teacher/dialects/base.py), and the reason of a trace that ends
# on one: the reply could not be repaired, and its retry failed too.
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

# Opens the system message that shows a teacher the solution; the stored messages must not contain it.
HINT_HEADER = "Plan for this task (do not mention it):"

# The student's token count at the end of each turn that the trace teaches.
CountTokens = Callable[[Trace], list[int]]


class FilterSettings(Filter):
    """The recipe's `filter` section, with the limit that train.overflow=split adds.

    max_turn: turns that end beyond so many tokens are left out of a kept trace, so at least one turn must end within
        it; None rejects by max_tokens alone.
    """

    max_turn: int | None = None


def check_trace(
    trace: Trace, settings: FilterSettings, count_tokens: CountTokens | None = None
) -> Verdict:
    """Judges one trace alone: its form, its conversation, how its episode ended, what its text gives away.

    Args:
        trace: any JSON object; one that does not follow trace.schema.json is a malformed_trace.
        count_tokens: without it no trace is too_long. It raises ValueError where the student's template cannot render
            the trace, which is then a malformed_trace, or Refused, which has the reason.

    Returns:
        {"kept", "reason", "detail", "message_index"}; the last three are None for a kept trace.
    """
    violation = document_problem({**trace, "verdict": None}, "trace")
    if violation is not None:
        where, index = (*violation.path, None, None)[:2]
        at = index if where == "messages" and isinstance(index, int) else None
        return rejected("malformed_trace", violation.text, at)
    outcome, messages = trace["outcome"], trace["messages"]
    if outcome["ended"] == End.TEACHER_ERROR:
        return rejected("teacher_error", outcome["error"] or "the teacher gave no usable reply")
    if outcome["ended"] == End.TOOL_CRASHED:
        return rejected("tool_crashed", outcome["error"] or "a tool of the pack failed")
    if outcome["ended"] == End.UNUSABLE_REPLY:
        return _unusable(trace)
    conversation = check_messages(messages, trace["tools"], trace["images"])
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    last_turn = turns[-1] if turns else None
    # Being cut off makes a last turn empty or invalid JSON, so `truncated` is the reason there.
    only_last_turn_fails = conversation["kept"] or conversation["message_index"] == last_turn
    if outcome["ended"] == End.TRUNCATED and only_last_turn_fails:
        return rejected("truncated", "the reply was cut off at max_tokens", last_turn)
    if not conversation["kept"]:
        return conversation

    if outcome["ended"] == End.STEP_LIMIT:
        return rejected("step_limit", f"no answer after {outcome['steps']} steps", last_turn)
    errors = outcome["tool_errors"]
    results = {i for i, message in enumerate(messages) if message["role"] == "tool"}
    if errors and not any(i > max(errors) for i in results - set(errors)):
        return rejected("tool_error_unrecovered", "no call succeeded after the error", max(errors))
    if outcome["checks"]["answer"] is False:
        return rejected(
            "wrong_answer", "the last message does not contain the expected answer", last_turn
        )
    if not outcome["checks"]["state"]:
        return rejected("wrong_state", "the world is not in the state that the solution leads to")
    if unasked := outcome.get("unasked_writes"):
        return rejected(
            "unasked_write", "the call changed the world and is not in the solution", unasked[0]
        )
    return (
        (_check_length(trace, settings, count_tokens) if count_tokens else None)
        or _check_leak(trace)
        or _check_blind(trace)
        or kept()
    )


def _check_length(
    trace: Trace, settings: FilterSettings, count_tokens: CountTokens
) -> Verdict | None:
    try:
        turns = count_tokens(trace)
    except Refused as error:
        return rejected(error.reason, str(error))
    except ValueError as error:
        return rejected("malformed_trace", str(error))
    if not turns:
        return rejected(
            "tool_error_unrecovered", "every turn met an error, so there is none to learn from"
        )
    if max(turns) > settings.max_tokens:
        return rejected("too_long", f"{max(turns)} tokens, at most {settings.max_tokens}")
    if settings.max_turn is not None and min(turns) > settings.max_turn:
        return rejected(
            "too_long", f"{min(turns)} tokens in its first turn, at most {settings.max_turn}"
        )
    return None


def _unusable(trace: Trace) -> Verdict:
    """The rejection of a trace that ended on a reply with a known failure."""
    detected = trace["outcome"].get("detected")
    name = detected[-1]["name"] if detected else ""
    detail = trace["outcome"]["error"] or name or "the last reply is unusable"
    return rejected(DETECTED.get(name, "teacher_error"), detail, len(trace["messages"]) - 1)


def _check_leak(trace: Trace) -> Verdict | None:
    """Rejects a trace whose messages contain the hint, or quote it where the teacher was shown it."""
    for index, message in enumerate(trace["messages"]):
        text = text_of(message.get("content"))
        if HINT_HEADER in text:
            return rejected("answer_leaked", "the hint is still in the messages", index)
        if trace["hinted"] and message["role"] == "assistant":
            reasoning_and_text = "\n".join([message.get("reasoning_content") or "", text])
            if quote := quotes_hint(reasoning_and_text):
                return rejected("answer_leaked", f"quotes the hint: {quote!r}", index)
    return None


def _check_blind(trace: Trace) -> Verdict | None:
    """Rejects a trace whose task was also solved without its images: its statements about them may be guesses."""
    if not trace["outcome"].get("blind"):
        return None
    return rejected("blind_answerable", "the teacher also solved the task without its images")


def filter_traces(
    traces: Iterable[Trace],
    exam_tasks: Sequence[Task],
    settings: FilterSettings,
    count_tokens: CountTokens | None = None,
    images: Mapping[str, ImageLook] | None = None,
) -> tuple[list[Trace], Ledger]:
    """Judges all traces of a run. Of near-duplicates, the first is kept.

    Args:
        traces: as teacher.rollout writes them; an earlier verdict is replaced.
        exam_tasks: the tasks of the held-out exam; their requests and images are compared.
        images: by sha256, the difference hash and content of each image. Without it, two images are the same only
            where their files are.

    Returns:
        The traces with their verdicts, in the order given, and the ledger.
    """
    traces = list(traces)
    verdicts = [check_trace(trace, settings, count_tokens) for trace in traces]

    def passing() -> list[int]:
        return [i for i, verdict in enumerate(verdicts) if verdict["kept"]]

    if settings.agreement is not None:
        _require_agreement(verdicts, traces, settings.agreement)

    canonical = _canonical_images([*traces, *exam_tasks], images or {})

    def requests(indexes: list[int]) -> Iterator[str]:
        for i in indexes:
            request = request_of(traces[i]["messages"])
            yield _with_images(request, traces[i]["images"], canonical)

    left = passing()
    exam_requests = [
        _with_images(task["request"], _images_of(task), canonical) for task in exam_tasks
    ]
    exam_names = [
        named_values(task["request"], [step["arguments"] for step in task["plan"]])
        for task in exam_tasks
    ]
    matches = contaminations(requests(left), exam_requests, settings.contamination, exam_names)
    for i, match in zip(left, matches, strict=True):
        if match is not None:
            verdicts[i] = rejected("contaminated", f"like the exam task {exam_tasks[match]['id']}")

    left = passing()
    calls = (calls_of(traces[i]["messages"]) for i in left)
    matches = near_duplicates(requests(left), settings.near_duplicate, calls)
    for i, match in zip(left, matches, strict=True):
        if match is not None:
            verdicts[i] = rejected("near_duplicate", f"like {traces[left[match]]['id']}")
    _reject_same_images(verdicts, traces, passing(), canonical)

    _limit(verdicts, traces, passing(), "id", settings.per_task)
    if settings.per_template is not None:
        left = passing()
        limit = max(1, math.floor(settings.per_template * len(left)))
        _limit(verdicts, traces, left, "template", limit)

    judged = [
        cast(Trace, {**trace, "verdict": {"kept": True} if verdict["kept"] else verdict})
        for trace, verdict in zip(traces, verdicts, strict=True)
    ]
    return judged, make_ledger(judged)


def _require_agreement(verdicts: list[Verdict], traces: list[Trace], required: int) -> None:
    """Rejects the passing traces of tasks of which fewer than `required` attempts passed without a hint."""
    passed = Counter(
        trace["task"]["id"]
        for trace, verdict in zip(traces, verdicts, strict=True)
        if verdict["kept"] and not trace["hinted"]
    )
    for i, trace in enumerate(traces):
        if verdicts[i]["kept"] and passed[trace["task"]["id"]] < required:
            detail = (
                f"{passed[trace['task']['id']]} attempts without a hint passed, expected {required}"
            )
            verdicts[i] = rejected("disagreed", detail)


def _canonical_images(
    rows: Sequence[Trace | Task], images: Mapping[str, ImageLook]
) -> dict[str, str]:
    """For the sha256 of each image, that of the first image with the same look and content."""
    names = list(dict.fromkeys(name for row in rows for name in _images_of(row) if name in images))
    first = same_images([images[name] for name in names])
    return {name: names[i] for name, i in zip(names, first, strict=True)}


def _images_of(row: Trace | Task) -> list[str]:
    """The sha256 of each image of a trace or a task. A trace may be malformed."""
    fields = cast(dict[str, Any], row)
    images = fields.get("pictures", fields.get("images", []))
    if not isinstance(images, list):
        return []
    names = [image.get("sha256") if isinstance(image, dict) else image for image in images]
    return [name for name in names if isinstance(name, str)]


def _with_images(text: str, names: Sequence[str], canonical: Mapping[str, str]) -> str:
    """The text followed by its images' hashes, so that texts about different images are never near-duplicates."""
    return " ".join([text, *(canonical.get(name, name) for name in names)])


def _reject_same_images(
    verdicts: list[Verdict], traces: list[Trace], left: list[int], canonical: Mapping[str, str]
) -> None:
    """Rejects traces whose images all look like those of an earlier trace of another task."""
    first: dict[tuple[str, ...], Trace] = {}
    for i in left:
        look = tuple(canonical.get(name, name) for name in traces[i]["images"])
        if not look:
            continue
        earlier = first.setdefault(look, traces[i])
        if earlier["task"]["id"] != traces[i]["task"]["id"]:
            verdicts[i] = rejected("near_duplicate", f"has the same images as {earlier['id']}")


def _limit(
    verdicts: list[Verdict],
    traces: list[Trace],
    left: list[int],
    field: Literal["id", "template"],
    limit: int,
) -> None:
    """Rejects traces beyond the first `limit` that share a field of their task."""
    counts: Counter[str] = Counter()
    for i in left:
        value = traces[i]["task"][field]
        counts[value] += 1
        if counts[value] > limit:
            group = "task" if field == "id" else field
            detail = f"{group} {value} already has {limit} kept traces"
            verdicts[i] = rejected("over_represented", detail)
