"""A server that starts at the first request that needs it."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from schemas.errors import StageError
from teacher.inference.endpoint import Endpoint
from teacher.inference.late_start import run_with_late_server

ENDPOINT = Endpoint("http://127.0.0.1:1/v1", "k", "m")
Find = Callable[[], Awaitable[Endpoint]]


def refuse() -> Endpoint:
    raise AssertionError("nothing needs the server")


def test_work_that_needs_no_server_starts_none() -> None:
    async def work(find: Find) -> str:
        await asyncio.sleep(0)
        return "done"

    assert run_with_late_server(refuse, work) == "done"


def test_many_that_need_it_start_it_once_in_the_thread_of_the_caller_which_may_run_a_loop() -> None:
    threads = []

    def start() -> Endpoint:
        asyncio.run(asyncio.sleep(0))
        threads.append(threading.current_thread())
        return ENDPOINT

    async def work(find: Find) -> list[Endpoint]:
        return await asyncio.gather(*(find() for _ in range(5)))

    assert run_with_late_server(start, work) == [ENDPOINT] * 5
    assert threads == [threading.current_thread()]


@pytest.mark.parametrize("error", [StageError("no memory"), KeyboardInterrupt()])
def test_a_start_that_fails_cancels_the_work(error: BaseException) -> None:
    ended: list[str] = []

    def start() -> Endpoint:
        raise error

    async def work(find: Find) -> None:
        try:
            await find()
        finally:
            ended.append("cancelled")

    with pytest.raises(type(error)):
        run_with_late_server(start, work)
    assert ended == ["cancelled"]


def test_the_error_of_the_work_is_raised_before_and_after_the_start() -> None:
    async def fails_at_once(find: Find) -> None:
        raise StageError("a fault of the pack")

    async def fails_later(find: Find) -> None:
        await find()
        raise StageError("the server is lost")

    with pytest.raises(StageError, match="fault of the pack"):
        run_with_late_server(refuse, fails_at_once)
    with pytest.raises(StageError, match="is lost"):
        run_with_late_server(lambda: ENDPOINT, fails_later)


def test_an_episode_that_needs_the_server_waits_while_others_go_on_until_it_starts() -> None:
    """One task waits for the endpoint; a replay beside it ends in the same run."""
    order: list[str] = []

    async def replay() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        order.append("replayed")

    async def ask(find: Find) -> None:
        await find()
        order.append("asked")

    async def work(find: Find) -> None:
        await asyncio.gather(ask(find), replay())

    def start() -> Endpoint:
        order.append("started")
        return ENDPOINT

    run_with_late_server(start, work)
    assert sorted(order) == ["asked", "replayed", "started"]
    assert order.index("started") < order.index("asked")
