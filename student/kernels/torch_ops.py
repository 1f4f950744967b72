"""The functions of triton_ops.py in PyTorch, for any float type; same names, arguments and results.

They run on a CPU, and the tests compare the Triton kernels with them.
"""

from collections.abc import Iterator
from typing import Any

import torch

from student.kernels.fp8 import E4M3, LARGEST, LEAST, Rows8


def _wide(x: torch.Tensor) -> torch.dtype:
    """Returns the dtype of intermediate results: float32, or the dtype of `x` if that is wider."""
    return torch.promote_types(x.dtype, torch.float32)


# Elements of a block of rows: its intermediate results stay in the cache, and each call is worth two threads.
_BLOCK = 2**19


def _row_blocks(x_TF: torch.Tensor) -> Iterator[slice]:
    step = max(1, _BLOCK // x_TF.shape[1])
    for start in range(0, len(x_TF), step):
        yield slice(start, start + step)


def dequantise(weight: torch.Tensor, state: Any, out_OK: torch.Tensor) -> None:
    absmax = state.absmax
    if state.nested:
        inner = state.state2
        inner_blocks = torch.arange(absmax.numel(), device=absmax.device) // inner.blocksize
        absmax = inner.code[absmax.long()] * inner.absmax[inner_blocks] + state.offset
    packed = weight.contiguous().view(torch.uint8).flatten()
    codes = torch.stack([packed >> 4, packed & 15], dim=1).long()
    values = state.code[codes].view(-1, state.blocksize) * absmax[:, None]
    out_OK.copy_(values.view(out_OK.shape))


def place_adapters(adapters: list[torch.Tensor], rank: int, out_OR: torch.Tensor) -> None:
    out_OR.zero_()
    row = 0
    for i, lora_b_OR in enumerate(adapters):
        out_OR[row : row + len(lora_b_OR), i * rank : i * rank + lora_b_OR.shape[1]].copy_(
            lora_b_OR
        )
        row += len(lora_b_OR)


def norm(
    x_TH: torch.Tensor,
    weight_H: torch.Tensor,
    eps: float,
    out_TH: torch.Tensor,
    rows8: Rows8 | None = None,
) -> None:
    wide_TH = x_TH.to(_wide(x_TH))
    unit_TH = wide_TH * torch.rsqrt(wide_TH.pow(2).mean(-1, keepdim=True) + eps)
    out_TH.copy_(unit_TH * weight_H)
    if rows8:
        _write_rows8(out_TH, rows8)


def norm_backward(
    grad_TH: torch.Tensor,
    x_TH: torch.Tensor,
    weight_H: torch.Tensor,
    eps: float,
    residual_TH: torch.Tensor,
    grad_x_TH: torch.Tensor,
    normed_TH: torch.Tensor,
) -> None:
    wide_TH = x_TH.to(_wide(x_TH))
    rstd_T1 = torch.rsqrt(wide_TH.pow(2).mean(-1, keepdim=True) + eps)
    unit_TH, scaled_grad_TH = wide_TH * rstd_T1, grad_TH * weight_H.to(wide_TH.dtype)
    normed_TH.copy_(unit_TH * weight_H)
    grad_x_TH.copy_(
        rstd_T1 * (scaled_grad_TH - unit_TH * (scaled_grad_TH * unit_TH).mean(-1, keepdim=True))
        + residual_TH
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
    size = out_TND.shape[2]
    qk_TND = qkv_TO[:, : (heads + kv_heads) * size].unflatten(1, (-1, size))
    qk_TND = qk_TND.to(_wide(qk_TND))
    if weights is not None:
        qk_TND = qk_TND * torch.rsqrt(qk_TND.pow(2).mean(-1, keepdim=True) + eps)
        qk_TND = qk_TND * _head_weights(weights, heads, kv_heads)
    cos_T1D, sin_T1D = (x.repeat(len(qkv_TO) // len(x), 1)[:, None] for x in (cos_PD, sin_PD))
    first, second = qk_TND.chunk(2, dim=-1)
    out_TND.copy_(qk_TND * cos_T1D + torch.cat([-second, first], dim=-1) * sin_T1D)


def rope_backward(
    grads: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    qkv_TO: torch.Tensor,
    weights: tuple[torch.Tensor, torch.Tensor] | None,
    eps: float,
    cos_PD: torch.Tensor,
    sin_PD: torch.Tensor,
    out_TO: torch.Tensor,
) -> None:
    grad_q_TND, grad_k_TND, grad_v_TND = grads
    heads, kv_heads, size = grad_q_TND.shape[1], grad_k_TND.shape[1], grad_q_TND.shape[2]
    grad_TND = torch.cat([grad_q_TND, grad_k_TND], dim=1).to(_wide(qkv_TO))
    cos_T1D, sin_T1D = (x.repeat(len(qkv_TO) // len(x), 1)[:, None] for x in (cos_PD, sin_PD))
    first, second = (grad_TND * sin_T1D).chunk(2, dim=-1)
    grad_TND = grad_TND * cos_T1D + torch.cat([second, -first], dim=-1)
    if weights is not None:
        qk_TND = qkv_TO[:, : (heads + kv_heads) * size].unflatten(1, (-1, size)).to(grad_TND.dtype)
        rstd_TN1 = torch.rsqrt(qk_TND.pow(2).mean(-1, keepdim=True) + eps)
        unit_TND = qk_TND * rstd_TN1
        grad_TND = grad_TND * _head_weights(weights, heads, kv_heads)
        mean_TN1 = (grad_TND * unit_TND).mean(-1, keepdim=True)
        grad_TND = rstd_TN1 * (grad_TND - unit_TND * mean_TN1)
    out_TO.copy_(torch.cat([grad_TND, grad_v_TND], dim=1).flatten(1))


def swiglu(gate_up_T2F: torch.Tensor, out_TF: torch.Tensor) -> None:
    for rows in _row_blocks(gate_up_T2F):
        gate_SF, up_SF = gate_up_T2F[rows].to(_wide(gate_up_T2F)).chunk(2, dim=-1)
        out_TF[rows] = torch.nn.functional.silu(gate_SF).mul_(up_SF)


def swiglu_backward(
    gate_up_T2F: torch.Tensor,
    grad_TF: torch.Tensor,
    low_grad_TR: torch.Tensor,
    low_T2R: torch.Tensor,
    adapters: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    product_TF = torch.empty_like(grad_TF)
    grad_gate_TF, grad_up_TF = gate_up_T2F.chunk(2, dim=-1)  # views: they replace gate and up
    for rows in _row_blocks(grad_TF):
        gate_SF, up_SF = gate_up_T2F[rows].to(_wide(gate_up_T2F)).chunk(2, dim=-1)
        wide_grad_SF = grad_TF[rows].to(_wide(grad_TF))
        if adapters:
            gate_SF, up_SF = _with_low_rank(gate_SF, up_SF, low_T2R[rows], *adapters[:2])
            wide_grad_SF = wide_grad_SF + (low_grad_TR[rows] @ adapters[2]).to(wide_grad_SF.dtype)
        silu_SF = torch.nn.functional.silu(gate_SF)
        product_TF[rows] = silu_SF * up_SF
        grad_gate_TF[rows] = torch.ops.aten.silu_backward(wide_grad_SF * up_SF, gate_SF)
        grad_up_TF[rows] = silu_SF.mul_(wide_grad_SF)
    low_gate_TR, low_up_TR = low_T2R.chunk(2, dim=-1)
    factors = [
        product_TF.t() @ low_grad_TR,
        grad_gate_TF.t() @ low_gate_TR,
        grad_up_TF.t() @ low_up_TR,
    ]
    return torch.stack(factors, dim=1).to(_wide(grad_TF))


def swiglu_low(
    gate_up_T2F: torch.Tensor,
    low_T2R: torch.Tensor,
    b_gate_FR: torch.Tensor,
    b_up_FR: torch.Tensor,
) -> torch.Tensor:
    gate_TF, up_TF = gate_up_T2F.to(_wide(gate_up_T2F)).chunk(2, dim=-1)
    gate_TF, up_TF = _with_low_rank(gate_TF, up_TF, low_T2R, b_gate_FR, b_up_FR)
    return (torch.nn.functional.silu(gate_TF) * up_TF).to(gate_up_T2F.dtype)


def _with_low_rank(
    gate_TF: torch.Tensor,
    up_TF: torch.Tensor,
    low_T2R: torch.Tensor,
    b_gate_FR: torch.Tensor,
    b_up_FR: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    low_gate_TR, low_up_TR = low_T2R.to(gate_TF.dtype).chunk(2, dim=-1)
    gate_TF = gate_TF + low_gate_TR[:, : b_gate_FR.shape[1]] @ b_gate_FR.t().to(gate_TF.dtype)
    return gate_TF, up_TF + low_up_TR[:, : b_up_FR.shape[1]] @ b_up_FR.t().to(up_TF.dtype)


def quantise(x_TK: torch.Tensor, columns_K: torch.Tensor | None = None) -> Rows8:
    out = Rows8.empty(x_TK)
    wide_TK = x_TK.to(_wide(x_TK))
    _write_rows8(wide_TK if columns_K is None else wide_TK * columns_K, out)
    return out


def _write_rows8(x_TK: torch.Tensor, out: Rows8) -> None:
    x_TK = x_TK.to(_wide(x_TK))
    out.scale.copy_(x_TK.abs().amax(dim=1, keepdim=True).clamp(min=LEAST) / LARGEST)
    out.values.copy_((x_TK * (1 / out.scale)).clamp(-LARGEST, LARGEST).to(E4M3))


def transpose(weight_OK: torch.Tensor, out_KO: torch.Tensor) -> None:
    out_KO.copy_(weight_OK.t())


def add_low_rank(
    y_TO: torch.Tensor,
    low_TR: torch.Tensor,
    matrix_RO: torch.Tensor,
    rank: int,
    residual_TO: torch.Tensor | None = None,
) -> torch.Tensor:
    wide_TO = y_TO.to(_wide(y_TO))
    wide_TO = wide_TO + (low_TR[:, : len(matrix_RO)] @ matrix_RO).to(wide_TO.dtype)
    return y_TO.copy_(wide_TO if residual_TO is None else wide_TO + residual_TO)


def cross_entropy(
    logits_TV: torch.Tensor, labels_T: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    losses_T = logits_TV.new_empty(len(labels_T), dtype=_wide(logits_TV))
    for rows in _row_blocks(logits_TV):
        wide_SV, labels_S1 = logits_TV[rows].to(_wide(logits_TV)), labels_T[rows, None]
        log_total_S1 = wide_SV.logsumexp(-1, keepdim=True)
        losses_T[rows] = (log_total_S1 - wide_SV.gather(1, labels_S1)).squeeze(1)
        grad_SV = wide_SV.sub_(log_total_S1).exp_()
        grad_SV.scatter_add_(1, labels_S1, grad_SV.new_full(labels_S1.shape, -1.0))
        logits_TV[rows] = grad_SV.mul_(scale)
    return losses_T


def _head_weights(
    weights: tuple[torch.Tensor, torch.Tensor], heads: int, kv_heads: int
) -> torch.Tensor:
    """Returns the norm's weight of each query and key head [heads + kv_heads, D]."""
    q_weight_D, k_weight_D = weights
    return torch.cat([q_weight_D.expand(heads, -1), k_weight_D.expand(kv_heads, -1)])
