# mypy: allow-untyped-defs
"""Triton kernels of QLoRA training: what a decoder layer computes beside its matrix products and its attention.

Each kernel reads its operands once, writes its results once, computes in float32 and rounds once. torch_ops.py has
functions of the same names in PyTorch; `ops` chooses between the two modules. Matrices may have a row stride
larger than their row length. student/kernels/__init__.py explains the shape letters.
"""

# Annotations stay strings: Triton may not be installed.
from __future__ import annotations

import sys
from typing import Any

import torch

from student.kernels import torch_ops
from student.kernels.nf4 import dequantise as dequantise
from student.kernels.triton_compat import jit, tl, triton
from student.kernels.triton_fp8 import add_low_rank as add_low_rank
from student.kernels.triton_fp8 import quantise as quantise
from student.kernels.triton_fp8 import swiglu_low as swiglu_low
from student.kernels.triton_fp8 import transpose as transpose
from student.kernels.triton_norm import norm as norm
from student.kernels.triton_norm import norm_backward as norm_backward
from student.kernels.triton_rope import rope as rope
from student.kernels.triton_rope import rope_backward as rope_backward
from student.kernels.triton_swiglu import swiglu as swiglu
from student.kernels.triton_swiglu import swiglu_backward as swiglu_backward


@jit
def _place_adapters(
    first,
    second,
    third,
    out,
    out_stride,
    end_first,
    end_second,
    rows,
    rank_first,
    rank_second,
    rank_third,
    NUMBER: tl.constexpr,
    RANK: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    r = tl.arange(0, RANK)[None, :]
    inside = row < rows
    place = out + row.to(tl.int64) * out_stride + r
    mine = (row < end_first) & (r < rank_first)
    value = tl.load(first + row * rank_first + r, mask=mine, other=0.0)
    tl.store(place, value.to(out.dtype.element_ty), mask=inside)
    if NUMBER > 1:
        mine = (row >= end_first) & (row < end_second) & (r < rank_second)
        value = tl.load(second + (row - end_first) * rank_second + r, mask=mine, other=0.0)
        tl.store(place + RANK, value.to(out.dtype.element_ty), mask=inside)
    if NUMBER > 2:
        mine = (row >= end_second) & inside & (r < rank_third)
        value = tl.load(third + (row - end_second) * rank_third + r, mask=mine, other=0.0)
        tl.store(place + 2 * RANK, value.to(out.dtype.element_ty), mask=inside)


def place_adapters(adapters: list[torch.Tensor], rank: int, out_OR: torch.Tensor) -> None:
    """Writes up to three B [O_i, r_i] as the diagonal blocks [O_i, rank] of `out_OR` [O, n rank], zeros elsewhere."""
    rows = out_OR.shape[0]
    first, second, third = (adapters + 2 * adapters[-1:])[:3]
    per_program = 128
    _place_adapters[(triton.cdiv(rows, per_program),)](
        first,
        second,
        third,
        out_OR,
        out_OR.stride(0),
        len(first),
        len(first) + len(second),
        rows,
        first.shape[1],
        second.shape[1],
        third.shape[1],
        NUMBER=len(adapters),
        RANK=rank,
        ROWS=per_program,
    )


@jit
def _cross_entropy(logits, labels, losses, scale, stride, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    label = tl.load(labels + row)
    at_label = tl.load(logits + label).to(tl.float32)
    highest = -float("inf")
    total = 0.0
    for start in range(0, size, BLOCK):
        column = start + tl.arange(0, BLOCK)
        value = tl.load(logits + column, mask=column < size, other=-float("inf")).to(tl.float32)
        new = tl.maximum(highest, tl.max(value, 0))
        total = total * tl.exp(highest - new) + tl.sum(tl.exp(value - new), 0)
        highest = new
    log_total = highest + tl.log(total)
    tl.store(losses + row, log_total - at_label)
    factor = tl.load(scale)
    for start in range(0, size, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < size
        value = tl.load(logits + column, mask=inside, other=-float("inf")).to(tl.float32)
        grad = tl.exp(value - log_total) - tl.where(column == label, 1.0, 0.0)
        tl.store(logits + column, (grad * factor).to(logits.dtype.element_ty), mask=inside)


def cross_entropy(
    logits_TV: torch.Tensor, labels_T: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Returns the losses [T] in float32 and overwrites `logits_TV` by their gradient times the scalar `scale`."""
    losses_T = torch.empty(len(labels_T), dtype=torch.float32, device=logits_TV.device)
    _cross_entropy[(len(labels_T),)](
        logits_TV,
        labels_T,
        losses_T,
        scale,
        logits_TV.stride(0),
        logits_TV.shape[1],
        BLOCK=8192,
        num_warps=16,
    )
    return losses_T


def ops(x: torch.Tensor) -> Any:
    """Returns the module that computes on the device of `x`: this one on a GPU, torch_ops on a CPU."""
    return sys.modules[__name__] if x.is_cuda else torch_ops
