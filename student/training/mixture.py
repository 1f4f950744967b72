"""Selects the training data: examples of kept traces, held-out examples, and a replay set.

The replay set limits catastrophic forgetting. Everything that is left out is counted. Traces are read one by one and
their examples written to files, so memory does not grow with their number.
"""

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from schemas.canonical import Refused
from schemas.errors import InputError, StageError
from schemas.files import sha256, sha256_text, write_jsonl
from schemas.recipe import Train
from schemas.row_file import RowFile
from schemas.trace import Trace
from schemas.trace_file import judge_file
from student.rendering.errors import Unrenderable
from student.rendering.examples import Turn, join, turns
from student.rendering.renderer import Renderer
from student.training.example_file import ExampleFile, ExampleWriter

# The counts of a replay set that the manifest of a published student repeats (schemas/manifest.schema.json).
REPLAY = ("source", "licence", "sha256", "used", "tokens", "share")


@dataclass
class Mixture:
    """Training examples, held-out examples on which only the loss is measured, and their counts (examples.json)."""

    learned: ExampleFile
    held_out: ExampleFile
    counts: dict[str, Any]


def sample(traces: Callable[[], Iterable[Trace]], count: int | None) -> Iterable[Trace]:
    """Yields the traces to use: all, or `count` of them, in their order.

    The trace's id decides, so that those of a smaller count are among those of a larger one.

    Args:
        traces: starts to read them; with a count they are read twice.
    """
    if count is None:
        return traces()
    chosen = set(sample_indexes(traces(), count))
    return (trace for index, trace in enumerate(traces()) if index in chosen)


def sample_indexes(traces: Iterable[Trace], count: int) -> list[int]:
    """The indexes of the traces that `sample` yields, ascending."""
    ranked = ((_rank(trace["id"]), index) for index, trace in enumerate(traces))
    return sorted(index for _, index in heapq.nsmallest(count, ranked))


def _rank(trace_id: str) -> str:
    return sha256_text(
        f"sample {trace_id}"
    )  # a hash of its own: the task's decides what is held out


def mix(traces: Iterable[Trace], renderer: Renderer, settings: Train, work: Path) -> Mixture:
    """Makes examples of at most `max_length` tokens of kept traces.

    A turn that ends beyond `max_length` is left out. Its prompt is never cut, because the server would send all of it.
    With overflow "reject" the filter has rejected such traces already; with "split" the turns that fit are trained on.

    Args:
        settings: the recipe's `train` section.
        work: the directory for the files of the examples, learned.arrow and held_out.arrow.

    Returns:
        The mixture. Its counts are {"learned": training examples, "held_out": examples, "traces": {"learned",
        "held_out", "left_out": traces of which no turn fits}, whose sum is all traces, "tokens" and "learned_tokens"
        (those with a label) of the training examples, "trace_tokens": tokens if no prompt were computed twice,
        "pictures": images that are read as pixels, if any, "overflow": {"policy", "max_length", "traces",
        "traces_split", "turns", "turns_left_out"}}.
    """
    with (
        ExampleWriter(work / "learned.arrow") as learning,
        ExampleWriter(work / "held_out.arrow") as holding_out,
    ):
        counts = _fill(traces, renderer, settings, learning, holding_out)
    return _mixture(learning.examples, holding_out.examples, counts, settings)


def make_part(
    traces: Iterable[Trace], renderer: Renderer, settings: Train, part: Path
) -> dict[str, int]:
    """Makes the examples of some kept traces, for `join_parts`, and returns their counts.

    part: the beginning of the names of two files, PART.learned and PART.held_out.
    """
    with (
        ExampleWriter(part.with_suffix(".learned")) as learning,
        ExampleWriter(part.with_suffix(".held_out")) as holding_out,
    ):
        return _fill(traces, renderer, settings, learning, holding_out)


def join_parts(
    parts: Iterable[tuple[Path, Mapping[str, int]]], settings: Train, work: Path
) -> Mixture:
    """The mixture of all traces from parts, in their order: the same files as `mix` writes, byte for byte.

    parts: the names given to `make_part` and what it returned.
    """
    counts: Counter[str] = Counter()
    with (
        ExampleWriter(work / "learned.arrow") as learning,
        ExampleWriter(work / "held_out.arrow") as holding_out,
    ):
        for part, part_counts in parts:
            learning.copy(part.with_suffix(".learned"))
            holding_out.copy(part.with_suffix(".held_out"))
            counts.update(part_counts)
    return _mixture(learning.examples, holding_out.examples, counts, settings)


def _fill(
    traces: Iterable[Trace],
    renderer: Renderer,
    settings: Train,
    learning: ExampleWriter,
    holding_out: ExampleWriter,
) -> Counter[str]:
    """Writes the examples of traces; returns counts that add up over parts, under the names of `mix`."""
    counts: Counter[str] = Counter()
    for trace in traces:
        trace_turns = turns(trace, renderer)
        fitting = _fitting(trace_turns, settings.max_length)
        counts["traces"] += 1
        counts["traces_split"] += len(fitting) < len(trace_turns)
        counts["turns"] += len(trace_turns)
        counts["turns_left_out"] += len(trace_turns) - len(fitting)
        held = is_held_out(trace, settings.holdout)
        counts["left_out" if not fitting else "held_out" if held else "learned"] += 1
        if held:
            holding_out.add(join(fitting))
        else:
            learning.add(join(fitting))
            counts["trace_tokens"] += max(map(len, fitting), default=0)
    return counts


def _mixture(
    learned: ExampleFile, held_out: ExampleFile, added: Counter[str], settings: Train
) -> Mixture:
    overflow = {name: added[name] for name in ("traces", "traces_split", "turns", "turns_left_out")}
    counts = {
        "learned": len(learned),
        "held_out": len(held_out),
        "traces": {use: added[use] for use in ("learned", "held_out", "left_out")},
        "tokens": learned.tokens,
        "learned_tokens": learned.label_count,
        "trace_tokens": added["trace_tokens"],
        "overflow": {"policy": settings.overflow, "max_length": settings.max_length, **overflow},
    }
    if learned.image_count:
        counts["pictures"] = learned.image_count
    return Mixture(learned, held_out, counts)


def lines(counts: dict[str, Any], epochs: float) -> list[str]:
    """The counts of examples.json as lines for the run's log."""
    overflow, repetition = counts["overflow"], counts["tokens"] / max(counts["trace_tokens"], 1)
    report = _trace_lines(counts)
    training = len(report)
    report += [
        f"training on {counts['learned']} examples of {counts['tokens']} tokens, {epochs:g} epochs"
    ]
    if image_count := counts.get("pictures"):
        report[training] += f", {image_count} images read as pixels"
    if repetition > 1.05:
        report[training] += (
            f" ({repetition:.1f} times the tokens of their traces: the template rewrites earlier turns)"
        )
    if overflow["turns_left_out"]:
        report.append(
            f"train.overflow=split: {overflow['turns_left_out']} of {overflow['turns']} turns end beyond"
            f" {overflow['max_length']} tokens and are left out, in {overflow['traces_split']} of"
            f" {overflow['traces']} traces"
        )
    if overflow["traces_rejected"]:
        report.append(
            f"{overflow['traces_rejected']} of {overflow['traces_judged']} traces were rejected as too long"
        )
    if replay := counts.get("replay"):
        report.append(
            f"and on {replay['used']} conversations of {replay['source']}: {replay['examples']} examples,"
            f" {100 * replay['share']:.1f} % of all tokens"
        )
    return report


def _trace_lines(counts: dict[str, Any]) -> list[str]:
    """The line that says what became of the kept traces; none for a run that did not count them."""
    traces = counts.get("traces")
    if traces is None:
        return []
    parts = [f"{traces['learned']} to train on"]
    if traces["held_out"]:
        parts.append(f"{traces['held_out']} held out to measure the loss (train.holdout)")
    if traces["left_out"]:
        parts.append(f"{traces['left_out']} left out, no turn fits train.max_length")
    line = f"{sum(traces.values())} kept traces = {' + '.join(parts)}"
    for use, words in (("learned", "trained on"), ("held_out", "held out")):
        if counts[use] > traces[use]:
            examples = f"{counts[use]} examples, because the template rewrites earlier turns"
            line += f"; the {traces[use]} {words} are {examples}"
    return [line]


def is_held_out(trace: Trace, holdout: float) -> bool:
    """Whether training measures the loss on a trace instead of learning it. holdout: the recipe's train.holdout.

    The task's id decides, so that all traces of a task stay on one side, also when traces are added.
    """
    return int(sha256_text(trace["task"]["id"])[:8], 16) / 2**32 < holdout


def _fitting(trace_turns: list[Turn], max_length: int) -> list[Turn]:
    return [turn for turn in trace_turns if len(turn) <= max_length]


# ------------------------------------------------------------------------------------- replay


def replay_file(path: str) -> Path | None:
    """The local file that `replay.path` names; None if it is the id of a data set on the hub.

    Raises:
        InputError: it is neither.
    """
    file = Path(path).expanduser()
    if file.is_file():
        return file
    if path.endswith(".jsonl") or path.count("/") != 1 or path.startswith((".", "~", "/")):
        raise InputError(
            f"train.replay.path: {path}: no such file, expected a JSON Lines file or the hub's id of a data set"
        )
    return None


def replay(
    tokens: int, renderer: Renderer, settings: Train, work: Path
) -> tuple[ExampleFile, dict[str, Any]]:
    """Draws conversations of a replay set until they are `replay.ratio` of all training tokens.

    Rows are {"messages", "tools"?}. Each must pass the checks of `stillhouse validate`; the seed decides the order. A
    row that is too long is left out or split, as a trace is.

    Args:
        tokens: of the examples of the traces.
        settings: the recipe's `train` section, with `replay`.
        work: the directory for replay.jsonl, the rows that passed, and replay.arrow, their examples.

    Returns:
        The examples and their counts: {"source", "licence", "sha256", "rows", "rejected": {reason: count}, "used":
        rows, "too_long": rows, "examples", "tokens", "share": of all training tokens}. `rejected` includes rows that
        the student's template cannot render.

    Raises:
        InputError: there is no such file.
        StageError: the hub does not provide the data set, or no row can be trained on.
    """
    chosen = settings.replay
    assert chosen
    source = replay_file(chosen.path) or _from_hub(chosen.path, work / "replay-source.jsonl")
    valid = work / "replay.jsonl"
    report = judge_file(source, valid)
    rejected = dict(report["rejected"])
    order = list(range(report["rows"] - sum(rejected.values())))
    random.Random(settings.seed).shuffle(order)
    target = tokens * chosen.ratio / (1 - chosen.ratio)
    used = too_long = 0
    with ExampleWriter(work / "replay.arrow") as writer:
        for row in RowFile[dict[str, Any]](valid).select(order):
            if writer.tokens >= target:
                break
            try:
                row_turns = turns(
                    cast(Trace, {"tools": [], "outcome": {"tool_errors": []}, **row}), renderer
                )
            except Unrenderable as error:
                reason = error.reason if isinstance(error, Refused) else "malformed_trace"
                rejected[reason] = rejected.get(reason, 0) + 1
                continue
            fitting = _fitting(row_turns, settings.max_length)
            if not fitting or (settings.overflow == "reject" and len(fitting) < len(row_turns)):
                too_long += 1
                continue
            used += 1
            writer.add(join(fitting))
    learned = writer.examples
    if not learned:
        raise StageError(f"train.replay.path: {chosen.path}: no row can be trained on: {rejected}")
    counts = {
        "source": chosen.path,
        "licence": chosen.licence,
        "sha256": sha256(source),
        "rows": report["rows"],
        "rejected": rejected,
        "used": used,
        "too_long": too_long,
        "examples": len(learned),
        "tokens": learned.tokens,
        "share": round(learned.tokens / (learned.tokens + tokens), 4),
    }
    return learned, counts


def _from_hub(name: str, to: Path) -> Path:
    """Writes the training split of a data set on the hub as JSON Lines to `to`, which it returns."""
    from datasets import load_dataset

    try:
        rows: Iterable[Any] = load_dataset(name, split="train")
    except Exception as error:
        message = " ".join(str(error).split())
        raise StageError(
            f"train.replay.path: {name}: cannot be read from the hub: {message}"
        ) from error
    write_jsonl(to, rows)
    return to
