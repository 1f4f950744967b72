"""Measures memory and time of plan, client, filter and preparation of examples with many scripted episodes.

    python -m benchmarks.scale plan client filter examples [--sizes 10000 50000 150000] [--work DIRECTORY]

The plan makes tasks without images. For the other parts, tasks of the legal pack are repeated with a number in each
request until there are enough of them, so that requests share templates and few are about the same things. A server in
another process answers with each task's solution. Each part of each size is a process of its own; its memory is the
most that it held. The filter and the examples work on traces that are made in the same way, with the student's
tokenizer.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.client import solution_message
from flows import recipe_file
from flows.generation.shards import DIRECTORY, cut, read_traces
from flows.run_context import RunContext, prepare
from flows.stages import PIPELINE
from schemas.files import read_jsonl, write_jsonl
from schemas.row_file import RowFile
from schemas.trace import Maker, Usage
from student.training import mixture
from teacher.domain import Domain
from teacher.domain.pack import load
from teacher.inference.replies import Reply
from teacher.rollout import agent_loop

SEEDS = 400  # tasks that are sampled
PARTS = ("plan", "client", "filter", "examples")
CONCURRENCY = 64
USAGE: Usage = {"prompt_tokens": 9, "completion_tokens": 3}
MAKER: Maker = {"model": "m", "revision": None, "engine": "openai", "licence": "none"}
LOOP = agent_loop.Settings(max_steps=8, max_tokens=512, temperature=0.0, top_p=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 50_000, 150_000])
    parser.add_argument("--work", type=Path, help="where the runs lie; a temporary directory")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    if arguments.alone:
        print(json.dumps(measure(arguments.parts[0], arguments.sizes[0], arguments.work)))
        return
    print("part | traces | seconds | CPU seconds | CPU ms a trace | MB at most | MB of the imports")
    with contextlib.ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for part in arguments.parts:
            for size in arguments.sizes:
                command = [sys.executable, "-m", "benchmarks.scale", part, "--alone"]
                command += ["--sizes", str(size), "--work", str(work / f"{part}-{size}")]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                row = json.loads(output.stdout.splitlines()[-1])
                each = 1000 * row["cpu"] / row["traces"]
                print(
                    f"{part} | {row['traces']} | {row['seconds']:.0f} | {row['cpu']:.0f} | {each:.1f}"
                    f" | {row['peak']:.0f} | {row['before']:.0f}",
                    flush=True,
                )


def measure(part: str, size: int, work: Path) -> dict[str, float]:
    """Runs a part in this process: {"traces", "seconds", "cpu", "peak", "before"}, the last two in MB.

    cpu: seconds of computing of this process, which other work on the machine hardly changes.
    """
    run = work / "run"
    if part == "plan":
        with context(run, settings={"tasks.train": str(size)}) as opened:
            return _measured(lambda: PIPELINE["plan"].run(opened), size)
    with context(run) as opened:
        PIPELINE["plan"].run(opened)
        repeat_tasks(run / "tasks" / "train.jsonl", size)
    with server(run / "tasks" / "train.jsonl") as url, context(run, url) as opened:
        # The plan is taken as it is, with more tasks.
        with opened.run.stage("plan", PIPELINE["plan"].inputs(opened), [run / "tasks"]):
            pass
        if part == "client":
            return _measured(lambda: PIPELINE["generate"].run(opened), size)
        repeat_traces(run, size)
        inputs = PIPELINE["generate"].inputs(opened)
        with opened.run.stage("generate", inputs, [run / DIRECTORY]) as result:
            result["traces"] = size
        if part == "filter":
            return _measured(lambda: PIPELINE["filter"].run(opened), size)
        renderer = opened.renderer()
        settings = opened.recipe.train
        return _measured(
            lambda: mixture.mix(read_traces(run), renderer, settings, work / "train"), size
        )


@contextlib.contextmanager
def context(
    run: Path,
    url: str = "http://127.0.0.1:1/v1",
    settings: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[RunContext]:
    """Yields the context of a run with scripted episodes."""
    chosen = {
        "teacher": "openai",
        "serve.url": url,
        "serve.model": "m",
        "publish.store": str(run.with_name("store")),
        "tasks.train": str(SEEDS),
        "tasks.exam": "60",
        "tasks.mix": "{document: 0, chart: 0, extract: 0, lookup: 1, workflow: 1}",
        "generate.preflight": "false",
        "generate.constrain": "false",
        "generate.examples": "0",
        "generate.concurrency": str(CONCURRENCY),
        "filter.max_tokens": "8192",
        "train.max_length": "8192",
        **settings,
    }
    recipe = recipe_file.load("local", [f"{name}={value}" for name, value in chosen.items()])
    with prepare("legal", recipe, run) as prepared:
        yield prepared


def repeat_tasks(file: Path, size: int) -> None:
    """Repeats the tasks of a file until there are `size`, each with a number in its id and request."""
    rows = list(read_jsonl(file))
    write_jsonl(file, (_numbered(rows[n % len(rows)], n) for n in range(size)))


def _numbered(task: dict[str, Any], number: int) -> dict[str, Any]:
    request = f"{task['request']} (ticket T-{number})"
    return {**task, "id": f"{task['id']}-{number}", "request": request}


def repeat_traces(run: Path, size: int) -> None:
    """Writes as many shards of traces as a run of `size` tasks has: solved tasks, without a client."""
    tasks: RowFile[Any] = RowFile(run / "tasks" / "train.jsonl")
    domain = load("legal")
    # The tasks repeat the first SEEDS with other numbers, which no solution contains.
    solved = [_solved(tasks[index], domain) for index in range(min(SEEDS, size))]
    for shard in cut(size, 512):
        indexes = range(shard.first, shard.first + shard.count)
        rows = (
            _renamed(solved[n % len(solved)], tasks[n % len(solved)], tasks[n]) for n in indexes
        )
        write_jsonl(shard.path(run), rows)


def _renamed(trace: Any, solved: Any, task: Any) -> Any:
    """The trace of a solved task, as of another task that differs by its number."""
    messages = [
        {**message, "content": message["content"].replace(solved["request"], task["request"])}
        if message["role"] == "user"
        else message
        for message in trace["messages"]
    ]
    name = trace["id"].replace(solved["id"], task["id"])
    return {**trace, "id": name, "task": {**trace["task"], "id": task["id"]}, "messages": messages}


def _solved(task: Any, domain: Domain) -> Any:
    """The trace of an episode that follows the task's solution."""
    steps = itertools.count()

    async def complete(*_: Any, **__: Any) -> Reply:
        return Reply("0" * 64, solution_message(task, next(steps)), "stop", 0.1, USAGE)

    return asyncio.run(agent_loop.run(task, domain, complete, LOOP, MAKER))


# ------------------------------------------------------------------------------------- server


@contextlib.contextmanager
def server(tasks: Path) -> Iterator[str]:
    """The URL of a server, in another process, that answers with the solutions of a file of tasks."""
    command = [sys.executable, "-m", "benchmarks.scale", "client", "--serve", str(tasks)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        port = int(process.stdout.readline())
        try:
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def serve(file: Path) -> None:
    """Serves the solutions of tasks until it is terminated, and prints its port."""
    from aiohttp import web

    rows: RowFile[Any] = RowFile(file)
    places = {task["id"]: place for place, task in enumerate(rows)}

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "m", "object": "model"}]})

    async def answer(request: web.Request) -> web.Response:
        body = await request.json()
        task = rows[places[request.headers["X-Session-ID"].rsplit("/", 1)[0]]]
        step = sum(message["role"] == "tool" for message in body["messages"])
        message = solution_message(task, step)
        head = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response(
            {**head, "choices": [choice], "usage": {**USAGE, "total_tokens": 12}}
        )

    async def run() -> None:
        application = web.Application(client_max_size=1 << 26)
        application.add_routes(
            [web.get("/v1/models", models), web.post("/v1/chat/completions", answer)]
        )
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()

    asyncio.run(run())


# ------------------------------------------------------------------------------------- memory


def _measured(run: Callable[[], Any], traces: int) -> dict[str, float]:
    Path("/proc/self/clear_refs").write_text("5")  # the kernel measures the peak from now on
    before, began, computed = _peak(), time.monotonic(), time.process_time()
    run()
    return {
        "traces": traces,
        "seconds": time.monotonic() - began,
        "cpu": time.process_time() - computed,
        "peak": _peak(),
        "before": before,
    }


def _peak() -> float:
    """The most memory that this process held, in MB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1000


if __name__ == "__main__":
    main()
