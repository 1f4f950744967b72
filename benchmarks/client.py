"""CPU time of the client for a request, against bare aiohttp, and the resume of a finished run.

    python -m benchmarks.client [--in-flight 256 1024] [--requests 4000] [--episodes 100000]

A server of this script answers each request after a fixed time, in a process of its own. Both clients send the same
bodies with the same number in flight, and alternate; the medians of three turns are printed. aiohttp posts a body and
parses the reply. The pipeline's client also hashes the request, journals the reply and keeps its order of retries.

The resume replays the journal of a finished run of many episodes: no request is sent, and no server runs.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from schemas.task import Task
from teacher.domain import pack as packs
from teacher.domain import tasks
from teacher.domain.prompts import request_content
from teacher.inference.client import Client
from teacher.inference.endpoint import Endpoint
from teacher.inference.journal import Journal, key
from teacher.inference.process import free_port
from teacher.inference.replies import Reply
from teacher.rollout import agent_loop
from teacher.rollout.scheduler import rollouts

_IDENTITY = {"model": "scripted", "revision": "1"}
_PARAMETERS = {"max_tokens": 512, "temperature": 0.7, "top_p": 0.95}
_TURNS = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--in-flight", type=int, nargs="*", default=[256, 1024])
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--seconds", type=float, default=0.5, help="until a reply, 0.5 by default")
    parser.add_argument("--episodes", type=int, default=100_000)
    arguments = parser.parse_args()
    port = free_port()
    server = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(port, arguments.seconds), daemon=True
    )
    server.start()
    url = f"http://127.0.0.1:{port}/v1"
    bodies = _bodies(arguments.requests)
    for in_flight in arguments.in_flight:
        ours: list[float] = []
        bare: list[float] = []
        for turn in range(_TURNS + 1):  # the first one warms up
            for name, cost in (("aiohttp", bare), ("client", ours)):
                run = _with_aiohttp if name == "aiohttp" else _with_client
                cpu, wall = asyncio.run(_timed(run, url, bodies, in_flight))
                print(
                    f"{in_flight} in flight, {name}: {1e6 * cpu / len(bodies):.0f} us of CPU a request,"
                    f" {len(bodies) / wall:.0f} requests/s",
                    flush=True,
                )
                if turn:
                    cost.append(cpu)
        ratio = statistics.median(ours) / statistics.median(bare)
        print(f"{in_flight} in flight: {ratio:.2f} times the CPU time of aiohttp", flush=True)
    server.terminate()
    if arguments.episodes:
        asyncio.run(_resume(arguments.episodes))


def _bodies(count: int) -> list[dict[str, Any]]:
    """Requests of the legal pack's tasks, with their tools; each differs from the others."""
    domain = packs.load("legal")
    task = tasks.build(domain, "unused_retainer", "train", 0)
    tools = [domain.tools[name] for name in task["tools"]]
    return [
        {
            "messages": [
                {"role": "system", "content": task["system"]},
                {"role": "user", "content": f"{request_content(task)} (file {number})"},
            ],
            "tools": tools,
            **_PARAMETERS,
        }
        for number in range(count)
    ]


def _serve(port: int, seconds: float) -> None:
    function = {"name": "get_billing", "arguments": '{"matter_id": "M-869"}'}
    call = {"id": "c", "type": "function", "function": function}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    usage = {"prompt_tokens": 900, "completion_tokens": 30, "total_tokens": 930}
    reply = json.dumps(
        {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}
    )

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(seconds)
        return web.Response(text=reply, content_type="application/json")

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    app = web.Application(client_max_size=2**24)
    app.router.add_post("/v1/chat/completions", answer)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None, backlog=4096)


Work = Callable[[str, list[dict[str, Any]], int], Awaitable[None]]


async def _timed(
    work: Work, url: str, bodies: list[dict[str, Any]], in_flight: int
) -> tuple[float, float]:
    """Seconds of CPU of this process, and of the clock."""
    async with aiohttp.ClientSession() as session:  # until the server is up
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                await (await session.get(url)).read()
                break
            await asyncio.sleep(0.1)
    cpu, wall = time.process_time(), time.monotonic()
    await work(url, bodies, in_flight)
    return time.process_time() - cpu, time.monotonic() - wall


async def _with_aiohttp(url: str, bodies: list[dict[str, Any]], in_flight: int) -> None:
    slots = asyncio.Semaphore(in_flight)

    async def ask(body: dict[str, Any]) -> None:
        async with (
            slots,
            session.post(f"{url}/chat/completions", json={"model": "m", **body}) as reply,
        ):
            json.loads(await reply.read())["choices"][0]["message"]

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*map(ask, bodies))


async def _with_client(url: str, bodies: list[dict[str, Any]], in_flight: int) -> None:
    with (
        tempfile.TemporaryDirectory() as directory,
        contextlib.closing(Journal(Path(directory))) as journal,
    ):
        async with Client(Endpoint(url, "k", "m"), _IDENTITY, journal, in_flight, 60) as client:
            await asyncio.gather(*(client.complete(sample=0, **body) for body in bodies))


async def _resume(episodes: int) -> None:
    """Plays episodes whose replies are all in the journal, as a finished run that is started again does."""
    domain = packs.load("legal")
    kinds = {kind: float(kind == "lookup") for kind in domain.spec["kinds"]}
    some = tasks.sample(domain, "train", 200, seed=0, mix=kinds)
    rows: list[Task] = []
    for number in range(episodes):
        task = some[number % len(some)]
        rows.append({**task, "id": f"t-{number}", "system": f"{task['system']} (file {number})"})
    settings = agent_loop.Settings(max_steps=8, max_tokens=512, temperature=0.7, top_p=0.95)
    maker: Any = {**_IDENTITY, "engine": "vllm", "licence": "none"}
    with tempfile.TemporaryDirectory() as directory:
        with contextlib.closing(Journal(Path(directory))) as journal:
            await _fill(journal, rows, domain, settings, maker)
        started, cpu = time.monotonic(), time.process_time()
        with contextlib.closing(Journal(Path(directory))) as journal:
            loaded, count = time.monotonic() - started, 0
            async with Client(_no_server, _IDENTITY, journal, 256, 60) as client:
                async for rollout in rollouts(
                    rows, domain, client, settings, maker, workers=256, attempts=1
                ):
                    count += agent_loop.passed(rollout.trace)
            print(
                f"resume of {episodes:,} episodes, {len(journal):,} replies: {time.monotonic() - started:.0f} s"
                f" ({time.process_time() - cpu:.0f} s of CPU), {loaded:.1f} of them for loading the journal;"
                f" {client.asked} requests, {count:,} episodes passed,"
                f" {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB at most"
            )


async def _fill(
    journal: Journal, rows: list[Any], domain: Any, settings: agent_loop.Settings, maker: Any
) -> None:
    """Stores the replies of a teacher that solves every task."""

    async def complete(
        task: Any, messages: list[Any], tools: list[Any], sample: int, **parameters: Any
    ) -> Reply:
        step = sum(message["role"] == "tool" for message in messages)
        request = {**_IDENTITY, "messages": messages, "tools": tools, "sample": sample}
        row = {
            "message": solution_message(task, step),
            "finish_reason": "stop",
            "seconds": 1.25,
            "usage": {"prompt_tokens": 900, "completion_tokens": 30},
        }
        reply_key = key({**request, **parameters})
        journal.put(reply_key, row)
        return Reply.of_row(reply_key, row)

    for task in rows:
        await agent_loop.run(task, domain, partial(complete, task), settings, maker)


def solution_message(task: Any, step: int) -> dict[str, Any]:
    """The reply of a teacher that follows a task's solution: its call number `step`, or the answer after the last."""
    if step == len(task["plan"]):
        return {"role": "assistant", "content": task["reply"]}
    function = {
        "name": task["plan"][step]["tool"],
        "arguments": json.dumps(task["plan"][step]["arguments"]),
    }
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c", "type": "function", "function": function}],
    }


async def _no_server() -> Endpoint:
    raise AssertionError("a finished run asks nothing")


if __name__ == "__main__":
    main()
