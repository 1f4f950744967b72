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
    for i, b in enumerate(adapters):
        out[row : row + len(b), i * rank : i * rank + b.shape[1]].copy_(b)
        row += len(b)


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor) -> None:
    wide = x.to(_wide(x))
    unit = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    out.copy_(unit * weight)


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


def swiglu(gate_up: torch.Tensor, out: torch.Tensor) -> None:
    gate, up = gate_up.to(_wide(gate_up)).chunk(2, dim=-1)
    out.copy_(torch.nn.functional.silu(gate) * up)


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


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
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
