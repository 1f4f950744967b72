"""Revises the planned time of a stage from how long its first pieces took."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from schemas.files import read_json
from teacher.inference.host import cores

# A revision needs this share of the pieces, this many of them and so much time: the first ones are no fair sample,
# because all requests in flight end at about the same time. It is looked at again with twice as many pieces.
_SHARE, _LEAST_PIECES, _LEAST_SECONDS = 0.08, 8, 20.0
# An estimate that is this near is not revised.
_TOLERANCE = 0.25


class Estimate:
    """The time that a stage will take: as planned, and by its first pieces.

    Args:
        activity: how the line names the work. unit: a piece of it, in the plural.
        total: the number of pieces.
        planned: seconds of each stage (plan.json), with `stage` or without it, if the plan does not know it.
        share: of the stage's planned time that these pieces are.
        at_once: pieces in flight together.
        clock: seconds that only grow.

    Attributes:
        planned: seconds of these pieces; None if the plan does not know them.
    """

    def __init__(
        self,
        activity: str,
        unit: str,
        total: int,
        planned: Mapping[str, float],
        stage: str,
        *,
        share: float = 1,
        at_once: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._activity, self._unit, self._left = activity, unit, total
        self.planned = planned[stage] * share if stage in planned else None
        self._all_planned = sum(planned.values()) if stage in planned else None
        self._at_once, self._clock = at_once, clock
        self._started, self._seen = clock(), 0
        self._looked_at = 0  # pieces seen at the last look
        self._expected = self.planned  # seconds of the pieces, as they were said last

    def begin(self) -> None:
        """Counts the time from now on: what was done before, such as the start of a server, is not the pieces' time."""
        self._started = self._clock()

    def left(self) -> float | None:
        """Returns the seconds that the pieces left will take, by those so far; None before the first."""
        if not self._seen:
            return None
        return (self._clock() - self._started) / self._seen * (self._left - self._seen)

    def observe(self, pieces: int, *, replayed: bool = False) -> str | None:
        """Counts pieces that were done, and returns the line of a revised estimate where it differs from the last.

        replayed: they came from an earlier start of the run, so they tell nothing about the time.
        """
        if replayed:
            self._left -= pieces
            return None
        self._seen += pieces
        elapsed = self._clock() - self._started
        enough = max(_LEAST_PIECES, 2 * self._at_once, _SHARE * self._left, 2 * self._looked_at)
        if self._seen < enough or elapsed < _LEAST_SECONDS or self._seen >= self._left:
            return None
        self._looked_at = self._seen
        seconds, expected = elapsed / self._seen * self._left, self._expected
        if expected is not None and abs(seconds / expected - 1) <= _TOLERANCE:
            return None
        self._expected = seconds
        rate = f"{60 * self._seen / elapsed:.3g} {self._unit} a minute"
        if self.planned is None:
            return f"estimate   {self._activity}: about {minutes(seconds)}, by the first {self._seen} ({rate})"
        assert self._all_planned is not None
        whole_run = self._all_planned - self.planned + seconds
        return (
            f"estimate   {self._activity}: about {minutes(seconds)} instead of the planned {minutes(self.planned)}:"
            f" {rate}, where the plan expected {60 * self._left / self.planned:.3g}{_load()}; the whole run about"
            f" {minutes(whole_run)} instead of {minutes(self._all_planned)}"
        )


def teacher_gpus(plan: Mapping[str, Any]) -> int | None:
    """Returns the number of GPUs that serve the teacher by a plan.json; None where it does not know them."""
    teacher = plan.get("teacher", {})
    if not (teacher.get("gpu_hours") and teacher.get("seconds")):
        return None
    return round(teacher["gpu_hours"][1] * 3600 / teacher["seconds"][1])


def planned_seconds(run: Path) -> dict[str, float]:
    """Seconds of each stage as the plan of a run has them; empty if there is no plan."""
    file = run / "plan.json"
    return read_json(file).get("seconds", {}) if file.is_file() else {}


def minutes(seconds: float) -> str:
    """Seconds as a text: seconds below two minutes, minutes below two hours, then hours and minutes."""
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    whole = round(seconds / 60)
    return f"{whole} min" if whole < 120 else f"{whole // 60} h {whole % 60:02d} min"


def _load() -> str:
    """A remark about other programs that use the machine, if its load shows that there are some."""
    load, count = os.getloadavg()[0], cores()
    # A run has one thread a core in a server or in torch, and one of its own.
    return f" (the machine's load is {load:.0f} on {count} cores)" if load > 2 * count + 1 else ""
