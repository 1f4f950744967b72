# mypy: allow-untyped-defs
"""SwiGLU (arXiv:2002.05202) as Triton kernels; the backward pass also sums the LoRA gradients of the MLP."""

# Annotations stay strings: Triton may not be installed.
from __future__ import annotations

import torch

from student.kernels.triton_compat import jit, tl, triton


@jit
def _swiglu(gate_up, out, in_stride, out_stride, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    gate = tl.load(gate_up + row * in_stride + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * in_stride + size + column, mask=inside, other=0.0).to(tl.float32)
    result = gate * tl.sigmoid(gate) * up
    tl.store(out + row * out_stride + column, result.to(out.dtype.element_ty), mask=inside)


def swiglu(gate_up: torch.Tensor, out: torch.Tensor) -> None:
    """silu(gate) * up of `gate_up` [T, 2F] into `out` [T, F] (arXiv:2002.05202)."""
    tokens, size = out.shape
    block = 2048
    _swiglu[(tokens, triton.cdiv(size, block))](
        gate_up, out, gate_up.stride(0), out.stride(0), size, BLOCK=block, num_warps=8
    )


@jit
def _swiglu_backward(
    gate_up,
    grad,
    low_grad,
    low,
    factors,
    in_stride,
    grad_stride,
    low_grad_stride,
    low_stride,
    tokens,
    size,
    tokens_per_program,
    RANK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    part = tl.program_id(1)
    rank = tl.arange(0, RANK)
    down = tl.zeros([COLUMNS, RANK], tl.float32)
    gate = tl.zeros([COLUMNS, RANK], tl.float32)
    up = tl.zeros([COLUMNS, RANK], tl.float32)
    last = tl.minimum(tokens, (part + 1) * tokens_per_program)
    kind = gate_up.dtype.element_ty
    for start in range(part * tokens_per_program, last, ROWS):
        row = start + tl.arange(0, ROWS)
        alive = (row < last)[:, None]
        inside = alive & (column < size)[None, :]
        row = row.to(tl.int64)[:, None]
        place = gate_up + row * in_stride + column[None, :]
        g = tl.load(place, mask=inside, other=0.0).to(tl.float32)
        u = tl.load(place + size, mask=inside, other=0.0).to(tl.float32)
        dh = tl.load(grad + row * grad_stride + column[None, :], mask=inside, other=0.0)
        dh = dh.to(tl.float32)
        sigmoid = tl.sigmoid(g)
        silu = g * sigmoid
        h = (silu * u).to(kind)
        dg = (dh * u * (sigmoid + silu * (1 - sigmoid))).to(kind)
        du = (dh * silu).to(kind)
        tl.store(place, dg, mask=inside)
        tl.store(place + size, du, mask=inside)
        low_place = low + row * low_stride + rank[None, :]
        low_down = tl.load(low_grad + row * low_grad_stride + rank[None, :], alive, other=0.0)
        low_gate = tl.load(low_place, mask=alive, other=0.0)
        low_up = tl.load(low_place + RANK, mask=alive, other=0.0)
        down = tl.dot(tl.trans(h), low_down, down)
        gate = tl.dot(tl.trans(dg), low_gate, gate)
        up = tl.dot(tl.trans(du), low_up, up)
    inside = (column < size)[:, None]
    factors += (part * size + column[:, None]).to(tl.int64) * (3 * RANK) + rank[None, :]
    tl.store(factors, down, mask=inside)
    tl.store(factors + RANK, gate, mask=inside)
    tl.store(factors + 2 * RANK, up, mask=inside)


def swiglu_backward(
    gate_up: torch.Tensor, grad: torch.Tensor, low_grad: torch.Tensor, low: torch.Tensor
) -> torch.Tensor:
    """Overwrites `gate_up` [T, 2F] by its gradient, given that of `swiglu`'s output, `grad` [T, F].

    The large matrices are read once, so the LoRA gradients that need them are summed on the way: with `low_grad` [T, R]
    (down's gradient in its low-rank space) and `low` [T, 2R] (what gate's and up's A made of their input) it returns
    [F, 3, R] in float32: the gradient of down's A, transposed, and of gate's and up's B.
    """
    tokens, size = grad.shape
    rank = low_grad.shape[1]
    rows, columns, parts = 32, 64, 8
    per_part = triton.cdiv(triton.cdiv(tokens, parts), rows) * rows
    factors = torch.empty(parts, size, 3, rank, dtype=torch.float32, device=grad.device)
    _swiglu_backward[(triton.cdiv(size, columns), parts)](
        gate_up,
        grad,
        low_grad,
        low,
        factors,
        gate_up.stride(0),
        grad.stride(0),
        low_grad.stride(0),
        low.stride(0),
        tokens,
        size,
        per_part,
        RANK=rank,
        ROWS=rows,
        COLUMNS=columns,
        num_warps=4,
        num_stages=5,
    )
    return factors.sum(0)
