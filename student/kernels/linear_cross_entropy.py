"""Cross entropy of a linear layer's outputs that never exist all at once, with its gradient taken on the way."""

from typing import Any

import torch
from torch import Tensor

from student.kernels.triton_ops import ops

# The label that torch.nn.functional.cross_entropy ignores by default.
IGNORE_INDEX = -100


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    count: Tensor | float | None = None,
    chunk: int = 2048,
) -> Tensor:
    """The sum over labelled rows of -log softmax(hidden weight^T)[label], divided by `count` (default: those rows).

    The logits exist for `chunk` rows at a time, their gradient is taken on the way, and rows with label -100 cost
    nothing. `weight` [V, H] is frozen; hidden [T, H]; labels [T] belong to the rows as they stand (shift them before).
    """
    return _LinearCrossEntropy.apply(hidden, weight, labels, count, chunk)  # type: ignore[no-any-return]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        count: Tensor | float | None,
        chunk: int,
    ) -> Tensor:
        rows = (labels != IGNORE_INDEX).nonzero().flatten()
        number = len(rows) if count is None else count
        scale = 1 / torch.as_tensor(number, dtype=torch.float32, device=hidden.device).clamp(min=1)
        grad = torch.zeros_like(hidden)
        loss = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
        for some in rows.split(chunk):
            logits = torch.mm(hidden[some], weight.t())
            loss += ops(hidden).cross_entropy(logits, labels[some], scale).sum()
            if ctx.needs_input_grad[0]:
                grad[some] = torch.mm(logits, weight)
        ctx.save_for_backward(grad)
        return loss * scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (grad_hidden,) = ctx.saved_tensors
        return grad_hidden * grad.to(grad_hidden.dtype), None, None, None, None
