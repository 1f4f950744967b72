"""The examples of one optimiser step as micro-batches that fit in memory, without a change of what is learned.

A recipe says how many examples a step learns from; memory says how many tokens are computed at once. Examples are
packed end to end, each attending to itself alone (or, for layers that cannot do that, padded to the longest of a few),
every micro-batch's loss is divided by the labels of the whole step, and their gradients add up. So the same recipe
trains the same way on any card, up to rounding.
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

Row = dict[str, Any]
# cuDNN's attention is used for lengths that are multiples of this (student/kernels/attention.py).
ALIGNED = 128


def pack(lengths: list[int], limit: int) -> list[list[int]]:
    """Places of examples in groups of at most `limit` tokens: first fit, the longest first. One that is longer than the
    limit is a group of its own."""
    groups: list[list[int]] = []
    room: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        found = next((g for g, left in enumerate(room) if lengths[place] <= left), None)
        if found is None:
            groups.append([])
            room.append(limit)
            found = len(groups) - 1
        groups[found].append(place)
        room[found] -= lengths[place]
    return groups


def pack_padded(lengths: list[int], limit: int) -> list[list[int]]:
    """The same for rows that are padded to the longest of their group: neighbours in length share one."""
    groups: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        longest = lengths[groups[-1][0]] if groups else 0
        if groups and longest * (len(groups[-1]) + 1) <= limit:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def joined(examples: list[dict[str, list[int]]]) -> Row:
    """input_ids, labels and position_ids [1, T] of examples end to end; positions start again with each, and where each
    begins is told beside, so that nobody has to ask the GPU."""
    # No example predicts the first token of the next.
    labels = [label for e in examples for label in (IGNORED, *e["labels"][1:])]
    ends = itertools.accumulate(len(e["labels"]) for e in examples)
    return {
        "input_ids": torch.tensor([[token for e in examples for token in e["input_ids"]]]),
        "labels": torch.tensor([labels]),
        "position_ids": torch.tensor([[i for e in examples for i in range(len(e["labels"]))]]),
        "cu_seq_lens_q": torch.tensor([0, *ends], dtype=torch.int32),
        "max_length_q": max(len(e["labels"]) for e in examples),
    }


def stacked(examples: list[dict[str, list[int]]], multiple: int = 1) -> Row:
    """input_ids and labels [B, T] of examples of one length, T the next multiple; what is added is not learned."""
    row = padded(examples, multiple)
    return {"input_ids": row["input_ids"], "labels": row["labels"]}


def padded(examples: list[dict[str, list[int]]], multiple: int = 1) -> Row:
    """input_ids, labels and attention_mask [B, T] of examples padded on the right, T the next multiple."""
    longest = max(len(e["labels"]) for e in examples)
    length = longest + -longest % multiple

    def rows(values: list[list[int]], filler: int) -> Tensor:
        return torch.tensor([[*row, *[filler] * (length - len(row))] for row in values])

    return {
        "input_ids": rows([e["input_ids"] for e in examples], 0),
        "labels": rows([[IGNORED, *e["labels"][1:]] for e in examples], IGNORED),
        "attention_mask": rows([[1] * len(e["labels"]) for e in examples], 0),
    }


def groups(examples: list[Any], limit: int, packed: bool) -> list[list[Any]]:
    """The examples of each micro-batch of at most `limit` tokens."""
    lengths = [len(example["input_ids"]) for example in examples]
    places = pack(lengths, limit) if packed else pack_padded(lengths, limit)
    return [[examples[place] for place in group] for group in places]


def packed_row(examples: list[dict[str, list[int]]], multiple: int = 1) -> Row:
    """Examples for layers that separate packed ones: those of one length, such as a single one, are rows of the next
    multiple of `multiple`, others end to end."""
    if len({len(example["input_ids"]) for example in examples}) == 1:
        return stacked(examples, multiple)
    return joined(examples)


class MicroBatchTrainer(SFTTrainer):
    """TRL's SFTTrainer, of which each step computes its batch in micro-batches.

    Give it a batch size of all examples of a step, and no gradient accumulation. To the log it adds tokens_s, the
    tokens a second since the last line, and memory_gib, the most memory taken so far.

    Args:
        limit: tokens computed at once.
        fused: whether the model is a PeftModel with fused layers (student/kernels/fused_layers.py); its loss is then taken by their
            head too.
        packed: whether examples are packed, which fused layers separate; not those with pictures.
        pad: makes a micro-batch of examples where they are not packed.
        before: called with the number of tokens of each micro-batch that is trained on, before it.
    """

    def __init__(
        self,
        *,
        limit: int,
        fused: bool,
        packed: bool,
        pad: Callable[..., Row] = padded,
        before: Callable[[int], None] = lambda tokens: None,
        **named: Any,
    ) -> None:
        self.limit, self.fused, self.packed, self.before = limit, fused, packed, before
        multiple = ALIGNED if torch.cuda.is_available() else 1
        self.row = functools.partial(packed_row if packed else pad, multiple=multiple)
        self.learned, self.logged = 0, (time.monotonic(), 0)
        super().__init__(data_collator=self._collate, **named)

    def _collate(self, examples: list[dict[str, list[int]]]) -> dict[str, Any]:
        rows = [self.row(group) for group in groups(examples, self.limit, self.packed)]
        # The largest first: it shows whether memory is enough.
        rows.sort(key=lambda row: -row["input_ids"].numel())
        return {"micro_batches": rows}

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Any:
        rows, losses = inputs["micro_batches"], []
        # Trainer counts no labels for models that see, whose own loss would not take the number; TRL's and ours do.
        count = torch.stack([(row["labels"][:, 1:] != IGNORED).sum() for row in rows]).sum()
        for row in rows:
            self.before(row["input_ids"].numel())
            losses.append(super().training_step(model, row, count))
            self.learned += row["input_ids"].numel()
        return torch.stack(losses).sum()

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """The held-out examples in micro-batches of their own."""
        held_out: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        made = groups(list(held_out), self.limit, self.packed)
        labels = sum(label != IGNORED for group in made for e in group for label in e["labels"][1:])
        # The trainer takes the mean over micro-batches: so weighted, it is the mean over labels.
        self.labels_a_row = labels / len(made)
        return DataLoader(made, batch_size=None, collate_fn=self.row)  # type: ignore[arg-type]

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        if not model.training:
            num_items_in_batch = self.labels_a_row
        if not self.fused:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        # TRL's head takes the logits twice and in float32: an eighth of a step where every token counts.
        base = self.accelerator.unwrap_model(model).get_base_model()
        tokens = {key: value for key, value in inputs.items() if key != "labels"}
        hidden = base.model(**tokens, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
        targets = inputs["labels"][:, 1:].flatten()
        loss = linear_cross_entropy(hidden, base.lm_head.weight, targets, num_items_in_batch)
        return (loss, {}) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            since, learned = self.logged
            now = time.monotonic()
            logs["tokens_s"] = round((self.learned - learned) / (now - since), 1)
            logs["memory_gib"] = round(_most_memory() / 2**30, 2)
            self.logged = now, self.learned
        super().log(logs, start_time)


def _most_memory() -> int:
    """Bytes of the GPU, or of the host where there is none, that this process has taken at the most."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    import resource
    import sys

    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return taken if sys.platform == "darwin" else taken * 1024
