"""Measures how the search for near-duplicates and contamination grows with the number of traces.

    python -m benchmarks.near_duplicates [--domain legal] [--sizes 10000 50000 150000]

Sampled tasks of a pack are repeated with other identifiers until there are enough of them, so that many requests share
a template and few are about the same things, as in a run. Times are CPU times of one process; memory is what the search
adds to the peak, its input left out.
"""

import argparse
import random
import re
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from schemas.dedup import Exam, near_duplicates, sketch
from schemas.files import dumps
from schemas.recipe_teacher import Filter
from schemas.task import Task
from teacher.domain.pack import load
from teacher.domain.tasks import sample
from teacher.scenes.images import ImageStore

TASKS, EXAM = 200, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--domain", default="legal")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 50_000, 150_000])
    arguments = parser.parse_args()
    domain = load(arguments.domain)
    with TemporaryDirectory() as directory:
        store = ImageStore(Path(directory))
        train, exam = (
            list(sample(domain, split, count, seed=0, pixels=False, image_store=store))
            for split, count in (("train", TASKS), ("exam", EXAM))
        )
    print("requests | near-duplicates, us a request | contamination, us a request | peak MB")
    for size in arguments.sizes:
        _measure(size, train, [task["request"] for task in exam])


def _measure(size: int, train: list[Task], exam: list[str]) -> None:
    limits = Filter()

    def find_duplicates() -> None:
        sketches = [sketch(text, (calls,)) for text, calls in _requests(size, train)]
        near_duplicates(sketches, limits.near_duplicate)

    def find_contaminated() -> None:
        requests = Exam(exam, limits.contamination)
        for text, _ in _requests(size, train):
            requests.find(text)

    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    find_duplicates()
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()  # it slows what is timed
    making = _seconds(lambda: sum(1 for _ in _requests(size, train)))
    each = [1e6 * (_seconds(run) - making) / size for run in (find_duplicates, find_contaminated)]
    print(f"{size} | {each[0]:.0f} | {each[1]:.0f} | {peak / 1e6:.0f}", flush=True)


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _requests(size: int, tasks: list[Task]) -> Iterator[tuple[str, str]]:
    """Yields the request and the calls of `size` tasks. The same number gets the same digits within one task."""
    rng = random.Random(0)
    for index in range(size):
        task = tasks[index % len(tasks)]
        renumber = partial(_renumber, shift=rng.randrange(10**5))
        request, calls = (
            re.sub(r"\b([A-Z]-)(\d+)", renumber, text)
            for text in (task["request"], dumps(task["plan"]))
        )
        yield request, calls


def _renumber(found: re.Match[str], shift: int) -> str:
    return f"{found[1]}{int(found[2]) * 7919 + shift}"


if __name__ == "__main__":
    main()
