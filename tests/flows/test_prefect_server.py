"""What flows/prefect_server.py makes of Prefect: a signal ends a flow run wherever it strikes."""

import asyncio
import os
import signal
from collections.abc import Callable

import pytest
from prefect.exceptions import TerminationSignal
from prefect.utilities.engine import capture_sigterm, is_prefect_sigterm_handler_installed

from flows import prefect_server


async def in_a_task() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


async def in_a_callback() -> None:
    asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("struck", [in_a_task, in_a_callback])
def test_a_cancellation_that_strikes_another_task_ends_the_flow_run_at_once(
    struck: Callable[[], asyncio.Future[None]],
) -> None:
    # Prefect hands the signal to the handler that was there before.
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))

    went_on: list[bool] = []

    async def work() -> None:
        in_background = asyncio.ensure_future(struck())
        await asyncio.sleep(20)
        await in_background
        went_on.append(True)

    try:
        with pytest.raises(TerminationSignal) as raised, capture_sigterm():
            assert is_prefect_sigterm_handler_installed()
            asyncio.run(work())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert isinstance(raised.value, prefect_server.Terminated)
    assert not went_on
    assert received == [signal.SIGTERM]
