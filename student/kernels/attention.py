"""Causal attention within the sequences of a batch, forward and backward called explicitly; on a GPU by PyTorch."""

import torch
from torch import Tensor

from student.kernels import attention_cpu, attention_cudnn
from student.kernels.batch import Batch


class Attention:
    """Causal attention of one layer; keeps its output and log-sum-exp for the backward pass.

    On a GPU it runs FlashAttention (arXiv:2205.14135, 2307.08691): cuDNN's kernel where it was checked and is faster
    (attention_cudnn.py), otherwise the kernel of FlashAttention's authors, which also takes shared prefixes. Keys and
    values of grouped heads (arXiv:2305.13245) are not copied. On a CPU it runs attention_cpu.py, which keeps nothing
    for the backward pass.
    """

    def __init__(
        self, batch: Batch, q_BSND: Tensor, k_BSND: Tensor, v_BSND: Tensor, scale: float
    ) -> None:
        """Computes `out_BSND`. k and v may have fewer heads than q: each serves as many query heads in a row."""
        self.batch, self.scale = batch, scale
        self.cudnn = attention_cudnn.applies(batch, q_BSND)
        q_TND, k_TGD, v_TGD = (x.flatten(0, 1) for x in (q_BSND, k_BSND, v_BSND))
        if not q_BSND.is_cuda:
            out_TND = attention_cpu.forward(batch, q_TND, k_TGD, v_TGD, scale)
        elif self.cudnn:
            out_TND, self.saved = attention_cudnn.forward(batch, q_TND, k_TGD, v_TGD, scale)
        else:
            starts, longest = batch.sequences(q_BSND.device)
            key_starts, longest_keys = batch.key_sequences(q_BSND.device)
            k_KGD, v_KGD = (batch.gather(x) for x in (k_TGD, v_TGD))
            # A sequence's last token attends to its last key, also where there are more keys than tokens.
            out_TND, *saved = torch.ops.aten._flash_attention_forward(
                q_TND, k_KGD, v_KGD, starts, key_starts, longest, longest_keys,
                0.0, True, False,
                scale=scale,
            )  # fmt: skip
            self.saved = saved[:3]
        self.out_BSND = out_TND.view(q_BSND.shape)

    def backward(
        self, grad_BSND: Tensor, q_BSND: Tensor, k_BSND: Tensor, v_BSND: Tensor
    ) -> tuple[Tensor, ...]:
        """Returns the gradients of q, k and v, in their shapes, from that of `out_BSND`."""
        batch = self.batch
        grad, q, k, v, out = (
            x.flatten(0, 1) for x in (grad_BSND, q_BSND, k_BSND, v_BSND, self.out_BSND)
        )
        grads: tuple[Tensor, ...]
        if not q_BSND.is_cuda:
            grads = attention_cpu.backward(batch, grad, q, k, v, self.scale)
        elif self.cudnn:
            grads = attention_cudnn.backward(batch, grad, q, k, v, out, self.saved, self.scale)
        else:
            starts, longest = batch.sequences(q_BSND.device)
            key_starts, longest_keys = batch.key_sequences(q_BSND.device)
            lse, state, unused = self.saved
            grad_q, *grads_kv = torch.ops.aten._flash_attention_backward(
                grad, q, batch.gather(k), batch.gather(v), out, lse, starts, key_starts, longest, longest_keys,
                0.0, True, state, unused,
                scale=self.scale,
            )  # fmt: skip
            grads = (grad_q, *(batch.scatter(g) for g in grads_kv))
        return tuple(g.view(x.shape) for g, x in zip(grads, (q_BSND, k_BSND, v_BSND), strict=True))
