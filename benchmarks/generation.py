"""Compares the pipeline's output tokens per second with `vllm bench serve` on the same server.

    .venv-vllm/bin/python -m vllm.entrypoints.openai.api_server --model DIR --served-model-name teacher \\
      --enable-auto-tool-choice --tool-call-parser kimi_k2 --port 8000
    python -m benchmarks.generation --url http://127.0.0.1:8000/v1 --model teacher --tokenizer DIR

Both send chat requests with the same number in flight. The pipeline runs real episodes of a domain, with tasks, tools,
checks and journal. `vllm bench serve` then sends the same number of requests with the pipeline's mean prompt and reply
lengths. They alternate. The server counts the pipeline's tokens (vllm:generation_tokens_total), the bench counts its
own; start-up times are left out.
"""

import argparse
import asyncio
import contextlib
import json
import re
import statistics
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from schemas.task import Task
from teacher.dialects.base import for_teacher
from teacher.domain import pack as domains
from teacher.domain import tasks
from teacher.inference import vllm_server
from teacher.inference.client import Client
from teacher.inference.endpoint import Endpoint
from teacher.inference.journal import Journal
from teacher.rollout import agent_loop
from teacher.rollout.scheduler import rollouts

_GENERATED, _PROMPT = "vllm:generation_tokens_total", "vllm:prompt_tokens_total"


def main() -> None:
    arguments = _parser().parse_args()
    domain = domains.load(arguments.domain)
    other_kinds = {kind: 0.0 for kind in domain.spec["kinds"] if kind not in ("lookup", "workflow")}
    rows = tasks.sample(domain, "train", arguments.episodes, seed=0, mix=other_kinds)
    pipeline_rates: list[float] = []
    bench_rates: list[float] = []
    # The first turn warms up the server (kernels, prefix cache) and is not counted.
    for turn in range(arguments.turns + 1):
        pipeline = asyncio.run(_pipeline(arguments, domain, rows, turn))
        bench = _bench(arguments, pipeline)
        print(
            f"turn {turn}: pipeline {pipeline['tokens_s']:.0f} tokens/s ({pipeline['requests']} requests,"
            f" {pipeline['prompt']:.0f} in, {pipeline['reply']:.0f} out), bench {bench:.0f}",
            flush=True,
        )
        if turn:
            pipeline_rates.append(pipeline["tokens_s"])
            bench_rates.append(bench)
    ours, theirs = statistics.median(pipeline_rates), statistics.median(bench_rates)
    result = {"pipeline_tokens_s": ours, "bench_tokens_s": theirs, "ratio": ours / theirs}
    print(json.dumps({name: round(value, 3) for name, value in result.items()}))


async def _pipeline(
    arguments: argparse.Namespace, domain: domains.Domain, rows: list[Task], turn: int
) -> dict[str, float]:
    teacher = {"name": arguments.model, "family": "kimi"}
    identity = {"model": arguments.model, "revision": str(turn)}
    settings = agent_loop.Settings(
        max_steps=arguments.max_steps,
        max_tokens=arguments.max_tokens,
        temperature=1.0,
        top_p=1.0,
        dialect=for_teacher(teacher, arguments.url),
    )
    endpoint = Endpoint(arguments.url, arguments.key, arguments.model)
    before = _metrics(arguments.url)
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as scratch,
        contextlib.closing(Journal(Path(scratch))) as journal,
    ):
        async with Client(endpoint, identity, journal, arguments.concurrency, 600) as client:
            maker = {**identity, "engine": "vllm", "licence": "none"}
            traces = [
                rollout.trace
                async for rollout in rollouts(
                    rows,
                    domain,
                    client,
                    settings,
                    maker,
                    workers=arguments.concurrency,
                )
            ]
    seconds = time.monotonic() - started
    after = _metrics(arguments.url)
    requests = sum(len(trace["calls"]) for trace in traces)
    return {
        "requests": requests,
        "prompt": (after[_PROMPT] - before[_PROMPT]) / requests,
        "reply": (after[_GENERATED] - before[_GENERATED]) / requests,
        "tokens_s": (after[_GENERATED] - before[_GENERATED]) / seconds,
    }


def _bench(arguments: argparse.Namespace, pipeline: dict[str, float]) -> float:
    """Output tokens per second of `vllm bench serve` with the pipeline's number and mean lengths of requests."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            *(str(vllm_server.interpreter()), "-m", "vllm.entrypoints.cli.main", "bench", "serve"),
            *("--backend", "openai-chat", "--endpoint", "/v1/chat/completions"),
            *("--base-url", arguments.url.removesuffix("/v1"), "--model", arguments.model),
            *("--tokenizer", arguments.tokenizer, "--dataset-name", "random", "--ignore-eos"),
            *("--random-input-len", f"{pipeline['prompt']:.0f}"),
            *(
                "--random-output-len",
                f"{pipeline['reply']:.0f}",
                "--num-prompts",
                str(pipeline["requests"]),
            ),
            *("--max-concurrency", str(arguments.concurrency), "--disable-tqdm"),
            *("--temperature", "1.0", "--save-result", "--result-dir", scratch),
            *("--result-filename", "result.json"),
            *("--header", f"Authorization=Bearer {arguments.key}"),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"vllm bench serve failed: {done.stderr.strip()[-2000:]}")
        return json.loads(Path(scratch, "result.json").read_text())["output_throughput"]


def _metrics(url: str) -> dict[str, float]:
    """The server's counters of prompt and generated tokens."""
    text = urllib.request.urlopen(url.removesuffix("/v1") + "/metrics").read().decode()
    return {
        name: sum(
            float(value) for value in re.findall(rf"^{name}{{.*}} (\S+)$", text, re.MULTILINE)
        )
        for name in (_GENERATED, _PROMPT)
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", required=True, help="base URL of a running vLLM server, with /v1")
    parser.add_argument("--model", required=True, help="the model's name in that API")
    parser.add_argument("--tokenizer", required=True, help="the model's tokenizer, for the bench")
    parser.add_argument("--key", default="none", help="the server's API key, if it needs one")
    parser.add_argument("--domain", default="legal")
    parser.add_argument("--episodes", type=int, default=512)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--max-steps", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--turns", type=int, default=3)
    return parser


if __name__ == "__main__":
    main()
