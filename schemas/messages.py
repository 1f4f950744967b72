"""The ordered checks of a conversation that a model wrote. They return a verdict for any input and never raise."""

from collections.abc import Iterable
from typing import Any

from schemas.error_text import brief, one_line
from schemas.json_text import not_json
from schemas.text_heuristics import announced_call, marker_in
from schemas.tool_calls import call_problem, functions_by_name
from schemas.trace import Message, Verdict

# In the order of the checks: a conversation's reason is the first that applies.
MESSAGE_REASONS = (
    "malformed_trace",
    "unknown_tool",
    "invalid_json_arguments",
    "invalid_arguments",
    "orphan_result",
    "unanswered_call",
    "duplicate_call_id",
    "marker_leak",
    "empty_turn",
    "narrated_call",
)
_ROLES = ("system", "developer", "user", "assistant", "tool")

_Finding = tuple[str, int | None, str]  # reason, message index, detail


def kept() -> Verdict:
    """The verdict of a conversation or trace that passed every check."""
    return {"kept": True, "reason": None, "detail": None, "message_index": None}


def rejected(reason: str, detail: str, message_index: int | None = None) -> Verdict:
    """The verdict of a conversation or trace that failed a check.

    Args:
        reason: one of schemas.ledger.REASONS. message_index: of the message at fault.
    """
    return {
        "kept": False,
        "reason": reason,
        "detail": one_line(detail),
        "message_index": message_index,
    }


def check_messages(
    messages: Any, tools: Any, images: Any = None, *, is_parsed: bool = False
) -> Verdict:
    """Judges a conversation in OpenAI's chat format, without executing its calls.

    Args:
        messages: a call's arguments are JSON text or a parsed object.
        tools: without tools every call is an unknown_tool. Only the schemas of tools that are called are compiled.
        images: a list with one entry for each part {"type": "image"} of the messages, in order; None skips that check.
        is_parsed: whether `parse_json` returned the messages, so that they can be written as JSON.

    Returns:
        {"kept", "reason", "detail", "message_index"}: the first of MESSAGE_REASONS that applies, and the first message
        that it applies to; the last three are None for a kept conversation. It never raises.
    """
    findings = list(_shape(messages, tools, is_parsed))
    if not findings and images is not None:
        findings += _images(messages, images)
    if not findings:
        functions = functions_by_name(tools)
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                findings += _turn(index, message, functions)
        findings += _results(messages)
        findings += _narrated(messages, functions)
    if not findings:
        return kept()
    reason, at, detail = min(
        findings, key=lambda finding: (MESSAGE_REASONS.index(finding[0]), finding[1] or 0)
    )
    return rejected(reason, detail, at)


def text_of(content: Any) -> str:
    """The text of a message's content: a string, a list of parts, or None."""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content or [] if part["type"] == "text")


def _shape(messages: Any, tools: Any, is_parsed: bool) -> Iterable[_Finding]:
    """Checks the types of messages and tools. The other checks run only where this finds nothing."""

    def malformed(index: int | None, detail: str) -> _Finding:
        return "malformed_trace", index, detail

    if tools is not None and not isinstance(tools, list):
        yield malformed(None, f"tools: found {brief(tools)}, expected a list")
    else:
        yield from (malformed(None, problem) for problem in _tool_problems(tools or []))
    if not isinstance(messages, list) or not messages:
        detail = f"messages: found {brief(messages)}, expected a list of at least one message"
        yield malformed(None, detail)
        return
    is_json = is_parsed or not_json(messages) is None
    for index, message in enumerate(messages):
        problem = _message_problem(message, is_json)
        if problem:
            yield malformed(index, problem)
    if not any(isinstance(m, dict) and m.get("role") == "assistant" for m in messages):
        yield malformed(None, "messages: found no assistant message, expected at least one")


def _images(messages: list[Message], images: Any) -> Iterable[_Finding]:
    """Checks that there are as many images as image parts."""
    contents = (message.get("content") for message in messages)
    parts = [part for content in contents if isinstance(content, list) for part in content]
    count = sum(part["type"] == "image" for part in parts)
    # Without image parts, the list belongs to another format, such as one with placeholders in the text.
    if count and (not isinstance(images, list) or count != len(images)):
        actual = len(images) if isinstance(images, list) else brief(images)
        detail = f"images: found {actual}, expected a list of one for each of {count} image parts"
        yield "malformed_trace", None, detail


def _tool_problems(tools: list[Any]) -> Iterable[str]:
    named: dict[str, Any] = {}
    is_json = not_json(tools) is None
    for index, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or not name:
            yield f'tools[{index}]: found {brief(tool)}, expected {{"type", "function": {{"name"}}}}'
        elif not is_json and (problem := not_json(tool)):
            yield f"tools[{index}]: {problem}"
        elif named.setdefault(name, function) != function:
            yield f"tools[{index}]: {name} is defined twice, differently"


def _message_problem(message: Any, is_json: bool) -> str | None:
    if not isinstance(message, dict):
        return f"found {brief(message)}, expected an object"
    if not is_json and (problem := not_json(message)):
        return problem
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        return f"role: found {brief(role)}, expected one of {', '.join(_ROLES)}"
    if isinstance(content, list):
        for index, part in enumerate(content):
            if not isinstance(part, dict) or not isinstance(part.get("type"), str):
                return f'content[{index}]: found {brief(part)}, expected {{"type", ...}}'
            if part["type"] == "text" and not isinstance(part.get("text"), str):
                return f"content[{index}].text: found {brief(part.get('text'))}, expected text"
    elif not isinstance(content, str) and not (role == "assistant" and content is None):
        return f"content: found {brief(content)}, expected text or a list of parts"
    if not isinstance(message.get("reasoning_content"), str | None):
        return f"reasoning_content: found {brief(message['reasoning_content'])}, expected text"
    if role == "tool" and not isinstance(message.get("tool_call_id"), str | None):
        return f"tool_call_id: found {brief(message['tool_call_id'])}, expected text"
    calls = message.get("tool_calls")
    if calls is None:
        return None
    if not isinstance(calls, list):
        return f"tool_calls: found {brief(calls)}, expected a list"
    if calls and role != "assistant":
        return f"tool_calls: found in a message of the {role}, expected in an assistant's"
    for index, call in enumerate(calls):
        if problem := _call_problem(call):
            return f"tool_calls[{index}]{problem}"
    return None


def _call_problem(call: Any) -> str | None:
    if not isinstance(call, dict):
        return f": found {brief(call)}, expected an object"
    if not isinstance(call.get("id"), str) or not call["id"]:
        return f".id: found {brief(call.get('id'))}, expected text"
    if call.get("type", "function") != "function":
        return f".type: found {brief(call['type'])}, expected function"
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return f".function: found {brief(function)}, expected {{name, arguments}}"
    return None


def _turn(index: int, message: Message, functions: dict[str, dict[str, Any]]) -> Iterable[_Finding]:
    """Checks one turn of the assistant by itself."""
    calls = message.get("tool_calls") or []
    for call in calls:
        function = call["function"]
        if problem := call_problem(function["name"], function.get("arguments"), functions):
            yield problem[0], index, problem[1]
    ids = [call["id"] for call in calls]
    for call_id in {i for i in ids if ids.count(i) > 1}:
        yield "duplicate_call_id", index, f"{call_id}: {ids.count(call_id)} calls with this id"
    text = text_of(message.get("content"))
    if marker := marker_in(text):
        yield "marker_leak", index, f"found {marker} in the content"
    content = message.get("content")
    only_text = not isinstance(content, list) or all(part["type"] == "text" for part in content)
    if not calls and not text.strip() and only_text:
        yield "empty_turn", index, "no content and no tool call"


def _results(messages: list[Message]) -> Iterable[_Finding]:
    """Checks that calls and results match. An id counts within its turn; a later turn may reuse it."""
    turn, called, answered = 0, set[str](), set[str]()
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            call_id = message.get("tool_call_id")
            if call_id not in called:
                yield "orphan_result", index, f"{call_id}: no call with this id in the turn before"
            elif call_id in answered and not _called_twice(messages[turn], call_id):
                yield "orphan_result", index, f"{call_id}: a second result for one call"
            answered.add(str(call_id))
            continue
        if called - answered:
            yield (
                "unanswered_call",
                turn,
                f"{min(called - answered)}: no result before message {index}",
            )
        calls = message.get("tool_calls") or []
        turn, called, answered = index, {call["id"] for call in calls}, set()
    # A conversation may end on its calls, but not between the results of one turn.
    if called & answered and called - answered:
        yield (
            "unanswered_call",
            turn,
            f"{min(called - answered)}: no result, though another call has one",
        )


def _called_twice(message: Message, call_id: str) -> bool:
    return sum(call["id"] == call_id for call in message["tool_calls"]) > 1


def _narrated(messages: list[Message], functions: dict[str, dict[str, Any]]) -> Iterable[_Finding]:
    """Checks whether the conversation ends on a turn that announces a call and makes none."""
    last = messages[-1]
    if last["role"] == "assistant" and not last.get("tool_calls"):
        announced = announced_call(text_of(last.get("content")), functions)
        if announced:
            detail = f"announces a call without making one: {brief(announced)}"
            yield "narrated_call", len(messages) - 1, detail
