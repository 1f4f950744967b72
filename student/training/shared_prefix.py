"""Lays out examples as a tree, so that the tokens with which several of them begin are computed once.

Traces of a domain begin with the same system message and the same tools, which are half of a short trace. Where the
student's template rewrites earlier turns, each turn of a trace is an example of its own, whose prompt repeats the turns
before it. A token attends to the tokens from its example's first up to itself, wherever they lie in the row, so losses
and gradients are those of the separate examples up to rounding. Only tokens before an example's first label are shared.

In: examples of a micro-batch. Out: one row for the fused layers (student/kernels/attention.py), or groups of examples
for several rows. `PrefixSampler` puts examples that begin alike, and those of one trace, into the same optimiser step.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import Sampler

from student.rendering.labels import IGNORED

Row = dict[str, Any]
Trace = list[int]  # indexes of the examples of one trace

# Fewer shared tokens save less than the additional attention kernel costs.
_SHORTEST = 32
# Groups that share less than this part of their tokens are packed by length instead, which fills rows better.
_LEAST_SHARE = 0.1
# Only beginnings that this part of all examples have fill whole steps: those of one template alone would make steps
# of one kind of task, which teach worse.
_COMMON = 0.05


@dataclass
class Piece:
    """Consecutive tokens of one example, or of several that are equal up to its end.

    Attributes:
        first: position of its first token in the example.
        ancestors: the pieces before it, from the example's beginning; indexes into the list of pieces.
    """

    input_ids: list[int]
    labels: list[int]
    first: int
    ancestors: list[int] = field(default_factory=list)


def make_pieces(examples: list[Any]) -> list[Piece]:
    """Returns the pieces of a prefix tree of the examples; each comes after its ancestors."""
    pieces: list[Piece] = []
    order = _sorted(examples)

    def add(index: int, first: int, end: int | None, ancestors: list[int]) -> list[int]:
        example = examples[index]
        labels = example["labels"][first:end]
        # The token before a piece in the row does not predict the piece's first token.
        pieces.append(
            Piece(example["input_ids"][first:end], [IGNORED, *labels[1:]], first, ancestors)
        )
        return [*ancestors, len(pieces) - 1]

    def branch(members: list[int], first: int, equal: int, ancestors: list[int]) -> None:
        """Adds the pieces of examples that are equal up to `equal`, from the token at `first` on."""
        if len(members) == 1:
            add(members[0], first, None, ancestors)
            return
        # In sorted order the first and the last member differ earliest.
        shared = _shared(examples[members[0]], examples[members[-1]], equal)
        shared = min(shared, *(_shareable(examples[m]) for m in members))
        if shared - first >= _SHORTEST:
            ancestors, first = add(members[0], first, shared, ancestors), shared
        for key, group in itertools.groupby(members, lambda m: _next(examples[m], shared)):
            rest = list(group)
            for part in [rest] if key is not None else [[member] for member in rest]:
                branch(part, first, shared, ancestors)

    branch(order, 0, 0, [])
    return pieces


def tree_row(pieces: list[Piece]) -> Row:
    """Returns the pieces of examples as one row: input_ids, labels and position_ids [1, T].

    cu_seq_lens_q has the start of each piece. A piece attends to the tokens of its ancestors and its own, whose indexes
    are in key_index; cu_seq_lens_k has where each piece's begin there.
    """
    starts = [0, *itertools.accumulate(len(piece.input_ids) for piece in pieces)]
    keys = [
        [token for p in (*piece.ancestors, i) for token in range(starts[p], starts[p + 1])]
        for i, piece in enumerate(pieces)
    ]
    positions = [range(piece.first, piece.first + len(piece.input_ids)) for piece in pieces]
    return {
        "input_ids": torch.tensor([[token for piece in pieces for token in piece.input_ids]]),
        "labels": torch.tensor([[label for piece in pieces for label in piece.labels]]),
        "position_ids": torch.tensor([[p for part in positions for p in part]]),
        "cu_seq_lens_q": torch.tensor(starts, dtype=torch.int32),
        "max_length_q": max(len(piece.input_ids) for piece in pieces),
        "key_index": torch.tensor([token for part in keys for token in part]),
        "cu_seq_lens_k": torch.tensor(
            [0, *itertools.accumulate(len(part) for part in keys)], dtype=torch.int32
        ),
        "max_length_k": max(len(part) for part in keys),
    }


def pack_by_prefix(examples: list[Any], limit: int) -> list[list[int]] | None:
    """Returns indexes of examples in groups whose trees have at most `limit` tokens, neighbours in sorted order.

    An example that exceeds the limit is a group of its own. Returns None if the examples share too little to gain.
    """
    order = _sorted(examples)
    groups: list[list[int]] = []
    total = computed = size = 0
    for previous, index in itertools.pairwise([None, *order]):
        assert index is not None
        length = len(examples[index]["input_ids"])
        added = length - _saved(examples, previous, index)
        if groups and size + added <= limit:
            groups[-1].append(index)
        else:
            groups.append([index])
            size, added = 0, length
        size, computed, total = size + added, computed + added, total + length
    return groups if computed <= (1 - _LEAST_SHARE) * total else None


def saves_tokens(pieces: list[Piece], examples: list[Any]) -> bool:
    """Returns whether the pieces of these examples have clearly fewer tokens than the examples end to end."""
    total = sum(len(example["input_ids"]) for example in examples)
    return sum(len(piece.input_ids) for piece in pieces) <= (1 - _LEAST_SHARE) * total


class PrefixSampler(Sampler[int]):
    """Orders examples so that most steps hold examples with the same beginning; all else is shuffled.

    The examples of one trace stay together, unless a step ends between them.

    Args:
        examples: rows with input_ids, labels and, where an example is of the trace of the row before it, `continues`.
        batch: examples of a step.
        seed: with the epoch it decides the order, so that a resumed run continues in the same one.
    """

    def __init__(self, examples: list[Any], batch: int, seed: int) -> None:
        self.batch, self.seed, self.epoch = batch, seed, 0
        self.count = len(examples)
        least = max(2 * batch, _COMMON * len(examples))
        traces = _traces(examples)
        families = _families([examples[trace[0]] for trace in traces])
        self.families: list[list[Trace]] = []
        self.others: list[Trace] = []
        for family in families:
            members = [traces[index] for index in family]
            if sum(map(len, members)) >= least:
                self.families.append(members)
            else:
                self.others += members

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, from 0; the trainer calls it before each."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(f"{self.seed} {self.epoch}")
        steps, rest = [], list(self.others)
        for family in self.families:
            whole, left = self._cut(rng.sample(family, len(family)))
            steps += whole
            rest += left
        rng.shuffle(rest)
        whole, left = self._cut(rest)
        steps += whole
        rng.shuffle(steps)
        yield from itertools.chain(*steps, *left)

    def _cut(self, traces: list[Trace]) -> tuple[list[list[int]], list[Trace]]:
        """Returns the steps that the examples of traces fill, in their order, and what is left of the last traces."""
        order = list(itertools.chain(*traces))
        whole = len(order) - len(order) % self.batch
        steps = [order[i : i + self.batch] for i in range(0, whole, self.batch)]
        rest = set(order[whole:])
        return steps, [left for trace in traces if (left := [i for i in trace if i in rest])]


def _traces(examples: list[Any]) -> list[Trace]:
    """Returns the indexes of each trace's examples."""
    traces: list[Trace] = []
    for index, example in enumerate(examples):
        if traces and example.get("continues"):
            traces[-1].append(index)
        else:
            traces.append([index])
    return traces


def _families(examples: list[Any]) -> list[list[int]]:
    """Returns groups of examples, neighbours in sorted order, that share at least half of their tokens."""
    families: list[list[int]] = []
    for previous, index in itertools.pairwise([None, *_sorted(examples)]):
        assert index is not None
        if 2 * _saved(examples, previous, index) >= len(examples[index]["input_ids"]):
            families[-1].append(index)
        else:
            families.append([index])
    return families


def _sorted(examples: list[Any]) -> list[int]:
    """Returns the indexes of the examples, those with equal beginnings beside each other."""
    return sorted(range(len(examples)), key=lambda i: examples[i]["input_ids"])


def _saved(examples: list[Any], previous: int | None, index: int) -> int:
    """Returns the tokens that an example shares with the one before it."""
    if previous is None:
        return 0
    one, other = examples[previous], examples[index]
    shared = min(_shared(one, other, 0), _shareable(one), _shareable(other))
    return shared if shared >= _SHORTEST else 0


def _shareable(example: Any) -> int:
    """Returns how many tokens may be shared: those before the token that predicts the first label."""
    labels = example["labels"]
    return max(0, next((i for i, label in enumerate(labels) if label != IGNORED), len(labels)) - 1)


def _next(example: Any, position: int) -> int | None:
    """Returns the token at a position, or None if tokens from there on are not shared."""
    return example["input_ids"][position] if position < _shareable(example) else None


def _shared(one: Any, other: Any, start: int) -> int:
    """Returns the length of the common beginning of two examples that are equal up to `start`."""
    first, second = one["input_ids"], other["input_ids"]
    end = min(len(first), len(second))
    return next((i for i in range(start, end) if first[i] != second[i]), end)
