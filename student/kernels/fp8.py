"""FP8 weights and products: e4m3 values (arXiv:2209.05433) with one scale a row.

A frozen weight [O, K] is stored as bytes with a float32 scale for each of its O rows. The scales are powers of two, so
that they are exact in bfloat16 and multiply without rounding. Where the GPU multiplies FP8, its inputs and incoming
gradients are quantised too, with a scale for each token (lora_linear_fp8.py). Elsewhere the weights are dequantised.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0  # of e4m3
LEAST = 1e-30  # a row of zeros is scaled as if this were its largest value


@dataclass
class Rows8:
    """A matrix [T, K] in e4m3 with a float32 scale [T, 1] of each row: its values are values * scale."""

    values: Tensor
    scale: Tensor

    @classmethod
    def empty(cls, like: Tensor) -> "Rows8":
        """Returns uninitialised rows of the shape of `like` [T, K]."""
        values = torch.empty(like.shape, dtype=E4M3, device=like.device)
        return cls(values, torch.empty(len(like), 1, dtype=torch.float32, device=like.device))


class Fp8Linear(nn.Linear):
    """A frozen linear layer whose weight is stored in e4m3. Its own forward dequantises; the fused layers need not."""

    scale: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device="meta", dtype=dtype)
        # Bytes, not e4m3: PEFT would give the adapters the dtype of a weight of a float type.
        weight = torch.empty(out_features, in_features, dtype=torch.uint8, device=device)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("scale", torch.empty(out_features, dtype=torch.float32, device=device))
        if bias:
            value = torch.empty(out_features, dtype=dtype, device=device)
            self.bias = nn.Parameter(value, requires_grad=False)

    @classmethod
    def of(cls, weight_OK: Tensor, bias: nn.Parameter | None = None) -> "Fp8Linear":
        """Returns a layer with this weight, quantised."""
        rows, columns = weight_OK.shape
        layer = cls(columns, rows, device="meta")
        values, layer.scale = quantise_weight(weight_OK)
        layer.weight, layer.bias = nn.Parameter(values, requires_grad=False), bias  # type: ignore[assignment]
        return layer

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        return dequantise(self.weight, self.scale, dtype)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Dequantised.apply(x, self)
        return y if self.bias is None else y + self.bias


class _Dequantised(torch.autograd.Function):
    """x W^T. The weight is dequantised once more in the backward pass instead of being kept."""

    @staticmethod
    def forward(ctx, x, layer):  # type: ignore[no-untyped-def]
        ctx.layer = layer
        return x @ layer.dequantised(x.dtype).t()

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return grad @ ctx.layer.dequantised(grad.dtype), None


def quantise_weight(weight_OK: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the e4m3 bytes [O, K] of a weight and its row scales [O], the least powers of two that fit."""
    largest_O = weight_OK.abs().amax(dim=1).float().clamp(min=LEAST)
    scale_O = torch.exp2(torch.ceil(torch.log2(largest_O / LARGEST)))
    values = (weight_OK.float() / scale_O[:, None]).clamp(-LARGEST, LARGEST).to(E4M3)
    return values.view(torch.uint8), scale_O


def dequantise(
    values_OK: Tensor, scale_O: Tensor, dtype: torch.dtype, out_OK: Tensor | None = None
) -> Tensor:
    """Returns a weight of `quantise_weight` [O, K] in a dtype, written into `out_OK` if given."""
    return torch.mul(values_OK.view(E4M3).to(dtype), scale_O[:, None].to(dtype), out=out_OK)


def multiplies(device: torch.device) -> bool:
    """Returns whether the device has FP8 products: NVIDIA GPUs from compute capability 8.9 on."""
    nvidia = device.type == "cuda" and torch.version.hip is None
    return nvidia and torch.cuda.get_device_capability(device) >= (8, 9)


def product(x: Rows8, weight_OK: Tensor, scale_O: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns x W^T [T, O]. `weight_OK` holds e4m3 bytes; `scale_O` is float32.

    On a GPU the tensor cores add with the precision of their fast mode: 1,168 TFLOP/s against 1,067 on an H200.
    """
    if not x.values.is_cuda:
        wide = torch.promote_types(dtype, torch.float32)
        weight = dequantise(weight_OK, scale_O, wide)
        return ((x.values.to(wide) * x.scale.to(wide)) @ weight.t()).to(dtype)
    return torch._scaled_mm(
        x.values,
        weight_OK.view(E4M3).t(),
        scale_a=x.scale,
        scale_b=scale_O[None],
        out_dtype=dtype,
        use_fast_accum=True,
    )
