"""Filtering and the preparation of examples by workers: the files of one process, byte for byte."""

import asyncio
import contextlib
import dataclasses
import importlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from scripted_model import LOOP

from benchmarks.client import solution_message
from flows import recipe_file
from flows.generation import runners, student_worker
from flows.generation.shards import DIRECTORY, cut
from flows.run_context import RunContext, prepare
from flows.stages import PIPELINE
from schemas.errors import StageError
from schemas.files import read_json, read_jsonl, write_jsonl
from schemas.trace import Maker
from student.training import mixture
from teacher.inference.replies import Reply
from teacher.rollout import agent_loop

pytestmark = pytest.mark.usefixtures("packs_are_checked_once")

SHARD, TASKS = 5, 23
MAKER: Maker = {"model": "m", "revision": None, "engine": "openai", "licence": "none"}


@contextlib.contextmanager
def opened(run: Path, *changes: str) -> Iterator[RunContext]:
    settings = [
        *("teacher=openai", "serve.url=http://127.0.0.1:1/v1", "serve.model=m", "tasks.exam=12"),
        *(f"tasks.train={TASKS}", f"generate.shard={SHARD}", "generate.preflight=false"),
        *("tasks.mix={lookup: 2, workflow: 2, document: 0, chart: 1}", "generate.workers=2"),
        *("filter.max_tokens=8192", "train.max_length=8192", "train.holdout=0.4"),
        f"publish.store={run.parent / 'store'}",
    ]
    with prepare("legal", recipe_file.load("local", [*settings, *changes]), run) as context:
        yield context


def solved(task: Any, context: RunContext, number: int) -> Any:
    """The trace of the task's solution; some are wrong, and some say what another one says."""
    steps = itertools.count()

    async def complete(*_: Any, **__: Any) -> Reply:
        message = solution_message(task, next(steps))
        return Reply("0" * 64, message, "stop", 0.1, {"prompt_tokens": 9, "completion_tokens": 3})

    loop = dataclasses.replace(LOOP, image_store=context.image_store)
    trace: Any = asyncio.run(agent_loop.run(task, context.domain, complete, loop, MAKER))
    if number % 6 == 5:
        trace["outcome"]["checks"]["answer"] = False
    return trace


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with traces of solutions in small shards, every fifth with an image and the last ones double."""
    run = tmp_path_factory.mktemp("generated") / "run"
    with opened(run) as context:
        PIPELINE["plan"].run(context)
        tasks = list(read_jsonl(run / "tasks" / "train.jsonl"))
        # The later shards repeat requests of the earlier ones under other names.
        tasks[-4:] = [{**task, "id": f"{task['id']}-again"} for task in tasks[:4]]
        write_jsonl(run / "tasks" / "train.jsonl", tasks)
        with context.run.stage("plan", PIPELINE["plan"].inputs(context), [run / "tasks"]):
            pass
        traces = [solved(task, context, number) for number, task in enumerate(tasks)]
        for shard in cut(TASKS, SHARD):
            write_jsonl(shard.path(run), traces[shard.first : shard.first + shard.count])
        inputs = PIPELINE["generate"].inputs(context)
        with context.run.stage("generate", inputs, [run / DIRECTORY]) as result:
            result["traces"] = TASKS
    return run


def filtered(run: Path, *changes: str) -> dict[str, bytes]:
    with opened(run, *changes) as context:
        context.run.forget("filter")
        PIPELINE["filter"].run(context)
    assert not (run / "filter" / ".judged").exists()
    return {path.name: path.read_bytes() for path in sorted((run / "filter").iterdir())}


def mixed(run: Path, *changes: str) -> tuple[dict[str, bytes], Any]:
    train = importlib.import_module("flows.stages.train")
    with opened(run, *changes) as context:
        if context.recipe.generate.runner != "local":
            result = train.mix_by_workers(context)
        else:
            kept = run / "filter" / "kept.jsonl"
            traces = mixture.sample(lambda: read_jsonl(kept), context.recipe.train.traces)
            result = mixture.mix(traces, context.renderer(), context.recipe.train, run / "train")
    files = sorted((run / "train").glob("*.arrow"))
    assert len(files) == 2 and not (run / "train" / ".parts").exists()
    return {path.name: path.read_bytes() for path in files}, result.counts


def here(settings: Any, work: Any, run: str, numbers: Any) -> Iterator[Any]:
    """Works on the shards in this process, the last one first."""
    for number in reversed(numbers):
        yield None
        yield number, work(run, number)


@pytest.mark.slow
def test_workers_leave_the_files_of_one_process(
    generated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = filtered(generated)
    ledger = read_json(generated / "filter" / "ledger.json")
    assert {"wrong_answer", "near_duplicate"} <= ledger["rejected"].keys() and ledger["images"]
    assert ledger["kept"] > 2 * SHARD
    monkeypatch.setitem(runners._MODULES, "dask", "json")
    monkeypatch.setattr(runners, "_dask", here)
    assert filtered(generated, "generate.runner=dask") == expected
    for changes in ([], ["train.traces=7"]):
        examples = mixed(generated, *changes)
        assert mixed(generated, *changes, "generate.runner=dask") == examples
        assert all(len(data) > 1000 for data in examples[0].values())


def test_an_error_and_a_wrong_count_of_a_worker_end_the_stage(
    generated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(runners._MODULES, "dask", "json")
    monkeypatch.setattr(runners, "_dask", here)
    stage = importlib.import_module("flows.stages.filter")
    monkeypatch.setattr(stage, "judge_shard", lambda run, number: {"error": "OSError: no space"})
    with pytest.raises(StageError, match="the file of traces 4 failed in its worker: OSError"):
        filtered(generated, "generate.runner=dask")

    def one_less(run: str, number: int) -> dict[str, Any]:
        receipt = student_worker.judge_shard(run, number)
        return {**receipt, "traces": receipt["traces"] - (number == 1)}

    monkeypatch.setattr(stage, "judge_shard", one_less)
    with pytest.raises(StageError, match=r"00001.jsonl.zst: found 5 judged traces, expected .*4"):
        filtered(generated, "generate.runner=dask")


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_two_workers_of_which_one_is_killed_leave_the_files_of_one_process(
    runner: str, generated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(runners._MODULES[runner])
    # Ray would write a token into the home directory.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    # Ray's own agents are named ray:: too; without them its node counts as dead.
    own = re.compile({"dask": "spawn_main", "ray": "ray::(judge_shard|IDLE)"}[runner])
    expected = filtered(generated)
    killed: list[int] = []
    results = runners.results

    def kill_one(*arguments: Any) -> Iterator[Any]:
        for each in results(*arguments):
            if not killed:
                worker = next(
                    process
                    for process in psutil.Process().children(recursive=True)
                    if own.search(" ".join(process.cmdline())) and process.net_connections()
                )
                worker.kill()
                killed.append(worker.pid)
            yield each

    monkeypatch.setattr(runners, "results", kill_one)
    assert filtered(generated, f"generate.runner={runner}") == expected
    assert killed
    assert mixed(generated, f"generate.runner={runner}") == mixed(generated)
