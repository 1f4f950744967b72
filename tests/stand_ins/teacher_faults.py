"""Single faults of a served teacher: each function replies as the faithful one does, but for one thing."""

from collections.abc import Callable
from typing import Any

from faithful_teacher import (
    Body,
    Faithful,
    calls,
    fitting,
    has_free_choice,
    message_of,
    results,
    says,
    thinks,
)


def empty_arguments(answer: tuple[int, Any]) -> tuple[int, Any]:
    for call in message_of(answer).get("tool_calls", []):
        call["function"]["arguments"] = "{}"
    return answer


def forced_calls_without_arguments(faithful: Faithful, body: Body) -> tuple[int, Any]:
    answer = faithful(body)
    return empty_arguments(answer) if body.get("tool_choice") == "required" else answer


def free_calls_without_arguments(faithful: Faithful, body: Body) -> tuple[int, Any]:
    answer = faithful(body)
    return empty_arguments(answer) if has_free_choice(body) and answer[0] == 200 else answer


def always_thinks(faithful: Faithful, body: Body) -> tuple[int, Any]:
    answer = faithful(body)
    message_of(answer)["reasoning"] = "Let me see."
    return answer


def thinks_in_the_content(faithful: Faithful, body: Body) -> tuple[int, Any]:
    answer = faithful(body)
    if not body.get("tools") and thinks(body) and message_of(answer)["content"] == "12:25":
        message_of(answer)["content"] = "<think>Let me see.</think>12:25"
    return answer


def drops_the_reasoning_of_calls(faithful: Faithful, body: Body) -> tuple[int, Any]:
    answer = faithful(body)
    if answer[0] == 200 and "tool_calls" in message_of(answer):
        message_of(answer).pop("reasoning", None)
    return answer


def narrates_after_a_result(faithful: Faithful, body: Body) -> tuple[int, Any]:
    answer = faithful(body)
    if has_free_choice(body) and results(body) and "tool_calls" in message_of(answer):
        return says("Let me look up the amendment next.", reasoning="I need it.")
    return answer


def stops_after_a_result(faithful: Faithful, body: Body) -> tuple[int, Any]:
    answer = faithful(body)
    if has_free_choice(body) and results(body) and "tool_calls" in message_of(answer):
        return says("The contract was found.", reasoning="Done.")
    return answer


def gets_no_image(faithful: Faithful, body: Body) -> tuple[int, Any]:
    answer = faithful(body)
    if any(isinstance(message["content"], list) for message in body["messages"]):
        message_of(answer)["content"] = "A cat on a sofa."
    return answer


def refuses_images(faithful: Faithful, body: Body) -> tuple[int, Any]:
    if any(isinstance(message["content"], list) for message in body["messages"]):
        return 400, {"error": {"message": "At most 0 image(s) may be provided in one prompt."}}
    return faithful(body)


def counts_one_token_more(faithful: Faithful, body: Body) -> tuple[int, Any]:
    answer = faithful(body)
    answer[1]["usage"]["prompt_tokens"] += 1
    return answer


def always_calls(faithful: Faithful, body: Body) -> tuple[int, Any]:
    answer = faithful(body)
    if has_free_choice(body) and "tool_calls" not in message_of(answer):
        function = body["tools"][0]["function"]
        return calls(function["name"], fitting(function["parameters"]), reasoning="Again.")
    return answer


def never_calls(faithful: Faithful, body: Body) -> tuple[int, Any]:
    return (
        says("That is not known to me.", reasoning="No.")
        if has_free_choice(body)
        else faithful(body)
    )


# Each fault with the one check that fails, and words of its detail.
FAULTS: list[tuple[Callable[[Faithful, Body], tuple[int, Any]], str, str]] = [
    (forced_calls_without_arguments, "strict_tool_call", "--tool-strict-level parameter"),
    (free_calls_without_arguments, "schema_accuracy", "--tool-strict-level parameter"),
    (always_thinks, "thinking_toggle", "it thinks in instant mode"),
    (thinks_in_the_content, "thinking_toggle", "--reasoning-parser"),
    (drops_the_reasoning_of_calls, "reasoning_round_trip", "reasoning_content is missing"),
    (narrates_after_a_result, "tool_round_trip", "instead: narrated_call"),
    (stops_after_a_result, "tool_round_trip", "The contract was found."),
    (gets_no_image, "image", "A cat on a sofa."),
    (refuses_images, "image", "--limit-mm-per-prompt"),
    (counts_one_token_more, "prompt_tokens", "the start token is added twice"),
    (always_calls, "tool_call_f1", "where the reference answers"),
    (never_calls, "tool_call_f1", "--tool-call-parser"),
]
