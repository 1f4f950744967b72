"""Attention on a CPU against PyTorch's own, in float64: sequences longer than a block, rows, packed ones, a tree."""

import itertools

import pytest
import torch
from torch import Tensor

from student.kernels import attention_cpu
from student.kernels.batch import Batch
from student.training.micro_batches import concatenate
from student.training.shared_prefix import make_pieces, tree_row

SCALE = 0.3


def packed(row: dict) -> Batch:
    batch = Batch(1, row["input_ids"].shape[1], row["cu_seq_lens_q"], row["max_length_q"])
    if "key_index" in row:
        batch.keys, batch.key_starts = row["key_index"], row["cu_seq_lens_k"]
        batch.longest_keys = row["max_length_k"]
    return batch


def example(*parts: range) -> dict[str, list[int]]:
    """Only the last part has labels, so the tokens before it may be shared."""
    ids = [token for part in parts for token in part]
    return {"input_ids": ids, "labels": [-100] * (len(ids) - len(parts[-1])) + [*parts[-1]]}


SHARED = range(0, 300)
TREE = [
    example(SHARED, range(1000, 1300)),
    example(SHARED, range(2000, 2040), range(3000, 3050)),
    example(SHARED, range(2000, 2040), range(4000, 4007)),
    example(range(5000, 5010)),
]
BATCHES = {
    "one row": Batch(1, 11),
    "rows longer than two blocks": Batch(2, 530),
    "end to end": packed(concatenate([TREE[0], TREE[2], TREE[3]])),
    "a tree": packed(tree_row(make_pieces(TREE))),
}


def reference(batch: Batch, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each sequence by PyTorch's attention, with all keys that it attends to."""
    starts, _ = batch.sequences(q.device)
    key_starts, _ = batch.key_sequences(q.device)
    k, v = batch.gather(k), batch.gather(v)
    outputs = []
    for (start, end), (first, last) in zip(
        itertools.pairwise(starts.tolist()), itertools.pairwise(key_starts.tolist()), strict=True
    ):
        mask = torch.ones(end - start, last - first, dtype=torch.bool).tril(
            last - first - end + start
        )
        q_, k_, v_ = (x.transpose(0, 1)[None] for x in (q[start:end], k[first:last], v[first:last]))
        out = torch.nn.functional.scaled_dot_product_attention(
            q_, k_, v_, attn_mask=mask, scale=SCALE, enable_gqa=True
        )
        outputs.append(out[0].transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize("name", BATCHES)
def test_output_and_gradients_are_those_of_pytorch(name: str) -> None:
    batch = BATCHES[name]
    torch.manual_seed(0)
    tokens = batch.rows * batch.length
    q, k, v = (
        torch.randn(tokens, heads, 8, dtype=torch.float64, requires_grad=True)
        for heads in (6, 2, 2)
    )
    expected = reference(batch, q, k, v)
    grad = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, (q, k, v), grad)
    with torch.no_grad():
        found = attention_cpu.forward(batch, q, k, v, SCALE)
        grads = attention_cpu.backward(batch, grad, q, k, v, SCALE)
    torch.testing.assert_close(found, expected.detach())
    for one, other in zip(grads, expected_grads, strict=True):
        # What a tree's branches add to a shared key is summed in float32 (Batch.scatter).
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
