"""vLLM itself, serving a miniature Kimi tensor-parallel on two CPU cores.

The real architecture class, the real vocabulary, both of Kimi's parsers, and random weights.
"""

import asyncio
import contextlib
import json
import os
import re
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import mini_kimi
import psutil
import pytest
from filter_traces import filter_traces

from schemas.documents import check_document
from schemas.filter import FilterSettings
from schemas.recipe import Serve
from schemas.tool_calls import call_problem, functions_by_name
from schemas.trace import Maker, Trace
from student.models import base
from teacher.dialects.base import for_teacher
from teacher.domain import tasks
from teacher.domain.pack import load
from teacher.domain.prompts import demonstration
from teacher.inference import launch, vllm_server
from teacher.inference.client import Client
from teacher.inference.endpoint import Endpoint
from teacher.inference.journal import Journal
from teacher.inference.logprobs import unpack
from teacher.inference.replies import Reply
from teacher.models import catalog
from teacher.preflight import run
from teacher.preflight.target import Limits
from teacher.rollout import agent_loop
from teacher.rollout.guidance import Constrained
from teacher.rollout.scheduler import rollouts

pytestmark = [pytest.mark.slow, pytest.mark.alone]

EPISODES, WORKERS = 50, 16
OPTIONS = Serve(
    tensor_parallel=2,
    ready_timeout_s=300,
    stall_s=300,
    arguments=("--load-format", "dummy", "--enforce-eager"),
)
MARK = "STILLHOUSE_RUN"


@pytest.fixture(scope="module")
def installed() -> None:
    """vLLM, installed as the README says where it is not."""
    if not mini_kimi.ORIGINAL.is_dir():
        pytest.skip(f"needs {mini_kimi.ORIGINAL}")
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores, one for each rank")
    if not os.environ.get("STILLHOUSE_VLLM"):
        environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}
        subprocess.run(["make", "vllm"], cwd=vllm_server.PROJECT, env=environment, check=True)


@pytest.fixture(scope="module")
def teacher(installed: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Kimi K2.5's own description, with the miniature's weights and no eyes."""
    described = catalog.load("kimi-k2.5", catalog.TEACHERS, "teacher")
    described["source"] = {"path": str(mini_kimi.build(tmp_path_factory.mktemp("mini")))}
    described["context"] = mini_kimi.SHRUNK["max_position_embeddings"]
    described["capabilities"]["vision"] = False
    del described["vllm"]["trust_remote_code"], described["images"]
    return described


@pytest.fixture(scope="module")
def mark() -> Iterator[str]:
    """What each process that a server starts has in its environment, as those of a run have."""
    value = f"/test/{uuid.uuid4()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, value)
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        yield value


@pytest.fixture(scope="module")
def served(
    teacher: dict[str, Any], mark: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Endpoint]:
    log = tmp_path_factory.mktemp("logs") / "teacher.log"
    with launch.open_teacher(
        teacher, OPTIONS, log=log, concurrency=WORKERS, report=print
    ) as endpoint:
        names = {process.name() for process in marked(mark)}
        assert {"VLLM::EngineCor", "VLLM::Worker_TP"} <= {name[:15] for name in names}
        yield endpoint
    assert_gone(mark)


def assert_gone(value: str) -> None:
    """Nothing that carries the mark is there, or soon: what was killed may be seen for a moment."""
    deadline = time.monotonic() + 30
    while (left := marked(value)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left


def marked(value: str) -> list[psutil.Process]:
    """The processes, other than this one, that carry the mark."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARK) == value:
                found.append(process)
    return found


@pytest.mark.parametrize("engine", ["llama.cpp", "vllm"])
def test_one_agent_loop_drives_smollm2_on_either_engine(
    engine: str, installed: None, mark: str, tmp_path: Path
) -> None:
    # Before the miniature is up, which shares the two cores.
    described = catalog.load("smollm2-135m", catalog.TEACHERS, "teacher")
    if engine == "vllm":
        del described["requantize"], described["call_prefix"]
        described["engine"] = "vllm"
        described["source"] = {"path": str(base.prepare(base.load("smollm2-135m")))}
        described["vllm"] = {
            "tool_parser": "hermes",
            "arguments": ["--tool-strict-level", "parameter"],
        }
    domain = load("legal")
    todo = tasks.sample(domain, "train", 4, seed=1, mix={"contract_expiry": 1})
    settings = agent_loop.Settings(
        3, 200, 0.7, 0.95, guidance=Constrained(described.get("call_prefix", "")), logprobs=3
    )
    maker: Maker = {
        "model": "smollm2-135m",
        "revision": "r",
        "engine": engine,
        "licence": "Apache-2.0",
    }
    shown = [
        demonstration(tasks.build(domain, "contract_expiry", "train", 400_000_000 + n), domain)
        for n in range(2)
    ]
    options = Serve(ready_timeout_s=300, arguments=("--enforce-eager",))

    async def scene(endpoint: Endpoint) -> list[Trace]:
        identity = {"model": "smollm2-135m", "revision": "r"}
        async with Client(endpoint, identity, Journal(tmp_path / "journal"), 4, 300) as client:
            made = rollouts(
                todo,
                domain,
                client,
                settings,
                maker,
                workers=4,
                examples=lambda task, hinted: shown,
            )
            return [rollout.trace async for rollout in made]

    with launch.open_teacher(
        described, options, log=tmp_path / "log", concurrency=4, report=print, logprobs=True
    ) as endpoint:
        traces = asyncio.run(scene(endpoint))
    assert_gone(mark)
    assert len(traces) == 4
    for trace in traces:
        check_document(trace, "trace", trace["id"])
    # The second turn of an episode begins as its first.
    assert any(call["usage"].get("cached_tokens") for trace in traces for call in trace["calls"])
    # Both engines give the id of each token, and those of the most likely ones.
    journal = Journal(tmp_path / "journal")
    for call in (call for trace in traces for call in trace["calls"]):
        row = journal.get(call["key"])
        assert row and (rows := unpack(row["logprobs"]))
        assert len(rows) == call["usage"]["completion_tokens"]
        assert all(isinstance(token, int) and number <= 0 for row in rows for token, number in row)
        assert all(len(row) == 4 for row in rows)
    # What is decoded under the tools' schemas is valid, where the limit of tokens does not cut it short.
    ended = [trace for trace in traces if trace["calls"][0]["finish_reason"] != "length"]
    assert ended
    for trace in ended:
        functions = functions_by_name(trace["tools"])
        called = [call["function"] for call in trace["messages"][2]["tool_calls"]]
        assert called
        for said in called:
            assert call_problem(said["name"], said["arguments"], functions) is None


def ask(endpoint: Endpoint, teacher: dict[str, Any], journal: Path, **parameters: Any) -> Reply:
    async def scene() -> Reply:
        identity = {"model": teacher["name"], "revision": "mini"}
        async with Client(endpoint, identity, Journal(journal), 1, 300) as client:
            return await client.complete(
                [{"role": "user", "content": "Which contract ends first?"}],
                [load("legal").tools["get_contract"]],
                0,
                session="one",
                **parameters,
            )

    return asyncio.run(scene())


def test_what_the_model_says_goes_through_both_of_kimis_parsers(
    served: Endpoint, teacher: dict[str, Any], tmp_path: Path
) -> None:
    modes = teacher["modes"]
    thought = ask(
        served, teacher, tmp_path, max_tokens=40, extra_body=modes["thinking"]["body"]["vllm"]
    )
    assert thought.message and thought.usage["completion_tokens"] == 40
    assert thought.message["reasoning"] and not thought.message.get("tool_calls")
    forced = ask(
        served,
        teacher,
        tmp_path,
        max_tokens=200,
        tool_choice="required",
        extra_body=modes["instant"]["body"]["vllm"],
    )
    assert forced.message and not forced.message.get("reasoning")
    [call] = forced.message["tool_calls"]
    assert call["function"]["name"] == "get_contract"
    # Digits until some other token is drawn, which may be many: random weights do not count their calls.
    assert re.fullmatch(r"functions\.get_contract:\d+", call["id"])


def test_the_pre_flight_tells_what_it_found(
    served: Endpoint, teacher: dict[str, Any], tmp_path: Path
) -> None:
    result = run.check(
        served,
        teacher,
        load("legal"),
        tokenizer=Path(teacher["source"]["path"]),
        limits=Limits(concurrency=WORKERS, max_tokens=48),
    )
    check_document(result, "fidelity", "the pre-flight")
    passed = {check["name"]: check["passed"] for check in result["checks"]}
    assert result["passed"] is False
    assert passed["health"] and passed["model_name"] and passed["thinking_toggle"]
    # What is rendered here with Kimi's template is what vLLM rendered, to the token.
    assert passed["prompt_tokens"]
    assert passed["strict_tool_call"] is False and passed["tool_call_f1"] is False
    assert not passed["schema_accuracy"] and not passed["tool_round_trip"]


def test_fifty_episodes_are_accounted_for_although_the_engine_is_killed_in_the_middle(
    served: Endpoint, teacher: dict[str, Any], mark: str, tmp_path: Path
) -> None:
    domain = load("legal")
    todo = tasks.sample(
        domain, "train", EPISODES, seed=1, mix={"document": 0, "chart": 0, "swarm": 0, "extract": 0}
    )  # it sees none
    maker: Maker = {
        "model": teacher["name"],
        "revision": "mini",
        "engine": "vllm",
        "licence": "MIT",
    }
    settings = agent_loop.Settings(
        3,
        48,
        1.0,
        0.95,
        guidance=Constrained(),
        mode="instant",
        dialect=for_teacher(teacher, served.url),
    )
    directory = tmp_path / "journal"

    def generate(journal: Journal, kill_after: int | None) -> tuple[list[Trace], int]:
        async def kill() -> None:
            while kill_after is not None and len(journal) < kill_after:
                await asyncio.sleep(0.05)
            for process in marked(mark):
                if kill_after is not None and process.name().startswith("VLLM::EngineCor"):
                    process.kill()

        async def scene() -> tuple[list[Trace], int]:
            identity = {"model": teacher["name"], "revision": "mini"}
            async with Client(served, identity, journal, WORKERS, 300) as client:
                killer = asyncio.create_task(kill())
                traces = [
                    rollout.trace
                    async for rollout in rollouts(
                        todo, domain, client, settings, maker, workers=WORKERS
                    )
                ]
                await killer
                return traces, client.sent

        return asyncio.run(scene())

    before = served.restarts
    traces, sent = generate(Journal(directory), kill_after=20)
    assert served.restarts == before + 1
    assert {trace["task"]["id"] for trace in traces} == {task["id"] for task in todo}
    assert len(traces) == EPISODES
    for trace in traces:
        check_document(trace, "trace", trace["id"])

    # No reply that was finished was asked for again: none of them is in the journal twice ...
    lines = [line for file in directory.glob("*.jsonl") for line in file.read_text().splitlines()]
    keys = [json.loads(line)["key"] for line in lines]
    assert len(keys) == len(set(keys)) == len({c["key"] for t in traces for c in t["calls"]})
    assert sent > len(keys)  # those that were in flight when it was killed, again
    # ... and a run that is started again asks for nothing at all.
    again, sent = generate(Journal(directory), kill_after=None)
    assert sent == 0
    assert sorted(again, key=_id) == sorted(traces, key=_id)

    limits = FilterSettings(max_tokens=4096, near_duplicate=0.9, contamination=0.8, per_task=3)
    judged, ledger = filter_traces(cast(Any, traces), [], limits, lambda trace: [1])
    assert ledger["traces"] == ledger["kept"] + sum(ledger["rejected"].values()) == EPISODES


def _id(trace: Trace) -> str:
    return trace["id"]
