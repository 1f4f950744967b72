"""Starts a server at the first request that needs it: a run whose replies are all in the journal starts none."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from teacher.inference.endpoint import Endpoint

T = TypeVar("T")


def run_with_late_server(
    start: Callable[[], Endpoint],
    work: Callable[[Callable[[], Awaitable[Endpoint]]], Coroutine[Any, Any, T]],
) -> T:
    """Runs `work` in an event loop and returns its result.

    Args:
        start: starts the server. It is called at most once, in this thread and while the loop stands still, so that
            Ctrl-C ends it and it may run an event loop of its own.
        work: gets the function that returns the endpoint, for `Client`.

    Raises:
        What `start` or `work` raises; work is cancelled when `start` fails.
    """
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        is_wanted, started = asyncio.Event(), loop.create_future()

        async def find_endpoint() -> Endpoint:
            is_wanted.set()
            return await asyncio.shield(started)

        async def wait_until_wanted() -> None:
            waiting = asyncio.ensure_future(is_wanted.wait())
            await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()

        async def end() -> T:
            return await working

        working = loop.create_task(work(find_endpoint))
        runner.run(wait_until_wanted())
        if not working.done():
            started.set_result(start())
        return runner.run(end())
