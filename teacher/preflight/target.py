"""The served teacher that a pre-flight checks: requests in its dialect, within limits, and none after it is lost."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any, TypedDict

from schemas.errors import StageError
from schemas.tool_calls import functions_by_name
from schemas.trace import Message, Tool
from teacher.dialects.base import AdaptedRequest, for_teacher, plain_text, reasoning_of
from teacher.inference.client import Client
from teacher.inference.endpoint import Endpoint
from teacher.inference.replies import Reply
from teacher.models import catalog
from teacher.preflight.advice import advice

INSTANT = "instant"  # the mode without thinking of a teacher that has both
_MAX_TOKENS = 1024  # of a reply, if neither the limits nor the teacher's mode set it


@dataclass(frozen=True)
class Limits:
    """Limits of a pre-flight.

    Attributes:
        concurrency: requests in flight at once.
        timeout_s: seconds for one request, retries included.
        max_tokens: of a reply; None for the value of the teacher's mode.
    """

    concurrency: int = 8
    timeout_s: float = 600
    max_tokens: int | None = None


class ChatRequest(TypedDict):
    """A request before adaptation to the teacher's dialect."""

    messages: list[Message]
    tools: list[Tool]


class Target:
    """The teacher behind an endpoint.

    Attributes:
        teacher: its description. modes: all its modes.
        mode: the mode that is checked; None for a teacher without modes.
        thinking: whether the teacher thinks in that mode.
        detected: counts of the known failures that its dialect detected in its replies.

    Raises:
        InputError: the teacher has no such mode.
    """

    def __init__(
        self,
        client: Client,
        endpoint: Endpoint,
        teacher: dict[str, Any],
        mode: str | None,
        limits: Limits,
    ) -> None:
        self.client, self.endpoint, self.teacher = client, endpoint, teacher
        self.mode = mode or teacher.get("mode")
        self.modes: dict[str, Any] = teacher.get("modes", {})
        self.thinking = teacher["capabilities"]["thinking"] and self.mode != INSTANT
        self.dialect = for_teacher(teacher, endpoint.url)
        catalog.sampling(teacher, self.mode)  # raises InputError for an unknown mode
        self.detected: Counter[str] = Counter()
        self._limits = limits
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._lost = ""

    @property
    def plainest_mode(self) -> str | None:
        """The mode without thinking; None for the default if the teacher has no such mode."""
        return INSTANT if INSTANT in self.modes else None

    def advice(self, about: str) -> str:
        """What to do about a failed check, for the program that serves the teacher (teacher/preflight/advice.py)."""
        return advice(about, self.endpoint.engine)

    def parameters(self, mode: str | None) -> dict[str, Any]:
        """The sampling parameters of a request in a mode."""
        mode_limit = self.modes[mode].get("max_tokens") if mode else None
        max_tokens = self._limits.max_tokens or mode_limit or _MAX_TOKENS
        return {**catalog.sampling(self.teacher, mode), "max_tokens": max_tokens}

    def prepare(
        self, messages: list[Message], tools: list[Tool], mode: str | None = None, **parameters: Any
    ) -> AdaptedRequest:
        """The adapted request that `request` sends for these arguments."""
        mode = mode or self.mode
        return self.dialect.adapt_request(
            messages, tools, {**self.parameters(mode), **parameters}, mode
        )

    async def complete(self, *request: Any, **parameters: Any) -> Reply:
        """`Client.complete` within the limits.

        Raises:
            StageError: the request took too long or the server is lost, now or at an earlier request.
        """
        async with self._slots:
            if self._lost:
                raise StageError(self._lost)
            try:
                return await asyncio.wait_for(
                    self.client.complete(*request, **parameters), self._limits.timeout_s
                )
            except TimeoutError:
                self._lost = f"{self.endpoint.url}: no reply in {self._limits.timeout_s:g} s"
            except StageError as error:
                self._lost = str(error)
            raise StageError(self._lost)

    async def request(
        self,
        messages: list[Message],
        tools: list[Tool] | None = None,
        mode: str | None = None,
        **parameters: Any,
    ) -> Reply:
        """Sends a request and returns the reply. By default it is sent in the mode that is checked."""
        adapted = self.prepare(messages, tools or [], mode, **parameters)
        reply = await self.complete(adapted.messages, adapted.tools, 0, **adapted.parameters)
        if reply.message is not None:
            offered = list(functions_by_name(tools or []))
            parsed = self.dialect.parse_reply(reply.message, reply.finish_reason, offered)
            self.detected.update(detection.name for detection in parsed.detected)
        return reply

    async def request_all(self, requests: list[ChatRequest]) -> list[Reply]:
        """The replies to several requests, in their order."""
        return await asyncio.gather(
            *(self.request(request["messages"], request["tools"]) for request in requests)
        )


def content(reply: Reply) -> str:
    """The text of a reply."""
    return plain_text((reply.message or {}).get("content"))


def reasoning(reply: Reply) -> str:
    """The reasoning of a reply."""
    return reasoning_of(reply.message or {}).strip()
