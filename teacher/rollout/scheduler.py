"""Runs many episodes at once: bounded workers, one round of attempts after the other."""

import asyncio
import functools
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from schemas.task import Task
from teacher.domain.pack import Domain
from teacher.inference.client import Client
from teacher.rollout import agent_loop


async def rollouts(
    tasks: list[Task],
    domain: Domain,
    client: Client,
    settings: agent_loop.Settings,
    teacher: dict[str, Any],
    workers: int,
    attempts: int = 1,
    hint: str = "never",
    examples: Callable[[Task, bool], list[list[dict[str, Any]]]] = lambda task, hinted: [],
    every: bool = False,
) -> AsyncIterator[dict[str, Any]]:
    """Yields each trace as it ends.

    Args:
        tasks: in the order they are begun; neighbours that share a prompt's beginning share the server's cache.
        attempts: rounds; a task that passed its checks is not tried again in the next.
        hint: never, retry (from the second attempt on, after a failed one), or always.
        examples: the worked examples of a task, for an attempt with or without its hint.
        every: all attempts at each task, also after one that passed.

    Raises:
        StageError: the server is lost; episodes in flight are given up, their replies are in the journal.
    """
    done: asyncio.Queue[dict[str, Any] | BaseException | None] = asyncio.Queue()
    todo = list(tasks)
    unsolved: set[str] = set()

    async def work(mine: deque, chunks: list[deque], attempt: int) -> None:
        while chunk := mine or max(chunks, key=len):
            task = chunk.popleft() if chunk is mine else chunk.pop()
            hinted = hint == "always" or (hint == "retry" and task["id"] in unsolved)
            session = f"{task['id']}/{attempt}"
            trace = await agent_loop.run(
                task,
                domain,
                functools.partial(client.complete, session=session),
                settings,
                teacher,
                attempt,
                hinted,
                examples(task, hinted),
            )
            if not agent_loop.passed(trace):
                failed.append(task)
            done.put_nowait(trace)

    async def report(mine: deque, chunks: list[deque], attempt: int) -> None:
        try:
            await work(mine, chunks, attempt)
            done.put_nowait(None)
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):  # asyncio hands these on
            raise
        # Raised again below, where the caller is; Prefect's signals are no Exception.
        except BaseException as error:
            done.put_nowait(error)

    for attempt in range(attempts):
        failed: list[Task] = []
        # Each worker has a stretch of neighbours, so that the server's slots do not each read every prompt's beginning;
        # one that is through takes from the end of the longest stretch.
        size = -(-len(todo) // workers) or 1
        chunks = [deque(todo[start : start + size]) for start in range(0, len(todo), size)]
        running = [asyncio.create_task(report(chunk, chunks, attempt)) for chunk in chunks]
        try:
            left = len(running)
            while left:
                trace = await done.get()
                if trace is None:
                    left -= 1
                elif isinstance(trace, BaseException):
                    raise trace
                else:
                    yield trace
        finally:
            for worker in running:
                worker.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        unsolved = {task["id"] for task in failed}
        todo = [task for task in tasks if every or task["id"] in unsolved]
