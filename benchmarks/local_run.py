"""Times the stages of a default run on this machine, and prints a table that can be compared with an earlier one.

    python -m benchmarks.local_run --run /tmp/timed --out after.json [--before before.json] [--set tasks.train=40]

It runs `stillhouse distill` into a directory that does not exist yet and reads the stages' receipts. CPU seconds are
those of the command and of all processes that it starts, looked at once a second: on a machine with other work they are
comparable where wall time is not.
"""

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TypedDict

import psutil

from flows.run_directory import STAGES
from schemas.errors import InputError
from schemas.files import read_json, write_json
from teacher.inference.host import cores

_LOOK_SECONDS = 1.0


class Row(TypedDict):
    """A stage. planned: seconds by plan.json; None where it has none. load: the mean of the machine's load."""

    stage: str
    planned: float | None
    seconds: float
    cpu_seconds: float
    load: float


class Table(TypedDict):
    """The result.

    seconds: of the whole command. passed: of the exam's headline, by model; empty where the run ended earlier.
    """

    cpu: str
    cores: int
    seconds: float
    rows: list[Row]
    passed: dict[str, str]


def main() -> None:
    arguments = _parser().parse_args()
    before: Table | None = read_json(arguments.before) if arguments.before else None
    table = measure(arguments.domain, arguments.run, arguments.set, arguments.until)
    if arguments.out:
        write_json(arguments.out, table)
    print("\n".join(lines(table, before)))


def measure(domain: str, run: Path, settings: list[str], until: str) -> Table:
    """Runs the pipeline and returns what its stages took.

    Raises:
        InputError: the directory exists already, or the run failed.
    """
    if run.exists():
        raise InputError(f"{run}: exists already, expected a new directory")
    command = [sys.executable, "-m", "flows.cli", "distill", domain, "--run", str(run)]
    command += ["--until", until, *(word for setting in settings for word in ("--set", setting))]
    started = time.monotonic()
    process = subprocess.Popen(command)
    seen: dict[int, float] = {}  # CPU seconds by process, as last seen
    cpu, loads = dict.fromkeys(STAGES, 0.0), {stage: [0.0] for stage in STAGES}
    while process.poll() is None:
        stage = next((name for name in STAGES if not _receipt(run, name).is_file()), STAGES[-1])
        for pid, seconds in _cpu_seconds(process.pid).items():
            cpu[stage] += seconds - seen.get(pid, 0.0)
            seen[pid] = seconds
        loads[stage].append(os.getloadavg()[0])
        time.sleep(_LOOK_SECONDS)
    seconds = round(time.monotonic() - started, 1)
    if process.returncode not in (0, 3):  # 3: the gate was not passed, which is a result
        raise InputError(f"{run}: the run ended with exit code {process.returncode}")
    planned = read_json(run / "plan.json")["seconds"]
    rows: list[Row] = [
        {
            "stage": stage,
            "planned": planned.get(stage),
            "seconds": read_json(_receipt(run, stage))["seconds"],
            "cpu_seconds": round(cpu[stage], 1),
            "load": round(statistics.mean(loads[stage][1:] or [0.0]), 1),
        }
        for stage in STAGES
        if _receipt(run, stage).is_file()
    ]
    scorecard = run / "evaluate" / "scorecard.json"
    models = read_json(scorecard)["models"] if scorecard.is_file() else {}
    passed = {name: f"{score['passed']} of {score['tasks']}" for name, score in models.items()}
    return {
        "cpu": _cpu_name(),
        "cores": cores(),
        "seconds": seconds,
        "rows": rows,
        "passed": passed,
    }


def lines(table: Table, before: Table | None) -> list[str]:
    """The table as Markdown; with an earlier one, its seconds beside it."""
    earlier = {row["stage"]: row for row in before["rows"]} if before else {}
    head = ["stage", "planned s", "s", "CPU s", "cores in use", "load"]
    head += ["s before", "CPU s before"] if before else []
    shown = [head, ["---"] * len(head)]
    for row in table["rows"]:
        planned = "" if row["planned"] is None else f"{row['planned']:.0f}"
        used = row["cpu_seconds"] / max(row["seconds"], _LOOK_SECONDS)
        cells = [row["stage"], planned, f"{row['seconds']:.0f}", f"{row['cpu_seconds']:.0f}"]
        cells += [f"{used:.1f}", f"{row['load']:.1f}"]
        if before:
            old = earlier.get(row["stage"])
            cells += [f"{old['seconds']:.0f}", f"{old['cpu_seconds']:.0f}"] if old else ["", ""]
        shown.append(cells)
    stages = sum(row["seconds"] for row in table["rows"])
    cpu = sum(row["cpu_seconds"] for row in table["rows"])
    text = [f"{table['cpu']}, {table['cores']} cores", ""]
    text += [f"| {' | '.join(cells)} |" for cells in shown]
    text += [
        "",
        f"in all {table['seconds'] / 60:.1f} min, {stages / 60:.1f} of them in the stages;"
        f" {cpu / 60:.1f} min of CPU time",
    ]
    if table["passed"]:
        text.append(
            "exam: " + ", ".join(f"{name} {count}" for name, count in table["passed"].items())
        )
    return text


def _receipt(run: Path, stage: str) -> Path:
    return run / "stages" / f"{stage}.json"


def _cpu_seconds(pid: int) -> dict[int, float]:
    """CPU seconds so far of a process and of all that it started and that still run."""
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return {}
    seconds = {}
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        seconds[process.pid] = times.user + times.system
    return seconds


def _cpu_name() -> str:
    file = Path("/proc/cpuinfo")
    text = file.read_text(errors="replace") if file.is_file() else ""
    name = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16") if f" {flag} " in text]
    return f"{name[1] if name else platform.processor() or platform.machine()} ({', '.join(flags) or 'no AVX'})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, required=True, help="a new directory for the run")
    parser.add_argument("--domain", default="legal")
    parser.add_argument("--until", default=STAGES[-1], choices=STAGES, help="the last stage")
    parser.add_argument("--set", action="append", default=[], help="a setting, as of `stillhouse`")
    parser.add_argument("--out", type=Path, help="write the table as JSON")
    parser.add_argument("--before", type=Path, help="a table written earlier, to compare with")
    return parser


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"local_run: {error}")
