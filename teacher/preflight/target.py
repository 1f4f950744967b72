"""A served teacher as the pre-flight asks it: in its dialect, bounded, and never again once it is lost."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any

from schemas.errors import StageError
from schemas.tool_calls import functions_by_name
from teacher.dialects.base import AdaptedRequest, for_teacher, plain_text, reasoning_of
from teacher.inference.client import Client, Reply
from teacher.inference.endpoint import Endpoint
from teacher.models import catalog

INSTANT = "instant"  # the mode without thinking, of a teacher that can do both
_MAX_TOKENS = 1024  # of a reply, where neither the limits nor the teacher's mode say


@dataclass(frozen=True)
class Limits:
    """What a pre-flight may use.

    concurrency: requests in flight.
    timeout_s: seconds a request may take, all tries included.
    max_tokens: of a reply; None for what the teacher's mode asks for.
    """

    concurrency: int = 8
    timeout_s: float = 600
    max_tokens: int | None = None


class Served:
    """The teacher behind an endpoint.

    Attributes:
        mode: the mode that is checked, None for a teacher without modes. thinking: whether it thinks in it.
        modes: all of the teacher's. teacher: its description.
        detected: the known failures that its dialect found in its replies.

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
        catalog.sampling(teacher, self.mode)  # for its error
        self.detected: Counter[str] = Counter()
        self._limits = limits
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._lost = ""

    def parameters(self, mode: str | None) -> dict[str, Any]:
        """What a request in a mode is sampled with."""
        own = self.modes[mode].get("max_tokens") if mode else None
        max_tokens = self._limits.max_tokens or own or _MAX_TOKENS
        return {**catalog.sampling(self.teacher, mode), "max_tokens": max_tokens}

    def prepare(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]],
        mode: str | None = None,
        **parameters: Any,
    ) -> AdaptedRequest:
        """What `ask` sends for these arguments."""
        mode = mode or self.mode
        return self.dialect.adapt_request(
            messages, tools, {**self.parameters(mode), **parameters}, mode
        )

    async def complete(self, *request: Any, **parameters: Any) -> Reply:
        """`Client.complete`, within the time.

        Raises:
            StageError: the time is up or the server is lost, now or at an earlier request.
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

    async def ask(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        mode: str | None = None,
        **parameters: Any,
    ) -> Reply:
        """The reply to a request in a mode; without one, in the mode that is checked."""
        sent, sent_tools, parameters = self.prepare(messages, tools or [], mode, **parameters)
        reply = await self.complete(sent, sent_tools, 0, **parameters)
        if reply.message is not None:
            offered = list(functions_by_name(tools or []))
            found = self.dialect.parse_reply(reply.message, reply.finish_reason, offered).detected
            self.detected.update(detection.name for detection in found)
        return reply

    async def ask_all(self, requests: list[dict[str, Any]]) -> list[Reply]:
        """The replies to requests ({"messages", "tools"}), in their order."""
        return await asyncio.gather(*(self.ask(**request) for request in requests))


def content(reply: Reply) -> str:
    """The text of a reply."""
    return plain_text((reply.message or {}).get("content"))


def reasoning(reply: Reply) -> str:
    """The reasoning of a reply."""
    return reasoning_of(reply.message or {}).strip()
