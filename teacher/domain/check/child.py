"""Plays tasks in a process of its own, on another day: `python -m teacher.domain.check.child ORDER.json OUT.json`.

ORDER.json is {"pack": directory, "jobs": [[template, split, seed], ...], "shift": seconds, "frozen": time or
null, "random": seed}. OUT.json
gets the episodes' records in the order of the jobs, or {"error": text}. `shift` moves the clock before the pack is
loaded, so that also what a module reads when it is imported comes from the other day.
"""

import ctypes
import datetime as dt
import gc
import json
import random
import sys
import time
from pathlib import Path
from typing import Any


def shift_clock(seconds: float, frozen: float | None) -> None:
    """Moves the clock of this process: what `time` and `datetime` return from now on.

    frozen: the time, before it is shifted, at which the clock stands still, so that two runs can be compared.

    date.today() asks time.time(). The methods of datetime ask the system, so they are replaced in its own dictionary,
    which keeps the class itself, and with it every isinstance check.
    """
    if not seconds and frozen is None:
        return
    real_time = time.time
    local, utc, form, text = time.localtime, time.gmtime, time.strftime, time.ctime

    def moved() -> float:
        return (real_time() if frozen is None else frozen) + seconds

    patched: dict[str, Any] = {
        "time": moved,
        "time_ns": lambda: int(moved() * 1e9),
        "localtime": lambda at=None: local(moved() if at is None else at),
        "gmtime": lambda at=None: utc(moved() if at is None else at),
        "strftime": lambda pattern, at=None: form(pattern, at or local(moved())),
        "ctime": lambda at=None: text(moved() if at is None else at),
    }
    for name, function in patched.items():
        setattr(time, name, function)
    methods = gc.get_referents(dt.datetime.__dict__)[0]
    methods["now"] = classmethod(lambda cls, tz=None: cls.fromtimestamp(moved(), tz))
    methods["today"] = classmethod(lambda cls: cls.fromtimestamp(moved()))
    methods["utcnow"] = classmethod(
        lambda cls: cls.fromtimestamp(moved(), dt.UTC).replace(tzinfo=None)
    )
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(dt.datetime))


def main(order_file: Path, out_file: Path) -> None:
    """Plays the jobs of an order and writes the records."""
    order = json.loads(order_file.read_text(encoding="utf-8"))
    # Imported before the clock moves: the project's own code is not what is examined.
    from teacher.domain.check.episode import Job, play
    from teacher.domain.pack import load

    shift_clock(order["shift"], order["frozen"])
    seed_global_random(order["random"])
    try:
        domain = load(order["pack"])
    except Exception as error:
        out_file.write_text(json.dumps({"error": f"{type(error).__name__}: {error}"}), "utf-8")
        return
    records = [play(domain, Job(*job)).record() for job in order["jobs"]]
    out_file.write_text(json.dumps(records), encoding="utf-8")


def seed_global_random(seed: int) -> None:
    """Seeds the generators that a pack should not use, so that two processes differ in them."""
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
