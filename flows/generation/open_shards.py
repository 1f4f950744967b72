"""The shards that are being played: takes traces as episodes end, and writes a shard when it is whole."""

from collections import Counter
from collections.abc import Callable, Sequence

from flows.generation.shards import BlindAttempt, Shard, ShardReceipt, Spools, failure_of
from schemas.ledger import Rewriting
from schemas.row_file import RowFile
from schemas.task import Task
from schemas.trace import Trace
from teacher.rollout import agent_loop, blind_baseline
from teacher.rollout.scheduler import Rollout


class OpenShards:
    """Shards whose tasks are played.

    A shard is written when the last of its tasks has ended, one with tasks for the blind baseline after that.

    Args:
        tasks: of the whole run.
        attempts: at each task at most. wanted: those that must pass before a task is not attempted again.
        blind: whether solved tasks with images are attempted once more without them.
        take_rewritten: returns the counts of the reworded requests of some tasks; None where none are reworded.

    Attributes:
        tasks: those of the shards.
        templates: their names, sorted.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        tasks: RowFile[Task],
        spools: Spools,
        *,
        attempts: int,
        wanted: int,
        blind: bool,
        take_rewritten: Callable[[Sequence[str]], Rewriting] | None,
    ) -> None:
        self._shards, self._all, self._spools = shards, tasks, spools
        self._attempts, self._wanted, self._blind = attempts, wanted, blind
        self._take_rewritten = take_rewritten
        self._ids: dict[Shard, list[str]] = {}
        self._places: dict[
            str, tuple[Shard, int]
        ] = {}  # of a task: its shard, its index in the run
        self._left = {shard: shard.count for shard in shards}  # tasks that have not ended
        self._passes: Counter[str] = Counter()
        self._solved_with_images: dict[Shard, set[int]] = {}
        self._blind_attempts: dict[Shard, list[BlindAttempt]] = {}
        self._receipts: dict[Shard, ShardReceipt] = {}
        templates = set()
        for shard in shards:
            self._ids[shard] = []
            for index in range(shard.first, shard.first + shard.count):
                task = tasks[index]
                self._ids[shard].append(task["id"])
                self._places[task["id"]] = shard, index
                templates.add(task["template"])
        self.templates = sorted(templates)
        self.tasks = tasks.select(index for _, index in self._places.values())

    def add(self, rollout: Rollout) -> int:
        """Adds the trace of an attempt. Returns how many attempts that settles: a solved task needs no later one."""
        trace = rollout.trace
        task_id = trace["task"]["id"]
        shard, index = self._places[task_id]
        self._spools.add(shard, trace)
        has_passed = agent_loop.passed(trace)
        self._passes[task_id] += has_passed
        if self._blind and has_passed and trace["images"]:
            self._solved_with_images.setdefault(shard, set()).add(index)
        if self._passes[task_id] < self._wanted and rollout.attempt + 1 < self._attempts:
            return 1
        del self._passes[task_id]
        self._left[shard] -= 1
        if not self._left[shard] and shard not in self._solved_with_images:
            self._close(shard)
        return self._attempts - rollout.attempt

    def blind_tasks(self) -> RowFile[Task]:
        """The solved tasks that are attempted without their images, once all have ended."""
        return self._all.select(
            index
            for shard in self._shards
            for index in sorted(self._solved_with_images.get(shard, ()))
            if blind_baseline.needs_image(self._all[index])
        )

    def add_blind(self, trace: Trace) -> None:
        """Adds the trace of an attempt without images."""
        shard, index = self._places[trace["task"]["id"]]
        attempt = BlindAttempt(
            index, agent_loop.passed(trace), len(trace["calls"]), failure_of(trace)
        )
        self._blind_attempts.setdefault(shard, []).append(attempt)

    def close(self) -> list[ShardReceipt]:
        """Writes the shards that are left and returns the receipts of all, in order."""
        for shard in self._shards:
            if shard not in self._receipts:
                self._close(shard)
        return [self._receipts[shard] for shard in self._shards]

    def _close(self, shard: Shard) -> None:
        ids = self._ids[shard]
        rewritten = self._take_rewritten(ids) if self._take_rewritten else None
        self._receipts[shard] = self._spools.close(
            shard, ids, self._blind_attempts.get(shard, ()), rewritten
        )
