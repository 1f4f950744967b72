"""Compares the pipeline's generation with a bare client that sends the same requests to the same kind of server.

    python -m benchmarks.replayed [--episodes 24] [--turns 3] [--in-flight 8]

The embedded teacher plays episodes of the legal pack, greedily, on llama.cpp's server; a first turn records its
requests. Then the pipeline (tasks, tools, checks, journal) and a client of aiohttp alone, which sends the recorded
requests of each episode one after the other, take turns. Each has a server of its own, so neither finds a prompt in the
server's cache. Beside other work, compare the CPU seconds: those of the server and the client for a token.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from schemas.trace import Message, Tool
from teacher.dialects.base import for_teacher
from teacher.domain import pack, tasks
from teacher.inference import llama_server, llamacpp
from teacher.inference.client import Client
from teacher.inference.endpoint import Endpoint
from teacher.inference.journal import Journal
from teacher.inference.replies import Reply
from teacher.models import catalog
from teacher.rollout import agent_loop
from teacher.rollout.guidance import choose_guidance
from teacher.rollout.scheduler import rollouts

_CONTEXT, _MAX_TOKENS = 4096, 128
Bodies = dict[str, list[str]]
Measured = tuple[int, int, float, float]  # tokens, requests, seconds, seconds of CPU


class _Recording(Client):
    """A client that keeps the bodies of its requests, by their episode."""

    bodies: Bodies

    async def complete(
        self,
        messages: list[Message],
        tools: list[Tool],
        sample: int,
        session: str | None = None,
        **parameters: Any,
    ) -> Reply:
        body = {"messages": messages, **({"tools": tools} if tools else {}), **parameters}
        body |= body.pop("extra_body", {})
        self.bodies[session or ""].append(json.dumps({"model": "teacher", **body}))
        return await super().complete(messages, tools, sample, session, **parameters)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=24)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--in-flight", type=int, default=8)
    arguments = parser.parse_args()
    bodies: Bodies = defaultdict(list)
    rates: dict[str, list[tuple[float, float]]] = {"pipeline": [], "bare": []}
    for turn in range(arguments.turns + 1):
        # Whoever is first in a turn is last in the next.
        for name in ("pipeline", "bare") if turn % 2 else ("bare", "pipeline"):
            if name == "bare" and not turn:
                continue
            tokens, requests, seconds, cpu = (
                _bare(arguments, bodies)
                if name == "bare"
                else _pipeline(arguments, None if turn else bodies)
            )
            print(
                f"turn {turn}, {name}: {requests} requests, {tokens} tokens in {seconds:.0f} s, {tokens / seconds:.1f}"
                f" tokens/s, {1000 * cpu / tokens:.1f} ms of CPU a token",
                flush=True,
            )
            if turn:
                rates[name].append((tokens / seconds, cpu / tokens))
    speed, cost = (
        {name: statistics.median(row[at] for row in rows) for name, rows in rates.items()}
        for at in (0, 1)
    )
    print(
        f"pipeline to bare client: {speed['pipeline'] / speed['bare']:.3f} of its tokens/s,"
        f" {cost['pipeline'] / cost['bare']:.3f} times its CPU time"
    )


@contextlib.contextmanager
def _server(in_flight: int) -> Any:
    teacher = catalog.load("smollm2-135m", catalog.TEACHERS, "teacher")
    with (
        tempfile.TemporaryDirectory() as scratch,
        llama_server.serve(
            llamacpp.server_weights(teacher),
            Path(scratch, "log"),
            slots=in_flight,
            context=_CONTEXT,
            template=catalog.template(teacher),
        ) as endpoint,
    ):
        yield teacher, endpoint


def _cpu() -> float:
    """CPU seconds so far of this process and of the server."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def _pipeline(arguments: argparse.Namespace, recorded: Bodies | None) -> Measured:
    """recorded: is given the bodies of all requests."""
    domain = pack.load("legal")
    mix = {kind: float(kind in ("lookup", "workflow")) for kind in domain.spec["kinds"]}
    rows = tasks.sample(domain, "train", arguments.episodes, seed=0, mix=mix)
    with _server(arguments.in_flight) as (teacher, endpoint):
        settings = agent_loop.Settings(
            max_steps=8,
            max_tokens=_MAX_TOKENS,
            temperature=0.0,
            top_p=1.0,
            dialect=for_teacher(teacher),
            guidance=choose_guidance(
                constrain=True, few=True, call_prefix=teacher.get("call_prefix", "")
            ),
        )
        identity = {"model": "teacher", "revision": "0"}
        maker: Any = {**identity, "engine": "llama.cpp", "licence": "none"}

        async def play() -> list[Any]:
            with (
                tempfile.TemporaryDirectory() as scratch,
                contextlib.closing(Journal(Path(scratch))) as journal,
            ):
                kind = Client if recorded is None else _Recording
                client = kind(endpoint, identity, journal, arguments.in_flight, 600)
                if isinstance(client, _Recording) and recorded is not None:
                    client.bodies = recorded
                async with client:
                    playing = rollouts(
                        rows, domain, client, settings, maker, workers=arguments.in_flight
                    )
                    return [rollout.trace async for rollout in playing]

        began, cpu = time.monotonic(), _cpu()
        traces = asyncio.run(play())
        calls = [call for trace in traces for call in trace["calls"]]
        tokens = sum(call["usage"]["completion_tokens"] for call in calls)
        return tokens, len(calls), time.monotonic() - began, _cpu() - cpu


def _bare(arguments: argparse.Namespace, bodies: Bodies) -> Measured:
    with _server(arguments.in_flight) as (_, endpoint):
        began, cpu = time.monotonic(), _cpu()
        usages = asyncio.run(_send(endpoint, bodies, arguments.in_flight))
        return sum(usages), len(usages), time.monotonic() - began, _cpu() - cpu


async def _send(endpoint: Endpoint, bodies: Bodies, in_flight: int) -> list[int]:
    """Sends the requests of each episode in their order; returns the tokens of the replies."""
    slots = asyncio.Semaphore(in_flight)
    headers = {"Authorization": f"Bearer {endpoint.key}", "Content-Type": "application/json"}
    tokens: list[int] = []

    async def episode(requests: list[str]) -> None:
        async with slots:
            for body in requests:
                async with session.post(f"{endpoint.url}/chat/completions", data=body) as answer:
                    reply = json.loads(await answer.read())
                    tokens.append(reply["usage"]["completion_tokens"])

    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        await asyncio.gather(*map(episode, bodies.values()))
    return tokens


if __name__ == "__main__":
    main()
