"""Request adaptation and reply parsing: `Dialect`, which model families override.

`Dialect` itself is the OpenAI form: requests are sent and replies taken unchanged. A model family that differs has a
file <family>.py whose DIALECT is a subclass. A teacher's description names its family.
"""

import importlib
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple
from urllib.parse import urlsplit

Message = dict[str, Any]
Parameters = dict[str, Any]

# The families with a dialect of their own.
FAMILIES = tuple(
    sorted(
        path.stem
        for path in Path(__file__).parent.glob("*.py")
        if path.stem not in {"__init__", "base"} and not path.stem.endswith("_schema")
    )
)


class AdaptedRequest(NamedTuple):
    """The messages, tools and parameters that are sent; the arguments of `Client.complete`."""

    messages: list[Message]
    tools: list[dict[str, Any]]
    parameters: Parameters


@dataclass(frozen=True)
class Detection:
    """A known failure detected in a reply.

    Attributes:
        name: one of schemas.filter.DETECTED, or of the failures that are always repaired.
        remedy: how to retry the request: "required" forces a tool call, because the model was about to make one;
            "instant" switches thinking off; "" means that the parsed reply is already repaired.
    """

    name: str
    detail: str
    remedy: Literal["", "required", "instant"] = ""


@dataclass(frozen=True)
class ParsedReply:
    """The assistant message of a reply, repaired where possible, and the failures detected in it."""

    message: Message
    detected: list[Detection] = field(default_factory=list)

    @property
    def failure(self) -> Detection | None:
        """The failure that could not be repaired, so that the message cannot be used; None if there is none."""
        return next((detection for detection in self.detected if detection.remedy), None)


class Dialect:
    """OpenAI's chat completions, unchanged.

    Args:
        modes: the teacher's modes, such as thinking and instant (`modes` of schemas/teacher.schema.json).
        api: which of a mode's request bodies the server understands.

    Attributes:
        hosts: for each host whose requests differ in form from vLLM's (which SGLang shares), the name of its API.
        image_modality: vLLM's name for an image input of the family.
    """

    hosts: ClassVar[dict[str, str]] = {}
    image_modality: ClassVar[str] = "image"

    def __init__(self, modes: dict[str, Any] | None = None, api: str = "vllm") -> None:
        self.modes, self.api = modes or {}, api

    def adapt_request(
        self,
        messages: list[Message],
        tools: list[dict[str, Any]],
        parameters: Parameters,
        mode: str | None = None,
    ) -> AdaptedRequest:
        """The request in the form that the model family expects.

        Args:
            parameters: temperature, top_p, max_tokens, tool_choice, extra_body. They take precedence over the mode's.
            mode: one of the teacher's modes (`catalog.sampling` checks it), or None.
        """
        return AdaptedRequest(messages, tools, self.with_mode(parameters, mode))

    def parse_reply(
        self, message: Message, finish_reason: str, offered: Collection[str]
    ) -> ParsedReply:
        """The reply in OpenAI's form, with the known failures that it shows.

        Args:
            message: the server's; any part of it may be missing or of another type.
            offered: names of the tools that the model could call.
        """
        return ParsedReply(message)

    def retry_parameters(self, failure: Detection, parameters: Parameters) -> Parameters | None:
        """The parameters for one retry of the same messages after a failure; None if a retry cannot help.

        Args:
            parameters: those of the request that failed.
        """
        return None

    def with_mode(self, parameters: Parameters, mode: str | None) -> Parameters:
        """Parameters with the mode's sampling and request body added."""
        if mode is None:
            return parameters
        merged = {**self.modes[mode]["sampling"], **parameters}
        body = {**self.mode_body(mode), **parameters.get("extra_body", {})}
        return {**merged, "extra_body": body} if body else merged

    def mode_body(self, mode: str) -> dict[str, Any]:
        """The fields that a mode adds to the request body, in the form that the server's API expects."""
        return self.modes[mode].get("body", {}).get(self.api, {})


def for_teacher(teacher: dict[str, Any], url: str | None = None) -> Dialect:
    """The dialect of a teacher (schemas/teacher.schema.json).

    Args:
        url: of the API that serves it; None for a server that this run starts.
    """
    dialects = {
        name: importlib.import_module(f"teacher.dialects.{name}").DIALECT for name in FAMILIES
    }
    dialect = dialects[teacher["family"]] if teacher.get("family") else Dialect
    host = urlsplit(url or "").hostname or ""
    apis = (
        api
        for each in dialects.values()  # a vendor's host may also serve models of other families
        for name, api in each.hosts.items()
        if f".{host}".endswith(f".{name}")
    )
    return dialect(teacher.get("modes"), next(apis, "vllm"))


def calls_of(message: Message) -> list[dict[str, Any]]:
    """The function calls of a reply. Entries of `tool_calls` that are malformed or of another type are left out."""
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
    """The reasoning of a reply, from `reasoning_content` or `reasoning`."""
    return plain_text(message.get("reasoning_content") or message.get("reasoning"))


def json_text(arguments: Any) -> str:
    """Arguments as JSON text. Some servers send them parsed, or leave them out if the tool has no parameters."""
    if isinstance(arguments, str) and arguments:
        return arguments
    return json.dumps({} if arguments in (None, "") else arguments, ensure_ascii=False)


def plain_text(content: Any) -> str:
    """The text of a reply's content or reasoning: a string or a list of parts; "" for anything else."""
    if isinstance(content, list):
        texts = [p for p in content if isinstance(p, dict) and p.get("type") == "text"]
        return "\n".join(p["text"] for p in texts if isinstance(p.get("text"), str))
    return content if isinstance(content, str) else ""
