"""Runs the attempts at many tasks at once: a fixed number of workers, one round of attempts after the other."""

import asyncio
import functools
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Literal

from schemas.task import Task
from schemas.trace import Maker, Message, Trace
from teacher.domain.pack import Domain
from teacher.inference.client import Client
from teacher.rollout import agent_loop

# The worked examples of a task, for an attempt with or without a hint.
Examples = Callable[[Task, bool], list[list[Message]]]
Hint = Literal["never", "retry", "always"]


@dataclass(frozen=True)
class Rollout:
    """A finished episode. attempt: its index, from 0."""

    trace: Trace
    attempt: int


def no_examples(task: Task, hinted: bool) -> list[list[Message]]:
    """Returns no worked example."""
    return []


async def rollouts(
    tasks: list[Task],
    domain: Domain,
    client: Client,
    settings: agent_loop.Settings,
    maker: Maker,
    *,
    workers: int,
    attempts: int = 1,
    hint: Hint = "never",
    examples: Examples = no_examples,
    all_attempts: bool = False,
) -> AsyncIterator[Rollout]:
    """Yields each episode when it ends.

    Args:
        tasks: in the order in which they start; neighbours with a common beginning share the server's prefix cache.
        workers: episodes at a time.
        attempts: rounds; a task that passed its checks is not attempted in the next round.
        hint: never, retry (from the second attempt on, after a failed one), or always.
        examples: the worked examples of a task, for an attempt with or without its hint.
        all_attempts: make all attempts at each task, also after one that passed.

    Raises:
        StageError: the server is lost; running episodes are cancelled, their replies so far are in the journal.
    """
    # A trace, None from a worker at its end, or the error that ended a worker.
    done: asyncio.Queue[Rollout | BaseException | None] = asyncio.Queue()
    pending = list(tasks)
    unsolved: set[str] = set()

    async def work(own: deque[Task], chunks: list[deque[Task]], attempt: int) -> None:
        while chunk := own or max(chunks, key=len):
            task = chunk.popleft() if chunk is own else chunk.pop()
            hinted = hint == "always" or (hint == "retry" and task["id"] in unsolved)
            trace = await agent_loop.run(
                task,
                domain,
                functools.partial(client.complete, session=f"{task['id']}/{attempt}"),
                settings,
                maker,
                attempt=attempt,
                hinted=hinted,
                examples=examples(task, hinted),
            )
            if not agent_loop.passed(trace):
                failed.append(task)
            done.put_nowait(Rollout(trace, attempt))

    async def work_and_report(own: deque[Task], chunks: list[deque[Task]], attempt: int) -> None:
        try:
            await work(own, chunks, attempt)
            done.put_nowait(None)
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):  # asyncio passes these on
            raise
        # Raised again below, in the caller's task. Prefect's signals are not subclasses of Exception.
        except BaseException as error:
            done.put_nowait(error)

    for attempt in range(attempts):
        failed: list[Task] = []
        # Each worker has a chunk of neighbours, so that not every slot of the server reads every prompt's beginning. A
        # worker without tasks takes from the end of the longest chunk.
        size = -(-len(pending) // workers) or 1
        chunks = [deque(pending[start : start + size]) for start in range(0, len(pending), size)]
        running = [asyncio.create_task(work_and_report(own, chunks, attempt)) for own in chunks]
        try:
            left = len(running)
            while left:
                result = await done.get()
                if result is None:
                    left -= 1
                elif isinstance(result, BaseException):
                    raise result
                else:
                    yield result
        finally:
            for worker in running:
                worker.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        unsolved = {task["id"] for task in failed}
        pending = [task for task in tasks if all_attempts or task["id"] in unsolved]
