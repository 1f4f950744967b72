# mypy: allow-untyped-defs
"""Triton kernels of QLoRA training: what a decoder layer does beside its matrix products and its attention.

Each reads its operands once and writes its results once, computes in float32 and rounds once. plain_kernels.py has the
same functions in plain PyTorch, `ops` chooses. Here T is tokens, H the hidden size, F the MLP's, D a head's; a matrix
argument may have rows further apart than they are long.
"""

# Triton may not be installed; then no annotation may need it.
from __future__ import annotations

import sys
from typing import Any

import torch

from student.kernels import torch_ops
from student.kernels.nf4 import dequantise as dequantise
from student.kernels.triton_compat import jit, tl, triton


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


def place_adapters(adapters: list[torch.Tensor], rank: int, out: torch.Tensor) -> None:
    """Up to three B [N_i, r_i] as the diagonal blocks [N_i, rank] of `out` [N, n rank], zeros elsewhere."""
    rows = out.shape[0]
    first, second, third = (adapters + 2 * adapters[-1:])[:3]
    per_program = 128
    _place_adapters[(triton.cdiv(rows, per_program),)](
        first,
        second,
        third,
        out,
        out.stride(0),
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
def _norm(x, weight, out, x_stride, out_stride, size, eps, SIZE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, SIZE)
    inside = column < size
    value = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    rstd = tl.rsqrt(tl.sum(value * value, 0) / size + eps)
    result = (value * rstd * w).to(out.dtype.element_ty)
    tl.store(out + row * out_stride + column, result, mask=inside)


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor) -> None:
    """RMSNorm of the rows of `x` [T, H] into `out` [T, H] (arXiv:1910.07467)."""
    tokens, size = x.shape
    _norm[(tokens,)](
        x,
        weight,
        out,
        x.stride(0),
        out.stride(0),
        size,
        eps,
        SIZE=triton.next_power_of_2(size),
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
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    residual: torch.Tensor,
    grad_x: torch.Tensor,
    normed: torch.Tensor,
) -> None:
    """Gradient of `norm` plus the gradient that passes beside it, and the norm's output once more: all [T, H]."""
    tokens, size = x.shape
    _norm_backward[(tokens,)](
        grad,
        x,
        weight,
        residual,
        grad_x,
        normed,
        grad.stride(0),
        x.stride(0),
        residual.stride(0),
        grad_x.stride(0),
        normed.stride(0),
        size,
        eps,
        SIZE=triton.next_power_of_2(size),
        num_warps=16,
    )


@jit
def _rope(
    qkv,
    qkv_stride,
    q_weight,
    k_weight,
    cos,
    sin,
    out,
    out_stride,
    positions,
    heads,
    kv_heads,
    eps,
    grad_q,
    grad_k,
    grad_v,
    q_token,
    q_head,
    k_token,
    k_head,
    v_token,
    v_head,
    HALF: tl.constexpr,
    HEADS: tl.constexpr,
    NORM: tl.constexpr,
    BACKWARD: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    d = tl.arange(0, HALF)[None, :]
    place = head * (2 * HALF) + d
    is_q = head < heads
    rotated = head < heads + kv_heads
    angle = (token % positions) * (2 * HALF) + d
    cos_a, cos_b = tl.load(cos + angle).to(tl.float32), tl.load(cos + angle + HALF).to(tl.float32)
    sin_a, sin_b = tl.load(sin + angle).to(tl.float32), tl.load(sin + angle + HALF).to(tl.float32)
    if NORM or not BACKWARD:
        a = tl.load(qkv + token * qkv_stride + place, mask=rotated, other=0.0).to(tl.float32)
        b = tl.load(qkv + token * qkv_stride + place + HALF, rotated, other=0.0).to(tl.float32)
    if NORM:
        rstd = tl.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / (2 * HALF) + eps)[:, None]
        wa = tl.where(is_q, tl.load(q_weight + d), tl.load(k_weight + d)).to(tl.float32)
        wb = tl.where(is_q, tl.load(q_weight + HALF + d), tl.load(k_weight + HALF + d))
        wb = wb.to(tl.float32)
    if not BACKWARD:
        inside = rotated
        if NORM:
            a *= rstd * wa
            b *= rstd * wb
        new_a, new_b = a * cos_a - b * sin_a, b * cos_b + a * sin_b
    else:
        inside = head < heads + 2 * kv_heads
        is_k = (head >= heads) & rotated
        is_v = (head >= heads + kv_heads) & inside
        from_q = grad_q + token * q_token + head * q_head + d
        from_k = grad_k + token * k_token + (head - heads) * k_head + d
        from_v = grad_v + token * v_token + (head - heads - kv_heads) * v_head + d
        ga = tl.load(from_q, mask=is_q, other=0.0) + tl.load(from_k, mask=is_k, other=0.0)
        gb = tl.load(from_q + HALF, is_q, other=0.0) + tl.load(from_k + HALF, is_k, other=0.0)
        ga, gb = ga.to(tl.float32), gb.to(tl.float32)
        new_a, new_b = ga * cos_a + gb * sin_b, gb * cos_b - ga * sin_a
        if NORM:
            a *= rstd
            b *= rstd
            new_a *= wa
            new_b *= wb
            mean = ((tl.sum(new_a * a, 1) + tl.sum(new_b * b, 1)) / (2 * HALF))[:, None]
            new_a, new_b = rstd * (new_a - a * mean), rstd * (new_b - b * mean)
        new_a += tl.load(from_v, mask=is_v, other=0.0).to(tl.float32)
        new_b += tl.load(from_v + HALF, mask=is_v, other=0.0).to(tl.float32)
    out += token * out_stride
    tl.store(out + place, new_a.to(out.dtype.element_ty), mask=inside)
    tl.store(out + place + HALF, new_b.to(out.dtype.element_ty), mask=inside)


def _launch_rope(
    grads: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None,
    qkv: torch.Tensor,
    weights: tuple[torch.Tensor, torch.Tensor] | None,
    eps: float,
    cos: torch.Tensor,
    sin: torch.Tensor,
    heads: int,
    kv_heads: int,
    out: torch.Tensor,
) -> None:
    """`rope`, or with `grads` `rope_backward`."""
    written = heads + (2 if grads else 1) * kv_heads
    strides = [n for grad in grads for n in grad.stride()[:2]] if grads else [0] * 6
    per_program = 16
    _rope[(len(qkv), triton.cdiv(written, per_program))](
        qkv,
        qkv.stride(0),
        *(weights or (None, None)),
        cos,
        sin,
        out,
        out.stride(0),
        cos.shape[0],
        heads,
        kv_heads,
        eps,
        *(grads or (None, None, None)),
        *strides,
        HALF=cos.shape[1] // 2,
        HEADS=per_program,
        NORM=weights is not None,
        BACKWARD=grads is not None,
    )


def rope(
    qkv: torch.Tensor,
    weights: tuple[torch.Tensor, torch.Tensor] | None,
    eps: float,
    cos: torch.Tensor,
    sin: torch.Tensor,
    heads: int,
    kv_heads: int,
    out: torch.Tensor,
) -> None:
    """Queries and keys of `qkv` [T, (heads + 2 kv_heads) D], normed per head if `weights`, rotated, into
    `out` [T, heads + kv_heads, D] (arXiv:2104.09864 with transformers' halves). `cos`, `sin` [positions, D] repeat."""
    _launch_rope(None, qkv, weights, eps, cos, sin, heads, kv_heads, out)


def rope_backward(
    grads: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    qkv: torch.Tensor,
    weights: tuple[torch.Tensor, torch.Tensor] | None,
    eps: float,
    cos: torch.Tensor,
    sin: torch.Tensor,
    out: torch.Tensor,
) -> None:
    """Gradients of the queries, keys and values, each [T, its heads, D], back through `rope` into `out`, shaped as
    `qkv`."""
    heads, kv_heads = grads[0].shape[1], grads[1].shape[1]
    _launch_rope(grads, qkv, weights, eps, cos, sin, heads, kv_heads, out)


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


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The losses [T] of `logits` [T, V], which are overwritten by their gradient times `scale`."""
    losses = torch.empty(len(labels), dtype=torch.float32, device=logits.device)
    _cross_entropy[(len(labels),)](
        logits,
        labels,
        losses,
        scale,
        logits.stride(0),
        logits.shape[1],
        BLOCK=8192,
        num_warps=16,
    )
    return losses


def ops(x: torch.Tensor) -> Any:
    """The functions for where `x` is: these, or those of plain_kernels.py."""
    return sys.modules[__name__] if x.is_cuda else torch_ops
