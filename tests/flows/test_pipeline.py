"""The whole pipeline with real components and small numbers: killed twice, continued, published, pulled and served;
run again by its deployment; and stopped by a signal."""

import collections
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from http_server import Handler, HttpServer
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect_host import PrefectHost, wait_for

from flows.generation.shards import read_traces
from flows.run_directory import STAGES
from schemas.files import read_json
from student.registry.lookup import list_models
from student.registry.open_store import open_store
from teacher.inference.client import Client
from teacher.inference.journal import Journal
from teacher.inference.llama_server import serve

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "tasks.train": 10,
    "tasks.exam": 4,
    "tasks.mix": "{lookup: 1, workflow: 0}",
    "generate.concurrency": 4,
    "train.epochs": 5,
    "train.batch_size": 2,
    "train.holdout": 0,
    "train.save_steps": 2,
    "train.log_steps": 1,
    "evaluate.concurrency": 4,
    # So few traces teach little; that a student is published matters here, not how good it is.
    "gate.min_gain": -1,
    "gate.min_well_formed": 0,
}


def command(run: Path, changes: dict[str, Any]) -> list[str]:
    fields = {**SMALL, **changes}.items()
    settings = [part for key, value in fields for part in ("--set", f"{key}={value}")]
    return [sys.executable, "-m", "flows.cli", "distill", "legal", "--run", str(run), *settings]


def start(run: Path, store: Path, log: Path, **changes: Any) -> subprocess.Popen[bytes]:
    # A file, because processes that a killed run leaves would hold a pipe open.
    with log.open("wb") as output:
        return subprocess.Popen(
            command(run, changes),
            cwd=ROOT,
            env={**os.environ, "STILLHOUSE_STORE": str(store)},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def whole(file: Path) -> bool:
    """Whether a JSON file exists and is complete."""
    try:
        json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return True


def marked(run: Path) -> list[psutil.Process]:
    """The processes that a run started and that still exist."""
    processes = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("STILLHOUSE_RUN") == str(run.resolve()):
                processes.append(process)
        except (psutil.Error, OSError):
            continue
    return processes


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Waits for the condition while the command runs, at most an hour."""
    deadline = time.monotonic() + 3600
    while not condition():
        assert process.poll() is None, "the command ended before the condition held"
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.05)


def kill_when(
    process: subprocess.Popen[bytes], condition: Callable[[], bool]
) -> dict[psutil.Process, str]:
    """Sends SIGKILL to the command alone once the condition holds. Returns what it had started, with the names."""
    try:
        wait_until(condition, process)
        return {p: p.name() for p in psutil.Process(process.pid).children(recursive=True)}
    finally:
        process.kill()
        process.wait()


def journal_lines(run: Path) -> list[str]:
    keys = []
    for segment in (run / "journal").glob("*.jsonl"):
        for line in segment.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                keys.append(json.loads(line)["key"])
    return keys


@pytest.fixture(scope="module")
def killed_and_finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run that was killed during generate and during train, and then ran to its end."""
    base = tmp_path_factory.mktemp("pipeline")
    run, store = base / "run", base / "store"

    started = kill_when(
        start(run, store, base / "1.log"),
        lambda: (run / "journal").is_dir() and len(journal_lines(run)) >= 6,
    )
    journalled = journal_lines(run)
    _, left = psutil.wait_procs(list(started), timeout=60)

    kill_when(
        start(run, store, base / "2.log"),
        lambda: whole(run / "train/checkpoints/checkpoint-2/trainer_state.json"),
    )
    traces = (run / "traces/00000.jsonl.zst").stat().st_mtime_ns
    replies = len(journal_lines(run))

    last = start(run, store, base / "3.log")
    last.wait(timeout=1800)
    return {
        "run": run,
        "store": store,
        "journalled": journalled,
        "started": sorted(started.values()),
        "left": [started[process] for process in left],
        "traces": traces,
        "replies": replies,
        "code": last.returncode,
        "output": (base / "3.log").read_text(),
    }


def test_a_run_that_was_killed_twice_ends_well(killed_and_finished: dict[str, Any]) -> None:
    assert killed_and_finished["code"] == 0, killed_and_finished["output"]
    assert "Traceback" not in killed_and_finished["output"]


def test_no_journalled_reply_is_requested_again(killed_and_finished: dict[str, Any]) -> None:
    counts = collections.Counter(journal_lines(killed_and_finished["run"]))
    assert set(killed_and_finished["journalled"]) <= set(counts)
    assert max(counts.values()) == 1


def test_a_finished_stage_is_not_repeated(killed_and_finished: dict[str, Any]) -> None:
    run = killed_and_finished["run"]
    assert (run / "traces/00000.jsonl.zst").stat().st_mtime_ns == killed_and_finished["traces"]
    assert "generate is done already" in killed_and_finished["output"]


def test_training_continues_from_its_checkpoint(killed_and_finished: dict[str, Any]) -> None:
    assert "continuing from checkpoint-" in killed_and_finished["output"]
    rows = [json.loads(line) for line in (killed_and_finished["run"] / "train/log.jsonl").open()]
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == sorted(steps)


def test_a_server_ends_with_the_run_that_is_killed(killed_and_finished: dict[str, Any]) -> None:
    assert "llama-server" in killed_and_finished["started"]
    assert killed_and_finished["left"] == []
    assert not marked(killed_and_finished["run"])


def test_every_trace_is_accounted_for(killed_and_finished: dict[str, Any]) -> None:
    run = killed_and_finished["run"]
    ledger = json.loads((run / "filter/ledger.json").read_text())
    kept = sum(1 for _ in (run / "filter/kept.jsonl").open())
    rejected = [
        json.loads(line)["verdict"]["reason"] for line in (run / "filter/rejected.jsonl").open()
    ]
    assert ledger["traces"] == len([*read_traces(run)]) == kept + len(rejected)
    assert ledger["rejected"] == dict(collections.Counter(rejected))


def test_every_exported_file_passed_every_check(killed_and_finished: dict[str, Any]) -> None:
    gate = json.loads((killed_and_finished["run"] / "export/gate.json").read_text())
    assert set(gate) == {"16 bits", "Q8_0", "Q4_K_M"}
    assert [check["name"] for check in gate.pop("16 bits")] == ["logits"]
    for checks in gate.values():
        assert {check["name"] for check in checks if check["passed"]} == {
            "template",
            "stop_token",
            "rendering",
            "token_ids",
            "prompt_tokens",
            "weights",
            "logits",
            "ends_turns",
            "tool_round_trip",
        }


def test_a_pulled_student_is_served_as_it_is(
    killed_and_finished: dict[str, Any], tmp_path: Path
) -> None:
    import asyncio

    pulled = subprocess.run(
        [sys.executable, "-m", "flows.cli", "pull", "legal", "--to", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "STILLHOUSE_STORE": str(killed_and_finished["store"])},
        capture_output=True,
        text=True,
    )
    assert pulled.returncode == 0, pulled.stderr
    [gguf] = tmp_path.glob("*.gguf")
    trace = json.loads((killed_and_finished["run"] / "filter/kept.jsonl").open().readline())

    async def finish_reason() -> str:
        with serve(gguf, tmp_path / "server.log", slots=1, context=2048) as endpoint:
            journal = Journal(tmp_path / "journal")
            async with Client(endpoint, {"model": "m", "revision": "r"}, journal, 1, 120) as client:
                reply = await client.complete(
                    trace["messages"][:2], trace["tools"], 0, temperature=0, max_tokens=200
                )
                return reply.finish_reason

    assert asyncio.run(finish_reason()) in {"stop", "tool_calls"}


def test_the_same_command_again_repeats_nothing(killed_and_finished: dict[str, Any]) -> None:
    log = killed_and_finished["store"].with_name("4.log")
    again = start(killed_and_finished["run"], killed_and_finished["store"], log)
    again.wait(timeout=900)
    output = log.read_text()
    assert again.returncode == 0, output
    assert output.count("is done already") == 7
    models = subprocess.run(
        [sys.executable, "-m", "flows.cli", "models", "--json", "-"],
        cwd=ROOT,
        env={**os.environ, "STILLHOUSE_STORE": str(killed_and_finished["store"])},
        capture_output=True,
        text=True,
    )
    assert [model["tag"] for model in json.loads(models.stdout)] == ["1"]


def test_the_weekly_deployment_is_made_triggered_and_run_to_its_end_by_a_worker(
    killed_and_finished: dict[str, Any], tmp_path: Path
) -> None:
    """On a real Prefect server. It continues a copy of the finished run with another setting of the exam."""
    run, store = tmp_path / "run", tmp_path / "store"
    shutil.copytree(killed_and_finished["run"], run)
    shutil.copytree(killed_and_finished["store"], store)
    started = {name: read_json(run / "stages" / f"{name}.json")["started"] for name in STAGES}
    host = PrefectHost(tmp_path / "host", STILLHOUSE_STORE=str(store))
    try:
        done = host.stillhouse("deploy", "--file", str(ROOT / "deployments.yaml"))
        assert done.returncode == 0, done.stderr
        host.worker("cpu")
        deployment = host.client.read_deployment_by_name("distill/weekly")
        settings = [f"{key}={value}" for key, value in SMALL.items()]
        parameters = {
            "domain": "legal",
            "run": str(run),
            "settings": [*settings, "evaluate.max_tokens=256"],
            "fresh": False,
        }
        flow_run = host.client.create_flow_run_from_deployment(deployment.id, parameters=parameters)

        def ended() -> str | None:
            state = host.client.read_flow_run(flow_run.id).state
            return state.type.value if state is not None and state.is_final() else None

        log = host.directory / "cpu.log"
        assert wait_for(ended, 1800, log) == "COMPLETED", log.read_text()[-4000:]
        of_this_run = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))

        def recorded() -> bool:
            """Whether all tasks are recorded: the server writes them from events, maybe after the flow has ended."""
            tasks = host.client.read_task_runs(flow_run_filter=of_this_run)
            return sorted(task.name.rsplit("-", 1)[0] for task in tasks) == sorted(STAGES)

        assert wait_for(recorded, 120)
        again = {name: read_json(run / "stages" / f"{name}.json")["started"] for name in STAGES}
        repeated = {name for name in STAGES if again[name] != started[name]}
        assert repeated == {"evaluate", "publish"}
        assert [model.tag for model in list_models(open_store(store))] == ["2", "1"]
    finally:
        host.close()


@pytest.mark.parametrize(
    ("sign", "code", "message"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "stopped by SIGTERM")],
    ids=["ctrl-c", "sigterm"],
)
def test_a_signal_to_all_of_a_run_ends_it_soon_with_one_line_and_leaves_no_process(
    tmp_path: Path, sign: signal.Signals, code: int, message: str
) -> None:
    requested, over = threading.Event(), threading.Event()

    class Silent(Handler):
        """A teacher that never replies to a chat request."""

        def do_GET(self) -> None:
            self.reply(200, {"object": "list", "data": [{"id": "m"}]})

        def do_POST(self) -> None:
            requested.set()
            over.wait()

    run, log = tmp_path / "run", tmp_path / "log"
    server = HttpServer(Silent)
    # A background job of a shell ignores SIGINT, and its children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = start(
        run, tmp_path / "store", log, **{"serve.url": server.url, "generate.timeout_s": 3600}
    )
    try:
        wait_until(requested.is_set, process)
        # A terminal sends Ctrl-C to the command and to the processes of its group.
        os.killpg(process.pid, sign)
        assert process.wait(300) == code, log.read_text()
        deadline = time.monotonic() + 60
        while (left := marked(run)) and time.monotonic() < deadline:
            time.sleep(0.5)
        assert not left
    finally:
        signal.signal(signal.SIGINT, before)
        over.set()
        server.close()
        process.kill()
        process.wait()
        for each in marked(run):
            with contextlib.suppress(psutil.Error):
                each.kill()
    output = log.read_text()
    assert "Traceback" not in output
    *before_last, last = output.splitlines()
    stages = [name for line in before_last if (name := line.rpartition("] ")[2]) in STAGES]
    assert stages == ["plan", "generate"]
    assert last == f"stillhouse: {message}: run the same command again to continue"
