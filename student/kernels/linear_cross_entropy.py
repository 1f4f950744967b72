"""Cross entropy of a linear layer's outputs, computed with its gradient in chunks of rows: no full logits in memory."""

from typing import Any

import torch
from torch import Tensor

from student.kernels.triton_ops import ops

# The label that torch.nn.functional.cross_entropy ignores by default.
IGNORE_INDEX = -100


def linear_cross_entropy(
    hidden_TH: Tensor,
    weight_VH: Tensor,
    labels_T: Tensor,
    count: Tensor | float | None = None,
    chunk: int = 2048,
) -> Tensor:
    """Returns the sum over labelled rows of -log softmax(hidden weight^T)[label], divided by `count`.

    Args:
        hidden_TH: the last hidden states.
        weight_VH: the frozen output layer, of the same dtype.
        labels_T: int64 labels of the rows as they stand (shift them before). Rows with label -100 cost nothing.
        count: the divisor; default the number of labelled rows.
        chunk: how many rows' logits exist at a time.

    Returns:
        A scalar, float32 or wider. Its gradient is computed in the forward pass and kept, [T, H].
    """
    return _LinearCrossEntropy.apply(hidden_TH, weight_VH, labels_T, count, chunk)  # type: ignore[no-any-return]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TH: Tensor,
        weight_VH: Tensor,
        labels_T: Tensor,
        count: Tensor | float | None,
        chunk: int,
    ) -> Tensor:
        labelled = (labels_T != IGNORE_INDEX).nonzero().flatten()
        number = len(labelled) if count is None else count
        scale = 1 / torch.as_tensor(number, dtype=torch.float32, device=hidden_TH.device).clamp(
            min=1
        )
        grad_TH = torch.zeros_like(hidden_TH)
        loss = hidden_TH.new_zeros((), dtype=torch.promote_types(hidden_TH.dtype, torch.float32))
        for rows_C in labelled.split(chunk):
            logits_CV = torch.mm(hidden_TH[rows_C], weight_VH.t())
            loss += ops(hidden_TH).cross_entropy(logits_CV, labels_T[rows_C], scale).sum()
            if ctx.needs_input_grad[0]:
                grad_TH[rows_C] = torch.mm(logits_CV, weight_VH)
        ctx.save_for_backward(grad_TH)
        return loss * scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (grad_TH,) = ctx.saved_tensors
        return grad_TH * grad.to(grad_TH.dtype), None, None, None, None
