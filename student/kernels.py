# mypy: allow-untyped-defs
"""Triton kernels of QLoRA training: what a decoder layer does beside its matrix products and its attention.

Each reads its operands once and writes its results once, computes in float32 and rounds once. `Plain`, at the end, has
the same functions in plain PyTorch. Here T is tokens, H the hidden size, F the MLP's, D a head's; a matrix argument may
have rows further apart than they are long.
"""

# Triton is not installed where PyTorch has no GPU build; then no annotation and no decorator may need it.
from __future__ import annotations

from typing import Any

import torch

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None

NF4_BLOCK = 64  # values that share one absmax
ABSMAX_BLOCK = 256  # absmax values that share one absmax of their own (double quantisation)


def _jit(function):
    return triton.jit(function) if triton else function


# The sixteen values of NF4 (arXiv:2305.14314, appendix E), as bitsandbytes has them.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def _unpack_assembly() -> str:
    """PTX for a word of eight codes ($4) and their scale ($5): their values in bfloat16, in pairs ($0 to $3).

    A table in memory costs a load a value, three times the time of the bytes. Instead each thread scales and rounds
    all sixteen values (so a result is rounded once, from the float32 product, as in bitsandbytes), splits them into
    bytes, and looks four codes up at once: `prmt` picks four bytes of eight, by three bits of each code, so two of
    them and a choice by the fourth bit make a look-up among sixteen.
    """
    lines = [".reg .f32 t<16>;", ".reg .b32 c<8>, l<4>, h<4>, w, s, m, a, b, x, y;"]
    for i, value in enumerate(NF4):
        bits = int(torch.tensor(value, dtype=torch.float32).view(torch.int32)) & 0xFFFFFFFF
        lines.append(f"mul.rn.f32 t{i}, $5, 0f{bits:08X};")
    lines += [f"cvt.rn.bf16x2.f32 c{i}, t{2 * i + 1}, t{2 * i};" for i in range(8)]
    for i in range(4):
        lines.append(f"prmt.b32 l{i}, c{2 * i}, c{2 * i + 1}, 0x6420;")
        lines.append(f"prmt.b32 h{i}, c{2 * i}, c{2 * i + 1}, 0x7531;")
    for half in range(2):
        lines += [
            f"shr.b32 w, $4, {16 * half};",
            "and.b32 s, w, 0x7777;",
            "shr.b32 m, w, 3;",
            "and.b32 m, m, 0x1111;",
            "prmt.b32 m, 0xFF00, 0, m;",  # a byte of ones where the fourth bit is set
        ]
        for plane, result in (("l", "x"), ("h", "y")):
            lines += [
                f"prmt.b32 a, {plane}0, {plane}1, s;",
                f"prmt.b32 b, {plane}2, {plane}3, s;",
                f"lop3.b32 {result}, a, b, m, 0xD8;",  # b where m is set, else a
            ]
        # Of each byte the high half is the first code.
        lines += [
            f"prmt.b32 ${2 * half}, x, y, 0x4051;",
            f"prmt.b32 ${2 * half + 1}, x, y, 0x6273;",
        ]
    return "{" + "\n".join(lines) + "}"


UNPACK = tl.constexpr(_unpack_assembly()) if triton else None


@_jit
def _dequantise(
    packed,  # int32: eight codes a word
    absmax,  # uint8 with NESTED, else float32
    absmax_code,
    absmax_absmax,
    offset,
    out,  # int32: pairs of bfloat16
    out_stride,
    blocks,
    blocks_per_row,
    NESTED: tl.constexpr,
    ABSMAX_BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    inside = block < blocks
    scale = tl.load(absmax + block, mask=inside, other=0)
    if NESTED:
        scale = tl.load(absmax_code + scale.to(tl.int32))
        scale = scale * tl.load(absmax_absmax + block // ABSMAX_BLOCK, mask=inside, other=0.0)
        scale = scale + tl.load(offset)
    word = tl.arange(0, 8)
    words = tl.load(packed + block[:, None] * 8 + word[None, :], mask=inside[:, None], other=0)
    first, second, third, fourth = tl.inline_asm_elementwise(
        UNPACK,
        "=r,=r,=r,=r,r,f",
        [words, tl.broadcast_to(scale[:, None], (BLOCKS, 8))],
        dtype=(tl.int32, tl.int32, tl.int32, tl.int32),
        is_pure=True,
        pack=1,
    )
    pairs = tl.join(tl.join(first, third), tl.join(second, fourth)).reshape(BLOCKS, 32)
    row, column = block // blocks_per_row, (block % blocks_per_row) * 32
    start = row.to(tl.int64) * out_stride + column
    tl.store(out + start[:, None] + tl.arange(0, 32)[None, :], pairs, mask=inside[:, None])


def dequantise(weight: torch.Tensor, state: Any, out: torch.Tensor) -> None:
    """Writes a bitsandbytes NF4 weight into `out` [N, K], bit for bit what bitsandbytes gives.

    K is a multiple of 64, and rows are an even number of elements apart.
    """
    if out.dtype != torch.bfloat16:
        return Plain.dequantise(weight, state, out)
    rows, columns = out.shape
    blocks = rows * columns // NF4_BLOCK
    per_program = 64
    pairs = out.view(torch.int32)
    _dequantise[(triton.cdiv(blocks, per_program),)](
        weight.view(torch.uint8).flatten().view(torch.int32),
        state.absmax,
        state.state2.code if state.nested else None,
        state.state2.absmax if state.nested else None,
        state.offset if state.nested else None,
        pairs,
        pairs.stride(0),
        blocks,
        columns // NF4_BLOCK,
        NESTED=state.nested,
        ABSMAX_BLOCK=ABSMAX_BLOCK,
        BLOCKS=per_program,
        enable_fp_fusion=False,  # bitsandbytes rounds the product before it adds the offset
    )


@_jit
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


@_jit
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


@_jit
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


@_jit
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


@_jit
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


@_jit
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


@_jit
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


def _wide(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


class Plain:
    """The functions above in plain PyTorch, in any float type: what the kernels are tested against, and what runs where
    there is no GPU. Same names, arguments and results."""

    @staticmethod
    def dequantise(weight: torch.Tensor, state: Any, out: torch.Tensor) -> None:
        absmax = state.absmax
        if state.nested:
            inner = state.state2
            steps = torch.arange(absmax.numel(), device=absmax.device) // inner.blocksize
            absmax = inner.code[absmax.long()] * inner.absmax[steps] + state.offset
        packed = weight.contiguous().view(torch.uint8).flatten()
        codes = torch.stack([packed >> 4, packed & 15], dim=1).long()
        values = state.code[codes].view(-1, state.blocksize) * absmax[:, None]
        out.copy_(values.view(out.shape))

    @staticmethod
    def place_adapters(adapters: list[torch.Tensor], rank: int, out: torch.Tensor) -> None:
        out.zero_()
        row = 0
        for i, b in enumerate(adapters):
            out[row : row + len(b), i * rank : i * rank + b.shape[1]].copy_(b)
            row += len(b)

    @staticmethod
    def norm(x: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor) -> None:
        wide = x.to(_wide(x))
        unit = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        out.copy_(unit * weight)

    @staticmethod
    def norm_backward(
        grad: torch.Tensor,
        x: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        residual: torch.Tensor,
        grad_x: torch.Tensor,
        normed: torch.Tensor,
    ) -> None:
        wide = x.to(_wide(x))
        rstd = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        unit, g = wide * rstd, grad * weight.to(wide.dtype)
        normed.copy_(unit * weight)
        grad_x.copy_(rstd * (g - unit * (g * unit).mean(-1, keepdim=True)) + residual)

    @staticmethod
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
        both = qkv[:, : (heads + kv_heads) * out.shape[2]].unflatten(1, (-1, out.shape[2]))
        both = both.to(_wide(both))
        if weights is not None:
            both = both * torch.rsqrt(both.pow(2).mean(-1, keepdim=True) + eps)
            both = both * _head_weights(weights, heads, kv_heads)
        cos, sin = (x.repeat(len(qkv) // len(x), 1)[:, None] for x in (cos, sin))
        a, b = both.chunk(2, dim=-1)
        out.copy_(both * cos + torch.cat([-b, a], dim=-1) * sin)

    @staticmethod
    def rope_backward(
        grads: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        qkv: torch.Tensor,
        weights: tuple[torch.Tensor, torch.Tensor] | None,
        eps: float,
        cos: torch.Tensor,
        sin: torch.Tensor,
        out: torch.Tensor,
    ) -> None:
        grad_q, grad_k, grad_v = grads
        heads, kv_heads, size = grad_q.shape[1], grad_k.shape[1], grad_q.shape[2]
        g = torch.cat([grad_q, grad_k], dim=1).to(_wide(qkv))
        cos, sin = (x.repeat(len(qkv) // len(x), 1)[:, None] for x in (cos, sin))
        a, b = (g * sin).chunk(2, dim=-1)
        g = g * cos + torch.cat([b, -a], dim=-1)
        if weights is not None:
            both = qkv[:, : (heads + kv_heads) * size].unflatten(1, (-1, size)).to(g.dtype)
            rstd = torch.rsqrt(both.pow(2).mean(-1, keepdim=True) + eps)
            unit, g = both * rstd, g * _head_weights(weights, heads, kv_heads)
            g = rstd * (g - unit * (g * unit).mean(-1, keepdim=True))
        out.copy_(torch.cat([g, grad_v], dim=1).flatten(1))

    @staticmethod
    def swiglu(gate_up: torch.Tensor, out: torch.Tensor) -> None:
        gate, up = gate_up.to(_wide(gate_up)).chunk(2, dim=-1)
        out.copy_(torch.nn.functional.silu(gate) * up)

    @staticmethod
    def swiglu_backward(
        gate_up: torch.Tensor, grad: torch.Tensor, low_grad: torch.Tensor, low: torch.Tensor
    ) -> torch.Tensor:
        gate, up = gate_up.to(_wide(gate_up)).chunk(2, dim=-1)
        sigmoid = torch.sigmoid(gate)
        silu = gate * sigmoid
        product = (silu * up).to(grad.dtype)
        grad_gate = (grad * up * (sigmoid + silu * (1 - sigmoid))).to(grad.dtype)
        grad_up = (grad * silu).to(grad.dtype)
        gate_up.copy_(torch.cat([grad_gate, grad_up], dim=-1))
        low_gate, low_up = low.chunk(2, dim=-1)
        factors = [product.t() @ low_grad, grad_gate.t() @ low_gate, grad_up.t() @ low_up]
        return torch.stack(factors, dim=1).to(_wide(grad))

    @staticmethod
    def cross_entropy(
        logits: torch.Tensor, labels: torch.Tensor, scale: torch.Tensor
    ) -> torch.Tensor:
        wide = logits.to(_wide(logits))
        log_total = wide.logsumexp(-1, keepdim=True)
        grad = (wide - log_total).exp()
        grad.scatter_add_(1, labels[:, None], grad.new_full((len(labels), 1), -1.0))
        losses = (log_total - wide.gather(1, labels[:, None])).squeeze(1)
        logits.copy_(grad * scale)
        return losses


def _head_weights(
    weights: tuple[torch.Tensor, torch.Tensor], heads: int, kv_heads: int
) -> torch.Tensor:
    """The norm's weight of each head [heads + kv_heads, D]."""
    q_weight, k_weight = weights
    return torch.cat([q_weight.expand(heads, -1), k_weight.expand(kv_heads, -1)])
