"""Requests to llama-server's own API: asked directly, and judged only where llama-server answered."""

import contextlib
import socket
import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest
from http_server import Handler, HttpServer

from schemas.errors import StageError
from student.export.llama_server import get, post, refusal
from teacher.inference.endpoint import Endpoint


class Server(HttpServer):
    """Replies to every request with one status and content."""

    def __init__(self) -> None:
        self.answer: tuple[int, Any] = (200, {"n_ctx": 512})
        outer = self

        class Replies(Handler):
            def do_GET(self) -> None:
                self.reply(*outer.answer)

            def do_POST(self) -> None:
                self.body()
                self.reply(*outer.answer)

        super().__init__(Replies)


@pytest.fixture
def server() -> Iterator[Server]:
    with contextlib.closing(Server()) as running:
        yield running


def test_no_proxy_of_the_environment_is_asked(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with contextlib.closing(Server()) as proxy:
        proxy.answer = (502, b"<html>Bad gateway</html>")
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        assert get(Endpoint(server.url, "k", "m"), "/props") == {"n_ctx": 512}
        assert post(Endpoint(server.url, "k", "m"), "/tokenize", {}) == {"n_ctx": 512}


def test_a_page_of_another_program_is_no_refusal_of_the_model(server: Server) -> None:
    server.answer = (502, b"<html>Bad gateway</html>")
    with pytest.raises(StageError, match="/props: found a page with status 502, expected"):
        get(Endpoint(server.url, "k", "m"), "/props")


def test_a_refusal_of_the_server_itself_is_one(server: Server) -> None:
    server.answer = (400, {"error": "cannot parse the grammar"})
    with pytest.raises(urllib.error.HTTPError) as raised:
        post(Endpoint(server.url, "k", "m"), "/apply-template", {})
    assert refusal(raised.value).startswith("the server answered 400: ")


def test_a_reply_that_does_not_come_in_time_is_named_as_that(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        endpoint = Endpoint(url, "k", "m", reply_seconds=0.05)
        with pytest.raises(StageError, match=r"^llama-server: /props: no answer within 0 s"):
            get(endpoint, "/props")
    with pytest.raises(StageError, match=r"^llama-server: /props: the connection was lost: "):
        get(endpoint, "/props")
