"""Causal attention within the sequences of a batch, forward and backward called explicitly; on a GPU by PyTorch."""

import torch
from torch import Tensor

from student.kernels import attention_cpu
from student.kernels.batch import Batch


class Attention:
    """Causal attention of one layer; keeps its output and log-sum-exp for the backward pass.

    On a GPU it runs FlashAttention (arXiv:2205.14135, 2307.08691): cuDNN's kernel for the cases in which it was
    checked, otherwise the kernel of FlashAttention's authors, which also takes packed sequences but is half as fast on
    Hopper. Keys and values of grouped heads (arXiv:2305.13245) are not copied. On a CPU it runs attention_cpu.py, which
    keeps nothing for the backward pass.
    """

    def __init__(
        self, batch: Batch, q_BSND: Tensor, k_BSND: Tensor, v_BSND: Tensor, scale: float
    ) -> None:
        """Computes `out_BSND`. k and v may have fewer heads than q: each serves as many query heads in a row."""
        aten, self.batch, self.scale = torch.ops.aten, batch, scale
        self.cudnn = _cudnn_is_checked(batch, q_BSND)
        if not q_BSND.is_cuda:
            q_TND, k_TGD, v_TGD = (x.flatten(0, 1) for x in (q_BSND, k_BSND, v_BSND))
            out_TND = attention_cpu.forward(batch, q_TND, k_TGD, v_TGD, scale)
            self.out_BSND = out_TND.view(q_BSND.shape)
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
            grad_TND, q_TND, k_TGD, v_TGD = (
                x.flatten(0, 1) for x in (grad_BSND, q_BSND, k_BSND, v_BSND)
            )
            flat = attention_cpu.backward(batch, grad_TND, q_TND, k_TGD, v_TGD, self.scale)
            return tuple(
                g.view(x.shape) for g, x in zip(flat, (q_BSND, k_BSND, v_BSND), strict=True)
            )
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
