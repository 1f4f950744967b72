"""The limits of an API: how many requests and tokens go in any minute. The loop's clock jumps, so no test waits."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.trace import Usage
from teacher.inference.pace import Pace


class _Jumping(selectors.SelectSelector):
    """Moves the clock on instead of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout:
            self.now += timeout + 1e-6  # a rounded time may lie just before the next event
        return super().select(0)


def run(work: Coroutine[Any, Any, Any]) -> None:
    selector = _Jumping()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]
    try:
        loop.run_until_complete(work)
    finally:
        loop.close()


def body(characters: int = 4, max_tokens: int = 16) -> dict[str, Any]:
    messages = [{"role": "user", "content": "x" * characters}]
    return {"messages": messages, "tools": [], "max_tokens": max_tokens}


async def admitted(pace: Pace, bodies: list[dict[str, Any]]) -> list[float]:
    """The times at which requests that all wait from the beginning are admitted."""
    times: list[float] = []

    async def one(request: dict[str, Any]) -> None:
        await pace.admit(request)
        times.append(asyncio.get_running_loop().time())

    await asyncio.gather(*(one(request) for request in bodies))
    return times


@given(st.integers(1, 3_000), st.integers(1, 300))
@settings(max_examples=40, deadline=None)
def test_no_minute_has_more_requests_than_the_limit_and_none_waits_much_longer(
    limit: int, count: int
) -> None:
    async def work() -> None:
        times = await admitted(Pace(requests_per_minute=limit), [body()] * count)
        for start in times:
            assert sum(start <= time < start + 60 for time in times) <= limit
        assert times[-1] <= 61 + 66 * count / max(limit - 1, 1)

    run(work())


@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=60))
@settings(max_examples=40, deadline=None)
def test_no_minute_has_more_tokens_than_the_limit(tokens: list[int]) -> None:
    async def work() -> None:
        bodies = [body(4 * count, max_tokens=0) for count in tokens]
        times = await admitted(Pace(tokens_per_minute=6_000), bodies)
        # What goes in a minute was asked for before its last request was admitted.
        for start in times:
            inside = [
                count
                for time, count in zip(times, tokens, strict=True)
                if start < time < start + 60
            ]
            assert sum(inside) <= 6_000 + 100

    run(work())


def test_without_limits_nothing_waits() -> None:
    async def work() -> None:
        assert set(await admitted(Pace(), [body()] * 500)) == {0.0}

    run(work())


def test_what_a_reply_took_changes_what_the_next_is_expected_to_take() -> None:
    usage: Usage = {"prompt_tokens": 100, "completion_tokens": 10}

    async def work() -> None:
        pace = Pace(tokens_per_minute=6_000)
        for _ in range(200):
            pace.learn(body(2_000, max_tokens=5_000), usage)
        times = await admitted(pace, [body(2_000, max_tokens=5_000)] * 11)
        first = await admitted(Pace(tokens_per_minute=6_000), [body(2_000, max_tokens=5_000)] * 11)
        assert times[-1] < 15 < 300 < first[-1]

    run(work())
