"""What is peculiar to Kimi K2 and K2.5: call ids, reasoning fields, its schema flavour, raw markers, named failures.

What is sent has every call of the history under the id that the model was trained on, and tools in Moonshot's flavour
of JSON Schema (teacher/dialects/kimi_schema.py). What comes back is looked through for the failures that are known of it behind
vLLM and at Moonshot's API. A repair only moves what the model said to where it belongs, and only where nothing of it is
left to guess; everything else is asked again in another way, once, or given up under its name.
"""

import re
from collections.abc import Collection
from typing import Any, ClassVar, Literal

from schemas.error_text import one_line
from schemas.json_text import parse_json
from schemas.text_heuristics import announced_call, marker_in
from teacher.dialects.base import (
    Detection,
    Dialect,
    Message,
    Parameters,
    Reading,
    Sent,
    calls_of,
    json_text,
    plain_text,
    reasoning_of,
)
from teacher.dialects.kimi_schema import accepted

# The wire form of calls (Kimi-K2, docs/tool_call_guidance.md).
_SECTION, _SECTION_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_CALL, _ARGUMENT, _CALL_END = (
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
)
_CALL_MARKERS = (_SECTION, _SECTION_END, _CALL, _ARGUMENT, _CALL_END)

# Token 0, which an engine whose numbers went wrong gives for ever (vllm#42426).
_DEGENERATE = re.compile(r"!{16}|\A\s*!{4,}\s*\Z")
# `functions.get_contract:40349809...`, 130 digits long, is what a miniature with random weights says.
_ID = re.compile(r"[\w.-]{1,128}:\d{1,6}|[\w-]{1,64}")
# Moonshot's API takes an empty text for none (earendil-works/pi#4178).
_NO_REASONING = " "


class Kimi(Dialect):
    """Kimi K2 and later, behind vLLM or at Moonshot's API."""

    # Moonshot's API switches thinking with a field of its own; others take the arguments of the chat template.
    hosts: ClassVar = dict.fromkeys(
        ("moonshot.ai", "moonshot.cn", "kimi.ai", "kimi.com"), "moonshot"
    )
    picture = "vision_chunk"  # its images and videos are one modality

    def request(
        self,
        messages: list[Message],
        tools: list[dict[str, Any]],
        parameters: Parameters,
        mode: str | None = None,
    ) -> Sent:
        parameters = self.in_mode(parameters, mode)
        sent = _with_canonical_ids(messages)
        switch = parameters.get("extra_body", {}).get("thinking", {})
        if self.api == "moonshot" and switch.get("type") != "disabled":
            # A turn that was made without thinking has no reasoning; the API answers 400 where there is none.
            for message in sent:
                if message.get("tool_calls") and not message.get("reasoning_content"):
                    message["reasoning_content"] = _NO_REASONING
        return sent, [accepted(tool) for tool in tools], parameters

    def read(self, message: Message, finish_reason: str, offered: Collection[str]) -> Reading:
        content = plain_text(message.get("content"))
        reasoning = reasoning_of(message)
        calls = calls_of(message)
        detected: list[Detection] = []

        # A reply that was cut off may end in the middle of anything; nothing of it is run, so nothing is repaired.
        whole = finish_reason != "length"
        if whole and not calls:
            if parsed := raw_calls(content, offered):
                content, calls = parsed
                detected.append(Detection("raw_markers", f"{len(calls)} calls in the content"))
            elif not content.strip() and (parsed := raw_calls(reasoning, offered)):
                reasoning, calls = parsed
                detail = f"{len(calls)} calls in the reasoning"
                detected.append(Detection("call_in_reasoning", detail))
        calls, malformed = _named(calls, offered)
        if whole and malformed:
            detected.append(Detection("malformed_id", f"found {one_line(malformed[0], 80)!r}"))

        read: Message = {"role": "assistant", "content": content}
        if reasoning:
            read["reasoning_content"] = reasoning
        if calls:
            read["tool_calls"] = calls
        failure = _failure(content, reasoning, calls, finish_reason, offered)
        return Reading(read, detected + ([failure] if failure else []))

    def second_try(self, detection: Detection, parameters: Parameters) -> Parameters | None:
        tried = dict(parameters)
        if detection.remedy == "required":
            tried["tool_choice"] = "required"
        # Moonshot refuses to require a call while it thinks: "incompatible with thinking enabled" (inspect_ai#5152).
        wants_instant = detection.remedy == "instant" or self.api == "moonshot"
        if wants_instant or tried == parameters:
            if "instant" not in self.modes:
                return None
            asked, instant = parameters.get("extra_body", {}), self.mode_body("instant")
            if asked != (body := {**asked, **instant}):
                tried |= {**self.modes["instant"]["sampling"], "extra_body": body}
        return tried if tried != parameters else None


DIALECT = Kimi


def raw_calls(text: str, offered: Collection[str]) -> tuple[str, list[dict[str, Any]]] | None:
    """The calls of a text that ends on one whole section of them in Kimi's wire form, and the text before.

    None for everything else: a section or call that is not closed, arguments that are no JSON object, a tool that was
    not offered, anything after the section. There is then no telling what was meant.
    """
    before, begun, rest = text.partition(_SECTION)
    section, ended, after = rest.partition(_SECTION_END)
    if not begun or not ended or after.strip() or marker_in(before):
        return None
    *written, tail = section.split(_CALL_END)
    calls = []
    for text_of_call in written:
        head, has_arguments, arguments = text_of_call.partition(_ARGUMENT)
        gap, begun, call_id = head.partition(_CALL)
        name = _name_in(call_id.strip(), offered)
        if not begun or gap.strip() or not has_arguments:
            return None
        if name is None or not _is_object(arguments):
            return None
        function = {"name": name, "arguments": arguments.strip()}
        calls.append({"id": call_id.strip(), "type": "function", "function": function})
    return (before.strip(), calls) if calls and not tail.strip() else None


def _with_canonical_ids(messages: list[Message]) -> list[Message]:
    """Messages with every call under functions.{name}:{index}, counted from 0 over the whole conversation.

    The id is the only thing that tells the model a call's function in the rendered history (vllm#50768). Reasoning goes
    under the name that both servers read.
    """
    sent, count = [], 0
    # Of the last turn that made calls: its ids as they were, and what each is sent as.
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
        sent.append(message)
    return sent


def _named(
    calls: list[dict[str, Any]], offered: Collection[str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Calls with the names of their tools where an id stands in the name's place, and what is no id or no name.

    Ids are given anew before they are sent; a malformed one is worth counting, not keeping.
    """
    named, malformed = [], []
    for call in calls:
        function, call_id = call["function"], call.get("id")
        name = function.get("name") if isinstance(function.get("name"), str) else ""
        if not isinstance(call_id, str) or not _ID.fullmatch(call_id):
            malformed.append(str(call_id))
        if name not in offered and (meant := _name_in(name, offered)):
            malformed.append(name)
            name = meant
        function = {"name": name, "arguments": json_text(function.get("arguments"))}
        named.append({"id": str(call_id), "type": "function", "function": function})
    return named, malformed


def _name_in(call_id: str, offered: Collection[str]) -> str | None:
    """The offered tool that an id of Kimi's names: functions.NAME:INDEX, or without either end."""
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
    """The first known failure that a reply shows; None where it can be used."""
    call_again: Literal["required", "instant"] = "required" if offered else "instant"
    arguments = [call["function"]["arguments"] for call in calls]
    for text in (content, reasoning, *arguments):
        if _DEGENERATE.search(text):
            return Detection("degenerate_output", f"found {one_line(text, 60)}", "instant")
    if finish_reason == "length":
        return None  # the episode ends on it as truncated
    if marker := marker_in(content):
        begun = any(m in content for m in _CALL_MARKERS)
        remedy = call_again if begun else "instant"
        return Detection("raw_markers", f"found {marker} in the content", remedy)
    if marker := next((m for m in _CALL_MARKERS if m in reasoning), None):
        return Detection("call_in_reasoning", f"found {marker} in the reasoning", "instant")
    for call in calls:
        name = call["function"]["name"]
        if name not in offered:
            return Detection("unknown_tool", f"found {one_line(name, 60)!r}", call_again)
        if not _is_object(call["function"]["arguments"]):
            found = one_line(call["function"]["arguments"], 80)
            return Detection("truncated_json", f"{name}: found {found}", call_again)
    if calls:
        return None
    if finish_reason == "tool_calls":
        return Detection("empty_tool_calls", "finish_reason tool_calls and no call", call_again)
    if not content.strip() and reasoning.strip():
        return Detection("answer_in_reasoning", "reasoning, no content and no call", "instant")
    if announced := announced_call(content, offered):
        return Detection("narrated_call", f"says {one_line(announced, 100)!r}", call_again)
    return None


def _is_object(text: str) -> bool:
    try:
        return isinstance(parse_json(text.strip()), dict)
    except ValueError:
        return False
