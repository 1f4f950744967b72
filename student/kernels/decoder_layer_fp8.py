"""One decoder layer whose frozen weights are multiplied in FP8: decoder_layer.py with lora_linear_fp8.py's products.

Norms write their result in e4m3 too. Attention's output, silu(gate) * up and the gradients of gate, up, q, k, v are
quantised by a kernel of their own. gate and up are kept without the adapters' share, which SwiGLU's kernels add.
"""

from typing import Any

import torch
from torch import Tensor

from student.kernels.attention import Attention
from student.kernels.batch import Batch
from student.kernels.decoder_layer import DecoderLayer, SavedActivations
from student.kernels.fp8 import Rows8
from student.kernels.lora_linear import Buffer
from student.kernels.lora_linear_fp8 import Fp8Linears, can_multiply
from student.kernels.triton_ops import ops


class Fp8DecoderLayer(DecoderLayer):
    """One decoder layer, with the functions and arguments of `DecoderLayer`."""

    LINEARS = Fp8Linears
    qkv: Fp8Linears
    o: Fp8Linears
    gate_up: Fp8Linears
    down: Fp8Linears

    def _norm(self, norm: Any, x_TH: Tensor) -> tuple[Tensor, Rows8]:
        normed_TH, rows8 = torch.empty_like(x_TH), Rows8.empty(x_TH)
        ops(x_TH).norm(x_TH, norm.weight, norm.variance_epsilon, normed_TH, rows8)
        return normed_TH, rows8

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
        kernels, dtype = ops(x_TH), x_TH.dtype
        normed_TH, normed8 = self._norm(self.first_norm, x_TH)
        low_qkv_TR = self.qkv.low_rank(normed_TH)
        qkv_TO = self.qkv.add(self.qkv.product(normed8, dtype), low_qkv_TR)
        q_BSND, k_BSND, v_BSND = self._rotate(batch, qkv_TO, cos_PD, sin_PD)
        attention = Attention(batch, q_BSND, k_BSND, v_BSND, self.scale)
        del q_BSND, k_BSND, v_BSND, normed_TH, normed8
        joined_TK = attention.out_BSND.reshape(len(x_TH), -1)
        low_o_TR = self.o.low_rank(joined_TK)
        middle_TH = self.o.product(kernels.quantise(joined_TK), dtype)
        middle_TH = self.o.add(middle_TH, low_o_TR, x_TH)
        normed_TH, normed8 = self._norm(self.second_norm, middle_TH)
        low_gate_up_TR = self.gate_up.low_rank(normed_TH)
        gate_up_TO = self.gate_up.product(normed8, dtype)
        del normed_TH, normed8
        product_TF = kernels.swiglu_low(gate_up_TO, low_gate_up_TR, *self.gate_up.b())
        low_down_TR, out_TH = self.down.low_rank(product_TF), None
        if output:
            out_TH = self.down.product(kernels.quantise(product_TF), dtype)
            self.down.add(out_TH, low_down_TR, middle_TH)
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
        kernels, dtype = ops(x_TH), x_TH.dtype
        low_qkv_TR, low_o_TR, low_gate_up_TR, low_down_TR = saved.low
        # MLP: middle + down(silu(gate) * up)
        grad8 = kernels.quantise(grad_TH, self.down.factor_O)
        grad_product_TF = self.down.product_backward(buffer, grad8, dtype)
        low_grad_TR = self.down.low_grad(grad_TH)
        grads_b_down = self.down.grad_b(grad_TH, low_down_TR)
        grad_gate_up_TO, saved.gate_up_TO = saved.gate_up_TO, None  # type: ignore[assignment]
        factors_F3R = kernels.swiglu_backward(
            grad_gate_up_TO,
            grad_product_TF,
            low_grad_TR,
            low_gate_up_TR,
            (*self.gate_up.b(), self.down.scaled_a(x_TH)),
        )
        del grad_product_TF
        grads_a_down = self.down.unscaled(factors_F3R[:, 0].t())
        grads_b_gate_up = self.gate_up.cut_b(factors_F3R[:, 1:].transpose(0, 1))
        grad8 = kernels.quantise(grad_gate_up_TO, self.gate_up.factor_O)
        low_grad_TR = self.gate_up.low_grad(grad_gate_up_TO)
        del grad_gate_up_TO
        grad_normed_TH = self.gate_up.product_backward(buffer, grad8, dtype)
        self.gate_up.add_backward(grad_normed_TH, low_grad_TR)
        grad_middle_TH, normed_TH = torch.empty_like(x_TH), torch.empty_like(x_TH)
        kernels.norm_backward(
            grad_normed_TH,
            saved.middle_TH,
            self.second_norm.weight,
            self.second_norm.variance_epsilon,
            grad_TH,
            grad_middle_TH,
            normed_TH,
        )
        grad8 = kernels.quantise(grad_middle_TH, self.o.factor_O)
        grads_a_gate_up = self.gate_up.grad_a_from(low_grad_TR, normed_TH)
        # Attention: x + o(attention(q, k, v))
        low_grad_TR = self.o.low_grad(grad_middle_TH)
        grad_joined_TK = self.o.product_backward(buffer, grad8, dtype)
        self.o.add_backward(grad_joined_TK, low_grad_TR)
        grads_b_o = self.o.grad_b(grad_middle_TH, low_o_TR)
        joined_TK = saved.attention.out_BSND.reshape(len(x_TH), -1)
        grads_a_o = self.o.grad_a_from(low_grad_TR, joined_TK)
        grads_BSND = self._attention_backward(batch, saved, cos_PD, sin_PD, grad_joined_TK)
        del grad_joined_TK
        grad_qkv_TO = torch.empty_like(saved.qkv_TO)
        self._rotate_backward(grads_BSND, saved.qkv_TO, cos_PD, sin_PD, grad_qkv_TO)
        del grads_BSND
        low_grad_TR = self.qkv.low_grad(grad_qkv_TO)
        grads_b_qkv = self.qkv.grad_b(grad_qkv_TO, low_qkv_TR)
        grad_first_TH: Tensor | None = None
        if needs_x:
            grad8 = kernels.quantise(grad_qkv_TO, self.qkv.factor_O)
            grad_first_TH = self.qkv.product_backward(buffer, grad8, dtype)
            self.qkv.add_backward(grad_first_TH, low_grad_TR)
        grad_x_TH = self._first_norm_backward(x_TH, grad_first_TH, grad_middle_TH, normed_TH)
        grads_a_qkv = self.qkv.grad_a_from(low_grad_TR, normed_TH)
        return grad_x_TH, self._in_order(
            (grads_a_qkv, grads_b_qkv),
            (grads_a_o, grads_b_o),
            (grads_a_gate_up, grads_b_gate_up),
            (grads_a_down, grads_b_down),
        )


def make_layer(layer: Any, name: str) -> DecoderLayer:
    """Returns the fused layer of transformers' `layer`: with FP8 products where weights and GPU have them."""
    adapted = [module for module in layer.modules() if hasattr(module, "get_base_layer")]
    return (Fp8DecoderLayer if adapted and can_multiply(adapted) else DecoderLayer)(layer, name)
