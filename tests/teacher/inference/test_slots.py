"""How many requests are in flight, as the server's answers and metrics say."""

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teacher.inference.load import Load, parse
from teacher.inference.slots import Slots

# ------------------------------------------------------------------------------------- slots


def test_one_sign_counts_for_all_requests_that_were_sent_before_it() -> None:
    slots = Slots(90)
    for _ in range(5):
        slots.shrink(0)
    assert slots.limit == slots.lowest == 60
    slots.grow()
    slots.shrink(0)
    assert slots.limit == 60
    slots.shrink(1)
    assert slots.limit == 40


def test_a_server_that_answers_nothing_lowers_the_number_once() -> None:
    slots = Slots(90)
    slots.shrink(0)
    slots.shrink(1)
    slots.shrink()
    assert slots.limit == 60


def test_there_is_always_one_place() -> None:
    slots = Slots(4)
    for turn in range(20):
        slots.shrink(turn)
        slots.grow()
    slots.shrink(to=0)
    assert slots.limit == slots.lowest == 1


async def used_up(slots: Slots, stack: contextlib.AsyncExitStack) -> None:
    for _ in range(slots.limit):
        await stack.enter_async_context(slots.take(has_begun=True))


def test_a_round_of_replies_adds_one_place_up_to_the_most() -> None:
    async def scene() -> None:
        slots = Slots(100)
        slots.shrink(to=10)
        async with contextlib.AsyncExitStack() as stack:
            await used_up(slots, stack)
            for _ in range(11):
                slots.grow()
            assert slots.limit == 11
        idle = slots.limit
        for _ in range(1000):
            slots.grow()  # nothing waits for a place, so nothing shows that more would go well
        assert slots.limit == idle
        while slots.limit < 100:
            async with contextlib.AsyncExitStack() as stack:
                await used_up(slots, stack)
                slots.grow()
        async with contextlib.AsyncExitStack() as stack:
            await used_up(slots, stack)
            slots.grow()
        assert slots.limit == 100

    asyncio.run(scene())


def test_a_conversation_that_has_begun_comes_before_a_new_one() -> None:
    order: list[str] = []

    async def ask(slots: Slots, name: str, has_begun: bool) -> None:
        async with slots.take(has_begun=has_begun):
            order.append(name)
            await asyncio.sleep(0)

    async def scene() -> None:
        slots = Slots(1)
        async with slots.take(has_begun=False):
            asks = [ask(slots, "new", False), ask(slots, "begun", True), ask(slots, "too", True)]
            waiting = asyncio.gather(*asks)
            await asyncio.sleep(0)
        await waiting

    asyncio.run(scene())
    assert order == ["begun", "too", "new"]


@given(
    most=st.integers(1, 6),
    asks=st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.booleans()), max_size=25),
    falls=st.lists(st.integers(0, 12), max_size=4),
)
def test_however_requests_come_end_and_are_cancelled_no_place_is_lost_or_given_twice(
    most: int, asks: list[tuple[bool, int, bool]], falls: list[int]
) -> None:
    in_flight = highest = ended = 0

    async def ask(slots: Slots, has_begun: bool, turns: int) -> None:
        nonlocal in_flight, highest, ended
        async with slots.take(has_begun=has_begun):
            in_flight += 1
            highest = max(highest, in_flight)
            try:
                for _ in range(turns):
                    await asyncio.sleep(0)
            finally:
                in_flight -= 1
        ended += 1

    async def scene() -> None:
        slots = Slots(most)
        tasks = [asyncio.create_task(ask(slots, begun, turns)) for begun, turns, _ in asks]
        for step in range(14):
            await asyncio.sleep(0)
            if step in falls:
                slots.shrink()
                slots.grow()
            if step == 3:
                for task, (_, _, is_cancelled) in zip(tasks, asks, strict=True):
                    if is_cancelled:
                        task.cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        async with asyncio.timeout(10), contextlib.AsyncExitStack() as stack:
            await used_up(slots, stack)

    asyncio.run(scene())
    assert highest <= most and in_flight == 0
    assert ended >= sum(not is_cancelled for _, _, is_cancelled in asks)


# ------------------------------------------------------------------------------------- metrics

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="teacher"}} {running}
vllm:num_requests_waiting{{engine="0",model_name="teacher"}} {waiting}
vllm:kv_cache_usage_perc{{engine="0",model_name="teacher"}} {use}
vllm:kv_cache_usage_perc{{engine="1",model_name="teacher"}} 0.1
vllm:num_preemptions_total{{engine="0",model_name="teacher"}} {preemptions}
vllm:request_success_total{{finished_reason="stop",model_name="the {{ teacher"}} 1e3
"""


def vllm(running: float, waiting: float, use: float, preemptions: float = 0) -> dict[str, float]:
    return parse(VLLM.format(running=running, waiting=waiting, use=use, preemptions=preemptions))


def llama(processing: float, deferred: float) -> dict[str, float]:
    return parse(
        "# TYPE llamacpp:requests_processing gauge\n"
        f"llamacpp:requests_processing {processing}\nllamacpp:requests_deferred {deferred}\n"
    )


def test_a_metric_is_the_sum_over_its_labels_and_a_share_the_largest() -> None:
    numbers = vllm(3, 1, 0.5)
    assert numbers["vllm:num_requests_running"] == 3
    assert numbers["vllm:kv_cache_usage_perc"] == 0.5
    assert parse('a{x="1"} 1\na{x="2"} 2.5\n') == {"a": 3.5}
    with pytest.raises(ValueError):
        parse("<html>")


def test_vllm_that_preempts_gets_fewer_requests_at_once() -> None:
    load = Load()
    assert load.most(vllm(200, 0, 0.99, preemptions=7)) is None  # of an earlier run perhaps
    assert load.most(vllm(200, 0, 0.99, preemptions=7)) is None
    assert load.most(vllm(200, 0, 0.99, preemptions=8)) == 180


def test_requests_that_wait_for_a_full_cache_are_too_many_when_two_looks_show_it() -> None:
    load = Load()
    assert load.most(vllm(100, 40, 0.97)) is None
    assert load.most(vllm(100, 40, 0.97)) == 90
    assert load.most(vllm(100, 0, 0.97)) is None
    assert load.most(vllm(100, 40, 0.97)) is None


def test_a_look_between_requests_does_not_tell_how_many_can_be_served() -> None:
    load = Load()
    assert load.most(vllm(200, 0, 0.99, preemptions=7)) is None
    assert load.most(vllm(0, 0, 0.1, preemptions=8)) is None
    assert load.most(vllm(0, 40, 0.97, preemptions=8)) is None
    assert load.most(vllm(0, 40, 0.97, preemptions=8)) is None
    assert load.most(vllm(10, 40, 0.97, preemptions=8)) == 9


def test_requests_that_wait_beside_a_cache_with_room_are_not_too_many() -> None:
    """They are waiting for their prompts to be read, as all do at the start."""
    load = Load()
    assert [load.most(vllm(20, 236, 0.2)) for _ in range(5)] == [None] * 5


def test_llama_cpp_gets_as_many_as_it_has_slots_and_one_more() -> None:
    load = Load()
    assert load.most(llama(4, 60)) is None
    assert load.most(llama(4, 60)) == 5
    assert load.most(llama(4, 0)) is None


def test_metrics_of_another_program_say_nothing() -> None:
    load = Load()
    assert [load.most({"go_goroutines": 12.0}) for _ in range(3)] == [None] * 3
