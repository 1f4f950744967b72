"""A generation against a server that answers badly: every fault has a named end, in time, and costs no good reply."""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from http_server import Handler, HttpServer

from flows import recipe_file
from flows.generation.shards import read_traces
from flows.run_context import RunContext, prepare
from flows.stages import PIPELINE
from schemas.errors import StageError
from schemas.files import read_json
from schemas.filter import FilterSettings, check_trace
from schemas.trace import Trace
from teacher.inference import client, connection
from teacher.inference.journal import Journal

pytestmark = pytest.mark.usefixtures("packs_are_checked_once")

KEY = "sk-of-this-test"
Answer = Callable[[Handler], None]


def message(content: str | None, **more: Any) -> dict[str, Any]:
    reply = {"role": "assistant", "content": content, **more}
    return {"choices": [{"index": 0, "message": reply, "finish_reason": "stop"}]}


def call(arguments: str) -> dict[str, Any]:
    function = {"name": "get_billing", "arguments": arguments}
    return message(None, tool_calls=[{"id": "c", "type": "function", "function": function}])


GOOD = message("I do not know.")


def sends(status: int, content: Any) -> Answer:
    return lambda handler: handler.reply(status, content)


def resets(handler: Handler) -> None:
    """Half of a reply, then a reset of the connection."""
    data = json.dumps(GOOD).encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data[: len(data) // 2])
    handler.wfile.flush()
    linger = struct.pack("ii", 1, 0)  # a closed connection is reset at once
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    os.close(handler.connection.detach())


def hangs(handler: Handler) -> None:
    """Takes the request and says nothing; /v1/models still answers."""
    stuck.set()
    ended.wait(30)


def trickles(handler: Handler) -> None:
    """A reply of which a byte comes now and then."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    stuck.set()
    with contextlib.suppress(OSError):
        while not ended.wait(0.05):
            handler.wfile.write(b" ")
            handler.wfile.flush()


def floods(handler: Handler) -> None:
    """Megabytes without end."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(2**40))
    handler.end_headers()
    with contextlib.suppress(OSError):
        while not ended.is_set():
            handler.wfile.write(b" " * 2**16)


# The test is over; a reply that never ends has begun.
ended, stuck = threading.Event(), threading.Event()

# What the server answers, and how the request that never gets anything else is named.
FAULTS: dict[str, tuple[Answer, str]] = {
    "an empty reply": (sends(200, b""), "no_message"),
    "a reply without tokens": (
        sends(200, {**message(""), "usage": {"completion_tokens": 0}}),
        "no_message",
    ),
    "a page with status 200": (sends(200, b"<html>Sign in</html>"), "page"),
    "a page with status 502": (sends(502, b"<html>Bad gateway</html>"), "page"),
    "half a reply and a reset": (resets, "no_connection"),
    "no answer": (hangs, "timeout"),
    "a byte now and then": (trickles, "timeout"),
    "text that is not UTF-8": (sends(200, b'{"choices": "\xff\xfe"}'), "unreadable"),
    "half of JSON": (sends(200, json.dumps(GOOD).encode()[:40]), "unreadable"),
    "deep nesting": (sends(200, b"[" * 200_000), "unreadable"),
    "a list": (sends(200, []), "no_message"),
    "an answer without end": (floods, "unreadable"),
    "overload": (sends(529, {"error": {"message": "overloaded"}}), "unavailable"),
    "a dead engine": (sends(500, {"error": {"message": "EngineDeadError"}}), "server_error"),
}


TASKS = len(FAULTS)


class Server(HttpServer):
    """Gives the answers in order, then a good reply to each request; `asked` has the requests of each answer."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.always: Answer = sends(200, GOOD)
        self.bodies: list[dict[str, Any]] = []
        outer, lock = self, threading.Lock()

        class Replies(Handler):
            def do_GET(self) -> None:
                self.reply(*((200, [{"id": "m"}]) if self.path == "/v1/models" else (404, {})))

            def do_POST(self) -> None:
                body = self.body()
                with lock:
                    outer.bodies.append(body)
                    answer = outer.answers.pop(0) if outer.answers else outer.always
                answer(self)

        super().__init__(Replies)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("STILLHOUSE_TEACHER_KEY", KEY)
    monkeypatch.delenv("STILLHOUSE_STORE", raising=False)
    monkeypatch.setattr(client, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(client, "_LONGEST_WAIT", 0.05)
    monkeypatch.setattr(connection, "_LARGEST", 8 * 2**20)
    ended.clear()
    stuck.clear()
    with contextlib.closing(Server()) as running:
        yield running
        ended.set()


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose plan is made, with a task for each fault."""
    run = tmp_path_factory.mktemp("hostile") / "run"
    with prepare("legal", recipe("http://127.0.0.1:1/v1", run), run) as context:
        PIPELINE["plan"].run(context)
    return run


def recipe(url: str, run: Path, *more: str) -> Any:
    settings = [
        *(f"serve.url={url}", "serve.model=m", f"publish.store={run.with_name('store')}"),
        *(
            f"tasks.train={TASKS}",
            "tasks.exam=1",
            "generate.attempts=1",
            "generate.preflight=false",
        ),
        *("generate.concurrency=2", "generate.timeout_s=60", "generate.patience_s=1"),
        "tasks.mix={lookup: 1, workflow: 0, document: 0, chart: 0}",
        *("tasks.offer=all", "tasks.drift=0"),  # each task offers the tool that is called
        *more,
    ]
    return recipe_file.load("api-teacher", settings)


Generate = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def generate(server: Server, plan: Path, tmp_path: Path) -> Generate:
    """Runs the stage generate, in the same run each time, and returns its traces."""
    run = tmp_path / "run"
    shutil.copytree(plan, run)

    def generate(*settings: str) -> list[dict[str, Any]]:
        began = time.monotonic()
        try:
            with prepare("legal", recipe(server.url, run, *settings), run) as context:
                PIPELINE["generate"].run(context)
                return traces(context)
        finally:
            assert time.monotonic() - began < 60, "no end in time"

    return generate


def traces(context: RunContext) -> list[dict[str, Any]]:
    return cast(Any, [*read_traces(context.directory)])


@pytest.mark.parametrize("name", FAULTS)
def test_a_server_that_always_answers_so_ends_the_stage_by_name(
    name: str, server: Server, generate: Generate
) -> None:
    server.always, cause = FAULTS[name]
    # Only a reply that never ends has to wait for its end.
    settings = ["generate.timeout_s=0.4"] if cause == "timeout" else []
    with pytest.raises(StageError, match=f"no reply to any request for .*: {cause}: ") as raised:
        generate(*settings)
    assert "\n" not in str(raised.value) and KEY not in str(raised.value)


def until_stuck(post: Callable[..., Awaitable[bytes]]) -> Callable[..., Awaitable[bytes]]:
    """A request that runs out of time when the server says that it never ends, however slow this machine is."""

    async def ask(*request: Any) -> bytes:
        asking = asyncio.ensure_future(post(*request))
        while not (await asyncio.wait([asking], timeout=0.01))[0]:
            if stuck.is_set():
                stuck.clear()
                asking.cancel()
                raise TimeoutError
        return await asking

    return ask


def test_faults_that_pass_cost_a_retry_each_and_nothing_else(
    server: Server, generate: Generate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection.Connection, "_post", until_stuck(connection.Connection._post))
    server.answers = [each for fault, _ in FAULTS.values() for each in (fault, sends(200, GOOD))]
    rows = generate("generate.concurrency=1", "generate.patience_s=600")
    assert [row["outcome"]["ended"] for row in rows] == ["answered"] * TASKS
    result = read_json(tmp_path / "run" / "stages" / "generate.json")["result"]
    assert result["retries"] == Counter(cause for _, cause in FAULTS.values())
    assert result["failures"] == {}


@pytest.mark.parametrize(
    "arguments",
    [
        json.dumps({"matter_id": "x" * 2**20}),
        "{" * 2**20,
        '{"matter_id": "M-869", ' * 40_000,
        "[" * 100_000 + "]" * 100_000,
        "9" * 100_000,
    ],
    ids=["a long text", "no JSON", "many keys", "deep", "a long number"],
)
def test_a_megabyte_of_arguments_is_a_tools_error_or_a_named_rejection(
    arguments: str, server: Server, generate: Generate, plan: Path
) -> None:
    server.answers = [sends(200, call(arguments))]
    rows = generate("generate.concurrency=1")
    assert len(rows) == TASKS
    [hit] = [row for row in rows if len(row["messages"]) > 3]
    assert hit["outcome"]["tool_errors"] == [3] and hit["outcome"]["ended"] == "answered"
    assert len(hit["messages"][3]["content"]) < 1000
    named: tuple[str | None, ...] = (
        "invalid_json_arguments",
        "invalid_arguments",
        "tool_error_unrecovered",
    )
    assert check_trace(cast(Trace, hit), FilterSettings())["reason"] in named


def test_a_key_that_expires_ends_the_stage_at_once_and_the_next_run_asks_only_what_is_left(
    server: Server, generate: Generate
) -> None:
    expired = sends(401, {"error": {"message": f"Incorrect API key provided: {KEY}"}})
    server.answers = [sends(200, GOOD), sends(200, GOOD)]
    server.always = expired
    with pytest.raises(StageError, match="the key was refused .*STILLHOUSE_TEACHER_KEY") as raised:
        generate("generate.concurrency=1")
    assert KEY not in str(raised.value)
    server.always, server.bodies = sends(200, GOOD), []
    assert len(generate()) == TASKS and len(server.bodies) == TASKS - 2


def test_a_model_that_the_server_no_longer_knows_ends_the_stage_at_once(
    server: Server, generate: Generate
) -> None:
    server.always = sends(404, {"error": {"message": "The model `m` does not exist"}})
    with pytest.raises(StageError, match="refused: .*The model `m` does not exist"):
        generate()
    assert len(server.bodies) <= 2


def test_a_full_disk_ends_the_stage_by_name_and_no_written_reply_is_asked_again(
    server: Server,
    generate: Generate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put = Journal.put
    written: list[str] = []

    def full(self: Journal, key: str, reply: dict[str, Any]) -> None:
        if written:
            raise StageError(f"{self._segment}: a reply cannot be written: {os.strerror(28)}")
        put(self, key, reply)
        written.append(key)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "put", full)
        with pytest.raises(StageError, match=r"journal/.*: a reply cannot be written: No space"):
            generate()
    server.bodies.clear()
    assert len(generate()) == TASKS and len(server.bodies) == TASKS - 1
