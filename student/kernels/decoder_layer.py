"""One decoder layer with LoRA adapters, its forward and backward pass written out.

The layer is pre-norm, with RMSNorm, rotary embedding and SwiGLU. The matrix products are in lora_linear.py, attention
in attention.py, everything else in triton_ops.py (GPU) and torch_ops.py (CPU).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from student.kernels.attention import Attention, Batch
from student.kernels.families import FUSED, padded_rank
from student.kernels.lora_linear import Buffer, Linears, check
from student.kernels.triton_ops import ops

# The layer classes of transformers that can be fused, and the names of their linear layers.
LAYERS = set(FUSED.values())
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")


@dataclass
class SavedActivations:
    """The activations that a layer keeps for its backward pass, besides its input x [T, H]."""

    qkv: Tensor  # [T, Nq + 2 Nk], before norm and rotation
    attention: Attention  # its output [T, Nq] and log-sum-exp
    middle: Tensor  # x after attention [T, H]
    gate_up: Tensor  # [T, 2F + 2R]: gate and up, and columns that the backward pass fills
    low: list[Tensor]  # of q,k,v; o; gate,up; down: s x A^T [T, n R]


class DecoderLayer:
    """One decoder layer, built from the modules of transformers and PEFT."""

    def __init__(self, layer: Any, name: str) -> None:
        if type(layer).__name__ not in LAYERS:
            raise ValueError(
                f"{name}: a {type(layer).__name__} cannot be fused, only {sorted(LAYERS)}"
            )
        attention, mlp = layer.self_attn, layer.mlp
        projections = [getattr(attention, n) for n in ATTENTION] + [getattr(mlp, n) for n in MLP]
        for label, module in zip(ATTENTION + MLP, projections, strict=True):
            check(module, f"{name}, {label}")
        if getattr(attention, "sliding_window", None):
            raise ValueError(f"{name}: sliding-window attention cannot be fused")
        if attention.config.hidden_act != "silu":
            raise ValueError(f"{name}: activation {attention.config.hidden_act!r}, expected 'silu'")
        self.first_norm, self.second_norm = layer.input_layernorm, layer.post_attention_layernorm
        self.q_norm: Any = getattr(attention, "q_norm", None)
        self.k_norm: Any = getattr(attention, "k_norm", None)
        self.size, self.scale = attention.head_dim, attention.scaling
        rank = padded_rank(max(m.r[m.active_adapters[0]] for m in projections))
        q, k, v, o, gate, up, down = projections
        self.qkv, self.o = Linears([q, k, v], rank), Linears([o], rank)
        self.gate_up, self.down = Linears([gate, up], rank), Linears([down], rank)
        self.products = [self.qkv, self.o, self.gate_up, self.down]
        adapters = {id(p) for p in self.parameters()}
        for label, parameter in layer.named_parameters():
            if parameter.requires_grad and id(parameter) not in adapters:
                raise ValueError(
                    f"{name}: {label} is trained; the fused layers train only the adapters"
                )
        self.heads = q.out_features // self.size
        self.kv_heads = k.out_features // self.size

    @property
    def active(self) -> bool:
        """Whether the adapters are enabled and not merged into the weights."""
        return not any(m.disable_adapters or m.merged for x in self.products for m in x.modules)

    def parameters(self) -> list[Tensor]:
        return [x for linears in self.products for x in linears.parameters()]

    def _head_norms(self) -> tuple[Tensor, Tensor] | None:
        return (self.q_norm.weight, self.k_norm.weight) if self.q_norm is not None else None

    def _rotated(self, batch: Batch, qkv: Tensor, cos: Tensor, sin: Tensor) -> list[Tensor]:
        """Returns queries and keys after rotation, and values: [B, S, heads, D] each."""
        both = qkv.new_empty(len(qkv), self.heads + self.kv_heads, self.size)
        eps = self.q_norm.variance_epsilon if self.q_norm is not None else 0.0
        ops(qkv).rope(qkv, self._head_norms(), eps, cos, sin, self.heads, self.kv_heads, both)
        both = both.view(batch.rows, batch.length, -1, self.size)
        values = qkv[:, (self.heads + self.kv_heads) * self.size :]
        values = values.unflatten(1, (self.kv_heads, self.size)).unflatten(
            0, (batch.rows, batch.length)
        )
        return [both[:, :, : self.heads], both[:, :, self.heads :], values]

    def forward(
        self,
        buffer: Buffer,
        batch: Batch,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        output: bool = True,
    ) -> tuple[Any, SavedActivations]:
        """Returns the layer's output [T, H] (None without `output`) and the activations for the backward pass."""
        tokens, do = len(x), ops(x)
        normed = self.qkv.input(x)
        do.norm(x, self.first_norm.weight, self.first_norm.variance_epsilon, self.qkv.head(normed))
        qkv, low_qkv = self.qkv.forward(buffer, normed)
        q, k, v = self._rotated(batch, qkv, cos, sin)
        attention = Attention(batch, q, k, v, self.scale)
        del q, k, v
        joined = self.o.input(x)
        self.o.head(joined).view(batch.rows, batch.length, self.heads, self.size).copy_(
            attention.out
        )
        middle, low_o = self.o.forward(buffer, joined, onto=x)
        del joined, normed
        normed = self.gate_up.input(x)
        eps = self.second_norm.variance_epsilon
        do.norm(middle, self.second_norm.weight, eps, self.gate_up.head(normed))
        gate_up = x.new_empty(tokens, self.gate_up.rows + self.gate_up.low)
        _, low_gate_up = self.gate_up.forward(buffer, normed, out=gate_up[:, : self.gate_up.rows])
        del normed
        product = self.down.input(x)
        do.swiglu(gate_up[:, : self.gate_up.rows], self.down.head(product))
        out, low_down = self.down.forward(buffer, product, onto=middle, output=output)
        low = [low_qkv, low_o, low_gate_up, low_down]
        return out, SavedActivations(qkv, attention, middle, gate_up, low)

    def backward(
        self,
        buffer: Buffer,
        batch: Batch,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        saved: SavedActivations,
        grad: Tensor,
        needs_x: bool,
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Returns the gradients of x [T, H] and of the adapters in the order of `parameters`, from that of the output.

        Consumes `saved`: its tensors are overwritten and freed.
        """
        do = ops(x)
        low_qkv, low_o, low_gate_up, low_down = saved.low
        # MLP: middle + down(silu(gate) * up)
        grad_down = self.down.output(x)
        self.down.head_out(grad_down).copy_(grad)
        grad_product = self.down.backward(buffer, grad_down)
        b_down = self.down.grad_b(grad_down, low_down)
        grad_gate_up, saved.gate_up = saved.gate_up, None  # type: ignore[assignment]
        factors = do.swiglu_backward(
            grad_gate_up[:, : self.gate_up.rows],
            grad_product,
            grad_down[:, self.down.rows :],
            low_gate_up,
        )
        del grad_product, grad_down
        a_down = self.down.unscaled(factors[:, 0].t())
        b_gate_up = self.gate_up.cut_b(factors[:, 1:].transpose(0, 1))
        grad_normed = self.gate_up.backward(buffer, grad_gate_up)
        grad_middle = self.o.output(x)
        normed = torch.empty_like(x)
        do.norm_backward(
            grad_normed,
            saved.middle,
            self.second_norm.weight,
            self.second_norm.variance_epsilon,
            grad,
            self.o.head_out(grad_middle),
            normed,
        )
        a_gate_up = self.gate_up.grad_a(grad_gate_up, normed)
        del grad_gate_up
        # Attention: x + o(attention(q, k, v))
        grad_joined = self.o.backward(buffer, grad_middle)
        b_o = self.o.grad_b(grad_middle, low_o)
        a_o = self.o.grad_a(grad_middle, saved.attention.out.reshape(len(x), -1))
        q, k, v = self._rotated(batch, saved.qkv, cos, sin)
        grads = saved.attention.backward(grad_joined.view(q.shape), q, k, v)
        del q, k, v, grad_joined
        grad_qkv = self.qkv.output(x)
        do.rope_backward(
            tuple(g.reshape(len(x), -1, self.size) for g in grads),
            saved.qkv,
            self._head_norms(),
            self.q_norm.variance_epsilon if self.q_norm is not None else 0.0,
            cos,
            sin,
            self.qkv.head_out(grad_qkv),
        )
        del grads
        # Needed without `needs_x` too: it fills the last columns of grad_qkv, which grad_a reads.
        grad_normed = self.qkv.backward(buffer, grad_qkv, needs_x)
        b_qkv = self.qkv.grad_b(grad_qkv, low_qkv)
        grad_x = None
        if needs_x:
            grad_x = torch.empty_like(x)
            do.norm_backward(
                grad_normed,
                x,
                self.first_norm.weight,
                self.first_norm.variance_epsilon,
                self.o.head_out(grad_middle),
                grad_x,
                normed,
            )
        else:
            do.norm(x, self.first_norm.weight, self.first_norm.variance_epsilon, normed)
        a_qkv = self.qkv.grad_a(grad_qkv, normed)
        pairs = [
            *zip(a_qkv, b_qkv, strict=True),
            *zip(a_o, b_o, strict=True),
            *zip(a_gate_up, b_gate_up, strict=True),
            *zip(a_down, b_down, strict=True),
        ]
        kinds = [p.dtype for p in self.parameters()]
        return grad_x, [
            g.to(kind) for g, kind in zip((g for p in pairs for g in p), kinds, strict=True)
        ]
