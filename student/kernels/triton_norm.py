# mypy: allow-untyped-defs
"""RMSNorm (arXiv:1910.07467), forward and backward, as Triton kernels: one program per token."""

# Annotations stay strings: Triton may not be installed.
from __future__ import annotations

import torch

from student.kernels.fp8 import Rows8
from student.kernels.triton_compat import jit, tl, triton
from student.kernels.triton_fp8 import scale_of


@jit
def _norm(
    x, weight, out, values, scales, x_stride, out_stride, size, eps,
    SIZE: tl.constexpr, QUANTISE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, SIZE)
    inside = column < size
    value = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    rstd = tl.rsqrt(tl.sum(value * value, 0) / size + eps)
    result = (value * rstd * w).to(out.dtype.element_ty)
    tl.store(out + row * out_stride + column, result, mask=inside)
    if QUANTISE:
        result = result.to(tl.float32)
        scale = scale_of(tl.max(tl.abs(result), 0))
        result = (result * (1.0 / scale)).to(values.dtype.element_ty)
        tl.store(values + row * size + column, result, mask=inside)
        tl.store(scales + row, scale)


def norm(
    x_TH: torch.Tensor,
    weight_H: torch.Tensor,
    eps: float,
    out_TH: torch.Tensor,
    rows8: Rows8 | None = None,
) -> None:
    """Writes the RMSNorm of the rows of `x_TH` into `out_TH` (arXiv:1910.07467), and into `rows8` in e4m3."""
    tokens, size = x_TH.shape
    _norm[(tokens,)](
        x_TH,
        weight_H,
        out_TH,
        rows8.values if rows8 else None,
        rows8.scale if rows8 else None,
        x_TH.stride(0),
        out_TH.stride(0),
        size,
        eps,
        SIZE=triton.next_power_of_2(size),
        QUANTISE=rows8 is not None,
        num_warps=8,
    )


@jit
def _norm_backward(
    grad,
    x,
    weight,
    residual,
    grad_x,
    normed,
    grad_stride,
    x_stride,
    residual_stride,
    grad_x_stride,
    normed_stride,
    size,
    eps,
    SIZE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, SIZE)
    inside = column < size
    value = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(grad + row * grad_stride + column, mask=inside, other=0.0).to(tl.float32)
    beside = tl.load(residual + row * residual_stride + column, mask=inside, other=0.0)
    rstd = tl.rsqrt(tl.sum(value * value, 0) / size + eps)
    unit = value * rstd
    tl.store(normed + row * normed_stride + column, (unit * w).to(normed.dtype.element_ty), inside)
    g *= w
    g = rstd * (g - unit * (tl.sum(g * unit, 0) / size)) + beside.to(tl.float32)
    tl.store(grad_x + row * grad_x_stride + column, g.to(grad_x.dtype.element_ty), mask=inside)


def norm_backward(
    grad_TH: torch.Tensor,
    x_TH: torch.Tensor,
    weight_H: torch.Tensor,
    eps: float,
    residual_TH: torch.Tensor,
    grad_x_TH: torch.Tensor,
    normed_TH: torch.Tensor,
) -> None:
    """Writes the gradient of `norm`'s input plus `residual_TH` into `grad_x_TH`, and `norm`'s output into `normed_TH`.

    `grad_TH` is the gradient of the norm's output, `residual_TH` the gradient that bypasses the norm.
    """
    tokens, size = x_TH.shape
    _norm_backward[(tokens,)](
        grad_TH,
        x_TH,
        weight_H,
        residual_TH,
        grad_x_TH,
        normed_TH,
        grad_TH.stride(0),
        x_TH.stride(0),
        residual_TH.stride(0),
        grad_x_TH.stride(0),
        normed_TH.stride(0),
        size,
        eps,
        SIZE=triton.next_power_of_2(size),
        num_warps=16,
    )
