"""A model server's life, against a fake llama-server: a script in STILLHOUSE_LLAMA_CPP."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from schemas.errors import StageError
from schemas.recipe import Serve
from teacher.inference import llama_server, process, replicas
from teacher.inference.endpoint import Endpoint
from teacher.inference.launch import open_teacher
from teacher.inference.llama_server import program, serve
from teacher.inference.process import ServerProcess, free_port

# Writes down how it was started, has a child, answers /health, and ends as FAKE_END says.
FAKE = """\
import http.server, json, os, signal, subprocess, sys, threading, time
state = os.environ["FAKE_STATE"]
behaviour = os.environ.get("FAKE_END", "")
child = subprocess.Popen(["sleep", "600"])
started = {
    "pid": os.getpid(), "child": child.pid, "argv": sys.argv[1:], "session": os.getsid(0),
    "key": os.environ.get("LLAMA_API_KEY"),
}
with open(state, "a") as file:
    file.write(json.dumps(started) + "\\n")
if behaviour == "exits":
    print("load: reading\\nload: error: no such tensor\\nload: bye", flush=True)
    sys.exit(1)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b""
        if self.path == "/metrics" and os.path.exists(state + ".metrics"):
            body = open(state + ".metrics", "rb").read()
        broken = self.path == "/health" and os.path.exists(state + ".broken")
        self.send_response(503 if broken or behaviour == "never ready" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

port = int(sys.argv[sys.argv.index("--port") + 1])
server = http.server.HTTPServer(("127.0.0.1", port), Handler)

def drain(*_):
    with open(state + ".drained", "a") as file:
        file.write(str(os.getpid()))
    os._exit(0)

signal.signal(signal.SIGTERM, signal.SIG_IGN if behaviour == "stubborn" else drain)
print("listening", flush=True)
server.serve_forever(0.01)
"""


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the fake server writes down its starts. Whatever it started is gone after the test."""
    programs = tmp_path / "llama.cpp"
    programs.mkdir()
    fake = programs / "llama-server"
    # -S and -E: a start of some milliseconds.
    fake.write_text(f"#!{sys.executable} -SE\n{FAKE}")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    path = tmp_path / "state.jsonl"
    monkeypatch.setenv("STILLHOUSE_LLAMA_CPP", str(programs))
    monkeypatch.setenv("FAKE_STATE", str(path))
    monkeypatch.delenv("LLAMA_API_KEY", raising=False)
    yield path
    for start in starts(path):
        for pid in (start["pid"], start["child"]):
            if is_running(pid):
                psutil.Process(pid).kill()


def starts(state: Path) -> list[dict[str, Any]]:
    text = state.read_text() if state.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ended(pid: int, seconds: float = 60) -> bool:
    """Whether a process ends within a minute; a killed one takes its moment, on a busy machine a longer one."""
    deadline = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_running(pid)


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def health(endpoint: Endpoint) -> int:
    request = urllib.request.Request(endpoint.url.removesuffix("/v1") + "/health")
    with urllib.request.urlopen(request, timeout=60) as reply:
        return reply.status


def server(tmp_path: Path) -> ServerProcess:
    fake = program(tmp_path / "m.gguf", 4, 1024, port=free_port(), key="secret")
    running = ServerProcess(
        fake,
        Endpoint(f"http://127.0.0.1:{fake.port}/v1", "secret", "model"),
        tmp_path / "logs" / "server.log",
    )
    running.endpoint.restart = running.restart_if_dead
    return running


def kill(pid: int) -> None:
    psutil.Process(pid).kill()
    assert ended(pid)


# ------------------------------------------------------------------------------------- start


def test_a_server_answers_inside_the_block_and_is_gone_after_it(
    state: Path, tmp_path: Path
) -> None:
    with serve(tmp_path / "m.gguf", tmp_path / "server.log", 4, 1024) as endpoint:
        assert health(endpoint) == 200
        [start] = starts(state)
    assert ended(start["pid"]) and ended(start["child"])
    with pytest.raises(urllib.error.URLError):
        health(endpoint)


def test_a_server_is_gone_after_a_block_that_failed(state: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        serve(tmp_path / "m.gguf", tmp_path / "server.log", 4, 1024),
    ):
        raise KeyboardInterrupt
    [start] = starts(state)
    assert ended(start["pid"]) and ended(start["child"])


def test_the_key_is_random_and_in_the_environment_not_on_the_command_line(
    state: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        with serve(tmp_path / "m.gguf", tmp_path / "server.log", 4, 1024) as endpoint:
            start = starts(state)[-1]
            assert start["key"] == endpoint.key and len(endpoint.key) >= 24
            assert endpoint.key not in " ".join(start["argv"])
            assert endpoint.key not in " ".join(psutil.Process(start["pid"]).cmdline())
            assert endpoint.key not in repr(endpoint)
    first, second = starts(state)
    assert first["key"] != second["key"]
    assert "LLAMA_API_KEY" not in os.environ


def test_a_server_listens_on_this_machine_only_in_a_session_of_its_own(
    state: Path, tmp_path: Path
) -> None:
    template = tmp_path / "chat.jinja"
    with serve(tmp_path / "m.gguf", tmp_path / "server.log", 4, 1024, template):
        [start] = starts(state)
    argv = start["argv"]
    options = dict(zip(argv, argv[1:], strict=False))
    assert options["--host"] == "127.0.0.1"
    assert options["--model"] == str(tmp_path / "m.gguf")
    assert options["--chat-template-file"] == str(template)
    assert (options["--parallel"], options["--ctx-size"]) == ("4", "4096")
    assert start["session"] == start["pid"] != os.getsid(0)


def test_a_model_without_a_template_keeps_its_own(state: Path, tmp_path: Path) -> None:
    with serve(tmp_path / "m.gguf", tmp_path / "server.log", 1, 512):
        assert "--chat-template-file" not in starts(state)[0]["argv"]


def test_a_proxy_of_the_environment_does_not_hide_the_server(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_server, "_READY_SECONDS", 60)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with serve(tmp_path / "m.gguf", tmp_path / "server.log", 1, 512):
        assert len(starts(state)) == 1


def test_a_server_that_exits_is_reported_with_the_last_error_of_its_log(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_END", "exits")
    with pytest.raises(StageError) as raised:
        server(tmp_path).start()
    log = tmp_path / "logs" / "server.log"
    assert str(raised.value) == (
        f"llama-server did not start: load: error: no such tensor (see {log})"
    )
    assert ended(starts(state)[0]["child"])


def test_a_server_that_is_never_ready_is_given_up_and_ended(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_END", "never ready")
    monkeypatch.setattr(llama_server, "_READY_SECONDS", 1)
    with pytest.raises(StageError, match="llama-server did not start: "):
        server(tmp_path).start()
    for start in starts(state):
        assert ended(start["pid"]) and ended(start["child"])


def test_a_program_that_cannot_be_run_is_named(state: Path, tmp_path: Path) -> None:
    program = tmp_path / "llama.cpp" / "llama-server"
    program.chmod(0o644)
    with pytest.raises(StageError, match=f"{program}: cannot be run: Permission denied"):
        server(tmp_path).start()


def test_something_else_on_the_port_that_speaks_no_http_is_not_taken_for_the_server(
    state: Path, tmp_path: Path
) -> None:
    class Babble(BaseHTTPRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(b"220 smtp.example ESMTP\r\n")

    tested = server(tmp_path)
    other = HTTPServer(("127.0.0.1", tested.program.port), Babble)
    thread = threading.Thread(target=other.serve_forever, args=(0.01,))
    thread.start()
    try:
        with pytest.raises(StageError, match="llama-server did not start"):
            tested.start()  # the port is taken, so the server exits
    finally:
        other.shutdown()
        thread.join()
        other.server_close()


# ------------------------------------------------------------------------------------- stop


def test_a_server_is_drained_with_sigterm(state: Path, tmp_path: Path) -> None:
    running = server(tmp_path)
    running.start()
    [start] = starts(state)
    running.stop()
    assert Path(f"{state}.drained").read_text() == str(start["pid"])
    assert not is_running(start["pid"]) and ended(start["child"])


def test_a_server_that_ignores_sigterm_is_killed(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_END", "stubborn")
    monkeypatch.setattr(llama_server, "_DRAIN_SECONDS", 0.2)
    running = server(tmp_path)
    running.start()
    [start] = starts(state)
    running.stop()
    assert not Path(f"{state}.drained").exists()
    assert not is_running(start["pid"]) and ended(start["child"])


def test_stopping_twice_or_before_the_start_does_nothing(state: Path, tmp_path: Path) -> None:
    running = server(tmp_path)
    running.stop()
    running.start()
    running.stop()
    running.stop()
    assert len(starts(state)) == 1


def test_stopping_a_server_that_died_ends_its_children(state: Path, tmp_path: Path) -> None:
    running = server(tmp_path)
    running.start()
    [start] = starts(state)
    kill(start["pid"])
    assert is_running(start["child"])
    running.stop()
    assert ended(start["child"])


STARTS_A_SERVER = """
import sys, time
from pathlib import Path
from teacher.inference.llama_server import serve
with serve(Path("m.gguf"), Path(sys.argv[1]), 2, 512, replicas=int(sys.argv[2])):
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(("sent_to", "replicas"), [("process", 1), ("group", 2)])
def test_a_server_ends_with_a_process_that_is_killed(
    state: Path, tmp_path: Path, sent_to: str, replicas: int
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTS_A_SERVER, str(tmp_path / "server.log"), str(replicas)],
        stdout=subprocess.PIPE,
        start_new_session=True,
        cwd=Path(__file__).parents[3],
    ) as parent:
        assert parent.stdout and parent.stdout.readline() == b"ready\n"
        started = starts(state)
        assert len(started) == replicas
        assert all(is_running(start["pid"]) and is_running(start["child"]) for start in started)
        {"process": os.kill, "group": os.killpg}[sent_to](parent.pid, signal.SIGKILL)
        assert all(ended(start["pid"]) and ended(start["child"]) for start in started)


def test_a_stopped_server_leaves_no_process_that_guards_it(state: Path, tmp_path: Path) -> None:
    before = psutil.Process().children()
    with serve(tmp_path / "m.gguf", tmp_path / "server.log", 4, 1024):
        assert len(psutil.Process().children()) == len(before) + 2
    assert psutil.Process().children() == before


def test_a_server_that_a_thread_started_outlives_the_thread(state: Path, tmp_path: Path) -> None:
    running = server(tmp_path)
    thread = threading.Thread(target=running.start)
    thread.start()
    thread.join()
    [start] = starts(state)
    try:
        assert not ended(start["pid"], seconds=0.5)
    finally:
        running.stop()
    assert ended(start["pid"])


# ------------------------------------------------------------------------------------- revival


def test_a_dead_server_is_revived_once_for_many_callers(state: Path, tmp_path: Path) -> None:
    async def scene(endpoint: Endpoint) -> None:
        await asyncio.gather(*(endpoint.revive() for _ in range(16)))

    with serve(tmp_path / "m.gguf", tmp_path / "server.log", 4, 1024) as endpoint:
        [dead] = starts(state)
        kill(dead["pid"])
        asyncio.run(scene(endpoint))
        assert health(endpoint) == 200
        dead, alive = starts(state)
        assert alive["key"] == dead["key"] and alive["argv"] == dead["argv"]
        assert ended(dead["child"])  # and nothing of the dead one is left
    assert ended(alive["pid"]) and ended(alive["child"])


def test_a_dead_server_is_revived_once_for_two_event_loops() -> None:
    both_ask, restarts = threading.Event(), []

    def restart() -> None:
        both_ask.wait(30)
        restarts.append(threading.current_thread())

    endpoint = Endpoint("http://127.0.0.1:1/v1", "k", "m", restart)

    async def ask() -> None:
        await asyncio.gather(*(endpoint.revive() for _ in range(3)))

    loops = [threading.Thread(target=asyncio.run, args=(ask(),)) for _ in range(2)]
    for loop in loops:
        loop.start()
    time.sleep(0.2)
    both_ask.set()
    for loop in loops:
        loop.join(30)
    assert len(restarts) == 1
    asyncio.run(endpoint.revive())  # the next loop asks anew
    assert len(restarts) == 2


def test_a_failed_revival_is_the_error_of_all_that_wait_for_it() -> None:
    def restart() -> None:
        raise StageError("died 4 times")

    async def ask(endpoint: Endpoint) -> list[object]:
        return await asyncio.gather(*(endpoint.revive() for _ in range(3)), return_exceptions=True)

    errors = asyncio.run(ask(Endpoint("http://127.0.0.1:1/v1", "k", "m", restart)))
    assert [str(error) for error in errors] == ["died 4 times"] * 3


def test_a_server_that_lives_is_not_started_again(state: Path, tmp_path: Path) -> None:
    with serve(tmp_path / "m.gguf", tmp_path / "server.log", 4, 1024) as endpoint:
        asyncio.run(endpoint.revive())
        assert len(starts(state)) == 1


def test_a_server_that_dies_again_and_again_is_given_up(state: Path, tmp_path: Path) -> None:
    with serve(tmp_path / "m.gguf", tmp_path / "server.log", 4, 1024) as endpoint:
        for _ in range(process._RESTARTS):
            kill(starts(state)[-1]["pid"])
            asyncio.run(endpoint.revive())
        kill(starts(state)[-1]["pid"])
        with pytest.raises(StageError, match=r"died 4 times: listening \(see .*server\.log\)"):
            asyncio.run(endpoint.revive())
    assert len(starts(state)) == 1 + process._RESTARTS
    assert all(ended(start["child"]) for start in starts(state))


def test_an_endpoint_that_is_not_ours_has_nothing_to_revive() -> None:
    asyncio.run(Endpoint("https://api.example/v1", "k", "m").revive())


def test_a_server_that_says_it_is_broken_is_started_again(state: Path, tmp_path: Path) -> None:
    with serve(tmp_path / "m.gguf", tmp_path / "server.log", 4, 1024) as endpoint:
        broken = Path(f"{state}.broken")
        broken.touch()

        def mend() -> None:
            wait_until(lambda: len(starts(state)) == 2)
            broken.unlink()

        mending = threading.Thread(target=mend)
        mending.start()
        asyncio.run(endpoint.revive())
        mending.join()
        first, second = starts(state)
        assert ended(first["pid"]) and ended(first["child"])
        assert health(endpoint) == 200 and endpoint.restarts == 1


def test_servers_side_by_side_share_slots_and_one_that_dies_is_started_again(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "_CHECK_SECONDS", 0.05)
    monkeypatch.setattr(llama_server, "cores", lambda: 7)
    monkeypatch.setattr(llama_server, "host_memory", lambda: 16 * 2**30)
    with serve(tmp_path / "m.gguf", tmp_path / "server.log", 7, 1024, replicas=3) as endpoint:
        started = starts(state)
        for start in started:
            options = dict(zip(start["argv"], start["argv"][1:], strict=False))
            assert (options["--parallel"], options["--ctx-size"]) == ("3", "3072")
            assert options["--threads"] == "2"
            assert options["--cache-ram"] == "341"  # a sixteenth of the memory, for all of them
            assert f"http://127.0.0.1:{options['--port']}/v1" in endpoint.urls
        assert len(endpoint.urls) == 3 and endpoint.url == endpoint.urls[0]
        assert {start["key"] for start in started} == {endpoint.key}
        kill(started[0]["pid"])
        asyncio.run(endpoint.revive())  # returns at once: two others answer
        wait_until(lambda: len(starts(state)) == 4 and endpoint.restarts == 1)
        assert starts(state)[3]["argv"] == started[0]["argv"]
        assert ended(started[0]["child"])
    assert all(ended(start["pid"]) and ended(start["child"]) for start in starts(state))
    assert sorted(log.name for log in tmp_path.glob("server*.log")) == [
        f"server-{number}.log" for number in range(3)
    ]


@pytest.mark.parametrize("own_cpu_build", [True, False])
@pytest.mark.parametrize("logprobs", [True, False])
def test_tokens_are_drafted_on_a_cpu_where_no_log_probability_is_asked_for(
    state: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own_cpu_build: bool,
    logprobs: bool,
) -> None:
    monkeypatch.setattr(llama_server, "built_for_cpu", lambda: own_cpu_build)
    weights = tmp_path / "m.gguf"
    weights.touch()
    teacher = {
        "name": "m",
        "engine": "llama.cpp",
        "context": 4096,
        "source": {"path": str(weights)},
    }
    log = tmp_path / "server.log"
    with open_teacher(teacher, Serve(), log=log, concurrency=2, report=print, logprobs=logprobs):
        [start] = starts(state)
    assert ("--spec-type" in start["argv"]) is (own_cpu_build and not logprobs)


def test_closing_ends_a_start_that_another_thread_waits_for(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = server(tmp_path)
    running.start()
    monkeypatch.setenv("FAKE_END", "never ready")
    kill(starts(state)[0]["pid"])
    errors: list[Exception] = []

    def revive() -> None:
        try:
            running.restart_if_dead()
        except StageError as error:
            errors.append(error)

    thread = threading.Thread(target=revive)
    thread.start()
    while len(starts(state)) < 2:
        time.sleep(0.01)
    running.close()
    thread.join(30)
    assert not thread.is_alive() and len(errors) == 1
    assert all(ended(start["pid"]) and ended(start["child"]) for start in starts(state))
    with pytest.raises(StageError, match="was stopped"):
        running.restart_if_dead()


def test_an_interrupted_start_leaves_no_process(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: ServerProcess) -> bool:
        if starts(state):
            raise KeyboardInterrupt
        return False

    monkeypatch.setattr(ServerProcess, "answers", interrupt)
    with pytest.raises(KeyboardInterrupt):
        server(tmp_path).start()
    [start] = starts(state)
    assert ended(start["pid"]) and ended(start["child"])


def test_a_cancelled_revival_is_not_waited_for() -> None:
    release = threading.Event()

    def restart() -> None:
        release.wait(30)

    async def scene() -> None:
        endpoint = Endpoint("http://127.0.0.1:1/v1", "k", "m", restart)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(endpoint.revive(), 0.1)

    began = time.monotonic()
    asyncio.run(scene())
    release.set()
    assert time.monotonic() - began < 20


# ------------------------------------------------------------------------------------- watch


@pytest.fixture
def metrics(state: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Sets what the fake server says of itself: requests that it has, and steps done."""
    monkeypatch.setattr(llama_server, "_STALL_SECONDS", 0.6)

    def set_them(requests: int, steps: int) -> None:
        path = Path(f"{state}.metrics")
        text = "# TYPE llamacpp:n_decode_total counter\n"
        text += f'llamacpp:n_decode_total{{model="m"}} {steps}\n'
        text += f"llamacpp:requests_processing {requests}\n"
        path.with_suffix(".new").write_text(text)
        path.with_suffix(".new").rename(path)

    return set_them


def test_a_server_that_has_requests_and_produces_nothing_is_ended_and_started_again(
    state: Path, tmp_path: Path, metrics: Callable[[int, int], None]
) -> None:
    metrics(3, 41)
    with serve(tmp_path / "m.gguf", tmp_path / "server.log", 4, 1024) as endpoint:
        [stalled] = starts(state)
        wait_until(lambda: not is_running(stalled["pid"]))
        assert ended(stalled["child"]) and endpoint.stalls == 1
        assert "no token for 0.6 s" in (tmp_path / "server.log").read_text()
        metrics(0, 0)
        asyncio.run(endpoint.revive())
        assert health(endpoint) == 200 and endpoint.restarts == 1


@pytest.mark.slow
def test_a_server_that_produces_or_has_nothing_to_do_is_left_alone(
    state: Path,
    tmp_path: Path,
    metrics: Callable[[int, int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(llama_server, "_STALL_SECONDS", 6)
    metrics(3, 0)
    with serve(tmp_path / "m.gguf", tmp_path / "server.log", 4, 1024) as endpoint:
        for steps in range(80):
            metrics(3, steps)
            time.sleep(0.1)
        metrics(0, 80)
        time.sleep(8)
        assert is_running(starts(state)[0]["pid"]) and endpoint.stalls == 0


def test_a_request_of_ours_counts_where_the_server_knows_of_none(
    state: Path, tmp_path: Path, metrics: Callable[[int, int], None]
) -> None:
    metrics(0, 7)
    with (
        serve(tmp_path / "m.gguf", tmp_path / "server.log", 4, 1024) as endpoint,
        endpoint.request_in_flight(),
    ):
        wait_until(lambda: not is_running(starts(state)[0]["pid"]))
        assert endpoint.stalls == 1
