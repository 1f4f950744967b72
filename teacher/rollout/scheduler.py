"""Runs the attempts at many tasks at once by a fixed number of workers. No attempt waits for another task's."""

import asyncio
import functools
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from schemas.task import Task
from schemas.trace import End, Maker, Message, Trace
from teacher.domain.pack import Domain
from teacher.inference.client import Client
from teacher.rollout import agent_loop, swarm

# The worked examples of a task, for an attempt with or without a hint.
Examples = Callable[[Task, bool], list[list[Message]]]
Hint = Literal["never", "retry", "always"]
Prepare = Callable[[Task], Awaitable[Task]]
# Tasks of a worker up to which the longest come first.
_FEW = 8


@dataclass(frozen=True)
class Rollout:
    """A finished episode. attempt: its index, from 0."""

    trace: Trace
    attempt: int


def no_examples(task: Task, hinted: bool) -> list[list[Message]]:
    """Returns no worked example."""
    return []


async def as_it_is(task: Task) -> Task:
    """Returns the task."""
    return task


async def rollouts(
    tasks: Sequence[Task],
    domain: Domain,
    client: Client,
    settings: agent_loop.Settings,
    maker: Maker,
    *,
    workers: int,
    attempts: int = 1,
    hint: Hint = "never",
    examples: Examples = no_examples,
    wanted: int = 1,
    prepare: Prepare = as_it_is,
) -> AsyncGenerator[Rollout, None]:
    """Yields each episode when it ends.

    Args:
        tasks: in the order in which they start; neighbours with a common beginning share the server's prefix cache. A
            task is read when its attempt begins (schemas/row_file.py), so there may be more than memory holds.
        workers: episodes at a time.
        attempts: at each task at most. A retry begins when its worker has begun its other tasks, whatever the other
            workers do.
        hint: never, retry (from the second attempt on, after a failed one), or always.
        examples: the worked examples of a task, for an attempt with or without its hint.
        wanted: attempts at a task that must pass before it is not attempted again.
        prepare: returns the task that is played for one of `tasks`; it may ask the teacher (rewrite.py). Called before
            each attempt.

    Raises:
        StageError: the server is lost; running episodes are cancelled, their replies so far are in the journal.
    """
    # A trace, None from a worker at its end, or the error that ended a worker.
    done: asyncio.Queue[Rollout | BaseException | None] = asyncio.Queue()
    # Each worker has a stretch of neighbours, so that not every slot of the server reads every prompt's beginning. A
    # worker without tasks takes the next one of whoever has most left.
    size = -(-len(tasks) // workers) or 1
    queues = [
        deque(map(_Attempt, _longest_first(tasks, range(start, min(start + size, len(tasks))))))
        for start in range(0, len(tasks), size)
    ]

    running_children = asyncio.Semaphore(workers)

    async def work(own: deque[_Attempt]) -> None:
        while queue := own or max(queues, key=len):
            place, attempt, passes, has_failed = queue.popleft()
            task = await prepare(tasks[place])
            hinted = hint == "always" or (hint == "retry" and has_failed)
            if "swarm" in task:
                trace = await swarm.play(
                    task,
                    domain,
                    client.complete,
                    settings,
                    maker,
                    attempt=attempt,
                    hinted=hinted,
                    examples=examples,
                    running=running_children,
                )
            else:
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
            has_passed = agent_loop.passed(trace)
            passes += has_passed
            # What a simulated user did wrong is no reason to show the teacher the solution.
            has_failed = not has_passed and trace["outcome"]["ended"] != End.USER_FAULT
            if attempt + 1 < attempts and passes < wanted:
                # Behind the first attempts of its neighbours, which share more of their prompts.
                own.append(_Attempt(place, attempt + 1, passes, has_failed))
            done.put_nowait(Rollout(trace, attempt))

    async def work_and_report(own: deque[_Attempt]) -> None:
        try:
            await work(own)
            done.put_nowait(None)
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):  # asyncio passes these on
            raise
        # Raised again below, in the caller's task. Prefect's signals are not subclasses of Exception.
        except BaseException as error:
            done.put_nowait(error)

    running = [asyncio.create_task(work_and_report(own)) for own in queues]
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


class _Attempt(NamedTuple):
    """An attempt to be made at tasks[place]. passes: of those before it. has_failed: whether the last one did not."""

    place: int
    number: int = 0
    passes: int = 0
    has_failed: bool = False


def _longest_first(tasks: Sequence[Task], indexes: Sequence[int]) -> Iterable[int]:
    """A worker's tasks in the order in which it begins them.

    Of few tasks, those with the most calls come first, because a long episode that begins last is waited for. Of many,
    the end matters less than prompts whose beginning the server has read, so neighbours stay together.
    """
    if len(indexes) > _FEW:
        return indexes
    return sorted(indexes, key=lambda index: -len(tasks[index]["plan"]))
