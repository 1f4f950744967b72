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


def swiglu(gate_up_T2F: torch.Tensor, out_TF: torch.Tensor) -> None:
    """Writes silu(gate) * up of `gate_up_T2F` into `out_TF` (arXiv:2002.05202)."""
    tokens, size = out_TF.shape
    block = 2048
    _swiglu[(tokens, triton.cdiv(size, block))](
        gate_up_T2F, out_TF, gate_up_T2F.stride(0), out_TF.stride(0), size, BLOCK=block, num_warps=8
    )


@jit
def _swiglu_backward(
    gate_up,
    grad,
    low_grad,
    low,
    b_gate,
    b_up,
    a_down,
    factors,
    in_stride,
    grad_stride,
    low_grad_stride,
    low_stride,
    tokens,
    size,
    tokens_per_program,
    rank_gate,
    rank_up,
    ADD: tl.constexpr,
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
    if ADD:
        within = (column < size)[None, :]
        mine = within & (rank < rank_gate)[:, None]
        b = tl.load(b_gate + column[None, :] * rank_gate + rank[:, None], mask=mine, other=0.0)
        mine = within & (rank < rank_up)[:, None]
        c = tl.load(b_up + column[None, :] * rank_up + rank[:, None], mask=mine, other=0.0)
        b, c = b.to(kind), c.to(kind)
        a = tl.load(a_down + rank[:, None] * size + column[None, :], mask=within, other=0.0)
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
        low_place = low + row * low_stride + rank[None, :]
        low_down = tl.load(low_grad + row * low_grad_stride + rank[None, :], alive, other=0.0)
        low_gate = tl.load(low_place, mask=alive, other=0.0)
        low_up = tl.load(low_place + RANK, mask=alive, other=0.0)
        if ADD:
            g = tl.dot(low_gate, b, g)
            u = tl.dot(low_up, c, u)
            dh = tl.dot(low_down, a, dh)
        sigmoid = tl.sigmoid(g)
        silu = g * sigmoid
        h = (silu * u).to(kind)
        dg = (dh * u * (sigmoid + silu * (1 - sigmoid))).to(kind)
        du = (dh * silu).to(kind)
        tl.store(place, dg, mask=inside)
        tl.store(place + size, du, mask=inside)
        down = tl.dot(tl.trans(h), low_down, down)
        gate = tl.dot(tl.trans(dg), low_gate, gate)
        up = tl.dot(tl.trans(du), low_up, up)
    inside = (column < size)[:, None]
    factors += (part * size + column[:, None]).to(tl.int64) * (3 * RANK) + rank[None, :]
    tl.store(factors, down, mask=inside)
    tl.store(factors + RANK, gate, mask=inside)
    tl.store(factors + 2 * RANK, up, mask=inside)


# (ROWS, COLUMNS, parts, num_warps, num_stages) of the kernel above
SWIGLU_BACKWARD = (32, 64, 8, 4, 5)


def swiglu_backward(
    gate_up_T2F: torch.Tensor,
    grad_TF: torch.Tensor,
    low_grad_TR: torch.Tensor,
    low_T2R: torch.Tensor,
    adapters: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Overwrites `gate_up_T2F` by its gradient, given the gradient `grad_TF` of `swiglu`'s output.

    The large matrices are read once, so the LoRA gradients that need them are summed in the same pass.

    Args:
        low_grad_TR: the gradient of down's low-rank activations.
        low_T2R: the low-rank activations of gate and up.
        adapters: B of gate and of up [F, r] and A of down, scaled, [R, F], if `gate_up_T2F` and `grad_TF` lack the
            adapters' share.

    Returns:
        [F, 3, R] in float32: the gradients of down's A, transposed, and of gate's and up's B.
    """
    tokens, size = grad_TF.shape
    rank = low_grad_TR.shape[1]
    b_gate_FR, b_up_FR, a_down_RF = adapters or (None, None, None)
    rows, columns, parts, warps, stages = SWIGLU_BACKWARD
    per_part = triton.cdiv(triton.cdiv(tokens, parts), rows) * rows
    # Each part (C) of the tokens has its own sums: the kernel needs no atomic addition.
    factors_CF3R = torch.empty(parts, size, 3, rank, dtype=torch.float32, device=grad_TF.device)
    _swiglu_backward[(triton.cdiv(size, columns), parts)](
        gate_up_T2F,
        grad_TF,
        low_grad_TR,
        low_T2R,
        b_gate_FR,
        b_up_FR,
        a_down_RF,
        factors_CF3R,
        gate_up_T2F.stride(0),
        grad_TF.stride(0),
        low_grad_TR.stride(0),
        low_T2R.stride(0),
        tokens,
        size,
        per_part,
        0 if b_gate_FR is None else b_gate_FR.shape[1],
        0 if b_up_FR is None else b_up_FR.shape[1],
        ADD=adapters is not None,
        RANK=rank,
        ROWS=rows,
        COLUMNS=columns,
        num_warps=warps,
        num_stages=stages,
    )
    return factors_CF3R.sum(0)
