"""Causal attention on a CPU: products of whole matrices, a block of queries at a time.

PyTorch's own kernel for CPUs multiplies bfloat16 in small tiles, and its backward pass took a third of a training step
(benchmarks/README.md). Nothing is kept for the backward pass: the probabilities are computed again.

Letters of shapes: S tokens of a block, K tokens that they attend to, G key heads, R query heads of a key head, D head
size; P = S * R rows of a block's scores.
"""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from student.kernels.batch import Batch

# Queries of a block, times the bytes of a number: its scores stay in the cache, and the products are large enough for
# full speed.
_BLOCK_BYTES = 512


def forward(batch: Batch, q_TND: Tensor, k_TGD: Tensor, v_TGD: Tensor, scale: float) -> Tensor:
    """Returns softmax(q k^T scale) v [T, N, D]. A token attends to the tokens of its sequence up to itself."""
    k_GKD, v_GKD = (batch.gather(x).transpose(0, 1).contiguous() for x in (k_TGD, v_TGD))
    out_TND = torch.empty_like(q_TND)
    for tokens, keys in _blocks(batch, q_TND):
        q_GPD = _rows(q_TND[tokens] * scale, len(k_GKD))
        weights_GPK = _probabilities(q_GPD, k_GKD[:, keys], tokens)
        _write(torch.bmm(weights_GPK, v_GKD[:, keys]), out_TND[tokens])
    return out_TND


def backward(
    batch: Batch, grad_TND: Tensor, q_TND: Tensor, k_TGD: Tensor, v_TGD: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of q, k and v from that of `forward`'s result."""
    k_GKD, v_GKD = (batch.gather(x).transpose(0, 1).contiguous() for x in (k_TGD, v_TGD))
    wide = torch.promote_types(q_TND.dtype, torch.float32)
    grad_k_GKD, grad_v_GKD = (torch.zeros_like(x, dtype=wide) for x in (k_GKD, v_GKD))
    grad_q_TND = torch.empty_like(q_TND)
    for tokens, keys in _blocks(batch, q_TND):
        q_GPD = _rows(q_TND[tokens] * scale, len(k_GKD))
        grad_GPD = _rows(grad_TND[tokens], len(k_GKD))
        weights_GPK = _probabilities(q_GPD, k_GKD[:, keys], tokens)
        grad_v_GKD[:, keys] += torch.bmm(weights_GPK.transpose(1, 2), grad_GPD)
        grad_weights_GPK = torch.bmm(grad_GPD, v_GKD[:, keys].transpose(1, 2))
        grad_scores_GPK = torch.ops.aten._softmax_backward_data(
            grad_weights_GPK, weights_GPK, -1, grad_GPD.dtype
        )
        grad_k_GKD[:, keys] += torch.bmm(grad_scores_GPK.transpose(1, 2), q_GPD)
        _write(torch.bmm(grad_scores_GPK, k_GKD[:, keys]), grad_q_TND[tokens])
    grad_k_TGD, grad_v_TGD = (
        batch.scatter(x.transpose(0, 1)).to(q_TND.dtype) for x in (grad_k_GKD, grad_v_GKD)
    )
    return grad_q_TND.mul_(scale), grad_k_TGD, grad_v_TGD


def _blocks(batch: Batch, q_TND: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yields the tokens of each block, and the keys that its last token attends to."""
    starts, _ = batch.sequences(q_TND.device)
    key_starts, _ = batch.key_sequences(q_TND.device)
    block = _BLOCK_BYTES // q_TND.element_size()
    for (start, end), (first, last) in zip(
        itertools.pairwise(starts.tolist()), itertools.pairwise(key_starts.tolist()), strict=True
    ):
        earlier = last - first - (end - start)
        for begin in range(start, end, block):
            stop = min(begin + block, end)
            yield slice(begin, stop), slice(first, first + earlier + stop - start)


def _rows(x_SND: Tensor, key_heads: int) -> Tensor:
    """Returns queries, or what has their shape, as rows by key head [G, P, D]."""
    return x_SND.unflatten(1, (key_heads, -1)).transpose(0, 1).flatten(1, 2)


def _write(x_GPD: Tensor, out_SND: Tensor) -> None:
    """Writes rows by key head into a tensor of queries."""
    out_SND.unflatten(1, (len(x_GPD), -1)).copy_(
        x_GPD.unflatten(1, (len(out_SND), -1)).transpose(0, 1)
    )


def _probabilities(q_GPD: Tensor, k_GKD: Tensor, tokens: slice) -> Tensor:
    """Returns the softmax of a block's scores [G, P, K]; its last token attends to the last key."""
    scores_GPK = torch.bmm(q_GPD, k_GKD.transpose(1, 2))
    count = tokens.stop - tokens.start
    later_SS = scores_GPK.new_full((count, count), float("-inf")).triu_(1)
    scores_GPK.unflatten(1, (count, -1))[..., -count:].add_(later_SS[:, None])
    return torch.softmax(scores_GPK, -1)
