"""vLLM's arguments, asked of vLLM itself, and its life, against a fake of it: a script in STILLHOUSE_VLLM."""

import asyncio
import json
import os
import shutil
import stat
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from vllm_parser import parse, serve_arguments

from schemas.errors import InputError, StageError
from teacher.inference import replicas, vllm_server
from teacher.inference.process import Endpoint
from teacher.inference.vllm_log import StartUp, reason
from teacher.inference.vllm_server import Options
from teacher.models import catalog

KIMI: dict[str, Any] = {
    "name": "kimi-k2.5",
    "engine": "vllm",
    "family": "kimi",
    "source": {"hub": "moonshotai/Kimi-K2.5", "revision": "abc"},
    "context": 262144,
    "capabilities": {"tools": True, "vision": True, "thinking": True},
    "images": {"max_count": 16, "max_bytes": 1},
    "vllm": {
        "tool_parser": "kimi_k2",
        "reasoning_parser": "kimi_k2",
        "trust_remote_code": True,
        "arguments": ["--tool-strict-level", "parameter"],
    },
}
SMOLLM: dict[str, Any] = {
    "name": "smollm2-135m",
    "engine": "vllm",
    "source": {"path": "/weights"},
    "template": "smollm2-tools.jinja",
    "context": 8192,
    "capabilities": {"tools": True, "vision": False, "thinking": False},
    "vllm": {"tool_parser": "hermes"},
}

# Writes down how it was started, logs as vLLM does, and answers with its port; ends as FAKE_END says.
FAKE = """\
import http.server, json, os, signal, sys
started = {"pid": os.getpid(), "argv": sys.argv[1:], "cwd": os.getcwd(), "environment": dict(os.environ)}
with open(os.environ["FAKE_STATE"], "a") as file:
    file.write(json.dumps(started) + "\\n")
print("Loading safetensors checkpoint shards: 100% Completed | 2/2 [00:01<00:00, 1.0s/it]", flush=True)
if os.environ.get("FAKE_END") == "exits":
    print("(EngineCore pid=1) ERROR 11-24 [core.py:1] ValueError: no room for the KV cache", flush=True)
    print("RuntimeError: Engine core initialization failed. See root cause above.", flush=True)
    sys.exit(1)
port = int(sys.argv[sys.argv.index("--port") + 1])

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({"data": [{"id": "m"}]})
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({"port": port, "session": self.headers["X-Session-ID"],
                     "authorization": self.headers["Authorization"]})
    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever(0.01)
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[dict]]]:
    """Puts the fake where vLLM is looked for, and gives what reads its starts. None of them outlives the test."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!{sys.executable} -SE\n{FAKE}")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    state = tmp_path / "state.jsonl"
    for name in ("CUDA_VISIBLE_DEVICES", "VLLM_CPU_OMP_THREADS_BIND", "VLLM_CPU_KVCACHE_SPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STILLHOUSE_VLLM", str(tmp_path / "venv"))
    monkeypatch.setenv("FAKE_STATE", str(state))

    def starts() -> list[dict]:
        return (
            [json.loads(line) for line in state.read_text().splitlines()] if state.exists() else []
        )

    yield starts
    for start in starts():
        if psutil.pid_exists(start["pid"]):
            psutil.Process(start["pid"]).kill()


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not psutil.pid_exists(pid)


def answered_in_the_end(endpoint: Endpoint, session: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            ask(endpoint, session)
            return
        except urllib.error.HTTPError as error:
            if error.code not in (502, 503) or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def ask(endpoint: Endpoint, session: str = "s") -> dict[str, Any]:
    request = urllib.request.Request(
        f"{endpoint.url}/chat/completions",
        json.dumps(
            {"model": "m", "messages": [{"role": "user", "content": session * 400}]}
        ).encode(),
        {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {endpoint.key}",
            "X-Session-ID": session,
        },
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


# ------------------------------------------------------------------------------------- arguments

COMMANDS = {
    "one node": Options(
        tensor_parallel=8,
        decode_context_parallel=8,
        max_model_len=131072,
        kv_cache_dtype="fp8",
        arguments=("--max-num-batched-tokens", "32768"),
    ),
    "two nodes": Options(tensor_parallel=8, nodes=2),
    "experts": Options(data_parallel=8, expert_parallel=True, gpu_memory_utilization=0.95),
    "replicas": Options(tensor_parallel=4, replicas=2),
    "text only": Options(tensor_parallel=8, arguments=("--language-model-only",)),
}
EXPECTED: dict[str, dict[str, Any]] = {
    "one node": {
        "tensor_parallel_size": 8,
        "decode_context_parallel_size": 8,
        "max_model_len": 131072,
        "kv_cache_dtype": "fp8",
        "max_num_batched_tokens": 32768,
        "mm_encoder_tp_mode": "data",
        "limit_mm_per_prompt": {"vision_chunk": 16},
    },
    "two nodes": {"pipeline_parallel_size": 2, "distributed_executor_backend": "ray"},
    "experts": {
        "data_parallel_size": 8,
        "enable_expert_parallel": True,
        "gpu_memory_utilization": 0.95,
        "max_model_len": -1,
    },
    "replicas": {"tensor_parallel_size": 4, "max_model_len": -1},
    "text only": {"language_model_only": True, "mm_encoder_tp_mode": "weights"},
}
OF_KIMI: dict[str, Any] = {
    "served_model_name": ["kimi-k2.5"],
    "enable_auto_tool_choice": True,
    "tool_call_parser": "kimi_k2",
    "reasoning_parser": "kimi_k2",
    "tool_strict_level": "parameter",
    "trust_remote_code": True,
    "revision": "abc",
    "shutdown_timeout": 120,
    "api_key": None,
}


@pytest.mark.slow
@pytest.mark.alone
def test_vllms_own_parser_takes_every_command_and_understands_it() -> None:
    hub = KIMI["source"]["hub"]
    cases: list[tuple[list[str], dict[str, Any]]] = []
    for name, options in COMMANDS.items():
        expected = {**OF_KIMI, **EXPECTED[name]}
        started = {"model": hub, "host": "127.0.0.1", "port": 8123}
        cases.append((vllm_server.arguments(KIMI, hub, options, 8123), {**expected, **started}))
        shown = [
            line
            for line in vllm_server.shown_command(KIMI, hub, options).splitlines()
            if " serve " in line
        ]
        assert len(shown) == options.replicas
        cases += [(serve_arguments(line), {**expected, "model_tag": hub}) for line in shown]
    for name in ("kimi-k2.5", "kimi-k2.6", "kimi-k2-thinking"):
        teacher = catalog.load(name, catalog.TEACHERS, "teacher")
        cases.append((vllm_server.arguments(teacher, "/w", Options(tensor_parallel=8), 8123), {}))
    text = {"chat_template": str(catalog.TEMPLATES / "smollm2-tools.jinja"), "revision": None}
    cases.append((vllm_server.arguments(SMOLLM, "/weights", Options(), 8123), text))
    wrong = [["m", "--nonsense"], ["m", "--tool-call-parser", "nobody"], ["m", "--port", "x"]]
    results = parse([*(arguments for arguments, _ in cases), *wrong])
    for (arguments, expected), result in zip(cases, results, strict=False):
        assert "error" not in result, (arguments, result)
        assert {name: result[name] for name in expected} == expected
    assert all("error" in result for result in results[-len(wrong) :])


def test_a_teacher_without_images_gets_no_argument_of_them() -> None:
    words = vllm_server.arguments(SMOLLM, "/weights", Options(), 1)
    assert not [word for word in words if "mm" in word or "language-model" in word]
    assert "--trust-remote-code" not in words and "--reasoning-parser" not in words


def test_the_recipes_own_arguments_come_last_so_that_they_win() -> None:
    words = vllm_server.arguments(KIMI, "/w", Options(arguments=("--max-model-len", "9")), 1)
    assert words[-2:] == ["--max-model-len", "9"]


def test_the_command_of_several_machines_starts_ray_first() -> None:
    lines = vllm_server.shown_command(KIMI, "w", Options(nodes=2)).splitlines()
    assert [line.split()[:3] for line in lines[:2]] == [
        ["ray", "start", "--head"],
        ["ray", "start", f"--address=FIRST_MACHINE:{vllm_server.RAY_PORT}"],
    ]
    assert len(lines) == 3


def test_the_command_of_replicas_gives_each_its_gpus_and_ends_with_the_router(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    first, second, router = vllm_server.shown_command(
        KIMI, "w", Options(tensor_parallel=2, replicas=2)
    ).splitlines()
    assert first.startswith("CUDA_VISIBLE_DEVICES=0,1 ") and "--port 8001" in first
    assert second.startswith("CUDA_VISIBLE_DEVICES=2,3 ") and "--port 8002" in second
    assert router.startswith(
        "vllm-router --worker-urls http://127.0.0.1:8001 http://127.0.0.1:8002 --policy cache_aware"
    )


# ------------------------------------------------------------------------------------- environment


def test_what_is_missing_is_named_with_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STILLHOUSE_VLLM", raising=False)
    monkeypatch.setattr(vllm_server, "PROJECT", tmp_path)
    with pytest.raises(InputError, match="`make vllm` installs it"):
        vllm_server.interpreter()
    (tmp_path / ".venv-vllm" / "bin").mkdir(parents=True)  # half made
    with pytest.raises(InputError, match="`make vllm` installs it"):
        vllm_server.interpreter()
    (tmp_path / ".venv-vllm" / ".ready").touch()
    assert vllm_server.interpreter() == tmp_path / ".venv-vllm" / "bin" / "python"
    monkeypatch.setenv("STILLHOUSE_VLLM", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="STILLHOUSE_VLLM=.*nowhere: expected a python"):
        vllm_server.interpreter()


def test_stillhouse_vllm_is_a_python_or_the_directory_of_an_environment(
    fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    assert vllm_server.interpreter() == python
    monkeypatch.setenv("STILLHOUSE_VLLM", str(python))
    assert vllm_server.interpreter() == python


def test_ranks_on_a_cpu_share_its_cores(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {4, 1, 2, 3, 7})

    def bound(replica: int = 0, **options: Any) -> str | None:
        made = vllm_server.environment(Options(**options), "k", replica)
        return made.get("VLLM_CPU_OMP_THREADS_BIND")

    assert bound(tensor_parallel=2) == "1,2|3,4"
    assert bound() is None
    assert bound(tensor_parallel=8) is None
    assert [bound(replica, replicas=2) for replica in (0, 1)] == ["1,2", "3,4"]
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0-3|4-7")
    assert bound(tensor_parallel=2) is None  # inherited as it is


def test_replicas_share_the_gpus_that_this_process_may_use(
    fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(tensor_parallel=2, replicas=2)
    devices = [vllm_server.environment(options, "k", n)["CUDA_VISIBLE_DEVICES"] for n in (0, 1)]
    assert devices == ["0,1", "2,3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert vllm_server.environment(options, "k", 1)["CUDA_VISIBLE_DEVICES"] == "6,7"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    with pytest.raises(InputError, match="found 2 GPUs, expected 4"):
        vllm_server.environment(options, "k", 1)


# ------------------------------------------------------------------------------------- one server


def test_the_server_has_its_key_in_the_environment_and_tells_how_far_it_is(
    fake: Callable[[], list[dict]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLHOUSE_RUN", "/the/run")
    said: list[str] = []
    log = tmp_path / "logs" / "teacher.log"
    with vllm_server.serve(
        SMOLLM, "/weights", Options(ready_timeout_s=60), log, said.append
    ) as endpoint:
        [start] = fake()
        assert ask(endpoint)["authorization"] == f"Bearer {endpoint.key}"
    assert gone(start["pid"])
    assert endpoint.model == "smollm2-135m"
    assert start["argv"][:2] == ["-m", "vllm.entrypoints.openai.api_server"]
    environment = start["environment"]
    assert environment["VLLM_API_KEY"] == endpoint.key
    assert endpoint.key not in " ".join(start["argv"]) + log.read_text() + "".join(said)
    assert environment["VLLM_ENGINE_READY_TIMEOUT_S"] == "60"
    assert environment["STILLHOUSE_RUN"] == "/the/run" and environment["SPT_NOENV"] == "1"
    assert said == ["loading weights: 2 of 2 files"]


def test_a_server_that_does_not_start_is_reported_with_the_root_cause(
    fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_END", "exits")
    log = tmp_path / "teacher.log"
    with (
        pytest.raises(StageError) as raised,
        vllm_server.serve(SMOLLM, "/weights", Options(), log, lambda text: None),
    ):
        pass
    assert str(raised.value) == (
        f"vLLM did not start: ValueError: no room for the KV cache (see {log})"
    )


def test_several_machines_need_ray(fake: Any, tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="serve.nodes: 2 machines need Ray: .*pip install ray"),
        vllm_server.serve(KIMI, "w", Options(nodes=2), tmp_path / "log", print),
    ):
        pass


# ------------------------------------------------------------------------------------- several servers


def test_replicas_need_the_router(fake: Callable[[], list[dict]], tmp_path: Path) -> None:
    with (
        pytest.raises(
            InputError, match="serve.replicas: 2 servers need vllm-router: .*pip install"
        ),
        vllm_server.serve(SMOLLM, "w", Options(replicas=2), tmp_path / "log", print),
    ):
        pass
    assert fake() == []


@pytest.mark.slow
@pytest.mark.alone
def test_replicas_stand_behind_the_router_and_one_that_dies_comes_back(
    fake: Callable[[], list[dict]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = vllm_server.PROJECT / ".venv-vllm" / "bin" / "vllm-router"
    if not router.is_file():
        pytest.skip("needs vllm-router: `make vllm`")
    shutil.copy(router, tmp_path / "venv" / "bin" / "vllm-router")
    monkeypatch.setattr(replicas, "_REVIVAL_SECONDS", 0.2)
    monkeypatch.setenv("STILLHOUSE_RUN", "/the/run")
    options = Options(replicas=2)
    before = psutil.Process().children()  # such as an earlier test's resource tracker
    with vllm_server.serve(SMOLLM, "w", options, tmp_path / "t.log", lambda text: None) as endpoint:
        first, second = fake()
        replies = [ask(endpoint, f"agent-{number % 6}") for number in range(24)]
        assert {reply["authorization"] for reply in replies} == {f"Bearer {endpoint.key}"}
        assert replies[0]["session"] == "agent-0"
        # Each agent stays with the server that has read its conversation.
        assert len({(reply["session"], reply["port"]) for reply in replies}) == 6
        psutil.Process(first["pid"]).kill()
        asyncio.run(endpoint.revive())  # as a client does: the router is well, and left as it is
        # The router may answer 502 or 503 until it has seen that one is gone, which a client asks again.
        for number in range(6):
            answered_in_the_end(endpoint, f"agent-{number}")
        deadline = time.monotonic() + 60
        while len(fake()) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        third = fake()[-1]
        assert third["argv"] == first["argv"] and psutil.pid_exists(second["pid"])
        assert endpoint.restarts == 1
        pids = [start["pid"] for start in fake()]
        [front] = [
            child
            for child in psutil.Process().children()
            if child.pid not in pids and child not in before
        ]
        assert front.environ()["STILLHOUSE_RUN"] == "/the/run"
        front.kill()
        deadline = time.monotonic() + 60
        while endpoint.restarts < 2 and time.monotonic() < deadline:
            asyncio.run(endpoint.revive())
        assert ask(endpoint)["port"]
    assert all(gone(pid) for pid in pids) and psutil.Process().children() == before


def test_where_one_replica_does_not_start_none_is_left(
    fake: Callable[[], list[dict]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "venv" / "bin" / "vllm-router").touch()
    monkeypatch.setenv("FAKE_END", "exits")
    with (
        pytest.raises(StageError, match="no room for the KV cache"),
        vllm_server.serve(SMOLLM, "w", Options(replicas=3), tmp_path / "t.log", lambda text: None),
    ):
        pass
    assert all(gone(start["pid"]) for start in fake())


# ------------------------------------------------------------------------------------- the log


def test_progress_is_said_at_each_tenth_and_events_once() -> None:
    said: list[str] = []
    listen = StartUp(said.append)
    for done in range(97):
        line = f"Loading safetensors checkpoint shards: {done:3}% Completed | {done}/96 [00:01<1:00, 8s/it]\n"
        listen(line[:40])
        listen(line[40:])
    for worker in range(8):
        listen(
            f"(Worker_TP{worker} pid=9) INFO [default_loader.py:502] Loading weights took 712.31 seconds\n"
        )
    for done in range(0, 68):
        listen(
            f"\rCapturing CUDA graphs (decode, FULL): {done}%|##  | {done}/67 [00:01<00:01, 9it/s]"
        )
    listen(
        "\n(EngineCore) INFO GPU KV cache size: 643,232 tokens, Maximum concurrency for 8,192 tokens per"
    )
    listen(" request: 78.52x\n")
    assert said[0] == "loading weights: 1 of 96 files"
    assert said[10] == "loading weights: 96 of 96 files"
    assert said[11] == "weights loaded in 712.31 s"
    assert said[-3] == "capturing CUDA graphs: 67 of 67"
    assert said[-2:] == [
        "KV cache: 643,232 tokens",
        "room for 8,192 tokens per request: 78.52 at once",
    ]
    assert len(said) < 28


@pytest.mark.parametrize(
    ("log", "why"),
    [
        (
            "(Worker_TP0 pid=3) ERROR 11-24 torch.OutOfMemoryError: CUDA out of memory. Tried\n"
            "(EngineCore pid=2) ERROR Exception: WorkerProc initialization failed due to an exception in a"
            " background process. See stack trace for root cause.\n"
            "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n",
            "torch.OutOfMemoryError: CUDA out of memory. Tried",
        ),
        (
            "(APIServer pid=1) WARNING 11-24 13:22:06 [system_utils.py:255] This can cause fd limit errors like"
            " `OSError: [Errno 24] Too many open files`. Consider increasing with ulimit -n\n"
            "(Worker_DP0 pid=1) ERROR 11-24 [executor.py:1063]     raise NotImplementedError\n"
            "(Worker_DP0 pid=1) ERROR 11-24 [executor.py:1063] NotImplementedError\n"
            "RuntimeError: Worker failed with error '', please check the stack trace above for the root cause\n",
            "NotImplementedError",
        ),
        ("/x/python: No module named vllm\n", "No module named vllm"),
        (
            "api_server.py: error: unrecognized arguments: --nonsense\n",
            "error: unrecognized arguments: --nonsense",
        ),
        (
            "INFO all is well\nRuntimeError: Engine core initialization failed. See root cause above.\n",
            "RuntimeError: Engine core initialization failed. See root cause above.",
        ),
        ("INFO loading\n\n", "INFO loading"),
        ("", "no output"),
    ],
)
def test_the_reason_of_an_end_is_the_first_error_that_no_other_caused(log: str, why: str) -> None:
    assert reason(log) == why
