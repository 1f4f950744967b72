# mypy: allow-untyped-defs
"""Rotary position embedding (arXiv:2104.09864) of queries and keys with an optional RMSNorm per head, as one Triton
kernel for the forward and the backward pass.
"""

# Annotations stay strings: Triton may not be installed.
from __future__ import annotations

import torch

from student.kernels.triton_compat import jit, tl, triton


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
    qkv_TO: torch.Tensor,
    weights: tuple[torch.Tensor, torch.Tensor] | None,
    eps: float,
    cos_PD: torch.Tensor,
    sin_PD: torch.Tensor,
    heads: int,
    kv_heads: int,
    out: torch.Tensor,
) -> None:
    """Launches the kernel for `rope`, or with `grads` for `rope_backward`."""
    written = heads + (2 if grads else 1) * kv_heads
    strides = [n for grad in grads for n in grad.stride()[:2]] if grads else [0] * 6
    per_program = 16
    _rope[(len(qkv_TO), triton.cdiv(written, per_program))](
        qkv_TO,
        qkv_TO.stride(0),
        *(weights or (None, None)),
        cos_PD,
        sin_PD,
        out,
        out.stride(0),
        cos_PD.shape[0],
        heads,
        kv_heads,
        eps,
        *(grads or (None, None, None)),
        *strides,
        HALF=cos_PD.shape[1] // 2,
        HEADS=per_program,
        NORM=weights is not None,
        BACKWARD=grads is not None,
    )


def rope(
    qkv_TO: torch.Tensor,
    weights: tuple[torch.Tensor, torch.Tensor] | None,
    eps: float,
    cos_PD: torch.Tensor,
    sin_PD: torch.Tensor,
    heads: int,
    kv_heads: int,
    out_TND: torch.Tensor,
) -> None:
    """Writes queries and keys of `qkv_TO`, [T, (heads + 2 kv_heads) D], after norm and rotation into `out_TND`.

    Each head is normed first if there are `weights` (of q and k, [D] each). The rotation is arXiv:2104.09864 with
    transformers' order of the halves. `cos_PD` and `sin_PD` repeat for every row of P positions.
    """
    _launch_rope(None, qkv_TO, weights, eps, cos_PD, sin_PD, heads, kv_heads, out_TND)


def rope_backward(
    grads: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    qkv_TO: torch.Tensor,
    weights: tuple[torch.Tensor, torch.Tensor] | None,
    eps: float,
    cos_PD: torch.Tensor,
    sin_PD: torch.Tensor,
    out_TO: torch.Tensor,
) -> None:
    """Writes the gradient of `rope`'s input and of the values into `out_TO` [T, (heads + 2 kv_heads) D].

    `grads` are those of the rotated queries and keys and of the values, each [T, its heads, D].
    """
    heads, kv_heads = grads[0].shape[1], grads[1].shape[1]
    _launch_rope(grads, qkv_TO, weights, eps, cos_PD, sin_PD, heads, kv_heads, out_TO)
