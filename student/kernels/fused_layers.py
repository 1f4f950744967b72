"""QLoRA training near the speed of the GPU: fused decoder layers for a transformers model with PEFT adapters.

    from student.kernels import fused_layers
    fused_layers.install(peft_model, keep=64)     # then train as before, for example with TRL's SFTTrainer

QLoRA (arXiv:2305.14314) holds the frozen weights in 4 bits and trains two low-rank matrices beside each of them,
y = x W^T + s (x A^T) B^T (LoRA, arXiv:2106.09685). `install` replaces each decoder layer's forward by one autograd
function. It differs from the modules that it replaces in what it recomputes and what it keeps:

- a weight is dequantised once per pass, directly before its product, into one buffer that all layers share. Weights in
  FP8 are multiplied as they are, on GPUs that can (decoder_layer_fp8.py);
- the adapter is part of the same product: [x, s x A^T] [W, B]^T forward, [dy, dy B] [W; s A] backward. Projections of
  one input (q, k, v; gate, up) are one product, and their input is read once for all their A;
- a layer keeps only what would need another matrix product or attention to recompute. Norms, rotary embedding and
  silu(gate) * up are cheap and are recomputed in the backward pass;
- a layer beyond `keep` keeps only its input (in host memory with `offload`) and is recomputed as a whole;
- in packed sequences (TRL's padding-free batches) each sequence attends to itself; padding on the right needs no mask.

Measured numbers: benchmarks/qlora.md. The matrix products are in lora_linear.py, attention in attention.py, one layer
in decoder_layer.py, other operations in triton_ops.py (GPU) and torch_ops.py (CPU).
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from student.kernels.batch import Batch
from student.kernels.decoder_layer_fp8 import Fp8DecoderLayer, make_layer
from student.kernels.host_offload import HostMemory
from student.kernels.lora_linear import Buffer


def install(model: Any, keep: int | None = None, offload: bool = False) -> "Fused":
    """Replaces the training forward of a PEFT model's decoder layers by fused functions. Generation does not change.

    Args:
        model: a PeftModel of a Llama, Qwen2, Qwen3, Qwen2.5-VL or Qwen3-VL with a LoRA adapter on all linear layers of
            the language model, without dropout, loaded in bfloat16. Do not call prepare_model_for_kbit_training (it
            casts unquantised weights to float32), and turn the trainer's gradient checkpointing off: it would
            recompute every layer once more.
        keep: how many layers, counted from the last, keep what their backward pass needs; default all. The other
            layers keep their input and are recomputed. student/training/memory.py computes how many fit;
            `keep_layers` changes the number between batches.
        offload: keep the inputs of recomputed layers in host memory.

    Raises:
        ValueError: a layer cannot be fused. The message names the layer and the reason.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    decoder = getattr(base.model, "language_model", base.model)  # in vision-language models
    return Fused(decoder, len(decoder.layers) if keep is None else keep, offload)


class Fused:
    """The fused layers of one model, with their shared weight buffer and host memory."""

    def __init__(self, decoder: Any, keep: int, offload: bool) -> None:
        self.decoder, self.keep, self.offload = decoder, keep, offload
        self.batch: Batch | None = None
        self.host: HostMemory | None = None
        self.layers = [make_layer(layer, f"layer {i}") for i, layer in enumerate(decoder.layers)]
        if self.multiplies_fp8:
            torch.cuda.empty_cache()  # the single weights, which became parts of joint ones
        products = [linears for layer in self.layers for linears in layer.products]
        self.buffer = Buffer(max(linears.elements for linears in products))
        for index, layer in enumerate(decoder.layers):
            layer.forward = functools.partial(self._layer, index, layer.forward)
        decoder.forward = functools.partial(self._decoder, decoder.forward)

    @property
    def multiplies_fp8(self) -> bool:
        """Whether all layers multiply in FP8."""
        return all(isinstance(layer, Fp8DecoderLayer) for layer in self.layers)

    def keep_layers(self, number: int) -> None:
        """Sets how many layers keep their activations in the batches that follow. With -1 no layer does, and the inputs
        of all layers but the first are kept in host memory."""
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
        """Replaces the decoder's forward: locates the sequences and prevents transformers from building a mask."""
        caching = use_cache or (use_cache is None and not self.decoder.training)
        call = functools.partial(
            forward,
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            position_ids=position_ids,
            **kwargs,
        )
        if past_key_values is not None or caching or not all(layer.active for layer in self.layers):
            return call(
                attention_mask=attention_mask, past_key_values=past_key_values, use_cache=use_cache
            )
        if (
            self.decoder.training
            and self.decoder.layers[0].gradient_checkpointing
            and torch.is_grad_enabled()
        ):
            raise ValueError(
                "gradient checkpointing is on and would recompute the fused layers once more: turn it off "
                "(SFTConfig(gradient_checkpointing=False); it is on by default) and set by install's `keep` how many "
                "layers are not recomputed"
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
                    "the fused layers attend causally within each sequence; the attention mask of shape "
                    f"{tuple(attention_mask.shape)} is not a mask of padding on the right. Pad on the right, or pack "
                    "with position_ids that start again at 0"
                )
        elif rows == 1 and "cu_seq_lens_q" in kwargs:
            batch.starts = kwargs["cu_seq_lens_q"].to(torch.int32)
            batch.longest = int(kwargs["max_length_q"])
            if "key_index" in kwargs:
                batch.keys = kwargs["key_index"]
                batch.key_starts = kwargs["cu_seq_lens_k"].to(torch.int32)
                batch.longest_keys = int(kwargs["max_length_k"])
        elif rows == 1 and position_ids is not None and position_ids.ndim == 2:
            # M-RoPE position ids (three axes) do not show where a sequence begins.
            starts = (position_ids[0] == 0).nonzero().flatten().to(torch.int32)
            if len(starts) > 1:
                batch.starts = torch.cat([starts, starts.new_tensor([length])])
                batch.longest = int(batch.starts.diff().max())
        self.batch = batch
        try:
            # transformers passes a mask of four dimensions on unchanged.
            placeholder = tokens.new_empty(1, 1, 1, 1)
            return call(attention_mask=placeholder, past_key_values=None, use_cache=False)
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
        """Replaces a decoder layer's forward."""
        if self.batch is None:
            return forward(hidden_states, *args, position_embeddings=position_embeddings, **kwargs)
        assert position_embeddings is not None
        cos_PD, sin_PD = (x.reshape(-1, x.shape[-1]) for x in position_embeddings)
        layer = self.layers[index]
        with torch.autocast(hidden_states.device.type, enabled=False):
            if torch.is_grad_enabled():
                return _LayerFunction.apply(
                    hidden_states, cos_PD, sin_PD, self, self.batch, index, *layer.parameters()
                )
            x_TH = hidden_states.reshape(-1, hidden_states.shape[-1])
            out_TH, _ = layer.forward(self.buffer, self.batch, x_TH, cos_PD, sin_PD)
            return out_TH.view(hidden_states.shape)


class _LayerFunction(torch.autograd.Function):
    """A decoder layer. Its parameters are arguments, so that autograd accumulates their gradients as usual."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BSH: Tensor,
        cos_PD: Tensor,
        sin_PD: Tensor,
        fused: Fused,
        batch: Batch,
        index: int,
        *parameters: Tensor,
    ) -> Tensor:
        layer = fused.layers[index]
        keeps = index >= len(fused.layers) - fused.keep
        out_TH, saved = layer.forward(
            fused.buffer, batch, x_BSH.reshape(-1, x_BSH.shape[-1]), cos_PD, sin_PD
        )
        ctx.fused, ctx.batch, ctx.index, ctx.shape = fused, batch, index, x_BSH.shape
        ctx.saved = saved if keeps else None
        ctx.on_host = not keeps and fused.offload and index > 0 and x_BSH.is_cuda
        if ctx.on_host:
            fused.host = fused.host or HostMemory()
            fused.host.put(index, x_BSH)
        ctx.save_for_backward(None if ctx.on_host else x_BSH, cos_PD, sin_PD)
        return out_TH.view(x_BSH.shape)

    @staticmethod
    def backward(ctx: Any, grad_BSH: Tensor) -> tuple[Any, ...]:
        fused, layer = ctx.fused, ctx.fused.layers[ctx.index]
        x_BSH, cos_PD, sin_PD = ctx.saved_tensors
        if ctx.on_host:
            x_BSH = fused.host.get(ctx.index)
        x_TH = x_BSH.reshape(-1, ctx.shape[-1])
        saved, ctx.saved = ctx.saved, None
        if saved is None:
            _, saved = layer.forward(fused.buffer, ctx.batch, x_TH, cos_PD, sin_PD, output=False)
        grad_TH = grad_BSH.reshape(-1, ctx.shape[-1])
        grad_x_TH, grads = layer.backward(
            fused.buffer, ctx.batch, x_TH, cos_PD, sin_PD, saved, grad_TH, ctx.needs_input_grad[0]
        )
        grad_x_BSH = None if grad_x_TH is None else grad_x_TH.view(ctx.shape)
        return (grad_x_BSH, None, None, None, None, None, *grads)
