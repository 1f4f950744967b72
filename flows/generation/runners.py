"""Hands shards of a run to workers of Dask or Ray and yields what they return. Only indexes and receipts travel.

A worker that dies loses its shard to another one, which takes what is on disk and does the rest.
"""

import contextlib
import importlib.util
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from schemas.error_text import one_line
from schemas.errors import InputError, StageError
from schemas.recipe import Generate

# Workers that may die on one shard before it is the reason.
_LOST_WORKERS = 3
_MODULES = {"dask": "distributed", "ray": "ray"}
# Seconds between two looks at what the caller waits for besides shards.
_TICK = 0.5

# Works on a shard, by the run's directory and the shard's number. It raises nothing: see `returned_error`.
Work = Callable[[str, int], dict[str, Any]]
# Number and return value of a shard; None where none has ended for a moment.
Returned = tuple[int, dict[str, Any]] | None


def check(settings: Generate, *, is_api: bool) -> None:
    """Raises InputError if the runner of a recipe cannot be used.

    is_api: whether another process serves the teacher.
    """
    module = _MODULES.get(settings.runner)
    if module and importlib.util.find_spec(module) is None:
        raise InputError(
            f"generate.runner: found {settings.runner}, which is not installed:"
            f" pip install -e '.[{settings.runner}]'"
        )
    if settings.runner_address is None:
        return
    if module is None:
        raise InputError(
            f"generate.runner_address: found {settings.runner_address}, expected null with runner=local"
        )
    if not is_api:
        raise InputError(
            "serve.url: found null, expected the teacher's URL: workers on other machines (generate.runner_address)"
            " cannot reach a server that this run starts for itself"
        )


def returned_error(error: Exception) -> dict[str, Any]:
    """What a worker returns for an exception: {"error"}, its type and text.

    The exception itself may hold what does not pickle, such as a lock.
    """
    return {"error": f"{type(error).__name__}: {one_line(str(error), 2000)}"}


def hand_out(
    settings: Generate, work: Work, run: str, numbers: Sequence[int]
) -> Generator[Returned, None, None]:
    """Yields number and return value of each shard when it is done, and None about twice a second meanwhile.

    Raises:
        StageError: the cluster cannot be reached, or a shard's workers died again and again.
    """
    runner = {"dask": _dask, "ray": _ray}[settings.runner]
    try:
        yield from runner(settings, work, run, numbers)
    except Exception as error:  # `work` raises none: it is the cluster's
        raise StageError(
            f"generate.runner={settings.runner}: {type(error).__name__}: {one_line(str(error), 500)}; the same command"
            " continues with what is done so far"
        ) from error


def results(
    settings: Generate, work: Work, run: str, numbers: Sequence[int], what: str
) -> Generator[tuple[int, dict[str, Any]], None, None]:
    """Yields number and return value of each shard when it is done.

    Args:
        what: a shard is called in an error.

    Raises:
        StageError: as `hand_out`, or a worker returned an error.
    """
    with contextlib.closing(hand_out(settings, work, run, numbers)) as playing:
        for each in playing:
            if each is None:
                continue
            if "error" in each[1]:
                raise StageError(f"{what} {each[0]} failed in its worker: {each[1]['error']}")
            yield each


def _dask(settings: Generate, work: Work, run: str, numbers: Sequence[int]) -> Iterator[Returned]:
    import dask
    from distributed import Client, LocalCluster, wait

    with dask.config.set({"distributed.scheduler.allowed-failures": _LOST_WORKERS}):
        if settings.runner_address:
            client = Client(settings.runner_address)
        else:
            cluster = LocalCluster(
                n_workers=min(settings.workers, len(numbers)),
                threads_per_worker=1,
                dashboard_address=None,
            )
            client = Client(cluster)
        with client:
            try:
                waiting = {
                    client.submit(work, run, number, pure=False): number for number in numbers
                }
                while waiting:
                    try:
                        wait(list(waiting), timeout=_TICK, return_when="FIRST_COMPLETED")
                    except TimeoutError:
                        yield None
                        continue
                    for future in [each for each in waiting if each.done()]:
                        yield waiting.pop(future), future.result()
            finally:
                if not settings.runner_address:
                    cluster.close()


def _ray(settings: Generate, work: Work, run: str, numbers: Sequence[int]) -> Iterator[Returned]:
    import ray

    ray.init(
        address=settings.runner_address or "local",
        num_cpus=None if settings.runner_address else min(settings.workers, len(numbers)),
        include_dashboard=None if settings.runner_address else False,
        log_to_driver=False,
    )
    try:
        remote = ray.remote(num_cpus=1, max_retries=_LOST_WORKERS)(work)
        waiting = {remote.remote(run, number): number for number in numbers}
        while waiting:
            done, _ = ray.wait(list(waiting), timeout=_TICK)
            for reference in done:
                yield waiting.pop(reference), ray.get(reference)
            if not done:
                yield None
    finally:
        ray.shutdown()
