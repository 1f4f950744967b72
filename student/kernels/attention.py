"""Causal attention within the sequences of a batch: PyTorch's own kernels, forward and backward called explicitly."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Batch:
    """The sequences of a batch. With `starts` the batch is one row that holds the sequences end to end."""

    rows: int
    length: int
    starts: Tensor | None = None  # int32, one more than sequences: where each begins, and the end
    longest: int = 0

    def sequences(self, device: torch.device) -> tuple[Tensor, int]:
        """Returns the start of each sequence, with all rows end to end, plus the end; and the longest length."""
        if self.starts is not None:
            return self.starts, self.longest
        end = self.rows * self.length + 1
        return torch.arange(0, end, self.length, dtype=torch.int32, device=device), self.length


class Attention:
    """Causal attention by a kernel that PyTorch ships; keeps its output and log-sum-exp for the backward pass.

    FlashAttention (arXiv:2205.14135, 2307.08691), in cuDNN's version where that was checked and in its authors'
    version elsewhere, which takes packed sequences too but is half as fast on Hopper. Grouped keys and values
    (arXiv:2305.13245) are not repeated.
    """

    def __init__(self, batch: Batch, q: Tensor, k: Tensor, v: Tensor, scale: float) -> None:
        """`out` [B, S, heads, D] of q [B, S, heads, D] and k, v [B, S, kv_heads, D]."""
        aten, self.batch, self.scale = torch.ops.aten, batch, scale
        self.cudnn = _cudnn_is_checked(batch, q)
        if not q.is_cuda:
            with torch.enable_grad():
                inputs = q, k, v = tuple(x.detach().requires_grad_() for x in (q, k, v))
                self.inputs, self.graph = inputs, plain_attention(batch, q, k, v, scale)
            self.out = self.graph.detach()
        elif self.cudnn:
            out, *rest = aten._scaled_dot_product_cudnn_attention(
                *(x.transpose(1, 2) for x in (q, k, v)), None, True, 0.0, True, scale=scale
            )
            self.out, self.rest = out.transpose(1, 2), rest[:7]
        else:
            starts, longest = batch.sequences(q.device)
            out, *rest = aten._flash_attention_forward(
                *(x.flatten(0, 1) for x in (q, k, v)), starts, starts, longest, longest, 0.0, True, False,
                scale=scale,
            )  # fmt: skip
            self.out, self.rest = out.reshape(q.shape), rest[:3]

    def backward(self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        """Gradients of q, k and v, in their shapes."""
        aten, batch = torch.ops.aten, self.batch
        if not q.is_cuda:
            return torch.autograd.grad(self.graph, self.inputs, grad)
        if self.cudnn:
            lse, starts_q, starts_k, longest_q, longest_k, seed, offset = self.rest
            inputs = (x.transpose(1, 2) for x in (grad, q, k, v, self.out))
            grads = aten._scaled_dot_product_cudnn_attention_backward(
                *inputs, lse, seed, offset, None, starts_q, starts_k, longest_q, longest_k, 0.0, True,
                scale=self.scale,
            )  # fmt: skip
            return tuple(g.transpose(1, 2) for g in grads)
        starts, longest = batch.sequences(q.device)
        lse, state, unused = self.rest
        inputs = (x.flatten(0, 1) for x in (grad, q, k, v, self.out))
        grads = aten._flash_attention_backward(
            *inputs,
            lse,
            starts,
            starts,
            longest,
            longest,
            0.0,
            True,
            state,
            unused,
            scale=self.scale,
        )
        return tuple(g.reshape(x.shape) for g, x in zip(grads, (q, k, v), strict=True))


def _cudnn_is_checked(batch: Batch, q: Tensor) -> bool:
    """Whether cuDNN's attention was checked for such a batch: heads of 128, lengths of multiples of 128, Hopper.

    Wrong results are reported for other cases, with masks or few key heads (pytorch/pytorch #196678, #193893).
    """
    return (
        q.is_cuda
        and batch.starts is None
        and batch.length % 128 == 0
        and q.shape[-1] == 128
        and torch.cuda.get_device_capability(q.device) == (9, 0)
    )


def plain_attention(batch: Batch, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(q k^T scale) v [B, S, heads, D], each token over those of its sequence up to itself."""
    ends = [0, batch.length] if batch.starts is None else batch.starts.tolist()
    attend = torch.nn.functional.scaled_dot_product_attention
    pieces = []
    for start, end in itertools.pairwise(ends):
        q_s, k_s, v_s = (x[:, start:end].transpose(1, 2) for x in (q, k, v))
        out = attend(q_s, k_s, v_s, is_causal=True, scale=scale, enable_gqa=True)
        pieces.append(out.transpose(1, 2))
    return torch.cat(pieces, dim=1)
