"""train: fine-tunes the student on the kept traces.

    stillhouse train RUN

Writes train/adapter (with method full, the weights), train/log.jsonl and train/examples.json. Checkpoints lie in
train/checkpoints; a run that was killed continues from the last one.
"""

import itertools
import shutil
from functools import partial
from typing import TYPE_CHECKING, Any

from flows.activity import Activity
from flows.estimate import Estimate, planned_seconds
from flows.generation import runners
from flows.generation.student_worker import make_examples, part_path, write_job
from flows.progress import log, step, track
from flows.run_context import RunContext
from flows.stages.stage import Stage
from schemas.errors import StageError
from schemas.files import read_json, read_jsonl, sha256, write_json
from schemas.row_file import RowFile

if TYPE_CHECKING:
    from student.training.mixture import Mixture


def _replay_digest(context: RunContext) -> dict[str, str]:
    """sha256 of a local replay file; a data set of the hub counts by its name, which the recipe has."""
    from student.training import mixture

    replay = context.recipe.train.replay
    file = mixture.replay_file(replay.path) if replay else None
    return {"replay": sha256(file)} if file else {}


@partial(
    Stage,
    name="train",
    reads=("train",),
    also_reads=(
        "generate.runner",
        "generate.runner_address",
        "generate.workers",
        "generate.shard",
    ),
    models=("student",),
    earlier={"filter": ""},
    digests=_replay_digest,
    outputs=("train/adapter", "train/log.jsonl", "train/examples.json"),
)
def train(context: RunContext) -> dict[str, Any]:
    from student.models import base
    from student.training import mixture, sft

    settings, directory = context.recipe.train, context.path("train")
    _discard_other_checkpoints(context)
    renderer = context.renderer()
    kept = context.path("filter", "kept.jsonl")
    # Workers read the kept traces alone.
    if context.recipe.generate.runner == "local" or settings.salvage:
        salvaged = context.path("filter", "salvaged.jsonl")
        files = [kept, salvaged] if settings.salvage else [kept]
        traces = mixture.sample(
            lambda: itertools.chain.from_iterable(map(read_jsonl, files)), settings.traces
        )
        mixed = mixture.mix(traces, renderer, settings, directory)
    else:
        mixed = mix_by_workers(context)
    counts, learned = mixed.counts, [mixed.learned]
    ledger = read_json(context.path("filter", "ledger.json"))
    if (used := sum(counts["traces"].values())) < ledger["kept"]:
        log(f"train.traces={settings.traces}: {used} of {ledger['kept']} kept traces are used")
    counts["overflow"]["traces_judged"] = ledger["traces"]
    counts["overflow"]["traces_rejected"] = ledger["rejected"].get("too_long", 0)
    if not mixed.learned:
        raise StageError(f"{kept}: no example to train on")
    if settings.patience and not mixed.held_out:
        raise StageError(
            f"train.patience={settings.patience}: no example is held out of {counts['learned']}:"
            f" --set train.holdout={min(0.5, 2 * settings.holdout):g} or train.patience=null"
        )
    if settings.replay:
        replayed, counts["replay"] = mixture.replay(counts["tokens"], renderer, settings, directory)
        learned.append(replayed)
    write_json(directory / "examples.json", counts)
    for line in mixture.lines(counts, settings.epochs):
        log(line)
    with step("optimiser steps") as activity:
        steps = _Steps(activity, planned_seconds(context.directory))
        result = sft.train(
            base.prepare(context.student, log),
            context.student,
            settings,
            examples=learned,
            held_out=mixed.held_out,
            work=directory,
            log=log,
            image_store=context.image_store,
            report_step=steps.report,
        )
    for file in directory.glob("*.arrow"):  # a few GB of a large run, made anew by a repetition
        file.unlink()
    return result


def mix_by_workers(context: RunContext) -> "Mixture":
    """Has workers make the examples of the kept traces, and joins them.

    Raises:
        StageError: a worker failed.
    """
    from student.training import mixture

    run, settings, kept = context.directory, context.recipe.train, context.path("filter/kept.jsonl")
    rows = RowFile[Any](kept)
    if settings.traces is not None:
        rows = rows.select(mixture.sample_indexes(read_jsonl(kept), settings.traces))
    write_job(context, "train", rows=rows.starts)
    shards = range(-(-len(rows) // context.recipe.generate.shard))
    counts: dict[int, dict[str, int]] = {}
    with track("shards of kept traces", len(shards)) as advance:
        for number, returned in runners.results(
            context.recipe.generate, make_examples, str(run), shards, "the shard of kept traces"
        ):
            counts[number] = returned["counts"]
            advance()
    parts = [(part_path(run, number), counts[number]) for number in shards]
    mixed = mixture.join_parts(parts, settings, context.path("train"))
    shutil.rmtree(context.path("train", ".parts"))
    return mixed


class _Steps:
    """The optimiser steps so far, and the revised estimate of their time."""

    def __init__(self, activity: Activity, planned: dict[str, float]) -> None:
        self._activity, self._planned = activity, planned

    def report(self, done: int, total: int) -> None:
        """Is called after each step."""
        self._activity.done, self._activity.total = done, total
        if self._activity.estimate is None:
            # The first step also compiles and allocates, so the time counts from its end.
            left = total - done
            self._activity.estimate = Estimate(
                "training", "steps", left, self._planned, "train", share=left / total
            )
        elif line := self._activity.estimate.observe(1):
            log(line)


def _discard_other_checkpoints(context: RunContext) -> None:
    """Empties train/ where it was begun with other inputs, or in another type on another machine."""
    from student.training.memory import resolve_dtype

    dtype = resolve_dtype(context.recipe.train, context.hardware.gpu is not None).dtype
    begun_with = {**train.inputs(context), "dtype": dtype}
    file = context.path("train", "inputs.json")
    if not file.is_file() or read_json(file) != begun_with:
        shutil.rmtree(context.path("train"), ignore_errors=True)
        write_json(file, begun_with)
