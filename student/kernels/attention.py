"""Causal attention within the sequences of a batch: PyTorch's own kernels, forward and backward called explicitly."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Batch:
    """The rows and sequences of a batch.

    Without `starts` each row is a sequence. With `starts` the batch is one row that holds the sequences end to end.
    With `keys` a sequence is the end of a longer one, whose earlier tokens lie elsewhere in the row: its tokens attend
    to those tokens as well (student/training/shared_prefix.py).
    """

    rows: int
    length: int
    starts: Tensor | None = None  # int32: the first token of each sequence, and the end
    longest: int = 0  # tokens of the longest sequence, with `starts`
    keys: Tensor | None = None  # int64: indexes of the tokens to attend to, of all sequences
    key_starts: Tensor | None = None  # int32: where the indexes of each sequence begin, and the end
    longest_keys: int = 0  # the most tokens that a sequence attends to, with `keys`

    def sequences(self, device: torch.device) -> tuple[Tensor, int]:
        """Returns the starts of the sequences all rows end to end, plus the end (int32), and the longest length."""
        if self.starts is not None:
            return self.starts, self.longest
        end = self.rows * self.length + 1
        return torch.arange(0, end, self.length, dtype=torch.int32, device=device), self.length

    def key_sequences(self, device: torch.device) -> tuple[Tensor, int]:
        """Returns the same for the tokens that are attended to."""
        if self.key_starts is not None:
            return self.key_starts, self.longest_keys
        return self.sequences(device)

    def gather(self, x_TND: Tensor) -> Tensor:
        """Returns keys or values in the order of `keys`; unchanged without them."""
        return x_TND if self.keys is None else x_TND[self.keys]

    def scatter(self, grad_KND: Tensor) -> Tensor:
        """Returns the gradients of keys or values from those of `gather`'s result, summed in float32."""
        if self.keys is None:
            return grad_KND
        total_TND = grad_KND.new_zeros(self.length, *grad_KND.shape[1:], dtype=torch.float32)
        return total_TND.index_add_(0, self.keys, grad_KND.float()).to(grad_KND.dtype)


class Attention:
    """Causal attention of one layer; keeps its output and log-sum-exp for the backward pass.

    On a GPU it runs FlashAttention (arXiv:2205.14135, 2307.08691): cuDNN's kernel for the cases in which it was
    checked, otherwise the kernel of FlashAttention's authors, which also takes packed sequences but is half as fast on
    Hopper. Keys and values of grouped heads (arXiv:2305.13245) are not copied. On a CPU, PyTorch computes it.
    """

    def __init__(
        self, batch: Batch, q_BSND: Tensor, k_BSND: Tensor, v_BSND: Tensor, scale: float
    ) -> None:
        """Computes `out_BSND`. k and v may have fewer heads than q: each serves as many query heads in a row."""
        aten, self.batch, self.scale = torch.ops.aten, batch, scale
        self.cudnn = _cudnn_is_checked(batch, q_BSND)
        if not q_BSND.is_cuda:
            with torch.enable_grad():
                inputs = q_BSND, k_BSND, v_BSND = tuple(
                    x.detach().requires_grad_() for x in (q_BSND, k_BSND, v_BSND)
                )
                self.inputs = inputs
                self.graph = causal_attention(batch, q_BSND, k_BSND, v_BSND, scale)
            self.out_BSND = self.graph.detach()
        elif self.cudnn:
            out, *saved = aten._scaled_dot_product_cudnn_attention(
                *(x.transpose(1, 2) for x in (q_BSND, k_BSND, v_BSND)),
                None,
                True,
                0.0,
                True,
                scale=scale,
            )
            self.out_BSND, self.saved = out.transpose(1, 2), saved[:7]
        else:
            starts, longest = batch.sequences(q_BSND.device)
            key_starts, longest_keys = batch.key_sequences(q_BSND.device)
            k_KND, v_KND = (batch.gather(x.flatten(0, 1)) for x in (k_BSND, v_BSND))
            # A sequence's last token attends to its last key, also where there are more keys than tokens.
            out, *saved = aten._flash_attention_forward(
                q_BSND.flatten(0, 1), k_KND, v_KND, starts, key_starts, longest, longest_keys,
                0.0, True, False,
                scale=scale,
            )  # fmt: skip
            self.out_BSND, self.saved = out.reshape(q_BSND.shape), saved[:3]

    def backward(
        self, grad_BSND: Tensor, q_BSND: Tensor, k_BSND: Tensor, v_BSND: Tensor
    ) -> tuple[Tensor, ...]:
        """Returns the gradients of q, k and v, in their shapes, from that of `out_BSND`."""
        aten, batch = torch.ops.aten, self.batch
        if not q_BSND.is_cuda:
            return torch.autograd.grad(self.graph, self.inputs, grad_BSND)
        if self.cudnn:
            lse, starts_q, starts_k, longest_q, longest_k, seed, offset = self.saved
            inputs = (x.transpose(1, 2) for x in (grad_BSND, q_BSND, k_BSND, v_BSND, self.out_BSND))
            grads = aten._scaled_dot_product_cudnn_attention_backward(
                *inputs, lse, seed, offset, None, starts_q, starts_k, longest_q, longest_k, 0.0, True,
                scale=self.scale,
            )  # fmt: skip
            return tuple(g.transpose(1, 2) for g in grads)
        starts, longest = batch.sequences(q_BSND.device)
        key_starts, longest_keys = batch.key_sequences(q_BSND.device)
        lse, state, unused = self.saved
        grad, q, k, v, out = (
            x.flatten(0, 1) for x in (grad_BSND, q_BSND, k_BSND, v_BSND, self.out_BSND)
        )
        grad_q, *grads = aten._flash_attention_backward(
            grad, q, batch.gather(k), batch.gather(v), out, lse, starts, key_starts, longest, longest_keys,
            0.0, True, state, unused,
            scale=self.scale,
        )  # fmt: skip
        grads = [grad_q, *(batch.scatter(g) for g in grads)]
        return tuple(
            g.reshape(x.shape) for g, x in zip(grads, (q_BSND, k_BSND, v_BSND), strict=True)
        )


def _cudnn_is_checked(batch: Batch, q_BSND: Tensor) -> bool:
    """Returns whether cuDNN's attention was checked for such a batch: D = 128, S a multiple of 128, on Hopper.

    Wrong results are reported for other cases, with masks or few key heads (pytorch/pytorch #196678, #193893).
    """
    return (
        q_BSND.is_cuda
        and batch.starts is None
        and batch.length % 128 == 0
        and q_BSND.shape[-1] == 128
        and torch.cuda.get_device_capability(q_BSND.device) == (9, 0)
    )


def causal_attention(
    batch: Batch, q_BSND: Tensor, k_BSND: Tensor, v_BSND: Tensor, scale: float
) -> Tensor:
    """Returns softmax(q k^T scale) v [B, S, heads, D]. A token attends to the tokens of its sequence up to itself."""
    ends = [0, batch.length] if batch.starts is None else batch.starts.tolist()
    keys, key_ends = batch.keys, ends if batch.key_starts is None else batch.key_starts.tolist()
    if keys is not None:
        k_BSND, v_BSND = k_BSND[:, keys], v_BSND[:, keys]
    attend = torch.nn.functional.scaled_dot_product_attention
    pieces = []
    for (start, end), (first, last) in zip(
        itertools.pairwise(ends), itertools.pairwise(key_ends), strict=True
    ):
        q_s = q_BSND[:, start:end].transpose(1, 2)
        k_s, v_s = (x[:, first:last].transpose(1, 2) for x in (k_BSND, v_BSND))
        tokens, earlier = end - start, last - first - (end - start)
        mask = q_s.new_ones(tokens, last - first, dtype=torch.bool).tril(earlier)
        out = attend(
            q_s,
            k_s,
            v_s,
            attn_mask=mask if earlier else None,
            is_causal=not earlier,
            scale=scale,
            enable_gqa=True,
        )
        pieces.append(out.transpose(1, 2))
    return torch.cat(pieces, dim=1)
