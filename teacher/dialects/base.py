"""What is peculiar to a model behind the common API: what is sent for what is meant, what is read from what comes back.

`Dialect` is OpenAI's own form: what is meant is sent, what comes back is taken. A family of models with peculiarities
has a file, <family>.py, whose DIALECT is a subclass; a teacher's description names the family.
"""

import importlib
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

Message = dict[str, Any]
Parameters = dict[str, Any]
Sent = tuple[list[Message], list[dict[str, Any]], Parameters]

# The families that have a dialect of their own.
FAMILIES = tuple(
    sorted(
        path.stem
        for path in Path(__file__).parent.glob("*.py")
        if path.stem not in {"__init__", "base"} and not path.stem.endswith("_schema")
    )
)


@dataclass(frozen=True)
class Detection:
    """A known failure, found in a reply.

    name: one of schemas.filter.DETECTED, or of what is always repaired.
    remedy: how the request may be made again: "required" (the model was about to call a tool: it must) or "instant"
        (without thinking); "" where the reading is repaired, and holds what the model said in the form that was due.
    """

    name: str
    detail: str
    remedy: Literal["", "required", "instant"] = ""


@dataclass(frozen=True)
class Reading:
    """A reply as it was meant: an assistant message, and what was found in it on the way."""

    message: Message
    detected: list[Detection] = field(default_factory=list)

    @property
    def failure(self) -> Detection | None:
        """What could not be repaired: the message cannot be used."""
        return next((found for found in self.detected if found.remedy), None)


class Dialect:
    """OpenAI's chat completions, as they are.

    Args:
        modes: the teacher's ways of being asked (`modes` of schemas/teacher.schema.json).
        api: which of a mode's bodies the server understands.

    Attributes:
        hosts: the API behind a host whose requests have another form than vLLM's, as SGLang and those who serve with
            them take it.
        picture: what vLLM calls a picture of such a model.
    """

    hosts: ClassVar[dict[str, str]] = {}
    picture: ClassVar[str] = "image"

    def __init__(self, modes: dict[str, Any] | None = None, api: str = "vllm") -> None:
        self.modes, self.api = modes or {}, api

    def request(
        self,
        messages: list[Message],
        tools: list[dict[str, Any]],
        parameters: Parameters,
        mode: str | None = None,
    ) -> Sent:
        """What is sent for what is meant: messages, tools and parameters of `Client.complete`.

        Args:
            parameters: temperature, top_p, max_tokens, tool_choice, extra_body; what is given here goes before what
                the mode brings.
            mode: one of the teacher's modes (`catalog.sampling` checks it), or None for none.
        """
        return messages, tools, self.in_mode(parameters, mode)

    def read(self, message: Message, finish_reason: str, offered: Collection[str]) -> Reading:
        """What a reply says.

        Args:
            message: as the server sent it: any part of it may be missing or of another type.
            offered: names of the tools that could be called.
        """
        return Reading(message)

    def second_try(self, detection: Detection, parameters: Parameters) -> Parameters | None:
        """The parameters to send the same messages with once more after a failure; None where that is no use.

        Args:
            parameters: those that were sent.
        """
        return None

    def in_mode(self, parameters: Parameters, mode: str | None) -> Parameters:
        """Parameters with what a mode adds to them: its sampling and its part of the body."""
        if mode is None:
            return parameters
        merged = {**self.modes[mode]["sampling"], **parameters}
        body = {**self.mode_body(mode), **parameters.get("extra_body", {})}
        return {**merged, "extra_body": body} if body else merged

    def mode_body(self, mode: str) -> dict[str, Any]:
        """What a request in this mode carries beside the messages, for the server that it goes to."""
        return self.modes[mode].get("body", {}).get(self.api, {})


def for_teacher(teacher: dict[str, Any], url: str | None = None) -> Dialect:
    """The dialect of a teacher (schemas/teacher.schema.json).

    Args:
        url: of the API that serves it; None for a server that the run starts itself.
    """
    kinds = {name: importlib.import_module(f"teacher.dialects.{name}").DIALECT for name in FAMILIES}
    kind = kinds[teacher["family"]] if teacher.get("family") else Dialect
    host = urlsplit(url or "").hostname or ""
    known = (
        api
        for each in kinds.values()  # others may be served there, too
        for name, api in each.hosts.items()
        if f".{host}".endswith(f".{name}")
    )
    return kind(teacher.get("modes"), next(known, "vllm"))


def calls_of(message: Message) -> list[dict[str, Any]]:
    """The tool calls of a reply that are calls of functions; whatever else is in its place is left out."""
    calls = message.get("tool_calls")
    return [
        call
        for call in (calls if isinstance(calls, list) else [])
        if isinstance(call, dict)
        and (call.get("type") or "function") == "function"
        and isinstance(call.get("function"), dict)
        and call["function"]
    ]


def reasoning_of(message: Message) -> str:
    """The reasoning of a reply, in whichever field it came."""
    return plain_text(message.get("reasoning_content") or message.get("reasoning"))


def json_text(arguments: Any) -> str:
    """Arguments as JSON text: some servers send them parsed, and none where a tool takes none."""
    if isinstance(arguments, str) and arguments:
        return arguments
    return json.dumps({} if arguments in (None, "") else arguments, ensure_ascii=False)


def plain_text(content: Any) -> str:
    """The text of a reply's content or reasoning: a string or a list of parts; "" for anything else."""
    if isinstance(content, list):
        texts = [p for p in content if isinstance(p, dict) and p.get("type") == "text"]
        return "\n".join(p["text"] for p in texts if isinstance(p.get("text"), str))
    return content if isinstance(content, str) else ""
