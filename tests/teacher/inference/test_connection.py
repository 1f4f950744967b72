"""HTTP to an endpoint: what an answer without a reply says, which proxy is used, and whose metrics are read."""

import asyncio
import contextlib
import json

import pytest
from http_server import Handler, HttpServer

from schemas.errors import StageError
from teacher.inference.connection import Connection, StatusError, _proxy
from teacher.inference.endpoint import Endpoint
from teacher.inference.load import parse


@pytest.mark.parametrize(
    ("text", "said", "code"),
    [
        (json.dumps({"error": {"message": "too long", "code": "context"}}), "too long", "context"),
        (json.dumps({"error": {"message": "too long", "code": 400}}), "too long", None),
        (json.dumps({"error": "too long"}), "too long", None),
        (json.dumps({"message": "too long", "type": "BadRequestError"}), "too long", None),
        (json.dumps({"detail": "Not Found"}), "Not Found", None),
        (json.dumps({"error": {"message": ["a"]}}), "['a']", None),
        ("upstream request timeout", "upstream request timeout", None),
        ("", "no text", None),
        ("[" * 100_000, "[[[", None),
        ("[1]", "[1]", None),
        ('"text"', '"text"', None),
    ],
)
def test_a_status_says_what_the_server_said(text: str, said: str, code: str | None) -> None:
    error = StatusError(400, text, {})
    assert str(error).startswith(f"status 400: {said}") and error.code == code


@pytest.fixture
def proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)
    return monkeypatch


def test_the_proxy_is_that_of_the_scheme_else_that_of_all_and_none_for_this_machine(
    proxies: pytest.MonkeyPatch,
) -> None:
    assert _proxy("https://api.example/v1") is None
    proxies.setenv("all_proxy", "http://all:1")
    proxies.setenv("https_proxy", "http://me:secret@secure:2")
    assert _proxy("https://api.example/v1") == "http://me:secret@secure:2"
    assert _proxy("http://api.example/v1") == "http://all:1"
    assert _proxy("http://127.0.0.1:8000/v1") is None
    proxies.setenv("no_proxy", "api.example")
    assert _proxy("https://api.example/v1") is None


def test_a_proxy_that_cannot_be_used_is_named_without_its_password(
    proxies: pytest.MonkeyPatch,
) -> None:
    proxies.setenv("all_proxy", "socks5://me:secret@h:1")
    with pytest.raises(StageError, match="found socks5, expected http://HOST:PORT") as raised:
        _proxy("https://api.example/v1")
    assert "secret" not in str(raised.value)
    assert _proxy("http://localhost:1/v1") is None


class Metrics(HttpServer):
    """A server with metrics, or with another status."""

    def __init__(self, text: bytes, status: int = 200) -> None:
        class Replies(Handler):
            def do_GET(self) -> None:
                assert self.path == "/metrics"
                self.reply(status, text)

        super().__init__(Replies)
        self.address = self.url.removesuffix("/v1")


def metrics(url: str, *servers: str) -> str | None:
    async def scene() -> str | None:
        connection = Connection(Endpoint(url, "k", "m", servers=servers), 10, 8)
        try:
            return await connection.metrics()
        finally:
            await connection.close()

    return asyncio.run(scene())


class Chat(HttpServer):
    """A server that answers chat requests with its own address, or with a status."""

    def __init__(self) -> None:
        outer = self
        self.status = 200

        class Replies(Handler):
            def do_POST(self) -> None:
                self.body()
                self.reply(outer.status, {"server": outer.url})

        super().__init__(Replies)


def test_a_conversation_moves_from_a_server_that_is_loading_but_not_after_a_refused_request() -> (
    None
):
    async def scene(one: Chat, two: Chat) -> None:
        servers = (one.url.removesuffix("/v1"), two.url.removesuffix("/v1"))
        connection = Connection(Endpoint(one.url, "k", "m", servers=servers), 10, 4)

        async def answer(session: str) -> str:
            return json.loads(await connection.ask({}, {}, session))["server"]

        try:
            assert await answer("x") == one.url
            for one.status in (400, 500):
                with pytest.raises(StatusError):
                    await answer("x")
            one.status = 200
            assert await answer("x") == one.url
            one.status = 503
            with pytest.raises(StatusError):
                await answer("x")
            one.status = 200
            assert await answer("x") == two.url
        finally:
            await connection.close()

    with contextlib.closing(Chat()) as one, contextlib.closing(Chat()) as two:
        asyncio.run(scene(one, two))


def test_metrics_are_those_of_all_servers_behind_a_router() -> None:
    with (
        contextlib.closing(Metrics(b"a 1\nb_perc 0.5\n")) as one,
        contextlib.closing(Metrics(b"a 2\nb_perc 0.75\n")) as two,
        contextlib.closing(Metrics(b"gone", 404)) as none,
    ):
        text = metrics("http://127.0.0.1:1/v1", one.address, two.address)
        assert text and parse(text) == {"a": 3, "b_perc": 0.75}
        assert metrics(one.url) == "a 1\nb_perc 0.5\n"
        assert metrics(none.url) is None
        # One that is being restarted is left out.
        text = metrics("http://127.0.0.1:1/v1", "http://127.0.0.1:1", two.address)
        assert text and parse(text)["a"] == 2
    assert metrics("http://127.0.0.1:1/v1") == ""
