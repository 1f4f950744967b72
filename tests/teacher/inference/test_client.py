"""The client against a scripted server: what is sent, what is sent again, what is on disk."""

import asyncio
import contextlib
import datetime as dt
import email.utils
import json
import logging
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from http_server import Handler, HttpServer

from schemas.errors import StageError
from teacher.inference import client as module
from teacher.inference import failures
from teacher.inference.client import Client
from teacher.inference.endpoint import Endpoint
from teacher.inference.journal import Journal
from teacher.inference.replies import Reply

KEY = "sk-the-secret-of-this-test"
IDENTITY = {"model": "m", "revision": "r"}
ASK = [{"role": "user", "content": "How many?"}]
TOOLS = [{"type": "function", "function": {"name": "count", "parameters": {"type": "object"}}}]
NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0}

Scripted = tuple[int, Any]


def said(content: str = "Seven.", **more: Any) -> Scripted:
    message = {"role": "assistant", "content": content, **more}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
    return 200, {"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage}


def refused(status: int, message: str = "no") -> Scripted:
    return status, {"error": {"message": message, "type": "t", "code": status}}


class Server(HttpServer):
    """Gives the scripted replies in order, the last one again and again, and keeps what it was sent.

    A reply is (status, JSON), (status, the very bytes), or None: the connection is dropped.
    """

    def __init__(self, port: int = 0) -> None:
        self.script: list[Scripted | None] = [said()]
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.sessions: list[str | None] = []
        self.before_reply: Callable[[dict[str, Any]], None] = lambda body: None
        self.answer: Callable[[dict[str, Any]], Scripted] | None = None  # in place of the script
        self.headers: dict[str, str] = {}
        outer, lock = self, threading.Lock()

        class Replies(Handler):
            def do_POST(self) -> None:
                body = self.body()
                with lock:
                    outer.bodies.append(body)
                    outer.keys.append(self.headers["Authorization"])
                    outer.sessions.append(self.headers["X-Session-ID"])
                    reply = outer.script.pop(0) if len(outer.script) > 1 else outer.script[0]
                    reply = outer.answer(body) if outer.answer else reply
                outer.before_reply(body)
                if reply is None:
                    self.close_connection = True
                else:
                    self.reply(*reply, outer.headers)

        super().__init__(Replies, port)


@pytest.fixture
def server() -> Iterator[Server]:
    with contextlib.closing(Server()) as scripted:
        yield scripted


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with contextlib.closing(Journal(tmp_path / "journal")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def waits_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_WAIT", 0.005)
    monkeypatch.setattr(module, "_LONGEST_WAIT", 0.01)


def talk(
    url: str,
    journal: Journal,
    *asks: Callable[[Client], Awaitable[Any]],
    restart: Callable[[], None] | None = None,
    concurrency: int = 2,
    timeout: float = 20,
    identity: dict[str, str] = IDENTITY,
    **settings: Any,
) -> tuple[list[Any], int]:
    """What each of `asks`, begun together, returned, and the number of requests sent."""

    async def scene() -> tuple[list[Any], int]:
        endpoint = Endpoint(url, KEY, "served-name", restart)
        async with Client(
            endpoint, identity, journal, concurrency, timeout, **{"patience": 1, **settings}
        ) as client:
            return list(await asyncio.gather(*(ask(client) for ask in asks))), client.sent

    return asyncio.run(scene())


def how_many(client: Client) -> Awaitable[Reply]:
    return client.complete(ASK, TOOLS, 0, temperature=0.2, max_tokens=80)


_HELD: list[socket.socket] = []


def closed_port() -> int:
    """A port where nobody listens but who asks for this one: it stays taken, so that no other process is given it."""
    probe = socket.socket()
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    probe.bind(("127.0.0.1", 0))
    _HELD.append(probe)
    return probe.getsockname()[1]


# ------------------------------------------------------------------------------------- requests


def test_a_reply_has_the_message_its_usage_and_why_it_ended(
    server: Server, journal: Journal
) -> None:
    call = {"id": "x", "type": "function", "function": {"name": "count", "arguments": "{}"}}
    server.script = [said("", tool_calls=[call], reasoning_content="Let me count.")]
    [reply], sent = talk(server.url, journal, how_many)
    assert reply.message == {
        "role": "assistant",
        "content": "",
        "reasoning_content": "Let me count.",
        "tool_calls": [call],
    }
    assert reply.usage == {"prompt_tokens": 11, "completion_tokens": 3}
    assert (reply.finish_reason, reply.error, sent) == ("stop", None, 1)
    assert reply.seconds >= 0


def test_the_server_is_sent_the_conversation_its_own_name_for_the_model_and_the_key(
    server: Server, journal: Journal
) -> None:
    talk(server.url, journal, how_many)
    assert server.bodies == [
        {
            "model": "served-name",
            "messages": ASK,
            "tools": TOOLS,
            "temperature": 0.2,
            "max_tokens": 80,
        }
    ]
    assert server.keys == [f"Bearer {KEY}"]


def test_without_tools_no_tool_choice_is_sent(server: Server, journal: Journal) -> None:
    talk(server.url, journal, lambda client: client.complete(ASK, [], 0, tool_choice="required"))
    assert set(server.bodies[0]) == {"model", "messages"}


def test_a_conversation_names_its_agent_in_a_header_that_the_journal_does_not_know(
    server: Server, journal: Journal
) -> None:
    def ask(session: str | None) -> Callable[[Client], Awaitable[Reply]]:
        return lambda client: client.complete(ASK, TOOLS, 0, session=session, temperature=0.2)

    [first], _ = talk(server.url, journal, ask("legal-train-7/0"))
    [second], sent = talk(server.url, journal, ask("another"))
    assert server.sessions == ["legal-train-7/0"]
    assert second == first and sent == 0
    assert "session" not in json.dumps(server.bodies)
    talk(
        server.url, journal, lambda client: client.complete(ASK, [], 0, session="\u00e4 \n: secret")
    )
    talk(server.url, journal, lambda client: client.complete(ASK, [], 1))
    assert server.sessions[1:] == ["%C3%A4%20%0A:%20secret", None]


def test_requests_in_flight_are_counted_where_the_server_is_watched(
    server: Server, journal: Journal
) -> None:
    endpoint = Endpoint(server.url, KEY, "served-name")
    seen = []
    server.before_reply = lambda body: seen.append(endpoint.in_flight)
    server.script = [refused(500), said()]

    async def scene() -> None:
        async with Client(endpoint, IDENTITY, journal, 2, 20) as client:
            await how_many(client)

    asyncio.run(scene())
    assert (seen, endpoint.in_flight) == ([1, 1], 0)


def test_a_proxy_of_the_environment_is_not_asked_for_a_server_on_this_machine(
    server: Server, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    [reply], _ = talk(server.url, journal, how_many)
    assert reply.message


# ------------------------------------------------------------------------------------- journal


def test_a_reply_is_on_disk_before_it_is_returned(
    server: Server, journal: Journal, tmp_path: Path
) -> None:
    async def ask(client: Client) -> None:
        reply = await how_many(client)
        on_disk = Journal(tmp_path / "journal").get(reply.key)
        assert on_disk and on_disk["message"] == reply.message

    talk(server.url, journal, ask)


def test_a_reply_that_cannot_be_written_is_not_returned(
    server: Server, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(journal, "put", full)
    with pytest.raises(OSError, match="No space left"):
        talk(server.url, journal, how_many)


def test_a_journalled_request_is_not_sent_again(
    server: Server, journal: Journal, tmp_path: Path
) -> None:
    [first], _ = talk(server.url, journal, how_many)
    [again], sent = talk(f"http://127.0.0.1:{closed_port()}/v1", journal, how_many)
    [restarted], _ = talk("http://127.0.0.1:1/v1", Journal(tmp_path / "journal"), how_many)
    assert first == again == restarted
    assert (sent, len(server.bodies)) == (0, 1)


def test_another_sample_parameter_or_revision_is_sent(server: Server, journal: Journal) -> None:
    asks: list[Callable[[Client], Awaitable[Reply]]] = [
        lambda client: client.complete(ASK, TOOLS, 1, temperature=0.2, max_tokens=80),
        lambda client: client.complete(ASK, TOOLS, 0, temperature=0.3, max_tokens=80),
        lambda client: client.complete(ASK, [], 0, temperature=0.2, max_tokens=80),
        lambda client: client.complete(ASK * 2, TOOLS, 0, temperature=0.2, max_tokens=80),
    ]
    talk(server.url, journal, how_many, *asks)
    talk(server.url, journal, how_many, identity={"model": "m", "revision": "other"})
    assert len(server.bodies) == len(journal) == 6


# ------------------------------------------------------------------------------------- retries


@pytest.mark.parametrize(
    "trouble", [refused(429), refused(500), refused(503), refused(409), (502, b"<p>gone</p>"), None]
)
def test_trouble_that_passes_is_waited_out(
    server: Server, journal: Journal, trouble: Scripted | None
) -> None:
    server.script = [trouble, trouble, said()]
    [reply], sent = talk(server.url, journal, how_many)
    assert reply.message["content"] == "Seven." and reply.error is None
    assert sent == len(server.bodies) == 3
    assert len(journal) == 1


def test_a_reply_that_takes_too_long_is_asked_for_again(server: Server, journal: Journal) -> None:
    release = threading.Event()

    def hold_the_first(body: dict[str, Any]) -> None:
        if len(server.bodies) == 1:
            release.wait(10)

    server.before_reply = hold_the_first
    [reply], sent = talk(server.url, journal, how_many, timeout=0.5)
    release.set()
    assert reply.message and sent >= 2


@pytest.mark.parametrize(
    "strange",
    [
        (200, {"id": "1", "choices": []}),
        (200, {"id": "1"}),
        (200, {"id": "1", "choices": None}),
        (200, {"id": "1", "choices": [{"index": 0, "message": None, "finish_reason": "stop"}]}),
        (200, {"id": "1", "choices": [{"index": 0}]}),
        (200, {"id": "1", "choices": [None]}),
        (200, []),
        (200, None),
        (200, b""),
        (200, b'{"choices": [{"mess'),
    ],
)
def test_an_answer_without_a_message_is_asked_for_again_until_patience_ends(
    server: Server, journal: Journal, strange: Scripted
) -> None:
    server.script = [strange, said()]
    [reply], _ = talk(server.url, journal, how_many)
    assert reply.message and len(server.bodies) == 2
    server.script = [strange]
    with pytest.raises(StageError, match="no reply to any request"):
        talk(server.url, journal, lambda client: client.complete(ASK, [], 0), patience=0.3)
    assert len(journal) == 1


@pytest.mark.parametrize("status", [200, 400, 422, 502])
def test_a_page_of_a_proxy_is_asked_again_and_never_stored_as_a_reply(
    server: Server, journal: Journal, status: int
) -> None:
    page = (status, b"<html>Sign in to the proxy</html>")
    server.script = [page, said()]
    [reply], _ = talk(server.url, journal, how_many)
    assert reply.message
    server.script = [page]
    with pytest.raises(StageError, match="no reply to any request .*page"):
        talk(server.url, journal, lambda client: client.complete(ASK, [], 0), patience=0.3)
    assert len(journal) == 1


def test_a_reply_that_the_server_broke_off_when_it_was_stopped_is_asked_for_again(
    server: Server, journal: Journal
) -> None:
    status, body = said("Half of")
    half = {**body, "choices": [{**body["choices"][0], "finish_reason": "abort"}]}
    server.script = [(status, half), said()]
    [reply], sent = talk(server.url, journal, how_many)
    assert reply.message["content"] == "Seven." and sent == 2


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_is_refused_for_good_is_an_error_reply_and_journalled(
    server: Server, journal: Journal, status: int
) -> None:
    server.script = [refused(status, "the request exceeds the context\nsize"), said()]
    [reply], sent = talk(server.url, journal, how_many)
    assert reply.message is None and reply.finish_reason == "error"
    assert "exceeds the context" in reply.error and "\n" not in reply.error
    assert reply.usage == NO_USAGE
    [again], sent_again = talk(server.url, journal, how_many)
    assert again == reply
    assert (sent, sent_again) == (1, 0)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refused_key_or_address_ends_the_stage_at_once(
    server: Server, journal: Journal, status: int
) -> None:
    server.script = [refused(status, "go away")]
    with pytest.raises(StageError, match=r"127\.0\.0\.1.* refused.*: .*go away") as raised:
        talk(server.url, journal, how_many)
    assert "\n" not in str(raised.value)
    assert len(server.bodies) == 1
    assert len(journal) == 0


def test_trouble_that_stays_ends_the_stage_and_is_not_journalled(
    server: Server, journal: Journal
) -> None:
    server.script = [refused(500, "out of memory")]
    with pytest.raises(StageError, match="no reply to any request .*server_error: .*out of memory"):
        talk(server.url, journal, how_many, patience=0.3)
    assert len(server.bodies) > 1
    assert len(journal) == 0


def test_a_server_that_is_not_there_ends_the_stage(journal: Journal) -> None:
    with pytest.raises(StageError, match="no_connection: .*Connect call failed"):
        talk(f"http://127.0.0.1:{closed_port()}/v1", journal, how_many, patience=0.3)


def test_a_dead_server_is_restarted_once_and_the_request_sent_again(journal: Journal) -> None:
    port, started = closed_port(), []

    def restart() -> None:
        started.append(Server(port))

    try:
        [reply], sent = talk(f"http://127.0.0.1:{port}/v1", journal, how_many, restart=restart)
    finally:
        for server in started:
            server.close()
    assert reply.message["content"] == "Seven."
    assert (len(started), sent) == (1, 2)


def test_a_server_that_cannot_be_restarted_ends_the_stage_with_its_reason(journal: Journal) -> None:
    def restart() -> None:
        raise StageError("llama-server died 4 times: out of memory")

    with pytest.raises(StageError, match="died 4 times"):
        talk(f"http://127.0.0.1:{closed_port()}/v1", journal, how_many, restart=restart)


# ------------------------------------------------------------------------------------- concurrency


def test_no_more_requests_are_in_flight_than_there_are_slots(
    server: Server, journal: Journal
) -> None:
    flying, most, lock = 0, 0, threading.Lock()
    three = threading.Barrier(3)

    def fly(body: dict[str, Any]) -> None:
        nonlocal flying, most
        with lock:
            flying += 1
            most = max(most, flying)
        three.wait(60)  # until as many are here as may be
        time.sleep(0.02)
        with lock:
            flying -= 1

    server.before_reply = fly
    asks = [lambda client, n=n: client.complete(ASK, [], n) for n in range(12)]
    replies, _ = talk(server.url, journal, *asks, concurrency=3)
    assert len(replies) == 12
    assert most == 3


def test_a_thousand_and_one_requests_are_really_in_flight_at_once(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 1001
    # The server is in this process and has as many connections.
    monkeypatch.setattr(module, "_OTHER_FILES", count + module._OTHER_FILES)
    here = 0

    async def scene() -> int:
        all_here = asyncio.Event()

        async def reply(request: web.Request) -> web.Response:
            nonlocal here
            await request.read()
            here += 1
            if here == count:
                all_here.set()
            await asyncio.wait_for(all_here.wait(), 50)
            return web.json_response(said()[1])

        app = web.Application()
        app.router.add_post("/v1/chat/completions", reply)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=2048)
        await site.start()
        endpoint = Endpoint(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", KEY, "m")
        async with Client(endpoint, IDENTITY, journal, count, 60, patience=60) as client:
            await asyncio.gather(*(client.complete(ASK, [], n) for n in range(count)))
        await runner.cleanup()
        return client.sent

    assert asyncio.run(scene()) == count == here == len(journal)


def test_too_low_a_limit_of_open_files_is_raised_or_named(
    server: Server, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits, raised = (256, 100_000), []
    monkeypatch.setattr(module.resource, "getrlimit", lambda which: limits)
    monkeypatch.setattr(module.resource, "setrlimit", lambda which, pair: raised.append(pair))
    talk(server.url, journal, how_many, concurrency=1000)
    assert raised == [(1000 + module._OTHER_FILES, 100_000)]
    limits = (1024, 1024)
    with pytest.raises(StageError, match=r"found a limit of 1,024 open files .*, expected 1,256"):
        talk(server.url, journal, ask_for("more"), concurrency=1000)
    talk(server.url, journal, ask_for("more"), concurrency=700)


def test_a_client_whose_replies_are_all_in_the_journal_asks_for_no_endpoint(
    server: Server, journal: Journal
) -> None:
    talk(server.url, journal, how_many)
    asked: list[str] = []

    async def find() -> Endpoint:
        asked.append("endpoint")
        await asyncio.sleep(0)
        return Endpoint(server.url, KEY, "served-name")

    async def scene() -> None:
        async with Client(find, IDENTITY, journal, 4, 20) as client:
            await how_many(client)
            assert asked == [] and client.asked == 0
            await asyncio.gather(*(client.complete(ASK, [], n) for n in range(4)))
            assert asked == ["endpoint"] and client.asked == 4

    asyncio.run(scene())


def test_a_request_that_waits_to_be_sent_again_holds_no_slot(
    server: Server, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script = [refused(429), said()]
    ended: list[int] = []
    other_ended = asyncio.Event()

    async def sleep_until_the_other_has_ended(seconds: float) -> None:
        await asyncio.wait_for(other_ended.wait(), 10)

    def ask(sample: int) -> Callable[[Client], Awaitable[None]]:
        async def scene(client: Client) -> None:
            await client.complete(ASK, [], sample)
            ended.append(sample)
            other_ended.set()

        return scene

    monkeypatch.setattr(module.asyncio, "sleep", sleep_until_the_other_has_ended)
    talk(server.url, journal, ask(0), ask(1), concurrency=1)
    assert ended == [1, 0]


def test_an_api_that_limits_requests_in_flight_gets_fewer_and_every_reply_comes(
    journal: Journal,
) -> None:
    lock, seen = threading.Lock(), []
    flying = 0

    class Replies(Handler):
        def do_POST(self) -> None:
            nonlocal flying
            self.body()
            with lock:
                flying += 1
                seen.append(is_over := flying > 4)
            time.sleep(0 if is_over else 0.1)
            with lock:
                flying -= 1
            self.reply(*(refused(429) if is_over else said()))

    async def scene(url: str) -> Client:
        endpoint = Endpoint(url, KEY, "m")
        async with Client(endpoint, IDENTITY, journal, 32, 20, patience=60) as client:
            await asyncio.gather(*(client.complete(ASK, [], n) for n in range(80)))
            return client

    with contextlib.closing(HttpServer(Replies)) as server:
        client = asyncio.run(scene(server.url))
    assert len(journal) == 80 and client.failures == {}
    assert client.slots.lowest < 32
    assert client.retries["rate_limited"] == sum(seen)


def test_a_server_whose_metrics_show_waiting_requests_gets_as_many_as_it_can_serve(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.load, "SECONDS", 0.01)

    class Replies(Handler):
        def do_GET(self) -> None:
            assert self.path == "/metrics" and self.headers["Authorization"] == f"Bearer {KEY}"
            self.reply(200, b"llamacpp:requests_processing 2\nllamacpp:requests_deferred 30\n")

        def do_POST(self) -> None:
            self.body()
            time.sleep(0.05)
            self.reply(*said())

    async def scene(url: str) -> int:
        async with Client(Endpoint(url, KEY, "m"), IDENTITY, journal, 32, 20) as client:
            await asyncio.gather(*(client.complete(ASK, [], n) for n in range(100)))
            return client.slots.lowest

    with contextlib.closing(HttpServer(Replies)) as server:
        assert asyncio.run(scene(server.url)) == 3


# ------------------------------------------------------------------------------------- strange replies


@pytest.mark.parametrize("usage", ["absent", None, {}, {"prompt_tokens": None}])
def test_missing_usage_counts_as_none_used(server: Server, journal: Journal, usage: Any) -> None:
    status, body = said()
    del body["usage"]
    server.script = [(status, body if usage == "absent" else {**body, "usage": usage})]
    [reply], _ = talk(server.url, journal, how_many)
    assert reply.message and reply.usage == NO_USAGE


def test_a_missing_finish_reason_is_an_empty_one(server: Server, journal: Journal) -> None:
    status, body = said()
    del body["choices"][0]["finish_reason"]
    server.script = [(status, body)]
    [reply], _ = talk(server.url, journal, how_many)
    assert reply.message and reply.finish_reason == ""


def test_half_of_a_surrogate_pair_does_not_stop_the_run(server: Server, journal: Journal) -> None:
    server.script = [said("half \ud83d of it", reasoning_content="\udc00")]
    [reply], _ = talk(server.url, journal, how_many)
    assert reply.message["content"] == "half ? of it"
    stored = journal.get(reply.key)
    assert stored and stored["message"] == reply.message


def test_half_of_a_surrogate_pair_beside_the_message_does_not_stop_the_run_either(
    server: Server, journal: Journal
) -> None:
    status, body = said()
    body["choices"][0]["finish_reason"] = "st\udc00p"
    token = {"token": "\ud83d", "logprob": -0.5, "top_logprobs": []}
    body["choices"][0]["logprobs"] = {"content": [token]}
    server.script = [(status, body)]
    [reply], _ = talk(server.url, journal, how_many)
    assert reply.finish_reason == "st?p"
    stored = journal.get(reply.key)
    assert stored and stored["logprobs"]["tokens"] == ["?"]

    server.script = [refused(400, "no \ud83d here")]
    [reply], _ = talk(server.url, journal, lambda client: client.complete(ASK, [], 1))
    assert reply.error == "refused: status 400: no ? here"
    stored = journal.get(reply.key)
    assert stored and stored["error"] == reply.error


def test_a_number_of_tokens_that_no_reply_has_counts_as_none(
    server: Server, journal: Journal
) -> None:
    status, body = said()
    body["usage"]["prompt_tokens"] = 10**400
    server.script = [(status, body)]
    [reply], _ = talk(server.url, journal, how_many)
    assert reply.usage == {"prompt_tokens": 0, "completion_tokens": 3}


# ------------------------------------------------------------------------------------- the key


@pytest.mark.parametrize("status", [400, 401, 500])
def test_the_api_key_is_in_no_error_no_log_and_no_journal(
    server: Server,
    journal: Journal,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    status: int,
) -> None:
    caplog.set_level(logging.DEBUG)
    server.script = [refused(status, f"Incorrect API key provided: {KEY}.")]
    shown = ""
    try:
        [reply], _ = talk(server.url, journal, how_many)
        shown = str(reply)
    except StageError as error:
        shown = repr(error)
    assert "Incorrect API key provided: ***." in shown
    assert KEY not in shown
    own = [record.getMessage() for record in caplog.records if record.name != "asyncio"]
    assert KEY not in "\n".join(own)
    written = [path.read_text() for path in tmp_path.rglob("*.jsonl")]
    assert KEY not in "".join(written)


def test_the_api_key_is_not_in_the_repr_of_an_endpoint() -> None:
    assert KEY not in repr(Endpoint("http://127.0.0.1:1/v1", KEY, "m"))


# ------------------------------------------------------------------------------------- kinds of failures


def ask_for(text: str, sample: int = 0) -> Callable[[Client], Awaitable[Reply]]:
    messages = [{"role": "user", "content": text}]
    return lambda client: client.complete(messages, [], sample)


def fails_for(text: str, failure: Scripted) -> Callable[[dict[str, Any]], Scripted]:
    return lambda body: failure if body["messages"][0]["content"] == text else said()


@pytest.mark.parametrize(
    "failure, cause",
    [
        (refused(500, "index out of range"), "server_error"),
        ((200, b"<html>blocked</html>"), "page"),
        ((403, b"<html>blocked</html>"), "page"),
        ((200, {"choices": []}), "no_message"),
        ((200, b"\xff\xfe{"), "unreadable"),
        ((200, b"[" * 100_000), "unreadable"),
    ],
)
def test_a_request_that_fails_while_the_server_answers_others_ends_by_name(
    server: Server, journal: Journal, failure: Scripted, cause: str
) -> None:
    server.answer = fails_for("bad", failure)
    (bad, good), _ = talk(server.url, journal, ask_for("bad"), ask_for("good"), patience=60)
    assert good.message
    assert bad.message is None and bad.error.startswith(f"{cause}: ")


def test_a_rate_limit_does_not_end_a_request_however_often_it_comes(
    server: Server, journal: Journal
) -> None:
    server.script = [*[refused(429)] * (4 * module._TRIES), said()]
    [reply], sent = talk(server.url, journal, how_many, patience=60)
    assert reply.message


def test_retry_after_is_honoured(
    server: Server, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(module.asyncio, "sleep", note)
    server.headers = {"Retry-After": "17"}
    server.script = [refused(429), refused(503), said()]
    talk(server.url, journal, how_many, patience=60)
    assert len(waits) == 2 and all(17 <= wait < 19 for wait in waits)


def test_a_date_in_retry_after_is_honoured() -> None:
    later = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=100)
    seconds = failures._retry_after({"retry-after": email.utils.format_datetime(later)})
    assert 60 < seconds <= 100
    assert failures._retry_after({"retry-after": "soon"}) == 0
    assert failures._retry_after({"retry-after": "-3"}) == 0
    assert failures._retry_after({}) == 0


@pytest.mark.parametrize(
    "refusal",
    [
        refused(402, "no credit"),
        (429, {"error": {"message": "no credit", "code": "insufficient_quota"}}),
        (400, {"error": {"message": "no credit", "code": "model_not_found"}}),
    ],
)
def test_what_no_request_can_pass_ends_the_stage_at_once(
    server: Server, journal: Journal, refusal: Scripted
) -> None:
    server.script = [refusal]
    with pytest.raises(StageError, match="refused: .*no credit"):
        talk(server.url, journal, how_many, patience=60)
    assert len(server.bodies) == 1 and len(journal) == 0


def test_a_stored_failure_is_asked_again_when_the_server_has_other_settings(
    server: Server, journal: Journal, tmp_path: Path
) -> None:
    server.script = [refused(400, "longer than max_model_len"), said()]
    [first], _ = talk(server.url, journal, how_many, serving={"max_model_len": 1024})
    [again], sent = talk(server.url, journal, how_many, serving={"max_model_len": 1024})
    assert again == first and sent == 0
    [answered], sent = talk(server.url, journal, how_many, serving={"max_model_len": 4096})
    assert answered.message and sent == 1
    # The reply counts from now on, whatever the settings, and also in a new process.
    reopened = Journal(tmp_path / "journal")
    [stored], sent = talk(server.url, reopened, how_many, serving={"max_model_len": 1024})
    assert stored == answered and sent == 0


def test_a_failure_is_journalled_with_what_was_asked(server: Server, journal: Journal) -> None:
    server.script = [refused(400, "too long")]
    [reply], _ = talk(server.url, journal, how_many)
    row = journal.get(reply.key)
    assert row and row["request"]["messages"] == ASK and row["request"]["max_tokens"] == 80


def test_the_client_counts_retries_and_failures_by_cause(server: Server, journal: Journal) -> None:
    endpoint = Endpoint(server.url, KEY, "served-name")
    server.script = [refused(429), refused(500), said(), refused(413)]

    async def scene() -> Client:
        async with Client(endpoint, IDENTITY, journal, 1, 20) as client:
            await how_many(client)
            await ask_for("long")(client)
            return client

    client = asyncio.run(scene())
    assert client.retries == {"rate_limited": 1, "server_error": 1}
    assert client.failures == {"too_large": 1}
    assert client.waited > 0 and (client.sent, client.asked) == (4, 2)


def test_equal_requests_at_the_same_time_are_sent_once(server: Server, journal: Journal) -> None:
    replies, sent = talk(server.url, journal, *[how_many] * 5, concurrency=5)
    assert sent == 1 and len({id(reply) for reply in replies}) == 5
    assert all(reply == replies[0] for reply in replies)


def test_replies_of_the_journal_leave_time_for_other_work(server: Server, journal: Journal) -> None:
    talk(server.url, journal, how_many)
    turns: list[str] = []

    async def replay(client: Client) -> None:
        for _ in range(3):
            await how_many(client)
            turns.append("replay")

    async def other(client: Client) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
            turns.append("other")

    talk(server.url, journal, replay, other)
    assert turns != ["replay"] * 3 + ["other"] * 3


def test_a_long_journal_takes_a_few_replies_of_each_turn_of_the_event_loop(
    server: Server, journal: Journal
) -> None:
    talk(server.url, journal, how_many)
    replayed = 0
    in_a_turn: list[int] = []

    async def replay(client: Client) -> None:
        nonlocal replayed
        for _ in range(5):
            await how_many(client)
            replayed += 1

    async def count(client: Client) -> None:
        while replayed < 500:
            before = replayed
            await asyncio.sleep(0)
            in_a_turn.append(replayed - before)

    # Each with a lock of its own, as replies of different requests have.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WeakValueDictionary", _NeverFound)
        talk(server.url, journal, *[replay] * 100, count)
    assert 0 < max(in_a_turn) <= module._REPLAYS


class _NeverFound(dict):
    def setdefault(self, key: Any, default: Any = None) -> Any:
        return default


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens_details": {"cached_tokens": 9}},
        {"cached_tokens": 9},
        {"prompt_cache_hit_tokens": 9, "prompt_cache_miss_tokens": 2},
    ],
)
def test_usage_keeps_the_cached_tokens_of_the_prompt(
    server: Server, journal: Journal, usage: Any
) -> None:
    status, body = said()
    server.script = [(status, {**body, "usage": {**body["usage"], **usage}})]
    [reply], _ = talk(server.url, journal, how_many)
    assert reply.usage == {"prompt_tokens": 11, "completion_tokens": 3, "cached_tokens": 9}


def test_replies_in_flight_at_an_error_are_waited_for_and_journalled(
    server: Server, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of four requests is answered with a refused key; one waits for a slot; two are being answered."""
    is_refused = threading.Event()

    def answer(body: dict[str, Any]) -> Scripted:
        return refused(401) if body["messages"][0]["content"] == "refuse" else said()

    def wait(body: dict[str, Any]) -> None:
        if body["messages"][0]["content"] == "refuse":
            while len(server.bodies) < 3:
                time.sleep(0.005)
        else:
            is_refused.wait(20)
            time.sleep(0.2)

    server.answer, server.before_reply = answer, wait

    async def ask(client: Client, text: str) -> Any:
        try:
            return await client.complete([{"role": "user", "content": text}], [], 0)
        finally:
            is_refused.set()

    async def scene() -> None:
        endpoint = Endpoint(server.url, KEY, "served-name")
        async with (
            Client(endpoint, IDENTITY, journal, 3, 20, patience=1) as client,
            asyncio.TaskGroup() as group,  # an error of one cancels the others
        ):
            for text in ("one", "two", "refuse", "waits"):
                group.create_task(ask(client, text))

    with pytest.raises(ExceptionGroup):
        asyncio.run(scene())
    assert len(server.bodies) == 3 and len(journal) == 2


def test_a_cancelled_client_and_a_silent_server_are_not_waited_for(
    server: Server, journal: Journal
) -> None:
    ending = threading.Event()

    def wait(body: dict[str, Any]) -> None:
        ending.wait(20)

    server.before_reply = wait

    async def scene(error: type[BaseException], silent: bool) -> None:
        endpoint = Endpoint(server.url, KEY, "served-name")
        with pytest.raises(error):
            async with Client(endpoint, IDENTITY, journal, 2, 15, patience=1) as client:
                asking = asyncio.create_task(client.complete(ASK, TOOLS, 0))
                while not client._sent_now:
                    await asyncio.sleep(0.01)
                if silent:
                    client._silent_since = time.monotonic() - 15
                asking.cancel()
                raise error

    try:
        asyncio.run(scene(KeyboardInterrupt, silent=False))
        asyncio.run(scene(StageError, silent=True))
        assert not ending.is_set() and not len(journal)
    finally:
        ending.set()


def test_memory_holds_a_bounded_number_of_conversations(server: Server, journal: Journal) -> None:
    begun: dict[str, None] = {}

    async def many(client: Client) -> None:
        for number in range(100):
            await client.complete(ASK, TOOLS, number, session=f"task-{number}/0")
        begun.update(client._begun)

    talk(server.url, journal, many)
    assert list(begun) == [f"task-{number}/0" for number in range(100 - 2 * 16, 100)]
