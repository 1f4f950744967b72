"""Linear layers of one input with LoRA adapters, whose frozen weights are multiplied in FP8.

y = x W^T + s (x A^T) B^T. The frozen product is one call for all layers of one input: its weights are e4m3 with a scale
a row, x is quantised with a scale a token. The adapters' share is computed in the activations' dtype and added after.
Backward, dy W needs W's scales along the summed dimension, where FP8 products take none. So dy is multiplied by them
before it is quantised. The tensor cores also want W transposed; its bytes are transposed before each such product into
a buffer that all layers share, which costs 2 % of a step. Keeping them transposed would take 33 GB of a 32B model.
"""

from typing import Any

import torch
from torch import Tensor, nn

from student.kernels import fp8
from student.kernels.fp8 import Fp8Linear, Rows8
from student.kernels.lora_linear import Buffer, Linears
from student.kernels.triton_ops import ops


class Fp8Linears(Linears):
    """n linear layers of one input, [O, K] together, as in `Linears`. Their weights become views of one matrix."""

    def __init__(self, modules: list[Any], rank: int) -> None:
        super().__init__(modules, rank)
        self.elements = self.rows * self.columns  # of the transposed weight
        weights = [base.weight.data for base in self.bases]
        self.weight_OK = weights[0] if len(weights) == 1 else torch.cat(weights)
        for rows, base in zip(self.row_slices, self.bases, strict=True):
            base.weight = nn.Parameter(self.weight_OK[rows], requires_grad=False)
        self.scale_O = torch.cat([base.scale for base in self.bases])
        # Powers of two, exact in bfloat16 too, so that reading them costs half.
        self.factor_O = self.scale_O.bfloat16()
        self.ones_K = torch.ones(self.columns, device=self.scale_O.device)

    def product(self, x: Rows8, dtype: torch.dtype) -> Tensor:
        """Returns x W^T + bias [T, O], without the adapters' share."""
        y_TO, bias = fp8.product(x, self.weight_OK, self.scale_O, dtype), self._bias()
        return y_TO if bias is None else y_TO.add_(bias)

    def low_rank(self, x_TK: Tensor) -> Tensor:
        """Returns s x A^T of all layers [T, nR]."""
        return torch.mm(x_TK, self.scaled_a(x_TK).t())

    def add(self, y_TO: Tensor, low_TR: Tensor, residual_TO: Tensor | None = None) -> Tensor:
        """Adds the adapters' share, and `residual_TO` if given, to `product`'s result in place, and returns it."""
        matrices = self.b()
        if len(matrices) == 1:
            placed_OR = matrices[0]
        else:
            placed_OR = y_TO.new_empty(self.rows, self.low)
            ops(y_TO).place_adapters(matrices, self.rank, placed_OR)
        return ops(y_TO).add_low_rank(y_TO, low_TR, placed_OR.t(), self.rank, residual_TO)  # type: ignore[no-any-return]

    def b(self) -> list[Tensor]:
        """Returns B of each layer [O_i, r_i]."""
        return [b.weight.detach() for _, b in self.pairs]

    def low_grad(self, grad_TO: Tensor) -> Tensor:
        """Returns dy B of all layers [T, nR]."""
        low_TR = grad_TO.new_empty(len(grad_TO), self.low)
        self.write_low_grad(grad_TO, low_TR)
        return low_TR

    def product_backward(self, buffer: Buffer, grad: Rows8, dtype: torch.dtype) -> Tensor:
        """Returns dy W [T, K], without the adapters' share. `grad` holds dy times the weights' scales."""
        transposed_KO = buffer.matrix(self.weight_OK, self.columns, self.rows)
        ops(self.weight_OK).transpose(self.weight_OK, transposed_KO)
        return fp8.product(grad, transposed_KO, self.ones_K, dtype)

    def add_backward(self, grad_TK: Tensor, low_TR: Tensor) -> Tensor:
        """Adds the adapters' share s (dy B) A to `product_backward`'s result in place, and returns it."""
        return grad_TK.addmm_(low_TR, self.scaled_a(grad_TK))

    def grad_a_from(self, low_grad_TR: Tensor, x_TK: Tensor) -> list[Tensor]:
        """Returns the gradients of each A, s (dy B)^T x."""
        return self.unscaled(torch.mm(low_grad_TR.t(), x_TK))


def can_multiply(modules: list[Any]) -> bool:
    """Returns whether `Fp8Linears` can compute LoRA layers of these: e4m3 weights of fitting sizes, on such a GPU."""
    bases = [module.get_base_layer() for module in modules]
    return all(
        isinstance(base, Fp8Linear)
        and fp8.multiplies(base.weight.device)
        and base.in_features % 16 == 0  # of the tensor cores
        and base.out_features % 16 == 0
        for base in bases
    )
