"""Judges a trace alone, by ordered checks; the first that it fails is its reason. The rest follows in filter_run.py."""

from collections.abc import Callable

from schemas.canonical import Refused
from schemas.documents import document_problem
from schemas.ledger import REASONS
from schemas.messages import check_messages, kept, rejected, text_of
from schemas.recipe_teacher import Filter
from schemas.text_heuristics import quotes_hint
from schemas.trace import SWARM_CAUSES, SWARM_FAILURES, End, Trace, Verdict, swarm_failure

__all__ = [
    "DETECTED",
    "HINT_HEADER",
    "REASONS",
    "CountTokens",
    "FilterSettings",
    "check_trace",
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

# The reason and its detail where the last message does not do what the task expects (outcome.expected).
_EXPECTED = {
    "declines": ("not_declined", "no tool fits, and the last message does not say so"),
    "asks": ("guessed", "the last message does not ask for what is missing"),
    "refuses": ("not_declined", "the last message does not refuse by the policy, with its reason"),
}

# Opens the system message that shows a teacher the solution; the stored messages must not contain it.
HINT_HEADER = "Plan for this task (do not mention it):"

# (trace, enough): the student's token count at the end of each turn that the trace teaches. One of at most `enough` may
# be given as a larger number up to `enough`.
CountTokens = Callable[[Trace, int], list[int]]


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
    if outcome["ended"] == End.USER_FAULT:
        return rejected("user_fault", outcome["error"] or "the simulated user broke its rules")
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
    if failure := swarm_failure(outcome, SWARM_CAUSES):
        return rejected(failure["name"], failure["detail"], last_turn)
    passes = outcome["checks"]["answer"] is not False and outcome["checks"]["state"]
    if (given_up := _unrepeated_fault(trace)) is not None and not passes:
        return rejected("gave_up", "the call that failed was not made again", given_up)
    errors = outcome["tool_errors"]
    results = {i for i, message in enumerate(messages) if message["role"] == "tool"}
    if errors and not any(i > max(errors) for i in results - set(errors)):
        return rejected("tool_error_unrecovered", "no call succeeded after the error", max(errors))
    if breaches := outcome.get("policy_breaches"):
        return rejected("policy_breach", "the policy does not allow the call", breaches[0])
    if outcome["checks"]["answer"] is False and (expected := outcome.get("expected")):
        reason, detail = _EXPECTED[expected]
        return rejected(reason, detail, last_turn)
    if not passes and outcome.get("declined"):
        return rejected("over_refused", "the task can be solved, and is declined", last_turn)
    if outcome["checks"]["answer"] is False:
        detail = "the last message does not contain the expected answer"
        return rejected("wrong_answer", outcome.get("answer_problem") or detail, last_turn)
    if not outcome["checks"]["state"]:
        return rejected("wrong_state", "the world is not in the state that the solution leads to")
    if unasked := outcome.get("unasked_writes"):
        return rejected(
            "unasked_write", "the call changed the world and is not in the solution", unasked[0]
        )
    if failure := swarm_failure(outcome, SWARM_FAILURES):
        return rejected(failure["name"], failure["detail"])
    if needless := outcome.get("needless_calls"):
        return rejected("needless_call", "the task needs no call", needless[0])
    return (
        (_check_length(trace, settings, count_tokens) if count_tokens else None)
        or _check_leak(trace)
        or _check_blind(trace)
        or kept()
    )


def _unrepeated_fault(trace: Trace) -> int | None:
    """Returns the index of the first result that the task made fail and whose call did not succeed later, or None."""
    messages, errors = trace["messages"], set(trace["outcome"]["tool_errors"])
    names = {
        call["id"]: call["function"]["name"]
        for message in messages
        for call in message.get("tool_calls") or []
    }
    succeeded = [
        (index, names.get(message["tool_call_id"]))
        for index, message in enumerate(messages)
        if message["role"] == "tool" and index not in errors
    ]
    for fault in trace["outcome"].get("faults", []):
        name = names.get(messages[fault]["tool_call_id"])
        if not any(index > fault and other == name for index, other in succeeded):
            return fault
    return None


def _check_length(
    trace: Trace, settings: FilterSettings, count_tokens: CountTokens
) -> Verdict | None:
    limit = settings.max_tokens
    enough = limit if settings.max_turn is None else min(limit, settings.max_turn)
    try:
        turns = count_tokens(trace, enough)
    except Refused as error:
        return rejected(error.reason, str(error))
    except ValueError as error:
        return rejected("malformed_trace", str(error))
    if not turns:
        return rejected(
            "tool_error_unrecovered", "every turn met an error, so there is none to learn from"
        )
    if max(turns) > limit:
        return rejected("too_long", f"{max(turns)} tokens, at most {limit}")
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
