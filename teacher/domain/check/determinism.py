"""Checks that a task is the same whenever, wherever and beside whatever it is played.

The same tasks are played in this process and in another one with another PYTHONHASHSEED, another seed of the global
random generators, another day, another time zone, another working directory and in reverse order. Where they differ,
the tasks are played again with one of these changed at a time, to name the reason. In this process, two episodes are
interleaved, and a world is reset and used twice.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import Any

from teacher.domain.check.child import seed_global_random
from teacher.domain.check.episode import Episode, Job, difference, play, steps
from teacher.domain.check.finding import Finding, shorten
from teacher.domain.pack import Domain

_ROOT = Path(__file__).resolve().parents[3]
# 13 months, 3 days and 5 hours: another year, month, day and hour.
_SHIFT = 398 * 86400 + 5 * 3600
_TIMEOUT_S = 600
_SAME: dict[str, Any] = {
    "hash": 1,
    "shift": 0,
    "frozen": None,
    "random": 1,
    "reverse": False,
    "zone": "UTC",
}
_OTHER: dict[str, Any] = {
    "hash": 977,
    "shift": _SHIFT,
    "frozen": None,
    "random": 977,
    "reverse": True,
    "zone": "Pacific/Kiritimati",
}
# What is changed alone to name the reason of a difference, with the reason and the fix.
_REASONS: list[tuple[dict[str, Any], str, str]] = [
    (
        {},
        "it differs between two equal runs",
        "do not use os.urandom, uuid4, secrets, id(), timers or threads; draw from random.Random(seed)",
    ),
    (
        {"hash": 977},
        "it depends on PYTHONHASHSEED: the order of a set, or hash()",
        "sort sets before using them (sorted(...)), and do not use hash()",
    ),
    (
        {"random": 977},
        "it draws from the global random generator",
        'draw from the template\'s rng, or in reset from random.Random(f"{split}:{seed}")',
    ),
    (
        {"shift": _SHIFT, "zone": "Pacific/Kiritimati"},
        "it depends on the clock",
        "write a fixed date into the world instead of today, now() or time()",
    ),
    (
        {"reverse": True},
        "it depends on which tasks were made before it",
        "keep everything in self, set by reset, and nothing in classes, modules or default arguments",
    ),
]


class OtherProcess:
    """A second process that plays jobs. It is started at once; `records` waits for it."""

    def __init__(self, domain: Domain, jobs: Sequence[Job], **settings: Any) -> None:
        self._settings = {**_OTHER, **settings}
        self._directory = tempfile.TemporaryDirectory(prefix="stillhouse-check-")
        base = Path(self._directory.name)
        self._out = base / "out.json"
        order = {
            "pack": str(domain.path),
            "jobs": list(reversed(jobs)) if self._settings["reverse"] else list(jobs),
            "shift": self._settings["shift"],
            "frozen": self._settings["frozen"],
            "random": self._settings["random"],
        }
        (base / "order.json").write_text(json.dumps(order), encoding="utf-8")
        python_path = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "teacher.domain.check.child", "order.json", "out.json"],
            cwd=base,
            env={
                **os.environ,
                "PYTHONPATH": python_path,
                "PYTHONHASHSEED": str(self._settings["hash"]),
                "TZ": self._settings["zone"],
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # a pack may print
            stderr=subprocess.PIPE,
            text=True,
        )

    def records(self) -> list[dict[str, Any]] | str:
        """The records in the order of the jobs, or what failed."""
        try:
            _, stderr = self._process.communicate(timeout=_TIMEOUT_S)
            if not self._out.is_file():
                last = (stderr or "").strip().splitlines()[-1:] or ["it wrote nothing"]
                return f"exit code {self._process.returncode}: {last[0]}"
            records = json.loads(self._out.read_text(encoding="utf-8"))
        except subprocess.TimeoutExpired:
            return f"it took over {_TIMEOUT_S} s"
        finally:
            self.close()
        if isinstance(records, dict):
            return str(records["error"])
        return list(reversed(records)) if self._settings["reverse"] else records

    def close(self) -> None:
        """Ends the process where it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._directory.cleanup()


def check_processes(
    domain: Domain, episodes: Sequence[Episode], others: Sequence[OtherProcess]
) -> Iterator[Finding]:
    """Yields the first difference of each template between the episodes here and those of other processes."""
    differing: dict[str, tuple[Job, tuple[str, Any, Any]]] = {}
    for other in others:
        records = other.records()
        if isinstance(records, str):
            yield Finding(
                "deterministic",
                "error",
                domain.path / "environment.py",
                f"it fails in a second process, in another working directory and on another day: {records}",
                "open files by Path(__file__).with_name(...), and do not depend on the environment",
            )
            return
        for episode, theirs in zip(episodes, records, strict=True):
            found = difference(episode.record(), theirs)
            if found and episode.job.template not in differing:
                differing[episode.job.template] = episode.job, found
    if not differing:
        return
    jobs = [job for job, _ in differing.values()]
    reasons = _find_reasons(domain, jobs, [episode.job for episode in episodes])
    for (job, found), (reason, fix) in zip(differing.values(), reasons, strict=True):
        yield _finding(domain, job, episodes, found, reason, fix, "in another process")


def _find_reasons(domain: Domain, jobs: list[Job], all_jobs: list[Job]) -> list[tuple[str, str]]:
    """For each job, the one setting that changes it, and the fix."""

    same = {**_SAME, "frozen": time.time()}

    def play_with(changes: dict[str, Any]) -> list[dict[str, Any]]:
        # What earlier tasks leave behind shows only where all of them are played.
        listed = all_jobs if "reverse" in changes or not changes else jobs
        records = OtherProcess(domain, listed, **{**same, **changes}).records()
        if isinstance(records, str):
            return [{"failure": records}] * len(jobs)
        by_job = dict(zip(listed, records, strict=True))
        return [by_job[job] for job in jobs]

    with ThreadPoolExecutor(2) as pool:
        in_order, base, *changed = pool.map(
            play_with,
            [{"reverse": False}, {"zone": "UTC"}, *(changes for changes, _, _ in _REASONS)],
        )
    reasons = []
    for index in range(len(jobs)):
        found = next(
            (
                (reason, fix)
                for (changes, reason, fix), records in zip(_REASONS, changed, strict=True)
                if difference(
                    (in_order if "reverse" in changes or not changes else base)[index],
                    records[index],
                )
            ),
            (
                "it depends on the process: its working directory, its environment or what ran before",
                "make everything from the task's seed and split",
            ),
        )
        reasons.append(found)
    return reasons


def check_episodes(domain: Domain, episodes: Sequence[Episode]) -> Iterator[Finding]:
    """Yields what one episode leaves for another in this process, once for each template and kind of fault."""
    found_in: set[str] = set()
    neighbours = [*episodes[1:], *episodes[:1]]
    for episode, neighbour in zip(episodes, neighbours, strict=True):
        template = episode.job.template
        if episode.failure or neighbour.failure or template in found_in:
            continue
        alone = episode.record()
        again = play(domain, episode.job).record()
        if found := difference(alone, again):
            found_in.add(template)
            reason = "it differs when it is played again in one process"
            fix = (
                "keep everything in self, set by reset: no class attributes, module globals or default arguments"
                " that change, no global random generator, no clock"
            )
            yield _finding(domain, episode.job, episodes, found, reason, fix, "the second time")
            continue
        if found := difference(alone, _interleave(domain, episode.job, neighbour.job)):
            found_in.add(template)
            reason = f"it changes while an episode of {neighbour.job.template} runs beside it"
            fix = (
                "many episodes run at once: keep the world in self, set by reset, and nothing in class"
                " attributes, module globals or default arguments"
            )
            yield _finding(domain, episode.job, episodes, found, reason, fix, "beside another")
            continue
        world = domain.environment()
        with contextlib.suppress(Exception):
            play(domain, neighbour.job, world)
        if found := difference(alone, play(domain, episode.job, world).record()):
            found_in.add(template)
            reason = "a world that is reset a second time is not the world of its task"
            fix = (
                "set every attribute in reset; add to none that an earlier episode may have filled"
            )
            yield _finding(domain, episode.job, episodes, found, reason, fix, "after a reset")


def _interleave(domain: Domain, job: Job, neighbour: Job) -> dict[str, Any]:
    """The record of a job that is played in turns with another one, step by step."""
    one, other = Episode(job), Episode(neighbour)
    seed_global_random(1)
    for _ in zip_longest(steps(domain, one), steps(domain, other)):
        pass
    return one.record()


def _finding(
    domain: Domain,
    job: Job,
    episodes: Sequence[Episode],
    found: tuple[str, Any, Any],
    reason: str,
    fix: str,
    where: str,
) -> Finding:
    path, here, there = found
    tool = None
    # results[1].x: of the second call of the solution
    if path.startswith("results["):
        blueprint = next(e.blueprint for e in episodes if e.job == job)
        tool = blueprint.plan[int(path[8:].split("]")[0])][0] if blueprint else None
    return Finding(
        "deterministic",
        "error",
        domain.templates[job.template].file,
        f"{path or 'the task'} is {shorten(here)} here and {shorten(there)} {where}: {reason}",
        fix,
        template=job.template,
        tool=tool,
        seed=job.seed,
    )
