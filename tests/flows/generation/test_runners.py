"""Shards of a run played by workers of a real Dask cluster and a real Ray, one of which is killed."""

import importlib
import json
import pickle
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
import pytest
from http_server import Handler, HttpServer

from flows import recipe_file
from flows.generation import runners, worker
from flows.generation.shards import cut, read_receipt, read_traces
from flows.progress import tracked
from flows.run_context import prepare
from flows.stages import PIPELINE
from schemas.errors import InputError, StageError
from schemas.files import read_jsonl, write_jsonl

pytestmark = pytest.mark.usefixtures("packs_are_checked_once")

ROOT = Path(__file__).resolve().parents[3]
TASKS, SHARD = 24, 4


class Solver(Handler):
    """Solves the tasks of a run by their solutions. Without a hint it fails every third."""

    tasks: dict[str, dict[str, Any]] = {}
    asked: list[str] = []
    seconds = 0.0

    def do_GET(self) -> None:
        self.reply(200, {"object": "list", "data": [{"id": "m", "object": "model"}]})

    def do_POST(self) -> None:
        body = self.body()
        self.asked.append(json.dumps(body, sort_keys=True))
        time.sleep(self.seconds)
        texts = [m.get("content") for m in body["messages"] if isinstance(m.get("content"), str)]
        task = next(self.tasks[text] for text in texts if text in self.tasks)
        is_hinted = sum(m["role"] == "system" for m in body["messages"]) > 1
        step = sum(m["role"] == "tool" for m in body["messages"])
        message: dict[str, Any] = {"role": "assistant", "content": task["reply"]}
        if not is_hinted and len(task["request"]) % 3 == 0:
            message["content"] = "I do not know."
        elif step < len(task["plan"]):
            call = task["plan"][step]
            function = {"name": call["tool"], "arguments": json.dumps(call["arguments"])}
            message = {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "c", "type": "function", "function": function}],
            }
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        head = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
        usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
        self.reply(200, {**head, "choices": [choice], "usage": usage})


@pytest.fixture(scope="module")
def server() -> Iterator[HttpServer]:
    opened = HttpServer(Solver)
    yield opened
    opened.close()


def generate(
    directory: Path,
    server: HttpServer,
    domain: str = "legal",
    before: Callable[[], None] = lambda: None,
    changes: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Plans and generates in a directory. Returns the result of the stage."""
    settings = {
        "teacher": "openai",
        "serve.url": server.url,
        "serve.model": "m",
        "publish.store": str(directory / "store"),
        "tasks.train": str(TASKS),
        "tasks.exam": "2",
        "tasks.mix": "{lookup: 1, workflow: 1, document: 0, chart: 0}",
        "generate.preflight": "false",
        "generate.constrain": "false",
        "generate.examples": "0",
        "generate.concurrency": "2",
        "generate.shard": str(SHARD),
        **changes,
    }
    recipe = recipe_file.load("local", [f"{name}={value}" for name, value in settings.items()])
    with prepare(domain, recipe, directory / "run") as context:
        PIPELINE["plan"].run(context)
        rows = read_jsonl(context.path("tasks", "train.jsonl"))
        Solver.tasks = {row["request"]: row for row in rows}
        before()
        PIPELINE["generate"].run(context)
        receipt = context.run.receipt("generate")
        assert receipt
        return receipt["result"]


def copied(local: tuple[Path, Any], to: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(local[0], to / "run"))


def untimed(run: Path) -> list[Any]:
    rows: list[Any] = [*read_traces(run)]
    for row in rows:
        for call in row["calls"]:
            del call["seconds"]
    return rows


@pytest.fixture(scope="module")
def local(server: HttpServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    directory = tmp_path_factory.mktemp("local")
    Solver.asked.clear()
    result = generate(directory, server)
    assert result["requests"] == len(Solver.asked) == len(set(Solver.asked))
    return directory / "run", result


def children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if p.is_running()]


def kill_a_worker(runner: str, after: int, killed: list[int]) -> None:
    """Kills a process that plays a shard once so many requests were sent."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(Solver.asked) < after:
        time.sleep(0.01)
    for process in children():
        try:
            words = " ".join(process.cmdline())
            is_worker = (
                "ray::play_shard" in words
                if runner == "ray"
                else "spawn_main" in words and process.num_threads() > 3
            )
            if is_worker and process.net_connections():
                process.kill()
                killed.append(process.pid)
                return
        except psutil.Error:
            continue


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_with_a_worker_killed_the_traces_are_those_of_one_process_and_no_reply_is_lost(
    runner: str,
    local: tuple[Path, Any],
    server: HttpServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(
        "RAY_AUTH_MODE", "disabled"
    )  # it would write a token into the home directory
    pytest.importorskip(runners._MODULES[runner])
    Solver.asked.clear()
    Solver.seconds = 0.1
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(runner, 12, killed))
    killer.start()
    try:
        result = generate(
            tmp_path, server, changes={"generate.runner": runner, "generate.workers": "2"}
        )
    finally:
        Solver.seconds = 0.0
        killer.join()
    assert killed, "no worker was found, so nothing was tested"
    run, expected = local
    shown: dict[str, int] = {}
    for seen in tracked():
        if seen.name == "shards" and seen.numbers:
            shown = dict(seen.numbers.verdicts)
    assert sum(shown.values()) == result["traces"] and shown["passed"] == result["passed"]
    assert untimed(tmp_path / "run") == untimed(run)
    names = ("tasks", "traces", "passed", "hinted", "tokens", "detected", "failures")
    assert {name: result[name] for name in names} == {name: expected[name] for name in names}
    journal = [
        json.loads(line)["key"]
        for segment in (tmp_path / "run" / "journal").glob("*.jsonl")
        for line in segment.read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n")
    ]
    # A request in flight at the kill may have been sent twice, but no reply that was on disk.
    assert len(journal) == len(set(journal)) == expected["requests"]
    for shard in cut(TASKS, SHARD):
        receipt = read_receipt(tmp_path / "run", shard)
        assert receipt
        assert receipt["asked"] == receipt["returned"] + sum(receipt["rejected"].values()) == SHARD


@pytest.mark.slow
def test_a_run_of_workers_continues_in_one_process_without_asking(
    server: HttpServer, tmp_path: Path
) -> None:
    generate(tmp_path, server, changes={"generate.runner": "dask"})
    before = untimed(tmp_path / "run")
    Solver.asked.clear()
    result = generate(tmp_path, server)
    assert result["requests"] == len(Solver.asked) == 0
    assert untimed(tmp_path / "run") == before


def test_workers_share_what_may_be_in_flight_and_an_address_gives_each_the_whole() -> None:
    changes = ["generate.concurrency=9", "generate.requests_per_minute=100"]
    own = worker._own_share(recipe_file.load("local", changes), 4).generate
    assert (own.concurrency, own.requests_per_minute, own.tokens_per_minute) == (2, 25, None)
    assert worker._own_share(recipe_file.load("local", changes), 20).generate.concurrency == 1


@pytest.mark.parametrize("lacks", [False, True])
def test_workers_start_the_teacher_only_for_a_reply_that_the_journal_lacks(
    local: tuple[Path, Any],
    server: HttpServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lacks: bool,
) -> None:
    """With a pre-flight the API is not used before a worker asks for it. Shards are played in a thread."""
    copied(local, tmp_path)
    before = untimed(tmp_path / "run")
    if lacks:
        for segment in (tmp_path / "run" / "journal").glob("*.jsonl"):
            segment.write_bytes(b"".join(segment.read_bytes().splitlines(keepends=True)[:-1]))
    checked: list[int] = []

    def check(context: Any, endpoint: Any) -> None:
        checked.append(len(Solver.asked))

    stage = importlib.import_module("flows.stages.generate")
    monkeypatch.setattr(stage, "_preflight", check)
    monkeypatch.setitem(runners._MODULES, "dask", "json")
    monkeypatch.setattr(runners, "_dask", in_threads)
    Solver.asked.clear()
    changes = {"generate.runner": "dask", "generate.preflight": "true"}
    result = generate(tmp_path, server, changes=changes)
    assert result["requests"] == len(Solver.asked) == lacks
    assert checked == [0] * lacks
    assert untimed(tmp_path / "run") == before


def in_threads(settings: Any, work: Any, run: str, numbers: Any) -> Iterator[Any]:
    with ThreadPoolExecutor(1) as pool:
        waiting = {pool.submit(work, run, number): number for number in numbers}
        while waiting:
            done, _ = wait(waiting, timeout=0.05, return_when="FIRST_COMPLETED")
            for future in done:
                yield waiting.pop(future), future.result()
            if not done:
                yield None


def test_a_shard_of_two_writers_whose_file_is_not_its_receipts_is_played_again(
    server: HttpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was given up for lost writes its shard after the one that replaced it."""
    torn: list[int] = []

    def late(settings: Any, work: Any, run: str, numbers: Any) -> Iterator[Any]:
        for number in numbers:
            returned = work(run, number)
            if number == 2 and not torn:
                torn.append(number)
                path = cut(TASKS, SHARD)[number].path(Path(run))
                write_jsonl(path, [*read_jsonl(path)][::-1])
            yield number, returned

    monkeypatch.setitem(runners._MODULES, "dask", "json")
    monkeypatch.setattr(runners, "_dask", late)
    Solver.asked.clear()
    result = generate(tmp_path, server, changes={"generate.runner": "dask"})
    assert torn and len(Solver.asked) == len(set(Solver.asked)) == result["requests"]
    [shown] = [each for each in tracked() if each.name == "shards"]
    assert shown.done == shown.total and shown.numbers
    assert shown.numbers.verdicts.total() == result["traces"]
    assert all(read_receipt(tmp_path / "run", shard) for shard in cut(TASKS, SHARD))
    again = generate(tmp_path, server)
    assert again["traces"] == result["traces"]


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("the desk is locked")
        self.lock = threading.Lock()


def test_an_exception_that_does_not_pickle_leaves_a_worker_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(directory: Path, number: int) -> None:
        raise Unpicklable

    with pytest.raises(TypeError):
        pickle.dumps(Unpicklable())
    monkeypatch.setattr(worker, "_play", fail)
    returned = worker.play_shard(str(tmp_path), 0)
    assert pickle.loads(pickle.dumps(returned)) == {"error": "Unpicklable: the desk is locked"}


LOCKED_TOOL = """

import functools, os, threading


class Locked(Exception):
    def __init__(self):
        super().__init__("the desk is locked")
        self.lock = threading.Lock()


def _lockable(tool):
    @functools.wraps(tool)
    def call(*arguments, **named):
        if os.environ.get("DESK_IS_LOCKED"):
            raise Locked
        return tool(*arguments, **named)

    return call


LegalDesk.get_billing = _lockable(LegalDesk.get_billing)
"""


@pytest.mark.slow
def test_a_tool_that_raises_what_does_not_pickle_rejects_its_trace_by_name(
    server: HttpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "data" / "legal", tmp_path / "desk")
    with (tmp_path / "desk" / "environment.py").open("a") as file:
        file.write(LOCKED_TOOL)
    changes = {"generate.runner": "dask", "tasks.mix": "{unused_retainer: 1, amended_term: 1}"}
    changes |= {"tasks.train": "8", "tasks.held_out": "[]"}
    result = generate(
        tmp_path,
        server,
        domain=str(tmp_path / "desk"),
        before=lambda: monkeypatch.setenv("DESK_IS_LOCKED", "1"),
        changes=changes,
    )
    ended = [trace["outcome"] for trace in read_traces(tmp_path / "run")]
    crashed = [outcome for outcome in ended if outcome["ended"] == "tool_crashed"]
    assert crashed and all("the desk is locked" in str(one["error"]) for one in crashed)
    assert 0 < result["passed"] < result["tasks"] == 8


def test_closed_shards_are_not_played_again_and_a_damaged_one_is(
    local: tuple[Path, Any], server: HttpServer, tmp_path: Path
) -> None:
    run = copied(local, tmp_path)
    before = untimed(run)
    shards = sorted((run / "traces").iterdir())
    times = [path.stat().st_mtime_ns for path in shards]
    assert len(shards) == TASKS // SHARD
    shards[2].write_bytes(shards[2].read_bytes()[:-9])
    Solver.asked.clear()
    result = generate(tmp_path, server)
    assert result["requests"] == len(Solver.asked) == 0
    assert result["replayed"] > 0 and untimed(run) == before
    changed = [i for i, path in enumerate(shards) if path.stat().st_mtime_ns != times[i]]
    assert changed == [2]


def test_a_run_of_the_old_layout_asks_nothing_again(
    local: tuple[Path, Any], server: HttpServer, tmp_path: Path
) -> None:
    run = copied(local, tmp_path)
    before = untimed(run)
    write_jsonl(run / "traces.jsonl", read_traces(run))
    shutil.rmtree(run / "traces")
    shutil.rmtree(run / "stages" / "generate")
    assert untimed(run) == before
    Solver.asked.clear()
    generate(tmp_path, server)
    assert not Solver.asked and untimed(run) == before
    assert not (run / "traces.jsonl").exists()


def test_a_task_is_attempted_until_per_task_attempts_have_passed(
    server: HttpServer, tmp_path: Path
) -> None:
    result = generate(tmp_path, server, changes={"filter.per_task": "2", "generate.attempts": "4"})
    assert result["passed"] == 2 * TASKS


def test_an_address_without_a_url_of_the_teacher_is_refused_when_planning(tmp_path: Path) -> None:
    settings = ["generate.runner=dask", "generate.runner_address=tcp://127.0.0.1:1"]
    recipe = recipe_file.load("local", settings)
    with pytest.raises(InputError, match="serve.url: found null, expected the teacher's URL"):
        runners.check(recipe.generate, is_api=False)
    recipe = recipe_file.load("local", settings[1:])
    with pytest.raises(InputError, match="runner_address: found tcp"):
        runners.check(recipe.generate, is_api=True)


def test_an_error_of_a_shard_ends_the_stage_and_closes_the_cluster(
    server: HttpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []

    def fail(settings: Any, play_shard: Any, run: str, numbers: list[int]) -> Iterator[Any]:
        try:
            for number in numbers:
                yield number, {"error": "PackFault: the desk is locked"}
        finally:
            closed.append(run)

    monkeypatch.setitem(runners._MODULES, "dask", "json")
    monkeypatch.setattr(runners, "_dask", fail)
    with pytest.raises(StageError, match="shard 0 .tasks 0 to 3. failed in its worker: PackFault"):
        try:
            generate(tmp_path, server, changes={"generate.runner": "dask"})
        except StageError:  # whoever keeps the error does not keep the cluster
            assert closed == [str(tmp_path / "run")]
            raise


def test_an_error_of_the_cluster_ends_the_stage_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lose(*_: Any) -> Iterator[Any]:
        yield 0, {}
        raise Unpicklable

    monkeypatch.setattr(runners, "_dask", lose)
    settings = recipe_file.load("local", ["generate.runner=dask"]).generate
    with pytest.raises(StageError, match="generate.runner=dask: Unpicklable: the desk is locked; "):
        list(runners.hand_out(settings, worker.play_shard, "run", [0, 1]))
