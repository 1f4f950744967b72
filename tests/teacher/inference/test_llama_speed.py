"""How long a reply may take: the speed of a timed request decides."""

import contextlib
from typing import Any

import pytest
from http_server import Handler, HttpServer

from schemas.errors import StageError
from teacher.inference.endpoint import Endpoint
from teacher.inference.llama_speed import reply_seconds


class Server(HttpServer):
    """Answers with timings of a prompt's and of a reply's token, in milliseconds; None: not at all."""

    def __init__(self, speed: tuple[float, float] | None) -> None:
        self.asked: list[Any] = []
        outer = self

        class Replies(Handler):
            def do_POST(self) -> None:
                outer.asked.append((self.path, self.body()))
                if speed is None:
                    return self.reply(500, {"error": "no"})
                timings = {"prompt_per_token_ms": speed[0], "predicted_per_token_ms": speed[1]}
                self.reply(200, {"timings": timings})

        super().__init__(Replies)


@pytest.mark.parametrize(
    ("speed", "slots", "seconds"),
    [((1.0, 10.0), 1, 300), ((50.0, 500.0), 1, 4 * (400 + 2048)), ((50.0, 500.0), 8, 32 * 2448)],
)
def test_a_slow_machine_has_more_time(
    speed: tuple[float, float], slots: int, seconds: float
) -> None:
    with contextlib.closing(Server(speed)) as server:
        endpoint = Endpoint(server.url, "k", "m")
        assert reply_seconds(endpoint, 8000, 4096, slots) == pytest.approx(seconds)
        [(path, _)] = server.asked
    assert path == "/completion"


def test_a_server_that_refuses_the_timed_request_is_an_error_of_the_stage() -> None:
    refused = pytest.raises(StageError, match="^llama-server: a reply of 8 tokens failed")
    with contextlib.closing(Server(None)) as server, refused:
        reply_seconds(Endpoint(server.url, "k", "m"), 8000, 4096)
