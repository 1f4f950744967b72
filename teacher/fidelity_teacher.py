"""A served teacher as the pre-flight asks it: in its dialect, bounded, and never again once it is lost."""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import aiohttp

from schemas.errors import StageError
from schemas.validation import functions_by_name, one_line
from teacher import catalog
from teacher.client import Client, Reply
from teacher.dialect import Sent, for_teacher, plain_text
from teacher.endpoint import Endpoint, on_this_machine

INSTANT = "instant"  # the mode without thinking, of a teacher that can do both
_MAX_TOKENS = 1024  # of a reply, where neither the limits nor the teacher's mode say
_LIST_SECONDS = 30


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
    ) -> Sent:
        """What `ask` sends for these arguments."""
        mode = mode or self.mode
        return self.dialect.request(messages, tools, {**self.parameters(mode), **parameters}, mode)

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
            found = self.dialect.read(reply.message, reply.finish_reason, offered).detected
            self.detected.update(detection.name for detection in found)
        return reply

    async def ask_all(self, requests: list[dict[str, Any]]) -> list[Reply]:
        """The replies to requests ({"messages", "tools"}), in their order."""
        return await asyncio.gather(*(self.ask(**request) for request in requests))


async def listed(endpoint: Endpoint) -> list[str] | None:
    """The models that an API lists; None where it has no such list.

    Raises:
        StageError: it is not there, refuses the key, or is no such API.
    """
    place = f"{endpoint.url}/models"
    session = aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {},
        timeout=aiohttp.ClientTimeout(_LIST_SECONDS),
        trust_env=not on_this_machine(endpoint.url),
    )
    try:
        async with session, session.get(place) as reply:
            status, body = reply.status, await reply.read()
    except (aiohttp.ClientError, OSError, ValueError) as error:  # a TimeoutError is an OSError
        found = one_line(str(error), 120) or type(error).__name__
        raise StageError(
            f"{place}: no answer ({found}): is the server up and the address right?"
        ) from None
    if status in (401, 403):
        raise StageError(f"{place}: the key was refused ({status}): is it in the environment?")
    if status in (404, 405, 501):
        return None
    text = body.decode(errors="replace").replace(endpoint.key or "\n", "***")
    try:
        return [str(entry["id"]) for entry in json.loads(text)["data"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise StageError(
            f"{place}: status {status}, found {one_line(text, 60) or 'nothing'}, expected a list of models: the"
            " address of an OpenAI-compatible API usually ends in /v1"
        ) from None


def content(reply: Reply) -> str:
    """The text of a reply."""
    return plain_text((reply.message or {}).get("content"))


def reasoning(reply: Reply) -> str:
    """The reasoning of a reply, in whichever field it came."""
    message = reply.message or {}
    return plain_text(message.get("reasoning_content") or message.get("reasoning")).strip()
