"""The functions of triton_ops.py in plain PyTorch, for any float type; same names, arguments and results.

The tests compare the Triton kernels with them, and they run where there is no GPU.
"""

from typing import Any

import torch


def _wide(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


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


def place_adapters(adapters: list[torch.Tensor], rank: int, out: torch.Tensor) -> None:
    out.zero_()
    row = 0
    for i, lora_b_NR in enumerate(adapters):
        out[row : row + len(lora_b_NR), i * rank : i * rank + lora_b_NR.shape[1]].copy_(lora_b_NR)
        row += len(lora_b_NR)


def norm(x_TH: torch.Tensor, weight_H: torch.Tensor, eps: float, out_TH: torch.Tensor) -> None:
    wide_TH = x_TH.to(_wide(x_TH))
    unit_TH = wide_TH * torch.rsqrt(wide_TH.pow(2).mean(-1, keepdim=True) + eps)
    out_TH.copy_(unit_TH * weight_H)


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


def swiglu(gate_up_T2F: torch.Tensor, out_TF: torch.Tensor) -> None:
    gate_TF, up_TF = gate_up_T2F.to(_wide(gate_up_T2F)).chunk(2, dim=-1)
    out_TF.copy_(torch.nn.functional.silu(gate_TF) * up_TF)


def swiglu_backward(
    gate_up_T2F: torch.Tensor,
    grad_TF: torch.Tensor,
    low_grad_TR: torch.Tensor,
    low_T2R: torch.Tensor,
) -> torch.Tensor:
    gate_TF, up_TF = gate_up_T2F.to(_wide(gate_up_T2F)).chunk(2, dim=-1)
    sigmoid_TF = torch.sigmoid(gate_TF)
    silu_TF = gate_TF * sigmoid_TF
    product_TF = (silu_TF * up_TF).to(grad_TF.dtype)
    grad_gate_TF = (grad_TF * up_TF * (sigmoid_TF + silu_TF * (1 - sigmoid_TF))).to(grad_TF.dtype)
    grad_up_TF = (grad_TF * silu_TF).to(grad_TF.dtype)
    gate_up_T2F.copy_(torch.cat([grad_gate_TF, grad_up_TF], dim=-1))
    low_gate_TR, low_up_TR = low_T2R.chunk(2, dim=-1)
    factors_FR = [
        product_TF.t() @ low_grad_TR,
        grad_gate_TF.t() @ low_gate_TR,
        grad_up_TF.t() @ low_up_TR,
    ]
    return torch.stack(factors_FR, dim=1).to(_wide(grad_TF))


def cross_entropy(
    logits_TV: torch.Tensor, labels_T: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    wide_TV = logits_TV.to(_wide(logits_TV))
    log_total_T1 = wide_TV.logsumexp(-1, keepdim=True)
    grad_TV = (wide_TV - log_total_T1).exp()
    grad_TV.scatter_add_(1, labels_T[:, None], grad_TV.new_full((len(labels_T), 1), -1.0))
    losses_T = (log_total_T1 - wide_TV.gather(1, labels_T[:, None])).squeeze(1)
    logits_TV.copy_(grad_TV * scale)
    return losses_T


def _head_weights(
    weights: tuple[torch.Tensor, torch.Tensor], heads: int, kv_heads: int
) -> torch.Tensor:
    """The norm's weight of each head [heads + kv_heads, D]."""
    q_weight, k_weight = weights
    return torch.cat([q_weight.expand(heads, -1), k_weight.expand(kv_heads, -1)])
