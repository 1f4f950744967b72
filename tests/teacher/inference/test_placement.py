"""Which of several servers side by side gets a request."""

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from teacher.inference.endpoint import Endpoint
from teacher.inference.placement import CONVERSATIONS, Placement


def test_conversations_are_divided_and_each_stays_with_its_server() -> None:
    placement = Placement(["a", "b", "c"], most=6)
    chosen: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        for session in "123456":
            chosen[session] = stack.enter_context(placement.server(session))
    assert sorted(chosen.values()) == ["a", "a", "b", "b", "c", "c"]
    for _ in range(3):
        for session, server in chosen.items():
            with placement.server(session) as again:
                assert again == server


def test_a_conversation_does_not_wait_at_a_full_server_while_another_is_idle() -> None:
    placement = Placement(["a", "b"], most=4)
    with contextlib.ExitStack() as stack:
        first = [stack.enter_context(placement.server(str(n))) for n in range(3)]
        assert first == ["a", "b", "a"]
        assert stack.enter_context(placement.server("2")) == "b"  # a has its two requests
        # Where both are full, it stays with the server that has its beginning.
        assert stack.enter_context(placement.server("0")) == "a"
    with placement.server("2") as moved:
        assert moved == "b"


def test_a_server_that_failed_gets_no_request_while_another_can_take_it() -> None:
    placement = Placement(["a", "b"], most=4)
    with placement.server("x") as own:
        placement.avoid(own)
    assert own == "a"
    for session in ("x", "y", None):
        with placement.server(session) as server:
            assert server == "b"
    placement.avoid("b")
    with placement.server("z") as server:
        assert server in "ab"


def test_of_many_conversations_those_in_use_are_remembered() -> None:
    placement = Placement(["a", "b"], most=2)
    with placement.server("kept") as own:
        pass
    for number in range(20 * CONVERSATIONS):
        with placement.server(str(number)):
            pass
        with placement.server("kept") as again:
            assert again == own
    assert len(placement._servers) <= 2 * CONVERSATIONS


@given(st.integers(1, 9), st.integers(1, 70), st.data())
def test_no_server_has_more_than_its_share_as_long_as_the_client_keeps_to_its_number(
    servers: int, most: int, data: st.DataObject
) -> None:
    names = [str(number) for number in range(servers)]
    placement, in_flight = Placement(names, most), dict.fromkeys(names, 0)
    running: list[tuple[str, contextlib.ExitStack]] = []
    for session in data.draw(st.lists(st.integers(0, 2 * most), max_size=150)):
        if len(running) == most:
            place = data.draw(st.integers(0, most - 1))
            server, stack = running.pop(place)
            stack.close()
            in_flight[server] -= 1
        stack = contextlib.ExitStack()
        server = stack.enter_context(placement.server(str(session)))
        in_flight[server] += 1
        running.append((server, stack))
        assert in_flight[server] <= -(-most // servers)


def test_only_without_a_router_requests_go_to_the_servers_themselves() -> None:
    alone = Endpoint("http://h:1/v1", "k", "m")
    routed = Endpoint("http://h:1/v1", "k", "m", servers=("http://h:2", "http://h:3"))
    beside = Endpoint("http://h:2/v1", "k", "m", servers=("http://h:2", "http://h:3"))
    assert alone.urls == routed.urls == ("http://h:1/v1",)
    assert beside.urls == ("http://h:2/v1", "http://h:3/v1")
