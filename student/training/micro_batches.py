"""Splits the examples of one optimiser step into micro-batches that fit in memory.

A recipe sets how many examples a step has; memory limits how many tokens are computed at once. Examples are packed end
to end and attend only to themselves; for layers that do not support that, they are padded. Each micro-batch's loss is
divided by the number of labels of the whole step, and the gradients add up. So a recipe trains the same way on any GPU,
up to rounding. What packed examples have in common at their beginnings is computed once (shared_prefix.py).

Letters of shapes: B rows, T tokens of a row, H hidden size, V vocabulary; N = B * (T - 1) predicted tokens.
"""

import functools
import itertools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from trl import SFTTrainer

from student.kernels.linear_cross_entropy import linear_cross_entropy
from student.rendering.labels import IGNORED
from student.training.shared_prefix import (
    PrefixSampler,
    make_pieces,
    pack_by_prefix,
    saves_tokens,
    tree_row,
)

Row = dict[str, Any]
# Lengths that are multiples of this use cuDNN's attention (student/kernels/attention.py).
ALIGNED = 128


def pack(lengths: list[int], limit: int) -> list[list[int]]:
    """Indexes of examples in groups of at most `limit` tokens, by first fit, the longest first.

    An example that exceeds the limit is a group of its own.
    """
    groups: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = next((g for g, left in enumerate(free) if lengths[index] <= left), None)
        if place is None:
            groups.append([])
            free.append(limit)
            place = len(groups) - 1
        groups[place].append(index)
        free[place] -= lengths[index]
    return groups


def pack_padded(lengths: list[int], limit: int) -> list[list[int]]:
    """As `pack`, for rows that are padded to the longest of their group. Examples of similar length share a group."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        longest = lengths[groups[-1][0]] if groups else 0
        if groups and longest * (len(groups[-1]) + 1) <= limit:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def concatenate(examples: list[dict[str, list[int]]]) -> Row:
    """input_ids, labels and position_ids [1, T] of examples end to end.

    Positions restart with each example. cu_seq_lens_q has the start of each example, which avoids a GPU sync.
    """
    # The last token of an example must not predict the first token of the next.
    labels = [label for e in examples for label in (IGNORED, *e["labels"][1:])]
    ends = itertools.accumulate(len(e["labels"]) for e in examples)
    return {
        "input_ids": torch.tensor([[token for e in examples for token in e["input_ids"]]]),
        "labels": torch.tensor([labels]),
        "position_ids": torch.tensor([[i for e in examples for i in range(len(e["labels"]))]]),
        "cu_seq_lens_q": torch.tensor([0, *ends], dtype=torch.int32),
        "max_length_q": max(len(e["labels"]) for e in examples),
    }


def stack(examples: list[dict[str, list[int]]], multiple: int = 1) -> Row:
    """input_ids and labels [B, T] of examples of one length. T is padded to a multiple; padding has no labels."""
    row = pad_right(examples, multiple)
    return {"input_ids": row["input_ids"], "labels": row["labels"]}


def pad_right(examples: list[dict[str, list[int]]], multiple: int = 1) -> Row:
    """input_ids, labels and attention_mask [B, T] of examples, padded on the right to a multiple."""
    longest = max(len(e["labels"]) for e in examples)
    length = longest + -longest % multiple

    def rows(values: list[list[int]], filler: int) -> Tensor:
        return torch.tensor([[*row, *[filler] * (length - len(row))] for row in values])

    return {
        "input_ids": rows([e["input_ids"] for e in examples], 0),
        "labels": rows([[IGNORED, *e["labels"][1:]] for e in examples], IGNORED),
        "attention_mask": rows([[1] * len(e["labels"]) for e in examples], 0),
    }


def make_groups(examples: list[Any], limit: int, packed: bool) -> list[list[Any]]:
    """The examples of each micro-batch of at most `limit` tokens."""
    lengths = [len(example["input_ids"]) for example in examples]
    groups = pack_by_prefix(examples, limit) if packed else pack_padded(lengths, limit)
    groups = groups or pack(lengths, limit)
    return [[examples[index] for index in group] for group in groups]


def packed_row(examples: list[dict[str, list[int]]], multiple: int = 1) -> Row:
    """A micro-batch for layers that support packing.

    Examples that share their beginning are a tree. Others of one length (also a single one) are rows padded to
    `multiple`; others are concatenated.
    """
    pieces = make_pieces(examples)
    if saves_tokens(pieces, examples):
        return tree_row(pieces)
    if len({len(example["input_ids"]) for example in examples}) == 1:
        return stack(examples, multiple)
    return concatenate(examples)


class MicroBatchTrainer(SFTTrainer):
    """TRL's SFTTrainer that computes each step's batch in micro-batches.

    Its batch size must be the number of examples of a step, without gradient accumulation. It adds to the log tokens_s,
    the tokens per second since the last line, and memory_gib, the peak memory so far.

    Args:
        limit: tokens computed at once.
        fused: whether the model is a PeftModel with fused layers (student/kernels/fused_layers.py). Its loss then uses
            their fused head.
        packed: whether examples are packed; requires fused layers and examples without images.
        pad: makes a micro-batch of examples that are not packed.
        before: called before each training micro-batch with its number of tokens.
    """

    def __init__(
        self,
        *,
        limit: int,
        fused: bool,
        packed: bool,
        pad: Callable[..., Row] = pad_right,
        before: Callable[[int], None] = lambda tokens: None,
        **arguments: Any,
    ) -> None:
        self.limit, self.fused, self.packed, self.before = limit, fused, packed, before
        multiple = ALIGNED if torch.cuda.is_available() else 1
        self.make_row = functools.partial(packed_row if packed else pad, multiple=multiple)
        self.trained_tokens = 0
        self.last_log = (time.monotonic(), 0)  # time and trained_tokens of the last line
        super().__init__(data_collator=self._collate, **arguments)

    def _collate(self, examples: list[dict[str, list[int]]]) -> dict[str, Any]:
        groups = make_groups(examples, self.limit, self.packed)
        rows = [self.make_row(group) for group in groups]
        # The largest first: if memory is too small, it fails at once.
        rows.sort(key=lambda row: -row["input_ids"].numel())
        return {"micro_batches": rows}

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if not self.packed:
            return super()._get_train_sampler(train_dataset)
        # The argument is the same data set without the columns that the model does not take.
        rows: Any = self.train_dataset
        return PrefixSampler(
            list(rows), self.args.per_device_train_batch_size, self.args.data_seed or 0
        )

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Any:
        rows, losses = inputs["micro_batches"], []
        # Trainer does not count labels for vision-language models, but TRL's loss and the fused one need the number.
        count = torch.stack([(row["labels"][:, 1:] != IGNORED).sum() for row in rows]).sum()
        for row in rows:
            self.before(row["input_ids"].numel())
            losses.append(super().training_step(model, row, count))
            self.trained_tokens += row["input_ids"].numel()
        return torch.stack(losses).sum()

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """The held-out examples, one micro-batch per batch."""
        held_out: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        groups = make_groups(list(held_out), self.limit, self.packed)
        examples = [example for group in groups for example in group]
        labels = sum(label != IGNORED for example in examples for label in example["labels"][1:])
        # The trainer averages over micro-batches. With this divisor the average is the mean over labels.
        self.labels_per_row = labels / len(groups)
        return DataLoader(groups, batch_size=None, collate_fn=self.make_row)  # type: ignore[arg-type]

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        if not model.training:
            num_items_in_batch = self.labels_per_row
        if not self.fused:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        # TRL's head computes the logits twice in float32, an eighth of a step where every token has a label.
        base = self.accelerator.unwrap_model(model).get_base_model()
        model_inputs = {key: value for key, value in inputs.items() if key != "labels"}
        hidden_BTH = base.model(**model_inputs, use_cache=False).last_hidden_state
        hidden_NH = hidden_BTH[:, :-1].flatten(0, 1)
        targets_N = inputs["labels"][:, 1:].flatten()
        head_VH = base.lm_head.weight
        loss = linear_cross_entropy(hidden_NH, head_VH, targets_N, num_items_in_batch)
        return (loss, {}) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            (last_time, last_tokens), now = self.last_log, time.monotonic()
            logs["tokens_s"] = round((self.trained_tokens - last_tokens) / (now - last_time), 1)
            logs["memory_gib"] = round(_peak_memory() / 2**30, 2)
            self.last_log = now, self.trained_tokens
        super().log(logs, start_time)


def _peak_memory() -> int:
    """Peak bytes of this process on the GPU, or on the host if there is no GPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
