"""QLoRA training near the speed of the card: fused decoder layers for a transformers model with PEFT adapters.

    from student import qlora
    qlora.install(peft_model, keep=64)     # then train as before: TRL's SFTTrainer stays the trainer

QLoRA (arXiv:2305.14314) holds the frozen weights in 4 bits and trains two thin matrices beside each,
y = x W^T + s (x A^T) B^T (LoRA, arXiv:2106.09685). `install` replaces the decoder layers' forward by one autograd
function a layer, which differs from the modules it replaces in what it computes twice and what it remembers:

- a weight is dequantised once a pass, into one buffer that all layers share, right before its product;
- the adapter rides in the same product: [x, s x A^T] [W, B]^T forward, [dy, dy B] [W; s A] backward. Projections of one
  input (q, k, v; gate, up) are one product, and their input is read once for all their A;
- it keeps only what a matrix product or attention would have to be run again for. Norms, rotary embedding and
  silu(gate) * up are cheap and are done again in the backward pass;
- a layer beyond `keep` remembers its input only, in the host's memory with `offload`, and is run again;
- packed sequences (TRL's padding-free batches) attend each to itself; padding on the right costs no mask.

Numbers and what each step gave: benchmarks/qlora.md. The products are in linears.py, attention in attention.py, what is
beside them in kernels.py for a GPU and in plain_kernels.py for where there is none.

In shapes T is tokens of the batch, H the hidden size, N a product's outputs and K its inputs, F the MLP's size, R the
adapters' rank, padded to a power of two from 16.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from student.kernels.attention import Attention, Batch
from student.kernels.families import FUSED, padded_rank
from student.kernels.lora_linear import Buffer, Linears, check
from student.kernels.triton_ops import ops

# Pre-norm layers with RMSNorm, rotary embedding and a SwiGLU, by the names of their parts.
LAYERS = set(FUSED.values())
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")


def install(model: Any, keep: int | None = None, offload: bool = False) -> "Fused":
    """Has the decoder layers of a PEFT model train through fused functions. Generation is left as it is.

    Args:
        model: a PeftModel of a Llama, Qwen2, Qwen3, Qwen2.5-VL or Qwen3-VL with a LoRA adapter on all linear layers of
            the language model, without dropout. Loaded in bfloat16; leave out prepare_model_for_kbit_training (it makes
            float32 of what is not quantised) and the trainer's gradient checkpointing, which would run every layer
            again.
        keep: so many layers, the last ones, keep what their backward pass needs; default all. The others keep their
            input and are run again. student/training/memory.py says how many fit; `keep_layers` changes it before a batch.
        offload: the inputs of layers that are run again wait in the host's memory.

    Raises:
        ValueError: a layer is not one that can be fused. It names the layer and what is the matter.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    decoder = getattr(base.model, "language_model", base.model)  # of those that see
    return Fused(decoder, len(decoder.layers) if keep is None else keep, offload)


class Fused:
    """The fused layers of one model, and what they share."""

    def __init__(self, decoder: Any, keep: int, offload: bool) -> None:
        self.decoder, self.keep, self.offload = decoder, keep, offload
        self.batch: Batch | None = None
        self.host: _Host | None = None
        self.layers = [_Layer(layer, f"layer {i}") for i, layer in enumerate(decoder.layers)]
        products = [linears for layer in self.layers for linears in layer.products]
        self.buffer = Buffer(max(linears.elements for linears in products))
        for index, layer in enumerate(decoder.layers):
            layer.forward = functools.partial(self._layer, index, layer.forward)
        decoder.forward = functools.partial(self._decoder, decoder.forward)

    def keep_layers(self, number: int) -> None:
        """For the batches that follow: how many layers keep their activations; -1 for none, and the inputs of all but
        the first wait in the host's memory."""
        self.keep, self.offload = max(number, 0), number < 0

    def _decoder(
        self,
        forward: Callable[..., Any],
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Stands in for the decoder's forward: finds the sequences, and keeps transformers from making a mask."""
        caching = use_cache or (use_cache is None and not self.decoder.training)
        call = functools.partial(
            forward,
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            position_ids=position_ids,
            **kwargs,
        )
        if past_key_values is not None or caching or not all(x.active for x in self.layers):
            return call(
                attention_mask=attention_mask, past_key_values=past_key_values, use_cache=use_cache
            )
        if (
            self.decoder.training
            and self.decoder.layers[0].gradient_checkpointing
            and torch.is_grad_enabled()
        ):
            raise ValueError(
                "gradient checkpointing is on and would run the fused layers twice: turn it off "
                "(SFTConfig(gradient_checkpointing=False); it is on by default) and say by install's `keep` how many "
                "layers are not run again"
            )
        tokens = input_ids if input_ids is not None else inputs_embeds
        assert tokens is not None
        rows, length = tokens.shape[:2]
        batch = Batch(rows, length)
        if attention_mask is not None:
            if attention_mask.ndim != 2 or bool(
                (attention_mask[:, 1:] > attention_mask[:, :-1]).any()
            ):
                raise ValueError(
                    "the fused layers attend causally within each sequence; this attention mask says something "
                    "else. Pad on the right, or pack with position_ids that start again at 0"
                )
        elif rows == 1 and "cu_seq_lens_q" in kwargs:
            batch.starts = kwargs["cu_seq_lens_q"].to(torch.int32)
            batch.longest = int(kwargs["max_length_q"])
        elif rows == 1 and position_ids is not None and position_ids.ndim == 2:
            # Positions of three axes, of who sees, do not tell where a sequence begins.
            starts = (position_ids[0] == 0).nonzero().flatten().to(torch.int32)
            if len(starts) > 1:
                batch.starts = torch.cat([starts, starts.new_tensor([length])])
                batch.longest = int(batch.starts.diff().max())
        self.batch = batch
        try:
            # Four dimensions stand for a mask made elsewhere, which transformers hands on without a look.
            nothing = tokens.new_empty(1, 1, 1, 1)
            return call(attention_mask=nothing, past_key_values=None, use_cache=False)
        finally:
            self.batch = None

    def _layer(
        self,
        index: int,
        forward: Callable[..., Any],
        hidden_states: Tensor,
        *args: Any,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Stands in for a decoder layer's forward."""
        if self.batch is None:
            return forward(hidden_states, *args, position_embeddings=position_embeddings, **kwargs)
        assert position_embeddings is not None
        cos, sin = (x.reshape(-1, x.shape[-1]) for x in position_embeddings)
        layer = self.layers[index]
        with torch.autocast(hidden_states.device.type, enabled=False):
            if torch.is_grad_enabled():
                return _LayerFunction.apply(
                    hidden_states, cos, sin, self, self.batch, index, *layer.parameters()
                )
            x = hidden_states.reshape(-1, hidden_states.shape[-1])
            return layer.forward(self.buffer, self.batch, x, cos, sin)[0].view(hidden_states.shape)


class _LayerFunction(torch.autograd.Function):
    """A decoder layer. Its parameters are arguments so that autograd accumulates their gradients as it always does."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        fused: Fused,
        batch: Batch,
        index: int,
        *parameters: Tensor,
    ) -> Tensor:
        layer = fused.layers[index]
        kept = index >= len(fused.layers) - fused.keep
        out, saved = layer.forward(fused.buffer, batch, x.reshape(-1, x.shape[-1]), cos, sin)
        ctx.fused, ctx.batch, ctx.index, ctx.shape = fused, batch, index, x.shape
        ctx.saved = saved if kept else None
        ctx.on_host = not kept and fused.offload and index > 0 and x.is_cuda
        if ctx.on_host:
            fused.host = fused.host or _Host()
            fused.host.put(index, x)
        ctx.save_for_backward(None if ctx.on_host else x, cos, sin)
        return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        fused, layer = ctx.fused, ctx.fused.layers[ctx.index]
        x, cos, sin = ctx.saved_tensors
        if ctx.on_host:
            x = fused.host.get(ctx.index)
        x = x.reshape(-1, ctx.shape[-1])
        saved, ctx.saved = ctx.saved, None
        if saved is None:
            _, saved = layer.forward(fused.buffer, ctx.batch, x, cos, sin, output=False)
        grad = grad.reshape(-1, ctx.shape[-1])
        grad_x, grads = layer.backward(
            fused.buffer, ctx.batch, x, cos, sin, saved, grad, ctx.needs_input_grad[0]
        )
        if grad_x is not None:
            grad_x = grad_x.view(ctx.shape)
        return (grad_x, None, None, None, None, None, *grads)


@dataclass
class _Saved:
    """What a layer keeps for its backward pass beside its input x [T, H]."""

    qkv: Tensor  # [T, Nq + 2 Nk], before norm and rotation
    attention: Attention  # its output [T, Nq] and log-sum-exp
    middle: Tensor  # x after attention [T, H]
    gate_up: Tensor  # [T, 2F + 2R]: gate and up, and columns that the backward pass fills
    low: list[Tensor]  # of q,k,v; o; gate,up; down: s x A^T [T, n R]


class _Layer:
    """One decoder layer, read from its modules."""

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
        """Whether the adapters are in use, and not merged into the weights."""
        return not any(m.disable_adapters or m.merged for x in self.products for m in x.modules)

    def parameters(self) -> list[Tensor]:
        return [x for linears in self.products for x in linears.parameters()]

    def _head_norms(self) -> tuple[Tensor, Tensor] | None:
        return (self.q_norm.weight, self.k_norm.weight) if self.q_norm is not None else None

    def _rotated(self, batch: Batch, qkv: Tensor, cos: Tensor, sin: Tensor) -> list[Tensor]:
        """Queries, keys and values, [B, S, heads, D] each."""
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
    ) -> tuple[Any, _Saved]:
        """The layer's output [T, H] (None without `output`) and what the backward pass needs."""
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
        return out, _Saved(qkv, attention, middle, gate_up, low)

    def backward(
        self,
        buffer: Buffer,
        batch: Batch,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        saved: _Saved,
        grad: Tensor,
        needs_x: bool,
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Gradients of x [T, H] and, in the order of `parameters`, of the adapters, given that of the output.

        `saved` is used up: its parts are overwritten and freed on the way.
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
        # The product with the weights is also what fills the last columns of grad_qkv, which grad_a reads.
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


class _Host:
    """Layer inputs in pinned host memory, copied beside the computation, the next one fetched ahead."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()
        self.memory: dict[int, Tensor] = {}
        self.stored: dict[int, tuple[torch.Size, torch.device]] = {}
        self.coming: dict[int, Tensor] = {}

    def put(self, index: int, x: Tensor) -> None:
        memory = self.memory.get(index)
        if memory is None or memory.numel() < x.numel() or memory.dtype != x.dtype:
            self.memory[index] = torch.empty(x.numel(), dtype=x.dtype, pin_memory=True)
        self.stored[index] = (x.shape, x.device)
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self.memory[index][: x.numel()].view(x.shape).copy_(x, non_blocking=True)
        x.record_stream(self.stream)

    def get(self, index: int) -> Tensor:
        x = self.coming.pop(index, None)
        if x is None:
            x = self._fetch(index)
        torch.cuda.current_stream().wait_stream(self.stream)
        x.record_stream(torch.cuda.current_stream())
        if index - 1 in self.stored:
            self.coming[index - 1] = self._fetch(index - 1)
        return x

    def _fetch(self, index: int) -> Tensor:
        shape, device = self.stored.pop(index)
        with torch.cuda.stream(self.stream):
            memory = self.memory[index][: shape.numel()].view(shape)
            return memory.to(device, non_blocking=True)
