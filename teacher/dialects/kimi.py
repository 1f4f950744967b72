"""Kimi K2 and K2.5: call ids, reasoning fields, Moonshot's JSON Schema flavour, raw markers, known failures.

Request adaptation gives every call of the history the id form that the model was trained on, and writes tools in
Moonshot's flavour of JSON Schema (teacher/dialects/kimi_schema.py). Reply parsing detects the failures known of Kimi
behind vLLM and at Moonshot's API. A repair only moves text of the model to the field where it belongs, and only if that
is unambiguous. After any other failure the request is retried once with other parameters, or the reply is rejected
under the failure's name.
"""

import re
from collections.abc import Collection
from typing import Any, ClassVar, Literal

from schemas.error_text import one_line
from schemas.json_text import parse_json
from schemas.text_heuristics import announced_call, marker_in
from teacher.dialects.base import (
    AdaptedRequest,
    Detection,
    Dialect,
    Message,
    Parameters,
    ParsedReply,
    calls_of,
    json_text,
    plain_text,
    reasoning_of,
)
from teacher.dialects.kimi_schema import moonshot_tool

# The wire form of calls (Kimi-K2, docs/tool_call_guidance.md).
_SECTION, _SECTION_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_CALL, _ARGUMENT, _CALL_END = (
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
)
_CALL_MARKERS = (_SECTION, _SECTION_END, _CALL, _ARGUMENT, _CALL_END)

# Token 0 is "!". An engine with broken numerics repeats it without end (vllm#42426).
_DEGENERATE = re.compile(r"!{16}|\A\s*!{4,}\s*\Z")
# Bounded length: a miniature with random weights wrote `functions.get_contract:40349809...` with 130 digits.
_ID = re.compile(r"[\w.-]{1,128}:\d{1,6}|[\w-]{1,64}")
# Moonshot's API treats an empty text as missing (earendil-works/pi#4178).
_NO_REASONING = " "


class Kimi(Dialect):
    """Kimi K2 and later, behind vLLM or at Moonshot's API."""

    # Moonshot's API switches thinking by a field of its own; other servers pass arguments to the chat template.
    hosts: ClassVar = dict.fromkeys(
        ("moonshot.ai", "moonshot.cn", "kimi.ai", "kimi.com"), "moonshot"
    )
    image_modality = "vision_chunk"  # one modality for images and videos

    def adapt_request(
        self,
        messages: list[Message],
        tools: list[dict[str, Any]],
        parameters: Parameters,
        mode: str | None = None,
    ) -> AdaptedRequest:
        parameters = self.with_mode(parameters, mode)
        adapted = _with_canonical_ids(messages)
        switch = parameters.get("extra_body", {}).get("thinking", {})
        if self.api == "moonshot" and switch.get("type") != "disabled":
            # The API answers 400 if a turn with calls has no reasoning, as turns written without thinking do not.
            for message in adapted:
                if message.get("tool_calls") and not message.get("reasoning_content"):
                    message["reasoning_content"] = _NO_REASONING
        return AdaptedRequest(adapted, [moonshot_tool(tool) for tool in tools], parameters)

    def parse_reply(
        self, message: Message, finish_reason: str, offered: Collection[str]
    ) -> ParsedReply:
        content = plain_text(message.get("content"))
        reasoning = reasoning_of(message)
        calls = calls_of(message)
        detected: list[Detection] = []

        # The calls of a reply that was cut off are never executed, so there is nothing to repair in it.
        complete = finish_reason != "length"
        if complete and not calls:
            if parsed := raw_calls(content, offered):
                content, calls = parsed
                detected.append(Detection("raw_markers", f"{len(calls)} calls in the content"))
            elif not content.strip() and (parsed := raw_calls(reasoning, offered)):
                reasoning, calls = parsed
                detail = f"{len(calls)} calls in the reasoning"
                detected.append(Detection("call_in_reasoning", detail))
        calls, malformed = _with_tool_names(calls, offered)
        if complete and malformed:
            detected.append(Detection("malformed_id", f"found {one_line(malformed[0], 80)!r}"))

        parsed_message: Message = {"role": "assistant", "content": content}
        if reasoning:
            parsed_message["reasoning_content"] = reasoning
        if calls:
            parsed_message["tool_calls"] = calls
        failure = _failure(content, reasoning, calls, finish_reason, offered)
        return ParsedReply(parsed_message, detected + ([failure] if failure else []))

    def retry_parameters(self, failure: Detection, parameters: Parameters) -> Parameters | None:
        retry = dict(parameters)
        if failure.remedy == "required":
            retry["tool_choice"] = "required"
        # Moonshot's API refuses a required call in thinking mode: "incompatible with thinking enabled"
        # (inspect_ai#5152).
        needs_instant = failure.remedy == "instant" or self.api == "moonshot"
        if needs_instant or retry == parameters:
            if "instant" not in self.modes:
                return None
            previous = parameters.get("extra_body", {})
            body = {**previous, **self.mode_body("instant")}
            if body != previous:
                retry |= {**self.modes["instant"]["sampling"], "extra_body": body}
        return retry if retry != parameters else None


DIALECT = Kimi


def raw_calls(text: str, offered: Collection[str]) -> tuple[str, list[dict[str, Any]]] | None:
    """The text before, and the calls of, one complete section of calls in Kimi's wire form at the end of a text.

    None for everything ambiguous: a section or call that is not closed, arguments that are not a JSON object, a tool
    that was not offered, text after the section.
    """
    before, section_begin, rest = text.partition(_SECTION)
    section, section_end, after = rest.partition(_SECTION_END)
    if not section_begin or not section_end or after.strip() or marker_in(before):
        return None
    *call_texts, tail = section.split(_CALL_END)
    calls = []
    for call_text in call_texts:
        head, argument_marker, arguments = call_text.partition(_ARGUMENT)
        gap, call_begin, call_id = head.partition(_CALL)
        name = _name_in(call_id.strip(), offered)
        if not call_begin or gap.strip() or not argument_marker:
            return None
        if name is None or not _is_object(arguments):
            return None
        function = {"name": name, "arguments": arguments.strip()}
        calls.append({"id": call_id.strip(), "type": "function", "function": function})
    return (before.strip(), calls) if calls and not tail.strip() else None


def _with_canonical_ids(messages: list[Message]) -> list[Message]:
    """Messages whose call ids are functions.{name}:{index}, counted from 0 over the whole conversation.

    In the rendered history the id is the only part that names a call's function (vllm#50768). Reasoning is put into
    `reasoning_content`, which both servers read.
    """
    adapted, count = [], 0
    # The original call ids of the last turn with calls, and the new ids of each.
    ids: dict[str, list[str]] = {}
    for message in messages:
        message = dict(message)
        if "reasoning" in message:
            reasoning = message.pop("reasoning")
            message["reasoning_content"] = message.get("reasoning_content") or reasoning
        if message.get("tool_calls"):
            ids, calls = {}, []
            for call in message["tool_calls"]:
                new = f"functions.{call['function']['name']}:{count}"
                count += 1
                ids.setdefault(call["id"], []).append(new)
                calls.append({**call, "id": new})
            message["tool_calls"] = calls
        elif message["role"] == "tool" and (waiting := ids.get(message.get("tool_call_id", ""))):
            message["tool_call_id"] = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        adapted.append(message)
    return adapted


def _with_tool_names(
    calls: list[dict[str, Any]], offered: Collection[str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Calls whose name is a tool's name even if the server put an id in its place; and all malformed ids and names.

    Malformed ids are only counted, because every id is replaced before the call is sent back.
    """
    named, malformed = [], []
    for call in calls:
        function, call_id = call["function"], call.get("id")
        name = function.get("name") if isinstance(function.get("name"), str) else ""
        if not isinstance(call_id, str) or not _ID.fullmatch(call_id):
            malformed.append(str(call_id))
        if name not in offered and (tool := _name_in(name, offered)):
            malformed.append(name)
            name = tool
        function = {"name": name, "arguments": json_text(function.get("arguments"))}
        named.append({"id": str(call_id), "type": "function", "function": function})
    return named, malformed


def _name_in(call_id: str, offered: Collection[str]) -> str | None:
    """The offered tool that a Kimi call id names: functions.NAME:INDEX, with or without prefix and index."""
    name, colon, index = call_id.rpartition(":")
    name = name if colon and index.isascii() and index.isdigit() else call_id
    return next((n for n in (name, name.removeprefix("functions.")) if n in offered), None)


def _failure(
    content: str,
    reasoning: str,
    calls: list[dict[str, Any]],
    finish_reason: str,
    offered: Collection[str],
) -> Detection | None:
    """The first known failure that a reply shows; None if the reply can be used."""
    force_call: Literal["required", "instant"] = "required" if offered else "instant"
    arguments = [call["function"]["arguments"] for call in calls]
    for text in (content, reasoning, *arguments):
        if _DEGENERATE.search(text):
            return Detection("degenerate_output", f"found {one_line(text, 60)}", "instant")
    if finish_reason == "length":
        return None  # the episode ends as truncated
    if marker := marker_in(content):
        call_begun = any(m in content for m in _CALL_MARKERS)
        remedy = force_call if call_begun else "instant"
        return Detection("raw_markers", f"found {marker} in the content", remedy)
    if marker := next((m for m in _CALL_MARKERS if m in reasoning), None):
        return Detection("call_in_reasoning", f"found {marker} in the reasoning", "instant")
    for call in calls:
        name = call["function"]["name"]
        if name not in offered:
            return Detection("unknown_tool", f"found {one_line(name, 60)!r}", force_call)
        if not _is_object(call["function"]["arguments"]):
            arguments_start = one_line(call["function"]["arguments"], 80)
            return Detection("truncated_json", f"{name}: found {arguments_start}", force_call)
    if calls:
        return None
    if finish_reason == "tool_calls":
        return Detection("empty_tool_calls", "finish_reason tool_calls and no call", force_call)
    if not content.strip() and reasoning.strip():
        return Detection("answer_in_reasoning", "reasoning, no content and no call", "instant")
    if announced := announced_call(content, offered):
        return Detection("narrated_call", f"says {one_line(announced, 100)!r}", force_call)
    return None


def _is_object(text: str) -> bool:
    try:
        return isinstance(parse_json(text.strip()), dict)
    except ValueError:
        return False
