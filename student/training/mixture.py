"""What a student is trained on: kept traces as examples, those of the held-out tasks apart, and a replay set against
forgetting. Whatever is left out is counted.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from schemas.errors import InputError, StageError
from schemas.files import read_jsonl, sha256, sha256_text, write_jsonl
from schemas.trace import Trace
from schemas.trace_file import judge_file
from student.rendering.examples import Example, Renderer, Turn, Unrenderable, join, turns

# Of a replay set's account, what the manifest of a published student has (schemas/manifest.schema.json).
REPLAY = ("source", "licence", "sha256", "used", "tokens", "share")


@dataclass
class Mixture:
    """Examples to learn, examples whose loss is only measured, and the account of both (examples.json)."""

    learned: list[Example]
    held_out: list[Example]
    counts: dict[str, Any]


def mix(traces: Iterable[Trace], renderer: Renderer, settings: Any) -> Mixture:
    """Kept traces as examples of at most `max_length` tokens.

    A turn that ends beyond it is left out: its prompt is never cut, because the server would send it whole. With
    overflow "reject" the filter has refused such traces before; with "split" the turns that fit are learned.

    Args:
        settings: the recipe's `train` section.

    Returns:
        The mixture, of which `counts` has {"learned", "held_out": examples, "tokens", "learned_tokens": of the learned
        ones, "trace_tokens": what they had if no prompt were computed twice, "pictures": whose pixels are read, where
        there are any, "overflow": {"policy", "max_length", "traces", "traces_split", "turns", "turns_left_out"}}.
    """
    learned: list[Example] = []
    held_out: list[Example] = []
    counted = {"traces": 0, "traces_split": 0, "turns": 0, "turns_left_out": 0}
    trace_tokens = 0
    for trace in traces:
        taught = turns(trace, renderer)
        fitting = _fitting(taught, settings.max_length)
        counted["traces"] += 1
        counted["traces_split"] += len(fitting) < len(taught)
        counted["turns"] += len(taught)
        counted["turns_left_out"] += len(taught) - len(fitting)
        # A task is held out as a whole, by its id, so that the split stays when traces are added.
        if int(sha256_text(trace["task"]["id"])[:8], 16) / 2**32 < settings.holdout:
            held_out += join(fitting)
        else:
            learned += join(fitting)
            trace_tokens += max(map(len, fitting), default=0)
    counts = {
        "learned": len(learned),
        "held_out": len(held_out),
        "tokens": _tokens(learned),
        "learned_tokens": sum(example.label_count for example in learned),
        "trace_tokens": trace_tokens,
        "overflow": {"policy": settings.overflow, "max_length": settings.max_length, **counted},
    }
    if pictures := sum(len(example.image_names) for example in learned):
        counts["pictures"] = pictures
    return Mixture(learned, held_out, counts)


def lines(counts: dict[str, Any], epochs: float) -> list[str]:
    """What examples.json says, for the run's log."""
    overflow, again = counts["overflow"], counts["tokens"] / max(counts["trace_tokens"], 1)
    said = [
        f"training on {counts['learned']} examples of {counts['tokens']} tokens, {epochs:g} epochs"
    ]
    if pictures := counts.get("pictures"):
        said[0] += f", {pictures} pictures read as pixels"
    if again > 1.05:
        said[0] += (
            f" ({again:.1f} times the tokens of their traces: the template rewrites earlier turns)"
        )
    if overflow["turns_left_out"]:
        said.append(
            f"train.overflow=split: {overflow['turns_left_out']} of {overflow['turns']} turns end beyond"
            f" {overflow['max_length']} tokens and are left out, in {overflow['traces_split']} of"
            f" {overflow['traces']} traces"
        )
    if overflow["traces_rejected"]:
        said.append(
            f"{overflow['traces_rejected']} of {overflow['traces_judged']} traces were rejected as too long"
        )
    if replay := counts.get("replay"):
        said.append(
            f"and on {replay['used']} conversations of {replay['source']}: {replay['examples']} examples,"
            f" {100 * replay['share']:.1f} % of all tokens"
        )
    return said


def _fitting(taught: list[Turn], max_length: int) -> list[Turn]:
    return [turn for turn in taught if len(turn) <= max_length]


def _tokens(made: Iterable[Example]) -> int:
    return sum(len(example.input_ids) for example in made)


# ------------------------------------------------------------------------------------- replay


def replay_file(path: str) -> Path | None:
    """The local file that `replay.path` names, None where it is the id of a data set on the hub.

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


def replay(tokens: int, renderer: Renderer, settings: Any, work: Path) -> Mixture:
    """Conversations of a replay set, as many as make up `replay.ratio` of all training tokens.

    Rows are {"messages", "tools"?}; each is judged as `stillhouse validate` judges it, and drawn in an order that the
    seed decides. A row that is too long is left out or split as a trace is.

    Args:
        tokens: how many the examples have that it is mixed with. settings: the recipe's `train` section.
        work: gets replay.jsonl, the rows that passed.

    Returns:
        The mixture, of which `counts` is {"source", "licence", "sha256", "rows", "rejected": {reason: count}, "used":
        rows, "too_long": rows, "examples", "tokens", "share": of all training tokens}; `rejected` also has the drawn
        rows that the student's template cannot show.

    Raises:
        InputError: no such file. StageError: the hub does not give it, or no row can be learned.
    """
    chosen = settings.replay
    source = replay_file(chosen.path) or _from_hub(chosen.path, work / "replay-source.jsonl")
    passed = work / "replay.jsonl"
    judged = judge_file(source, passed)
    rejected = dict(judged["rejected"])
    rows = list(read_jsonl(passed))
    random.Random(settings.seed).shuffle(rows)
    wanted = tokens * chosen.ratio / (1 - chosen.ratio)
    learned: list[Example] = []
    used = too_long = 0
    for row in rows:
        if _tokens(learned) >= wanted:
            break
        try:
            taught = turns(
                cast(Trace, {"tools": [], "outcome": {"tool_errors": []}, **row}), renderer
            )
        except Unrenderable:
            rejected["malformed_trace"] = rejected.get("malformed_trace", 0) + 1
            continue
        fitting = _fitting(taught, settings.max_length)
        if not fitting or (settings.overflow == "reject" and len(fitting) < len(taught)):
            too_long += 1
            continue
        used += 1
        learned += join(fitting)
    if not learned:
        raise StageError(
            f"train.replay.path: {chosen.path}: no row of it can be learned: {rejected}"
        )
    counts = {
        "source": chosen.path,
        "licence": chosen.licence,
        "sha256": sha256(source),
        "rows": judged["rows"],
        "rejected": rejected,
        "used": used,
        "too_long": too_long,
        "examples": len(learned),
        "tokens": _tokens(learned),
        "share": round(_tokens(learned) / (_tokens(learned) + tokens), 4),
    }
    return Mixture(learned, [], counts)


def _from_hub(name: str, to: Path) -> Path:
    """The training split of a data set on the hub, as JSON Lines."""
    from datasets import load_dataset

    try:
        rows: Iterable[Any] = load_dataset(name, split="train")
    except Exception as error:
        said = " ".join(str(error).split())
        raise StageError(
            f"train.replay.path: {name}: cannot be read from the hub: {said}"
        ) from error
    write_jsonl(to, rows)
    return to
