"""The driver of workers that play shards: it starts the teacher when one asks for it, and checks what they wrote."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from flows.activity import Numbers
from flows.generation import runners
from flows.generation.episodes import Counts, Teacher
from flows.generation.shards import Shard, ShardReceipt, read_receipt
from flows.generation.worker import is_wanted, play_shard, write_endpoint, write_job
from flows.progress import log, track
from flows.run_context import RunContext
from schemas.errors import StageError
from teacher.inference import launch
from teacher.inference.endpoint import Endpoint

# Times that shards are handed out: the second time those of which two workers wrote the file.
_ROUNDS = 2


def play_by_workers(
    context: RunContext,
    teacher: Teacher,
    shards: Sequence[Shard],
    start: Callable[[], Endpoint],
    *,
    key: str,
    numbers: Numbers,
    counts: Counts,
) -> dict[Shard, ShardReceipt]:
    """Has the shards played by workers and returns their receipts.

    Args:
        start: connects to the teacher or starts its server; called once a worker needs a reply that the journal lacks.
        key: of a server of this run.

    Raises:
        StageError: a worker failed. The shards of the others are kept, and so are all replies.
    """
    settings = context.recipe.generate
    # A worker of this machine has its share of generate.concurrency; a cluster's size changes while it works.
    share = 1 if settings.runner_address else min(settings.workers, len(shards))
    job = write_job(context, teacher, share)
    by_number = {shard.number: shard for shard in shards}
    seen: set[Shard] = set()
    with (
        contextlib.ExitStack() as stack,
        _key_in_environment(None if teacher.served else key),
        track("shards", len(shards), numbers=numbers) as advance,
    ):
        is_started = False

        def start_once() -> None:
            nonlocal is_started
            if is_started:
                return
            is_started = True
            endpoint = start()
            numbers.paid_since = time.monotonic()
            stack.enter_context(launch.keep_alive(endpoint, log))
            write_endpoint(context, job, endpoint)

        def play(numbers_left: list[int]) -> None:
            with contextlib.closing(
                runners.hand_out(settings, play_shard, str(context.directory), numbers_left)
            ) as playing:
                for returned in playing:
                    if is_wanted(context, job):
                        start_once()
                    if returned is not None:
                        shard = by_number[returned[0]]
                        receipt, sent = _unpacked(shard, returned[1])
                        counts.add(sent)
                        if shard not in seen:  # its traces are the same when it is played again
                            seen.add(shard)
                            numbers.add_counts(receipt.get("verdicts", {}), receipt["tokens"])
                            advance()

        if teacher.served and not settings.preflight:
            start_once()  # an API that is already described: nothing is sent
        left = list(by_number)
        for _ in range(_ROUNDS):
            play(left)
            on_disk = {shard: read_receipt(context.directory, shard) for shard in shards}
            left = [shard.number for shard, receipt in on_disk.items() if receipt is None]
            if not left:
                return {shard: receipt for shard, receipt in on_disk.items() if receipt}
            log(f"{len(left)} shards have files of two workers and are played again")
    raise StageError(
        f"shard {left[0]}: its file is not the one of its receipt: expected one run at a time in {context.directory}"
    )


def _unpacked(shard: Shard, returned: Mapping[str, Any]) -> tuple[ShardReceipt, Counts]:
    if "error" in returned:
        raise StageError(
            f"shard {shard.number} (tasks {shard.first} to {shard.first + shard.count - 1}) failed in its worker:"
            f" {returned['error']}; the same command continues with the other shards and the replies so far"
        )
    return returned["receipt"], Counts(**returned["counts"])


@contextlib.contextmanager
def _key_in_environment(key: str | None) -> Iterator[None]:
    """Gives workers of this machine the key of a server of this run, which is nowhere else."""
    before = os.environ.get(launch.KEY)
    if key is not None:
        os.environ[launch.KEY] = key
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(launch.KEY, None)
        else:
            os.environ[launch.KEY] = before
