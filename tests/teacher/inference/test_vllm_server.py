"""vLLM's arguments, asked of vLLM itself, and its life, against a fake of it: a script in STILLHOUSE_VLLM."""

import asyncio
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_vllm import SMOLLM, gone, install
from vllm_parser import parse, serve_arguments

from schemas.errors import InputError, StageError
from schemas.recipe import Serve
from teacher.inference import replicas, vllm_server
from teacher.inference.endpoint import Endpoint
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


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[dict]]]:
    """Puts the fake where vLLM is looked for, and gives what reads its starts. None of them outlives the test."""
    python = tmp_path / "venv" / "bin" / "python"
    install(python)
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
    "one node": Serve(
        tensor_parallel=8,
        decode_context_parallel=8,
        max_model_len=131072,
        kv_cache_dtype="fp8",
        arguments=("--max-num-batched-tokens", "32768"),
    ),
    "two nodes": Serve(tensor_parallel=8, nodes=2),
    "experts": Serve(data_parallel=8, expert_parallel=True, gpu_memory_utilization=0.95),
    "replicas": Serve(tensor_parallel=4, replicas=2),
    "text only": Serve(tensor_parallel=8, arguments=("--language-model-only",)),
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
            for line in vllm_server.shell_commands(KIMI, hub, options).splitlines()
            if " serve " in line
        ]
        assert len(shown) == options.replica_count
        cases += [(serve_arguments(line), {**expected, "model_tag": hub}) for line in shown]
    for name in ("kimi-k2.5", "kimi-k2.6", "kimi-k2-thinking"):
        teacher = catalog.load(name, catalog.TEACHERS, "teacher")
        cases.append((vllm_server.arguments(teacher, "/w", Serve(tensor_parallel=8), 8123), {}))
    text = {"chat_template": str(catalog.TEMPLATES / "smollm2-tools.jinja"), "revision": None}
    cases.append((vllm_server.arguments(SMOLLM, "/weights", Serve(), 8123), text))
    wrong = [["m", "--nonsense"], ["m", "--tool-call-parser", "nobody"], ["m", "--port", "x"]]
    results = parse([*(arguments for arguments, _ in cases), *wrong])
    for (arguments, expected), result in zip(cases, results, strict=False):
        assert "error" not in result, (arguments, result)
        assert {name: result[name] for name in expected} == expected
    assert all("error" in result for result in results[-len(wrong) :])


def test_a_teacher_without_images_gets_no_argument_of_them() -> None:
    words = vllm_server.arguments(SMOLLM, "/weights", Serve(), 1)
    assert not [word for word in words if "mm" in word or "language-model" in word]
    assert "--trust-remote-code" not in words and "--reasoning-parser" not in words


def test_the_recipes_own_arguments_come_last_so_that_they_win() -> None:
    words = vllm_server.arguments(KIMI, "/w", Serve(arguments=("--max-model-len", "9")), 1)
    assert words[-2:] == ["--max-model-len", "9"]


def test_the_command_of_several_machines_starts_ray_first() -> None:
    lines = vllm_server.shell_commands(KIMI, "w", Serve(nodes=2)).splitlines()
    assert [line.split()[:3] for line in lines[:2]] == [
        ["ray", "start", "--head"],
        ["ray", "start", f"--address=FIRST_MACHINE:{vllm_server.RAY_PORT}"],
    ]
    assert len(lines) == 3


def test_the_command_of_replicas_gives_each_its_gpus_and_ends_with_the_router(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    first, second, router = vllm_server.shell_commands(
        KIMI, "w", Serve(tensor_parallel=2, replicas=2)
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


def test_a_link_to_an_environment_in_the_cache_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STILLHOUSE_VLLM", raising=False)
    monkeypatch.setattr(vllm_server, "PROJECT", tmp_path / "clone")
    home, link = tmp_path / "cache" / "vllm-cpu-1a2b", tmp_path / "clone" / ".venv-vllm"
    link.parent.mkdir()
    link.symlink_to(home)
    with pytest.raises(InputError, match=f"{link}: found no complete vLLM environment"):
        vllm_server.interpreter()  # the link leads nowhere
    (home / "bin").mkdir(parents=True)  # an interrupted install
    with pytest.raises(InputError, match="`make vllm` installs it"):
        vllm_server.interpreter()
    (home / ".ready").touch()
    # Not resolved: a virtual environment finds its packages by the path of the interpreter in it.
    assert vllm_server.interpreter() == link / "bin" / "python"


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
        made = vllm_server.environment(Serve(**options), "k", replica)
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
    options = Serve(tensor_parallel=2, replicas=2)
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
    messages: list[str] = []
    log = tmp_path / "logs" / "teacher.log"
    with vllm_server.serve(
        SMOLLM, "/weights", Serve(ready_timeout_s=60), log=log, report=messages.append
    ) as endpoint:
        [start] = fake()
        assert ask(endpoint)["authorization"] == f"Bearer {endpoint.key}"
    assert gone(start["pid"])
    assert endpoint.model == "smollm2-135m"
    assert start["argv"][:2] == ["-m", "vllm.entrypoints.openai.api_server"]
    environment = start["environment"]
    assert environment["VLLM_API_KEY"] == endpoint.key
    assert endpoint.key not in " ".join(start["argv"]) + log.read_text() + "".join(messages)
    assert environment["VLLM_ENGINE_READY_TIMEOUT_S"] == "60"
    assert environment["STILLHOUSE_RUN"] == "/the/run" and environment["SPT_NOENV"] == "1"
    assert messages == ["loading weights: 2 of 2 files"]


def test_a_server_that_does_not_start_is_reported_with_the_root_cause(
    fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_END", "exits")
    log = tmp_path / "teacher.log"
    with (
        pytest.raises(StageError) as raised,
        vllm_server.serve(SMOLLM, "/weights", Serve(), log=log, report=print),
    ):
        pass
    assert str(raised.value) == (
        f"vLLM did not start: ValueError: no room for the KV cache (see {log})"
    )


def test_several_machines_need_ray(fake: Any, tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="serve.nodes: 2 machines need Ray: .*pip install ray"),
        vllm_server.serve(KIMI, "w", Serve(nodes=2), log=tmp_path / "log", report=print),
    ):
        pass


# ------------------------------------------------------------------------------------- several servers


def test_replicas_need_the_router(fake: Callable[[], list[dict]], tmp_path: Path) -> None:
    with (
        pytest.raises(
            InputError, match="serve.replicas: 2 servers need vllm-router: .*pip install"
        ),
        vllm_server.serve(SMOLLM, "w", Serve(replicas=2), log=tmp_path / "log", report=print),
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
    monkeypatch.setattr(replicas, "_CHECK_SECONDS", 0.2)
    monkeypatch.setenv("STILLHOUSE_RUN", "/the/run")
    options = Serve(replicas=2)
    before = psutil.Process().children()  # such as an earlier test's resource tracker
    with vllm_server.serve(SMOLLM, "w", options, log=tmp_path / "t.log", report=print) as endpoint:
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
            if child.pid not in pids and child not in before and child.name() != "sh"  # a guard
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
        vllm_server.serve(SMOLLM, "w", Serve(replicas=3), log=tmp_path / "t.log", report=print),
    ):
        pass
    assert all(gone(start["pid"]) for start in fake())
