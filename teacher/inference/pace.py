"""Keeps requests within an API's limits per minute."""

import asyncio
from typing import Any

from aiolimiter import AsyncLimiter

from schemas.files import dumps
from schemas.trace import Usage

# An API counts requests in a minute, whichever: what may go at once and what follows in 60 seconds must not exceed the
# limit together. One eleventh may go at once.
_AT_ONCE = 1 / 11
# Characters of a request for each token of its prompt, until the first replies show their own ratio.
_CHARACTERS_A_TOKEN = 4.0
# Weight of a new reply in the running means.
_WEIGHT = 0.05


class Pace:
    """Admits requests at the rate that an API allows.

    Args:
        requests_per_minute: None for no limit.
        tokens_per_minute: of prompts and replies; None for no limit. What a request will take is estimated from the
            replies so far, at first as the whole of its max_tokens.
    """

    def __init__(
        self, requests_per_minute: int | None = None, tokens_per_minute: int | None = None
    ) -> None:
        self._requests = _limiter(requests_per_minute) if requests_per_minute else None
        self._tokens = _limiter(tokens_per_minute) if tokens_per_minute else None
        self._turn = asyncio.Lock()
        self._characters_a_token = _CHARACTERS_A_TOKEN
        self._reply_tokens: float | None = None

    async def admit(self, body: dict[str, Any]) -> None:
        """Returns when the request may be sent."""
        # One waits at a time, because the limiter lets small requests pass large ones for ever.
        async with self._turn:
            if self._requests:
                await self._requests.acquire()
            tokens = self._estimate(body) if self._tokens else 0
            while self._tokens and tokens > 0:
                part = min(tokens, self._tokens.max_rate)
                await self._tokens.acquire(part)
                tokens -= part

    def learn(self, body: dict[str, Any], usage: Usage) -> None:
        """Learns from a reply how many tokens a request takes."""
        if self._tokens is None or not usage["prompt_tokens"]:
            return
        ratio = _characters(body) / usage["prompt_tokens"]
        self._characters_a_token += _WEIGHT * (ratio - self._characters_a_token)
        if self._reply_tokens is None:
            self._reply_tokens = float(usage["completion_tokens"])
        self._reply_tokens += _WEIGHT * (usage["completion_tokens"] - self._reply_tokens)

    def _estimate(self, body: dict[str, Any]) -> float:
        reply = body.get("max_tokens") or 0
        if self._reply_tokens is not None:
            reply = min(reply or self._reply_tokens, self._reply_tokens)
        return _characters(body) / self._characters_a_token + reply


def _limiter(per_minute: int) -> AsyncLimiter:
    """A limiter that admits at most `per_minute` in any minute."""
    at_once = max(1.0, per_minute * _AT_ONCE)
    return AsyncLimiter(at_once, 60 * at_once / max(per_minute - at_once, 1))


def _characters(body: dict[str, Any]) -> int:
    return len(dumps([body["messages"], body["tools"]]))
