"""Hands shards of tasks to workers of Dask or Ray and yields what they return. Only indexes and receipts travel.

A worker that dies loses its shard to another one, which replays the replies in the journal and asks for the rest.
"""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from schemas.error_text import one_line
from schemas.errors import InputError, StageError
from schemas.recipe import Generate

# Workers that may die on one shard before it is the reason.
_LOST_WORKERS = 3
_MODULES = {"dask": "distributed", "ray": "ray"}

# Plays a shard, by the run's directory and the shard's number.
PlayShard = Callable[[str, int], dict[str, Any]]


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


def hand_out(
    settings: Generate, play_shard: PlayShard, run: str, numbers: Sequence[int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields number and return value of each shard, as they are played.

    Raises:
        StageError: the cluster cannot be reached, or a shard's workers died again and again.
    """
    runner = {"dask": _dask, "ray": _ray}[settings.runner]
    try:
        yield from runner(settings, play_shard, run, numbers)
    except Exception as error:  # play_shard raises none: it is the cluster's
        raise StageError(
            f"generate.runner={settings.runner}: {type(error).__name__}: {one_line(str(error), 500)}; the same command"
            " continues with the shards and replies so far"
        ) from error


def _dask(
    settings: Generate, play_shard: PlayShard, run: str, numbers: Sequence[int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    import dask
    from distributed import Client, LocalCluster, as_completed

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
                futures = {
                    client.submit(play_shard, run, number, pure=False): number for number in numbers
                }
                for future in as_completed(futures):
                    yield futures[future], future.result()
            finally:
                if not settings.runner_address:
                    cluster.close()


def _ray(
    settings: Generate, play_shard: PlayShard, run: str, numbers: Sequence[int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    import ray

    ray.init(
        address=settings.runner_address or "local",
        num_cpus=None if settings.runner_address else min(settings.workers, len(numbers)),
        include_dashboard=None if settings.runner_address else False,
        log_to_driver=False,
    )
    try:
        remote = ray.remote(num_cpus=1, max_retries=_LOST_WORKERS)(play_shard)
        numbers_by_reference = {remote.remote(run, number): number for number in numbers}
        waiting = list(numbers_by_reference)
        while waiting:
            [done], waiting = ray.wait(waiting)
            yield numbers_by_reference[done], ray.get(done)
    finally:
        ray.shutdown()
