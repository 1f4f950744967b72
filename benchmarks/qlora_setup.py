"""Builds the models of the QLoRA benchmarks (shapes of real models, random weights) and times their steps."""

import copy
import os
import statistics
import time
from typing import Any

# Set before torch reads it. Without it, fragmentation loses about 2 GiB of 80.
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import torch  # noqa: E402
from torch import nn  # noqa: E402

DEVICE = "cuda"
RANK, ALPHA = 16, 32
WARM, MEASURED = 2, 4
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "32b": (
        "Qwen3",
        {
            "hidden_size": 5120,
            "intermediate_size": 25600,
            "num_hidden_layers": 64,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "rms_norm_eps": 1e-6,
        },
    ),
    "70b": (
        "Llama",
        {
            "hidden_size": 8192,
            "intermediate_size": 28672,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 128256,
            "rms_norm_eps": 1e-5,
        },
    ),
}
HEAD = "| model | trained by | batch | tokens/s | seconds per step | peak GiB (reserved) |"


def build(name: str, layers: int | None = None, bits: int = 4) -> Any:
    """A PEFT model of a shape of SHAPES on the GPU, with adapters in bfloat16 as in stock TRL."""
    return adapted(quantised(name, layers, bits))


def adapted(model: Any, **options: Any) -> Any:
    """The model with adapters in bfloat16. options: further arguments of LoraConfig."""
    from peft import get_peft_model

    model = get_peft_model(model, lora(**options))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    return model.train()


def lora(**options: Any) -> Any:
    """A LoraConfig on all linear layers. options: further arguments of it."""
    from peft import LoraConfig

    return LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM", **options
    )


def config_of(name: str, layers: int | None = None) -> Any:
    """The transformers config of a shape of SHAPES. layers: fewer than the real model has."""
    import transformers

    family, shape = SHAPES[name]
    config = getattr(transformers, f"{family}Config")(**shape, max_position_embeddings=40960)
    config.num_hidden_layers = layers or config.num_hidden_layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    config.architectures = [f"{family}ForCausalLM"]
    config._attn_implementation = "sdpa"
    return config


def planned(
    name: str, bits: int, length: int, layers: int | None = None, rows: int | None = None
) -> tuple[int, int]:
    """Rows of `length` tokens in a step, and layers that keep their activations, as training plans them for this GPU.

    The layers are -1 where their inputs go to the host's memory. rows: chosen by the caller.
    """
    from schemas.recipe import Train
    from student.models.introspect import shape_of
    from student.training import memory
    from teacher.planning import hardware

    shape = shape_of(config_of(name, layers))
    parameters = memory.in_layers(shape) + 2 * SHAPES[name][1]["vocab_size"] * shape["hidden"]
    longest = length * (rows or 1)
    settings = Train(method="qlora", bits=bits, dtype="bfloat16", max_length=longest)
    student = {"shape": shape, "parameters": parameters}
    batch = memory.memory(student, settings, hardware.find())["batch"]
    assert batch is not None
    chosen = batch["tokens"] // length
    if rows or not chosen:
        return rows or 1, batch["longest_layers_kept"]
    return chosen, batch["layers_kept"]


def quantised(name: str, layers: int | None = None, bits: int = 4) -> Any:
    """A model of SHAPES without adapters: one random layer is quantised, and copied to all layers.

    bits: 4 (NF4 with double quantisation), 8 (e4m3 with a scale a row), or 16.
    """
    return quantised_as(config_of(name, layers), bits)


def quantised_as(config: Any, bits: int = 4) -> Any:
    """The same for any config. The vision tower of a vision-language model is left on the meta device."""
    import transformers

    from student.kernels.fp8 import Fp8Linear

    torch.manual_seed(0)
    with torch.device("meta"):
        model = getattr(transformers, config.architectures[0])(config).to(torch.bfloat16)
    decoder = getattr(model.model, "language_model", model.model)
    decoder.rotary_emb = type(decoder.rotary_emb)(config=decoder.config).to(DEVICE)
    for module in [*decoder.modules(), model.lm_head]:
        for label, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(module, nn.Linear) and module is not model.lm_head and label == "weight":
                continue
            value = torch.randn(parameter.shape, dtype=torch.bfloat16, device=DEVICE)
            value = 1 + 0.1 * value if parameter.ndim == 1 else 0.02 * value
            setattr(module, label, nn.Parameter(value, requires_grad=False))
    first: dict[str, Any] = {}
    for layer in decoder.layers:
        for label, linear in list(layer.named_modules()):
            if not isinstance(linear, nn.Linear):
                continue
            if label not in first:
                value = 0.02 * torch.randn(linear.weight.shape, dtype=torch.bfloat16, device=DEVICE)
                if bits == 4:
                    small: Any = in_nf4(value)
                elif bits == 8:
                    small = Fp8Linear.of(value)
                else:
                    small = nn.Linear(*value.shape[::-1], bias=False, device="meta")
                    small.weight = nn.Parameter(value, requires_grad=False)
                first[label] = small
            small = copy.deepcopy(first[label])
            small.bias = linear.bias
            parent, _, leaf = label.rpartition(".")
            setattr(layer.get_submodule(parent), leaf, small)
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = bits == 4, bits == 8
    return model


def in_nf4(weight_OK: torch.Tensor) -> Any:
    """bitsandbytes' layer with this weight in NF4."""
    import bitsandbytes as bnb

    packed: Any = bnb.nn.Params4bit(weight_OK, requires_grad=False, quant_type="nf4")
    with torch.device("meta"):
        layer = bnb.nn.Linear4bit(
            *weight_OK.shape[::-1], bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
        )
    layer.weight = packed.to(device=DEVICE)
    return layer


def timed(step: Any) -> float:
    """The median seconds of the measured steps. The peak of the memory is counted from the first of them."""
    seconds = []
    for number in range(WARM + MEASURED):
        if number == WARM:
            torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
        started = time.perf_counter()
        step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        print(f"  step {number}: {seconds[-1]:.3f} s", flush=True)
    return statistics.median(seconds[WARM:])


def row(
    name: str,
    trainer: str,
    rows: int,
    length: int,
    *,
    seconds: float,
    peak: float,
    reserved: float,
) -> str:
    """A row of the table with the columns of HEAD."""
    rate = rows * length / seconds
    return (
        f"| {name} | {trainer} | {rows} x {length:,} | {rate:,.0f} | {seconds:.3f} | "
        f"{peak:.1f} ({reserved:.1f}) |"
    )
