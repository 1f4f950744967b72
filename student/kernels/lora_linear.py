"""Linear layers of one input, each with a LoRA adapter, as one product: forward and backward written out.

student/kernels/fused_layers.py gives the reasons; LoRA is arXiv:2106.09685.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from student.kernels import nf4
from student.kernels.fp8 import Fp8Linear, dequantise
from student.kernels.triton_ops import ops


@dataclass
class Buffer:
    """Memory of `elements` numbers that holds one dequantised weight at a time."""

    elements: int
    memory: Tensor | None = None

    def matrix(self, like: Tensor, rows: int, columns: int) -> Tensor:
        """Returns a view [rows, columns] with the dtype and device of `like`."""
        place = (like.dtype, like.device)
        if self.memory is None or (self.memory.dtype, self.memory.device) != place:
            self.memory = None  # frees the old memory before the new allocation
            self.memory = like.new_empty(self.elements)
        return self.memory[: rows * columns].view(rows, columns)


class Linears:
    """n linear layers of one input, [O, K] together. Layer i has an adapter A [r_i, K], B [O_i, r_i] and a scale s.

    Inputs and output gradients are held in matrices with n R further columns, for the adapters. `input` [T, K + nR] and
    `output` [T, O + nR] allocate them; the caller fills their first K or O columns, which `head` and `head_out` return.
    """

    def __init__(self, modules: list[Any], rank: int) -> None:
        self.modules, self.rank = modules, rank
        names = [module.active_adapters[0] for module in modules]
        self.bases = [module.get_base_layer() for module in modules]
        self.pairs = [(m.lora_A[n], m.lora_B[n]) for m, n in zip(modules, names, strict=True)]
        self.scales = [float(m.scaling[n]) for m, n in zip(modules, names, strict=True)]
        sizes = [module.out_features for module in modules]
        self.rows, self.columns = sum(sizes), modules[0].in_features
        self.low = rank * len(modules)
        self.elements = max(
            self.rows * (self.columns + self.low), (self.rows + self.low) * self.columns
        )
        # The rows of each layer in [O, ...] and its columns in [..., nR].
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        self.row_slices = [slice(e - n, e) for e, n in zip(ends, sizes, strict=True)]
        self.low_slices = [slice(i * rank, (i + 1) * rank) for i in range(len(sizes))]

    def input(self, like: Tensor) -> Tensor:
        """Returns an uninitialised matrix [T, K + nR]."""
        return like.new_empty(len(like), self.columns + self.low)

    def output(self, like: Tensor) -> Tensor:
        """Returns an uninitialised matrix [T, O + nR]."""
        return like.new_empty(len(like), self.rows + self.low)

    def head(self, x: Tensor) -> Tensor:
        return x[:, : self.columns]

    def head_out(self, x: Tensor) -> Tensor:
        return x[:, : self.rows]

    def parameters(self) -> list[Tensor]:
        """Returns A and B of each layer, read at each call because a trainer may have replaced them."""
        return [linear.weight for pair in self.pairs for linear in pair]

    def scaled_a(self, like: Tensor) -> Tensor:
        """Returns s A of all layers, stacked, [nR, K]."""
        pieces = []
        for (a, _), scale in zip(self.pairs, self.scales, strict=True):
            pieces.append(a.weight.detach().to(like.dtype) * scale)
            if len(a.weight) < self.rank:
                pieces.append(like.new_zeros(self.rank - len(a.weight), self.columns))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _write_weights(self, out_OK: Tensor) -> None:
        """Writes the base weights of all layers, dequantised if needed, into `out_OK`."""
        for rows, base in zip(self.row_slices, self.bases, strict=True):
            state = getattr(base.weight, "quant_state", None)
            if isinstance(base, Fp8Linear):
                dequantise(base.weight, base.scale, out_OK.dtype, out_OK[rows])
            elif state is None:
                out_OK[rows].copy_(base.weight)
            else:
                ops(out_OK).dequantise(base.weight.data, state, out_OK[rows])

    def forward(
        self,
        buffer: Buffer,
        x_TK: Tensor,
        out: Tensor | None = None,
        onto: Tensor | None = None,
        output: bool = True,
    ) -> tuple[Any, Tensor]:
        """Returns y = x W^T + s (x A^T) B^T + bias [T, O], in `out` or added to `onto`, and s x A^T [T, nR].

        `x_TK` is a matrix from `input`, with n R further columns. Without `output` only the second is computed.
        """
        torch.mm(self.head(x_TK), self.scaled_a(x_TK).t(), out=x_TK[:, self.columns :])
        low_TR = x_TK[:, self.columns :].clone()
        if not output:
            return None, low_TR
        weight_OK = buffer.matrix(x_TK, self.rows, self.columns + self.low)
        self._write_weights(weight_OK[:, : self.columns])
        ops(x_TK).place_adapters(
            [b.weight.detach() for _, b in self.pairs], self.rank, weight_OK[:, self.columns :]
        )
        bias = self._bias()
        if onto is not None:
            y_TO = torch.addmm(onto, x_TK, weight_OK.t())
            return y_TO if bias is None else y_TO.add_(bias), low_TR
        if bias is not None:
            return torch.addmm(bias.to(x_TK.dtype), x_TK, weight_OK.t(), out=out), low_TR
        return torch.mm(x_TK, weight_OK.t(), out=out), low_TR

    def _bias(self) -> Tensor | None:
        """Returns the biases of all layers [O]: all layers have one, or none has."""
        if all(base.bias is None for base in self.bases):
            return None
        return torch.cat([base.bias.detach() for base in self.bases])

    def backward(self, buffer: Buffer, grad_out_TO: Tensor, needs_x: bool = True) -> Any:
        """Returns the input's gradient dy W + s (dy B) A [T, K], or None without `needs_x`.

        `grad_out_TO` is a matrix from `output` that holds dy; its last n R columns are filled with dy B.
        """
        self.write_low_grad(grad_out_TO, grad_out_TO[:, self.rows :])
        if not needs_x:
            return None
        weight_OK = buffer.matrix(grad_out_TO, self.rows + self.low, self.columns)
        self._write_weights(weight_OK[: self.rows])
        weight_OK[self.rows :] = self.scaled_a(grad_out_TO)
        return torch.mm(grad_out_TO, weight_OK)

    def write_low_grad(self, grad_TO: Tensor, low_TR: Tensor) -> None:
        """Writes dy B of all layers into `low_TR` [T, nR]. The first O columns of `grad_TO` hold dy."""
        for rows, columns, (_, b) in zip(self.row_slices, self.low_slices, self.pairs, strict=True):
            weight, out_TR = b.weight.detach().to(grad_TO.dtype), low_TR[:, columns]
            if weight.shape[1] < self.rank:
                out_TR.zero_()
            torch.mm(grad_TO[:, rows], weight, out=out_TR[:, : weight.shape[1]])

    def grad_a(self, grad_out_TO: Tensor, x_TK: Tensor) -> list[Tensor]:
        """Returns the gradients of each A, s (dy B)^T x. Call `backward` first: it fills dy B."""
        return self.unscaled(torch.mm(grad_out_TO[:, self.rows :].t(), x_TK))

    def unscaled(self, grad_RK: Tensor) -> list[Tensor]:
        """Returns the gradients of each A from the gradient of all s A [nR, K]."""
        return [
            grad_RK[columns][: len(a.weight)] * scale
            for columns, (a, _), scale in zip(self.low_slices, self.pairs, self.scales, strict=True)
        ]

    def grad_b(self, grad_out_TO: Tensor, low_TR: Tensor) -> list[Tensor]:
        """Returns the gradients of each B, dy^T (s x A^T)."""
        return self.cut_b(
            [
                torch.mm(grad_out_TO[:, rows].t(), low_TR[:, columns])
                for rows, columns in zip(self.row_slices, self.low_slices, strict=True)
            ]
        )

    def cut_b(self, grads: Any) -> list[Tensor]:
        """Returns the gradients without the columns that pad the rank."""
        return [
            g[:, : b.weight.shape[1]].contiguous()
            for g, (_, b) in zip(grads, self.pairs, strict=True)
        ]


def check(module: Any, name: str) -> None:
    """Raises a ValueError with `name` and the reason if `Linears` cannot compute this LoRA layer."""
    if not hasattr(module, "lora_A"):
        raise ValueError(
            f"{name}: has no LoRA adapter; the fused layers need one on every linear layer"
        )
    if len(module.active_adapters) != 1 or len(module.lora_A) != 1:
        raise ValueError(
            f"{name}: {len(module.lora_A)} adapters, {len(module.active_adapters)} active; expected one, active"
        )
    adapter = module.active_adapters[0]
    if adapter in module.lora_variant or module.lora_bias[adapter]:
        raise ValueError(
            f"{name}: DoRA and other variants, and biases of the adapter, cannot be fused"
        )
    if getattr(module.lora_dropout[adapter], "p", 0):
        raise ValueError(
            f"{name}: LoRA dropout {module.lora_dropout[adapter].p} cannot be fused; set it to 0"
        )
    if isinstance(module.get_base_layer(), Fp8Linear):
        return
    weight = module.get_base_layer().weight
    state = getattr(weight, "quant_state", None)
    if state is None and not weight.is_floating_point():
        raise ValueError(f"{name}: its weight is {weight.dtype}, expected NF4, FP8 or a float type")
    if state is not None and (
        state.quant_type != "nf4"
        or tuple(state.code.tolist()) != nf4.VALUES
        or state.blocksize != nf4.BLOCK
        or (state.nested and state.state2.blocksize != nf4.ABSMAX_BLOCK)
        or module.in_features % nf4.BLOCK
    ):
        raise ValueError(
            f"{name}: {state.quant_type} in blocks of {state.blocksize}, rows of {module.in_features}; "
            f"expected nf4 in blocks of {nf4.BLOCK} that do not cross rows"
        )
