"""Measures QLoRA training steps on one GPU: tokens per second and peak memory, ours against other trainers.

    python -m benchmarks.qlora --model 32b                   # all trainers, Qwen3-32B's shape; 70b: Llama-3.3-70B's
    python -m benchmarks.qlora --model 32b --with trl ours   # only these trainers (see qlora_baselines.py)
    python -m benchmarks.qlora --model 32b --with loop       # the fused layers in a bare training loop
    python -m benchmarks.qlora --model 32b --baseline        # the same loop with the stock modules
    python -m benchmarks.qlora --model 70b --smallest        # the least memory at batch size 1, in the loop
    python -m benchmarks.qlora --model 32b --bits 8          # the loop with weights in FP8
    python -m benchmarks.qlora --model 32b --check           # gradients against float32, two layers
    python -m benchmarks.qlora --model 32b --profile         # time per kind of kernel in a step of the loop

Needs an NVIDIA GPU and the packages torch, triton, transformers, peft and bitsandbytes; the rest of the project's
environment is not needed. The trainers need more: see qlora_baselines.py. Downloads nothing.

The weights are random: one layer is quantised (NF4 with double quantisation, or FP8) and repeated. The adapters have
rank 16, on all linear layers, in bfloat16 as in stock TRL. AdamW trains them on random tokens that all count in the
loss. Rows and kept layers are those that training plans for the GPU. Results and their explanation: qlora.md.
"""

import argparse
import copy
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

# Imported first: it configures torch's memory allocator, which must happen before torch is imported.
from benchmarks.qlora_setup import DEVICE, SHAPES, build, planned, row, timed

# isort: split
import torch
from torch import nn

from benchmarks import qlora_baselines
from student.kernels import fused_layers, torch_ops
from student.kernels.fp8 import Fp8Linear
from student.kernels.linear_cross_entropy import linear_cross_entropy

TRAINERS = ["trl", "liger", "unsloth", "ours", "fp8"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--model", choices=SHAPES, default="32b")
    parser.add_argument(
        "--with",
        dest="trainers",
        nargs="+",
        choices=[*TRAINERS, "loop"],
        help="what trains the model; several run in a process each and print a table (default: all but loop)",
    )
    parser.add_argument(
        "--limit", type=float, default=240, help="seconds for each trainer of a table"
    )
    parser.add_argument("--unsloth-path", help="directory with the TRL version that Unsloth needs")
    parser.add_argument("--rows", type=int, help="sequences per step")
    parser.add_argument("--length", type=int, default=2048, help="tokens per sequence")
    parser.add_argument(
        "--keep", type=int, help="layers that keep their activations; the others recompute them"
    )
    parser.add_argument(
        "--offload", action="store_true", help="keep the other layers' inputs in host memory"
    )
    parser.add_argument("--layers", type=int, help="fewer layers than the real model")
    parser.add_argument(
        "--bits", type=int, choices=(4, 8), help="of the loop's weights: NF4 or FP8 (default: 4)"
    )
    parser.add_argument(
        "--baseline", action="store_true", help="stock modules instead of the fused layers"
    )
    parser.add_argument(
        "--smallest", action="store_true", help="least memory: one row, no activations kept"
    )
    parser.add_argument("--check", action="store_true", help="compare gradients with float32")
    parser.add_argument("--profile", action="store_true", help="print the time per kind of kernel")
    options = parser.parse_args()
    if options.check:
        check(options.model)
        return
    loop = options.baseline or options.smallest or options.profile or options.bits is not None
    trainers = options.trainers or (["loop"] if loop else TRAINERS)
    if trainers != ["loop"]:
        if loop:
            parser.error(
                "--baseline, --smallest, --profile and --bits need the loop: expected no --with, or --with loop"
            )
        if len(trainers) > 1:
            arguments = sys.argv[1:]
            if options.trainers:
                at = arguments.index("--with")
                del arguments[at : at + 1 + len(trainers)]
            qlora_baselines.print_table(trainers, arguments, options.limit)
            return
        (trainer,) = trainers
        if trainer == "unsloth" and options.unsloth_path:
            sys.path.insert(0, options.unsloth_path)
        fixed = qlora_baselines.BATCH[options.model].get(trainer)
        options.rows = options.rows or fixed
        rows, keep = batch(options, 8 if trainer == "fp8" else 4)
        qlora_baselines.run(
            trainer,
            options.model,
            options.layers,
            rows,
            options.length,
            keep=keep,
            offload=options.offload,
        )
        return
    name = torch.cuda.get_device_name()
    bits = options.bits or 4
    rows, keep = batch(options, bits)
    started = time.monotonic()
    model = build(options.model, options.layers, bits)
    if options.baseline:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        kind = "stock modules, activation checkpointing"
    else:
        fused = fused_layers.install(model, max(keep, 0), options.offload or keep < 0)
        kind = f"fused, {fused.keep} layers kept" + (", offload" if fused.offload else "")
        kind = ("FP8, " if bits == 8 else "NF4, ") + kind
    torch.cuda.synchronize()
    weights = torch.cuda.memory_allocated() / 2**30
    print(f"{name}: built in {time.monotonic() - started:.0f} s, {weights:.1f} GiB", flush=True)
    seconds, peak, reserved = measure(
        model, rows, options.length, 512 if options.smallest else 2048, options.profile
    )
    print(
        row(
            options.model,
            f"bare training loop: {kind}",
            rows,
            options.length,
            seconds=seconds,
            peak=peak,
            reserved=reserved,
        )
    )


def batch(options: argparse.Namespace, bits: int) -> tuple[int, int]:
    """Rows of a step, and layers that keep their activations (-1: their inputs in host memory)."""
    if options.smallest:
        return options.rows or 1, 0 if options.keep is None else options.keep
    rows, keep = planned(options.model, bits, options.length, options.layers, rows=options.rows)
    return rows, keep if options.keep is None else options.keep


def loss_of(model: Any, tokens: torch.Tensor, chunk: int = 2048, **layout: Any) -> torch.Tensor:
    """The mean cross entropy of next tokens [rows, length], without materialising all logits.

    layout: further inputs of the model, such as those of packed sequences.
    """
    base = model.get_base_model()
    hidden = base.model(input_ids=tokens, use_cache=False, **layout).last_hidden_state[:, :-1]
    return linear_cross_entropy(
        hidden.reshape(-1, hidden.shape[-1]),
        base.lm_head.weight,
        tokens[:, 1:].flatten(),
        chunk=chunk,
    )


def whole_step(model: Any, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """A training step on that loss, optimiser included."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=2e-4, fused=True)

    def step() -> None:
        loss().backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return step


def measure(
    model: Any, rows: int, length: int, chunk: int, profile: bool = False
) -> tuple[float, float, float]:
    """(seconds per step, peak GiB allocated, peak GiB reserved) of whole steps, optimiser included."""

    def loss() -> torch.Tensor:
        tokens = torch.randint(0, model.config.vocab_size, (rows, length), device=DEVICE)
        return loss_of(model, tokens, chunk)

    step = whole_step(model, loss)
    seconds = timed(step)
    peak, reserved = (
        x / 2**30 for x in (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved())
    )
    if profile:
        print_profile(step)
    return seconds, peak, reserved


# Kinds of kernels, by what the name contains; the first match counts.
KINDS = [
    ("dequantise", ("dequant",)),
    ("quantise, transpose", ("_quantise", "_transpose")),
    ("adapters' share", ("_add_low_rank", "place_adapters")),
    ("attention", ("flash", "fmha", "sdpa", "cudnn", "attention")),
    ("matrix products", ("gemm", "nvjet", "cutlass", "splitk", "cublas", "xmma")),
    ("swiglu", ("swiglu", "silu")),
    ("norm, rope", ("_norm", "_rope", "rms")),
    ("cross entropy", ("_cross_entropy",)),
    ("optimiser", ("multi_tensor", "adam")),
    ("copies", ("copy", "memcpy", "memset", "fill", "cat")),
]


def print_profile(step: Any) -> None:
    """Prints the GPU milliseconds of one step by kind of kernel, and the 25 longest kernels."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        step()
        torch.cuda.synchronize()
    kinds: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    rows = []
    for event in profiled.key_averages():
        if event.self_device_time_total == 0:
            continue  # an operation on the CPU
        milliseconds, count, label = event.self_device_time_total / 1e3, event.count, event.key
        kind = next((k for k, parts in KINDS if any(p in label.lower() for p in parts)), "other")
        kinds[kind][0] += milliseconds
        kinds[kind][1] += count
        rows.append((milliseconds, count, label))
    total = sum(milliseconds for milliseconds, _ in kinds.values())
    for kind, (milliseconds, count) in sorted(kinds.items(), key=lambda item: -item[1][0]):
        print(
            f"  {kind:<18}{milliseconds:9.1f} ms {milliseconds / total:6.1%} {count:7.0f} kernels"
        )
    for milliseconds, count, label in sorted(rows, reverse=True)[:25]:
        print(f"    {milliseconds:8.1f} ms {count:6} {label[:110]}")


def check(name: str, layers: int = 2, tokens: int = 512) -> None:
    """Prints the error of one step's adapter gradients against float32, with stock modules and with fused layers.

    Once with the quantised weights in float32, which shows the products' error, and once with the original weights.
    """
    original = build(name, layers, 16)
    for label, parameter in original.named_parameters():
        if "lora_B" in label:
            nn.init.normal_(parameter, std=0.02)
    adapters = {n: p.data for n, p in original.named_parameters() if p.requires_grad}
    ids = torch.randint(0, original.config.vocab_size, (2, tokens), device=DEVICE)
    true = gradients(in_float32(original), ids)
    kinds = {"bfloat16": 16, "NF4": 4, "FP8": 8}
    for kind, bits in kinds.items():
        model = original if bits == 16 else build(name, layers, bits)
        for label, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.data.copy_(adapters[label])
        exact = gradients(in_float32(model), ids)
        by_kind = {} if bits == 8 else {"stock modules": gradients(model, ids)}
        fused_layers.install(model, keep=layers // 2)  # the others recompute their activations
        by_kind["fused"] = gradients(model, ids)
        for way, grads in by_kind.items():
            for against, reference in (("its own weights", exact), ("16-bit weights", true)):
                errors = {
                    n: float((grads[n].float() - g).norm() / g.norm()) for n, g in reference.items()
                }
                worst = max(errors, key=lambda n: errors[n])
                print(f"{name}, {layers} layers, {kind}, {way}, against {against} in float32: "
                      f"mean {statistics.mean(errors.values()):.4f}, largest {errors[worst]:.4f} "
                      f"({worst.split('layers.')[-1]})", flush=True)  # fmt: skip
        del model


def gradients(model: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """The gradients of all trainable parameters after one backward pass, by name."""
    model.zero_grad()
    loss = loss_of(model, ids)
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def in_float32(model: Any) -> Any:
    """A copy of the model with every weight dequantised, in float32."""
    exact = copy.deepcopy(model)
    for module in list(exact.modules()):
        for label, linear in list(module.named_children()):
            state = getattr(getattr(linear, "weight", None), "quant_state", None)
            if isinstance(linear, Fp8Linear):
                dense = nn.Linear(linear.in_features, linear.out_features, False, "meta")
                weight = linear.dequantised(torch.float32)
                dense.weight = nn.Parameter(weight, requires_grad=False)
                setattr(module, label, dense)
            elif state is not None and not hasattr(linear, "lora_A"):
                dense = nn.Linear(
                    linear.in_features, linear.out_features, bias=False, device=DEVICE
                )
                dense.weight.requires_grad_(False)
                torch_ops.dequantise(linear.weight.data, state, dense.weight)
                setattr(module, label, dense)
    return exact.float()


if __name__ == "__main__":
    main()
