"""Compares a run of workers, one of which is killed, with a run of one process.

    python -m benchmarks.workers [--tasks 20000] [--shard 500] [--runner dask]

Scripted episodes of the legal pack (benchmarks/scale.py), generated and filtered twice: in one process, and by two
workers on this machine of which the one that plays a shard is killed when two shards are done. It ends with an error
where the traces (their seconds aside) or the ledgers differ, or where a reply that was on disk was asked for again.
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks import scale
from flows.generation.shards import DIRECTORY, read_traces
from flows.stages import PIPELINE
from schemas.files import read_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--shard", type=int, default=500)
    parser.add_argument("--runner", choices=["dask", "ray"], default="dask")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        runs = [Path(work, name, "run") for name in ("local", arguments.runner)]
        settings = {"generate.shard": str(arguments.shard), "generate.workers": "2"}
        for run in runs:
            prepare(run, arguments.tasks, settings)
        # One server, because traces name it.
        with scale.server(runs[0] / "tasks" / "train.jsonl") as url:
            for run in runs:
                play(run, url, {**settings, "generate.runner": run.parent.name})
        compare(*runs)


def prepare(run: Path, tasks: int, settings: dict[str, str]) -> None:
    """Makes the tasks of a run."""
    with scale.context(run, settings=settings) as context:
        PIPELINE["plan"].run(context)
        scale.repeat_tasks(run / "tasks" / "train.jsonl", tasks)


def play(run: Path, url: str, settings: dict[str, str]) -> None:
    """Generates and filters in a directory, and prints what that took."""
    with scale.context(run, url, settings) as context:
        # The plan is taken as it is, with more tasks.
        with context.run.stage("plan", PIPELINE["plan"].inputs(context), [run / "tasks"]):
            pass
        killed: list[int] = []
        if settings["generate.runner"] != "local":
            threading.Thread(target=kill_a_worker, args=(run, killed), daemon=True).start()
        for name in ("generate", "filter"):
            began = time.monotonic()
            PIPELINE[name].run(context)
            receipt = context.run.receipt(name)
            assert receipt
            names = ("traces", "passed", "kept", "requests")
            counts = {key: receipt["result"][key] for key in names if key in receipt["result"]}
            seconds = time.monotonic() - began
            print(f"{run.parent.name} {name}: {seconds:.0f} s, {counts}", flush=True)
        if settings["generate.runner"] != "local" and not killed:
            raise SystemExit("no worker was killed, so nothing was compared")


def kill_a_worker(run: Path, killed: list[int]) -> None:
    """Kills a process that plays a shard, once two shards are done."""
    while len(list((run / DIRECTORY).glob("[0-9]*.zst"))) < 2:
        time.sleep(0.1)
    while not killed:
        for process in psutil.Process().children(recursive=True):
            try:
                words = " ".join(process.cmdline())
                plays = "ray::play_shard" in words or (
                    "spawn_main" in words and process.num_threads() > 3
                )
                if plays and process.net_connections():
                    process.kill()
                    killed.append(process.pid)
                    print(f"killed the worker {process.pid}", flush=True)
                    return
            except psutil.Error:
                continue
        time.sleep(0.1)


def compare(one: Path, other: Path) -> None:
    """Ends with an error where two runs differ."""
    count = 0
    for left, right in zip(untimed(one), untimed(other), strict=True):
        count += 1
        if left != right:
            raise SystemExit(f"{left['id']}: the traces differ")
    ledgers = [read_json(run / "filter" / "ledger.json") for run in (one, other)]
    if ledgers[0] != ledgers[1]:
        raise SystemExit(f"the ledgers differ: {ledgers}")
    keys = [
        json.loads(line)["key"]
        for segment in (other / "journal").glob("*.jsonl")
        for line in segment.open("rb")
        if line.endswith(b"\n")
    ]
    if len(keys) != len(set(keys)):
        raise SystemExit(f"{len(keys) - len(set(keys))} replies were asked for twice")
    rejected = sum(ledgers[0]["rejected"].values())
    print(
        f"{count:,} traces are equal, and the ledgers: {ledgers[0]['kept']:,} kept + {rejected:,} rejected;"
        f" {len(keys):,} replies, none twice"
    )


def untimed(run: Path) -> Iterator[Any]:
    """Yields the traces of a run without the seconds of their calls."""
    for trace in read_traces(run):
        yield {**trace, "calls": [{**call, "seconds": 0} for call in trace["calls"]]}


if __name__ == "__main__":
    main()
