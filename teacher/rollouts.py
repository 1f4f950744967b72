"""Runs many episodes at once: bounded workers on a queue of tasks, attempts of a task one after the other."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from teacher import episode
from teacher.client import Client
from teacher.domain import Domain


async def rollouts(
    tasks: list[dict[str, Any]],
    domain: Domain,
    client: Client,
    settings: episode.Settings,
    teacher: dict[str, Any],
    workers: int,
    attempts: int = 1,
    hint: str = "never",
    examples: Callable[[dict[str, Any]], list[list[dict[str, Any]]]] = lambda task: [],
) -> AsyncIterator[dict[str, Any]]:
    """Yields each trace as it ends.

    Args:
        tasks: in the order they are begun; neighbours that share a prompt's beginning share the server's cache.
        attempts: at most so many at a task; the first that passes its checks is the last.
        hint: never, retry (from the second attempt on, after a failed one), or always.
        examples: the worked examples of a task.

    Raises:
        StageError: the server is lost; episodes in flight are given up, their replies are in the journal.
    """
    waiting = iter(tasks)
    done: asyncio.Queue[dict[str, Any] | Exception | None] = asyncio.Queue()

    async def work() -> None:
        for task in waiting:  # one iterator for all workers: each takes the next task
            for attempt in range(attempts):
                hinted = hint == "always" or (hint == "retry" and attempt > 0)
                shown = examples(task)
                trace = await episode.run(
                    task, domain, client.complete, settings, teacher, attempt, hinted, shown
                )
                done.put_nowait(trace)
                if episode.passed(trace):
                    break

    async def report() -> None:
        try:
            await work()
            done.put_nowait(None)
        except Exception as error:  # raised again below, where the caller is
            done.put_nowait(error)

    running = [asyncio.create_task(report()) for _ in range(workers)]
    try:
        left = workers
        while left:
            trace = await done.get()
            if trace is None:
                left -= 1
            elif isinstance(trace, Exception):
                raise trace
            else:
                yield trace
    finally:
        for worker in running:
            worker.cancel()
        await asyncio.gather(*running, return_exceptions=True)
