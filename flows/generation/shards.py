"""The traces of a run on disk: shards of JSON Lines compressed with zstd, each closed with a receipt.

A shard holds the traces of consecutive tasks, in their order. Until all its tasks have ended, its traces lie in a spool
that belongs to one writer. A closed shard is never appended to; whoever plays its tasks again replaces it as a whole.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict, cast

import zstandard

from flows.request_lines import count_tokens
from schemas.errors import InputError, StageError
from schemas.files import json_line, read_json, read_jsonl, sha256, write_json, write_jsonl
from schemas.ledger import Rewriting
from schemas.trace import Trace, failure_reason, nodes
from teacher.rollout import agent_loop, blind_baseline

DIRECTORY = "traces"


@dataclass(frozen=True)
class Shard:
    """Consecutive tasks: `count` from the index `first` on."""

    number: int
    first: int
    count: int

    def path(self, run: Path) -> Path:
        return run / DIRECTORY / f"{self.number:05d}.jsonl.zst"

    def receipt_path(self, run: Path) -> Path:
        return run / "stages" / "generate" / f"{self.number:05d}.json"


class ShardReceipt(TypedDict):
    """What a shard holds. asked = returned + the sum of rejected, and traces are all attempts.

    inputs: a digest of all that its traces depend on. failures: traces that ended on a request without a reply, by
    cause. serving: the settings of the server that gave none. asked: its tasks. returned: those with an attempt that
    passed. rejected: the others, by the reason of their last attempt. calls: requests of all traces, the blind ones'
    and sub-agents' included. sub_agents: traces inside those of orchestrators, present if there are any. blind: for
    each task that was attempted without its images, its index and whether that passed.
    rewritten: its requests that the teacher was to reword, present with tasks.rewrite. verdicts: traces by the reason
    of their failure, and passed; receipts of earlier versions lack them. user_tokens: of the requests that simulated
    users took, which calls counts and tokens does not; present where a model played them.
    """

    inputs: str
    serving: dict[str, Any]
    sha256: str
    asked: int
    returned: int
    rejected: dict[str, int]
    traces: int
    passed: int
    hinted: int
    calls: int
    tokens: dict[str, int]
    user_tokens: NotRequired[dict[str, int]]
    detected: dict[str, dict[str, int]]
    failures: dict[str, int]
    blind: list[tuple[int, bool]]
    rewritten: NotRequired[Rewriting]
    verdicts: NotRequired[dict[str, int]]
    sub_agents: NotRequired[int]


def cut(tasks: int, size: int) -> list[Shard]:
    """The shards of so many tasks, of `size` tasks each; the last may have fewer."""
    return [
        Shard(number, first, min(size, tasks - first))
        for number, first in enumerate(range(0, tasks, size))
    ]


def read_receipt(run: Path, shard: Shard) -> ShardReceipt | None:
    """The receipt of a closed shard; None if there is none, or if its file is not the one that was written."""
    try:
        receipt = cast(ShardReceipt, read_json(shard.receipt_path(run)))
        is_whole = receipt["asked"] == shard.count and receipt["sha256"] == sha256(shard.path(run))
    except (InputError, OSError, KeyError, TypeError):
        return None
    return receipt if is_whole else None


def read_traces(run: Path) -> Iterator[Trace]:
    """Yields the traces of a run's directory, in the order of their tasks.

    Raises:
        InputError: there are none, or a file is damaged.
    """
    for path in trace_files(run):
        yield from cast(Iterator[Trace], read_jsonl(path))


def trace_files(run: Path) -> list[Path]:
    """The files of a run's traces, in the order of their tasks. Runs of earlier versions have one."""
    return sorted((run / DIRECTORY).glob("*.jsonl.zst")) or [run / "traces.jsonl"]


def remove_all_but(run: Path, kept: Iterable[Shard]) -> None:
    """Removes the shards and receipts of a run that are not among `kept`, and the spools of killed writers."""
    names = {path for shard in kept for path in (shard.path(run), shard.receipt_path(run))}
    for directory in (run / DIRECTORY, run / "stages" / "generate"):
        directory.mkdir(parents=True, exist_ok=True)
        for path in set(directory.iterdir()) - names:
            # A worker of a killed run may end only now and remove its spool.
            path.unlink(missing_ok=True)
    (run / "traces.jsonl").unlink(missing_ok=True)


class BlindAttempt(NamedTuple):
    """An attempt without images. task: its index in the run. failure: as of failure_of."""

    task: int
    passed: bool
    calls: int
    failure: str | None


class Spools:
    """Takes traces as their episodes end, in any order, and writes the shards.

    Args:
        writer: a name that no other writer of the run has.
        inputs: a digest of all that the traces depend on. serving: the settings of the server.
    """

    def __init__(self, run: Path, writer: str, inputs: str, serving: dict[str, Any]) -> None:
        self._run, self._writer, self._inputs, self._serving = run, writer, inputs, serving
        self._compressor = zstandard.ZstdCompressor()

    def _path(self, shard: Shard) -> Path:
        return self._run / DIRECTORY / f".{shard.number:05d}.{self._writer}.spool.zst"

    def add(self, shard: Shard, trace: Trace) -> None:
        """Adds a trace to the spool of its shard.

        Raises:
            StageError: it cannot be written.
        """
        path = self._path(shard)
        try:
            with path.open("ab") as file:
                file.write(self._compressor.compress(json_line(trace)))
        except OSError as error:
            raise StageError(f"{path}: cannot be written: {error.strerror or error}") from error

    def close(
        self,
        shard: Shard,
        task_ids: Sequence[str],
        blind: Sequence["BlindAttempt"] = (),
        rewritten: Rewriting | None = None,
    ) -> ShardReceipt:
        """Writes a shard and its receipt, and removes its spool.

        Args:
            task_ids: of the shard's tasks, in their order. blind: the attempts at its tasks without their images.
            rewritten: counts of its reworded requests.

        Raises:
            StageError: the traces are not those of the tasks, or a file cannot be written.
        """
        place = {task_id: number for number, task_id in enumerate(task_ids)}
        rows = cast(Iterator[Trace], read_jsonl(self._path(shard)))
        # One shard is in memory at a time.
        traces = sorted(rows, key=lambda trace: (place[trace["task"]["id"]], _attempt(trace)))
        last = {trace["task"]["id"]: trace for trace in traces}
        solved = {trace["task"]["id"] for trace in traces if agent_loop.passed(trace)}
        rejected = Counter(
            failure_reason(last[task]["outcome"]) for task in last if task not in solved
        )
        if last.keys() != place.keys() or len(solved) + rejected.total() != shard.count:
            raise StageError(
                f"{shard.path(self._run)}: found traces of {len(last)} tasks, expected {shard.count}"
            )
        write_jsonl(shard.path(self._run), traces)
        every = [node for trace in traces for node in nodes(trace)]
        users = [node["user"] for node in every if "user" in node]
        receipt: ShardReceipt = {
            "inputs": self._inputs,
            "serving": self._serving,
            "sha256": sha256(shard.path(self._run)),
            "asked": shard.count,
            "returned": len(solved),
            "rejected": {str(reason): n for reason, n in sorted(rejected.items(), key=str)},
            "traces": len(traces),
            "passed": sum(map(agent_loop.passed, traces)),
            "hinted": sum(trace["hinted"] for trace in traces),
            "calls": sum(len(node["calls"]) for node in every)
            + sum(len(turns["calls"]) for turns in users)
            + sum(one.calls for one in blind),
            "tokens": count_tokens(every),
            "detected": agent_loop.count_detected(traces),
            "failures": dict(
                Counter(filter(None, (*map(failure_of, every), *(b.failure for b in blind))))
            ),
            "blind": sorted((one.task, one.passed) for one in blind),
            "verdicts": dict(
                Counter(failure_reason(trace["outcome"]) or "passed" for trace in traces)
            ),
        }
        if any(turns["calls"] for turns in users):
            receipt["user_tokens"] = count_tokens(users)
        if len(every) > len(traces):
            receipt["sub_agents"] = len(every) - len(traces)
        if rewritten:
            receipt["rewritten"] = rewritten
        write_json(shard.receipt_path(self._run), receipt)
        self._path(shard).unlink()
        return receipt

    def discard(self) -> None:
        """Removes what is left of this writer's spools."""
        for path in (self._run / DIRECTORY).glob(f".*.{self._writer}.spool.zst"):
            with contextlib.suppress(OSError):
                path.unlink()


def _attempt(trace: Trace) -> int:
    return int(trace["id"].rpartition("/")[2])


def failure_of(trace: Trace) -> str | None:
    """The cause of the request without a reply that a trace ended on, or None."""
    if all(call["finish_reason"] != "error" for call in trace["calls"]):
        return None
    return (trace["outcome"]["error"] or "").rpartition("the retry: ")[2].partition(":")[0]


def mark_blind(
    run: Path, shard: Shard, receipt: ShardReceipt, attempted: set[str], answerable: set[str]
) -> None:
    """Sets `outcome.blind` of a shard's traces (teacher/rollout/blind_baseline.py:mark)."""
    traces = list(cast(Iterator[Trace], read_jsonl(shard.path(run))))
    before = [trace["outcome"].get("blind") for trace in traces]
    for trace in traces:
        blind_baseline.mark(trace, attempted, answerable)
    if [trace["outcome"].get("blind") for trace in traces] != before:
        write_jsonl(shard.path(run), traces)
        receipt["sha256"] = sha256(shard.path(run))
        write_json(shard.receipt_path(run), receipt)
