"""kill -9 at random moments of a generation, of the run's process and of its server: no reply is lost or asked twice.

STILLHOUSE_CRASHES=20 sets the number of moments, STILLHOUSE_CRASH_SEED draws others.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from solving_teacher import solving_teacher

from flows import recipe_file
from flows.generation.shards import read_traces
from flows.run_context import prepare
from flows.stages import PIPELINE
from schemas.recipe import Recipe

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
GENERATE = """
import json, sys
from pathlib import Path
from flows import recipe_file
from flows.run_context import prepare
from flows.stages import PIPELINE
run, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
with prepare("legal", recipe_file.load("local", settings), run) as context:
    PIPELINE["generate"].run(context)
"""


@dataclass
class Desk:
    """A planned run, its settings, and the environment of the server that solves its tasks."""

    run: Path
    settings: list[str]
    log: Path
    environment: dict[str, str]

    def recipe(self) -> Recipe:
        return recipe_file.load("local", self.settings)

    def start(self) -> subprocess.Popen[bytes]:
        with self.run.with_suffix(".out").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-c", GENERATE, str(self.run), json.dumps(self.settings)],
                cwd=ROOT,
                env={**os.environ, **self.environment},
                stdout=output,
                stderr=output,
            )

    def finish(self) -> None:
        process = self.start()
        assert process.wait(120) == 0, self.run.with_suffix(".out").read_text()[-3000:]

    def served(self) -> list[dict[str, Any]]:
        """What the servers noted so far: their starts and requests."""
        text = self.log.read_text() if self.log.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def journal(self) -> dict[str, dict[str, Any]]:
        """The whole lines of the journal: {key: reply}; no key is in it twice."""
        rows = [
            json.loads(line)
            for segment in sorted((self.run / "journal").glob("*.jsonl"))
            for line in segment.read_bytes().splitlines(keepends=True)
            if line.endswith(b"\n")
        ]
        assert len({row["key"] for row in rows}) == len(rows)
        return {row["key"]: row["reply"] for row in rows}

    def traces(self) -> list[Any]:
        """The traces without the fields that say how long something took."""
        rows: list[Any] = [*read_traces(self.run)]
        for row in rows:
            for call in row["calls"]:
                del call["seconds"]
        return rows


def planned(directory: Path) -> Desk:
    """A run whose plan is made and whose teacher's server is tests/stand_ins/solving_server.py."""
    run, log = directory / "run", directory / "served.jsonl"
    settings, environment = solving_teacher(directory, run / "tasks" / "train.jsonl", log)
    desk = Desk(run, settings, log, environment)
    with prepare("legal", desk.recipe(), run) as context:
        PIPELINE["plan"].run(context)
    return desk


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    desk = planned(tmp_path_factory.mktemp("undisturbed") / "base")
    shutil.copytree(desk.run, desk.run.with_name("planned"))
    desk.finish()
    return desk


@pytest.fixture
def disturbed(undisturbed: Desk, tmp_path: Path) -> Desk:
    """The same plan in another directory, nothing generated yet."""
    run, log = tmp_path / "run", tmp_path / "served.jsonl"
    shutil.copytree(undisturbed.run.with_name("planned"), run)
    environment = {**undisturbed.environment, "SOLVING_LOG": str(log)}
    return Desk(run, undisturbed.settings, log, environment)


def wait_for(condition: Any, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    """Returns when the condition holds, the process has ended or the time is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None and not condition():
        time.sleep(0.005)


def test_killed_at_random_moments_a_generation_loses_no_reply_asks_none_twice_and_ends_the_same(
    undisturbed: Desk, disturbed: Desk
) -> None:
    moments = int(os.environ.get("STILLHOUSE_CRASHES", "4"))
    rng = random.Random(os.environ.get("STILLHOUSE_CRASH_SEED", "1"))
    replies = len(undisturbed.journal())
    # What the journal had at a moment, and how many lines the servers' log had soon after it.
    known: list[tuple[dict[str, dict[str, Any]], int]] = []
    process = disturbed.start()
    for _ in range(moments):
        target = len(disturbed.served()) + rng.randrange(1, max(2, replies // moments))
        wait_for(lambda target=target: len(disturbed.served()) >= target, process)
        time.sleep(rng.random() * 0.05)
        if rng.random() < 0.5:
            process.kill()
            process.wait()
            known.append((disturbed.journal(), len(disturbed.served())))
            process = disturbed.start()
            if rng.random() < 0.3:  # also while it starts
                time.sleep(rng.random() * 2)
                process.kill()
                process.wait()
                process = disturbed.start()
        else:
            known.append((disturbed.journal(), len(disturbed.served())))
            pid = [line["pid"] for line in disturbed.served() if "start" in line][-1]
            if psutil.pid_exists(pid):
                psutil.Process(pid).kill()
    if process.wait(120):
        disturbed.finish()

    journal, served = disturbed.journal(), disturbed.served()
    for before, position in known:
        assert before.items() <= journal.items()
        answered = {reply["message"]["request"] for reply in before.values()}
        assert not answered & {line.get("request") for line in served[position:]}
    assert journal.keys() == undisturbed.journal().keys()
    assert disturbed.traces() == undisturbed.traces()
    pids = {line["pid"] for line in served}
    assert not [pid for pid in pids if psutil.pid_exists(pid) and _is_ours(pid, disturbed)]


def _is_ours(pid: int, desk: Desk) -> bool:
    try:
        return psutil.Process(pid).environ().get("STILLHOUSE_RUN") == str(desk.run)
    except (psutil.Error, OSError):
        return False


def test_a_generation_that_has_all_its_replies_starts_no_server(undisturbed: Desk) -> None:
    served, traces = undisturbed.served(), undisturbed.traces()
    (undisturbed.run / "stages" / "generate.json").unlink()
    undisturbed.finish()
    assert undisturbed.served() == served and undisturbed.traces() == traces
    receipt = json.loads((undisturbed.run / "stages" / "generate.json").read_text())
    assert receipt["result"]["requests"] == 0
