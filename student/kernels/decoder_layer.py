"""One decoder layer with LoRA adapters, its forward and backward pass written out.

The layer is pre-norm, with RMSNorm, rotary embedding and SwiGLU. The matrix products are in lora_linear.py, attention
in attention.py, everything else in triton_ops.py (GPU) and torch_ops.py (CPU).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from student.kernels.attention import Attention
from student.kernels.batch import Batch
from student.kernels.families import FUSED, padded_rank
from student.kernels.lora_linear import Buffer, Linears, check
from student.kernels.triton_ops import ops

# The layer classes of transformers that can be fused, and the names of their linear layers.
LAYERS = set(FUSED.values())
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")


@dataclass
class SavedActivations:
    """The activations that a layer keeps for its backward pass, besides its input x_TH."""

    qkv_TO: Tensor  # queries, keys and values before norm and rotation
    attention: Attention  # holds its output and log-sum-exp
    middle_TH: Tensor  # x after attention
    gate_up_TO: Tensor  # [T, 2F + 2R]: gate, up, and 2R columns that the backward pass fills
    # s x A^T of q, k, v [T, 3R]; of o [T, R]; of gate, up [T, 2R]; of down [T, R]
    low: list[Tensor]


class DecoderLayer:
    """One decoder layer, built from the modules of transformers and PEFT.

    Raises:
        ValueError: the layer cannot be fused. The message names the layer and the reason.
    """

    LINEARS = Linears

    def __init__(self, layer: Any, name: str) -> None:
        if type(layer).__name__ not in LAYERS:
            raise ValueError(
                f"{name}: a {type(layer).__name__} cannot be fused, only one of {sorted(LAYERS)}"
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
        groups = ([q, k, v], [o], [gate, up], [down])
        self.products = [self.LINEARS(group, rank) for group in groups]
        self.qkv, self.o, self.gate_up, self.down = self.products
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
        return not any(m.disable_adapters or m.merged for p in self.products for m in p.modules)

    def parameters(self) -> list[Tensor]:
        """Returns the weights of all adapters, A and B of each linear layer."""
        return [weight for linears in self.products for weight in linears.parameters()]

    def _head_norms(self) -> tuple[Tensor, Tensor] | None:
        return (self.q_norm.weight, self.k_norm.weight) if self.q_norm is not None else None

    def _rotate(self, batch: Batch, qkv_TO: Tensor, cos_PD: Tensor, sin_PD: Tensor) -> list[Tensor]:
        """Returns queries and keys after norm and rotation, and values: [B, S, heads, D] each."""
        qk_TND = qkv_TO.new_empty(len(qkv_TO), self.heads + self.kv_heads, self.size)
        eps = self.q_norm.variance_epsilon if self.q_norm is not None else 0.0
        ops(qkv_TO).rope(
            qkv_TO, self._head_norms(), eps, cos_PD, sin_PD, self.heads, self.kv_heads, qk_TND
        )
        qk_BSND = qk_TND.view(batch.rows, batch.length, -1, self.size)
        v_TO = qkv_TO[:, (self.heads + self.kv_heads) * self.size :]
        v_BSND = v_TO.unflatten(1, (self.kv_heads, self.size)).unflatten(
            0, (batch.rows, batch.length)
        )
        return [qk_BSND[:, :, : self.heads], qk_BSND[:, :, self.heads :], v_BSND]

    def forward(
        self,
        buffer: Buffer,
        batch: Batch,
        x_TH: Tensor,
        cos_PD: Tensor,
        sin_PD: Tensor,
        output: bool = True,
    ) -> tuple[Any, SavedActivations]:
        """Returns the layer's output [T, H] (None without `output`) and the activations for the backward pass."""
        tokens, kernels = len(x_TH), ops(x_TH)
        normed_TK = self.qkv.input(x_TH)
        kernels.norm(
            x_TH, self.first_norm.weight, self.first_norm.variance_epsilon, self.qkv.head(normed_TK)
        )
        qkv_TO, low_qkv_TR = self.qkv.forward(buffer, normed_TK)
        q_BSND, k_BSND, v_BSND = self._rotate(batch, qkv_TO, cos_PD, sin_PD)
        attention = Attention(batch, q_BSND, k_BSND, v_BSND, self.scale)
        del q_BSND, k_BSND, v_BSND
        joined_TK = self.o.input(x_TH)
        self.o.head(joined_TK).view(batch.rows, batch.length, self.heads, self.size).copy_(
            attention.out_BSND
        )
        middle_TH, low_o_TR = self.o.forward(buffer, joined_TK, onto=x_TH)
        del joined_TK, normed_TK
        normed_TK = self.gate_up.input(x_TH)
        eps = self.second_norm.variance_epsilon
        kernels.norm(middle_TH, self.second_norm.weight, eps, self.gate_up.head(normed_TK))
        gate_up_TO = x_TH.new_empty(tokens, self.gate_up.rows + self.gate_up.low)
        _, low_gate_up_TR = self.gate_up.forward(
            buffer, normed_TK, out=gate_up_TO[:, : self.gate_up.rows]
        )
        del normed_TK
        product_TK = self.down.input(x_TH)
        kernels.swiglu(gate_up_TO[:, : self.gate_up.rows], self.down.head(product_TK))
        out_TH, low_down_TR = self.down.forward(buffer, product_TK, onto=middle_TH, output=output)
        low = [low_qkv_TR, low_o_TR, low_gate_up_TR, low_down_TR]
        return out_TH, SavedActivations(qkv_TO, attention, middle_TH, gate_up_TO, low)

    def backward(
        self,
        buffer: Buffer,
        batch: Batch,
        x_TH: Tensor,
        cos_PD: Tensor,
        sin_PD: Tensor,
        saved: SavedActivations,
        grad_TH: Tensor,
        needs_x: bool,
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Returns the gradients of x and of the adapters in the order of `parameters`, from that of the output.

        Consumes `saved`: its tensors are overwritten and freed.
        """
        kernels = ops(x_TH)
        low_qkv_TR, low_o_TR, low_gate_up_TR, low_down_TR = saved.low
        # MLP: middle + down(silu(gate) * up)
        grad_down_TO = self.down.output(x_TH)
        self.down.head_out(grad_down_TO).copy_(grad_TH)
        grad_product_TF = self.down.backward(buffer, grad_down_TO)
        grads_b_down = self.down.grad_b(grad_down_TO, low_down_TR)
        grad_gate_up_TO, saved.gate_up_TO = saved.gate_up_TO, None  # type: ignore[assignment]
        factors_F3R = kernels.swiglu_backward(
            grad_gate_up_TO[:, : self.gate_up.rows],
            grad_product_TF,
            grad_down_TO[:, self.down.rows :],
            low_gate_up_TR,
        )
        del grad_product_TF, grad_down_TO
        grads_a_down = self.down.unscaled(factors_F3R[:, 0].t())
        grads_b_gate_up = self.gate_up.cut_b(factors_F3R[:, 1:].transpose(0, 1))
        grad_normed_TH = self.gate_up.backward(buffer, grad_gate_up_TO)
        grad_middle_TO = self.o.output(x_TH)
        normed_TH = torch.empty_like(x_TH)
        kernels.norm_backward(
            grad_normed_TH,
            saved.middle_TH,
            self.second_norm.weight,
            self.second_norm.variance_epsilon,
            grad_TH,
            self.o.head_out(grad_middle_TO),
            normed_TH,
        )
        grads_a_gate_up = self.gate_up.grad_a(grad_gate_up_TO, normed_TH)
        del grad_gate_up_TO
        # Attention: x + o(attention(q, k, v))
        grad_joined_TK = self.o.backward(buffer, grad_middle_TO)
        grads_b_o = self.o.grad_b(grad_middle_TO, low_o_TR)
        grads_a_o = self.o.grad_a(grad_middle_TO, saved.attention.out_BSND.reshape(len(x_TH), -1))
        grads_BSND = self._attention_backward(batch, saved, cos_PD, sin_PD, grad_joined_TK)
        del grad_joined_TK
        grad_qkv_TO = self.qkv.output(x_TH)
        self._rotate_backward(
            grads_BSND, saved.qkv_TO, cos_PD, sin_PD, self.qkv.head_out(grad_qkv_TO)
        )
        del grads_BSND
        # Needed without `needs_x` too: it fills the last columns of grad_qkv_TO, which grad_a reads.
        grad_normed_TH = self.qkv.backward(buffer, grad_qkv_TO, needs_x)
        grads_b_qkv = self.qkv.grad_b(grad_qkv_TO, low_qkv_TR)
        grad_x_TH = self._first_norm_backward(
            x_TH, grad_normed_TH, self.o.head_out(grad_middle_TO), normed_TH
        )
        grads_a_qkv = self.qkv.grad_a(grad_qkv_TO, normed_TH)
        return grad_x_TH, self._in_order(
            (grads_a_qkv, grads_b_qkv),
            (grads_a_o, grads_b_o),
            (grads_a_gate_up, grads_b_gate_up),
            (grads_a_down, grads_b_down),
        )

    def _attention_backward(
        self,
        batch: Batch,
        saved: SavedActivations,
        cos_PD: Tensor,
        sin_PD: Tensor,
        grad_joined_TK: Tensor,
    ) -> Any:
        """Returns the gradients of the rotated queries and keys, and of values, from that of attention's output."""
        q_BSND, k_BSND, v_BSND = self._rotate(batch, saved.qkv_TO, cos_PD, sin_PD)
        grad_BSND = grad_joined_TK.view(q_BSND.shape)
        return saved.attention.backward(grad_BSND, q_BSND, k_BSND, v_BSND)

    def _rotate_backward(
        self, grads_BSND: Any, qkv_TO: Tensor, cos_PD: Tensor, sin_PD: Tensor, grad_qkv_TO: Tensor
    ) -> None:
        """Writes the gradient of q, k and v before norm and rotation into `grad_qkv_TO`."""
        ops(qkv_TO).rope_backward(
            tuple(g.reshape(len(qkv_TO), -1, self.size) for g in grads_BSND),
            qkv_TO,
            self._head_norms(),
            self.q_norm.variance_epsilon if self.q_norm is not None else 0.0,
            cos_PD,
            sin_PD,
            grad_qkv_TO,
        )

    def _first_norm_backward(
        self, x_TH: Tensor, grad_normed_TH: Tensor | None, residual_TH: Tensor, normed_TH: Tensor
    ) -> Tensor | None:
        """Writes the first norm's output into `normed_TH`. Returns the gradient of x; None without that of the norm."""
        norm, kernels = self.first_norm, ops(x_TH)
        if grad_normed_TH is None:
            kernels.norm(x_TH, norm.weight, norm.variance_epsilon, normed_TH)
            return None
        grad_x_TH = torch.empty_like(x_TH)
        kernels.norm_backward(
            grad_normed_TH,
            x_TH,
            norm.weight,
            norm.variance_epsilon,
            residual_TH,
            grad_x_TH,
            normed_TH,
        )
        return grad_x_TH

    def _in_order(self, *grads: tuple[list[Tensor], list[Tensor]]) -> list[Tensor]:
        """Returns the gradients of each product's A and B in the order and dtypes of `parameters`."""
        pairs = [pair for of_a, of_b in grads for pair in zip(of_a, of_b, strict=True)]
        flat = [grad for pair in pairs for grad in pair]
        return [g.to(p.dtype) for g, p in zip(flat, self.parameters(), strict=True)]
