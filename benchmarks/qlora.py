"""QLoRA training steps on one GPU: tokens a second and peak memory, ours against other trainers.

    python -m benchmarks.qlora --model 32b                   # all trainers, Qwen3-32B's shape; 70b: Llama-3.3-70B's
    python -m benchmarks.qlora --model 32b --with trl ours   # some of them (qlora_baselines.py has what they need)
    python -m benchmarks.qlora --model 32b --with loop       # the fused layers in a plain loop, without a trainer
    python -m benchmarks.qlora --model 32b --baseline        # the same loop around the modules they replace
    python -m benchmarks.qlora --model 70b --smallest        # the least memory at batch 1, in the loop
    python -m benchmarks.qlora --model 32b --check           # gradients against float32, two layers
    python -m benchmarks.qlora --model 32b --profile         # where the time of a step goes, in the loop

Needs an NVIDIA GPU and the packages peft and bitsandbytes; downloads nothing. The weights are random: one layer is
quantised (NF4, double quantisation) and repeated. Adapters of rank 16 on all linear layers, in bfloat16 as TRL makes
them, trained by AdamW on random tokens that all count in the loss. Results, and how they came about: qlora.md.
"""

import argparse
import copy
import statistics
import sys
import time
from collections import defaultdict
from typing import Any

# First, since it says how torch takes memory before torch is imported.
from benchmarks.qlora_setup import DEVICE, SHAPES, build, row, timed

# isort: split
import torch
from torch import nn

from benchmarks import qlora_baselines
from student.kernels import fused_layers, torch_ops
from student.kernels.linear_cross_entropy import linear_cross_entropy

# Rows of 2,048 tokens a step, and layers that keep their activations, on 80 GB.
BEST = {"32b": (2, 64), "70b": (1, 80)}
TRAINERS = ["trl", "liger", "unsloth", "ours"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--model", choices=SHAPES, default="32b")
    parser.add_argument(
        "--with",
        dest="trainers",
        nargs="+",
        choices=[*TRAINERS, "loop"],
        help="what trains it; more than one, each in its own process, make a table (default: all but loop)",
    )
    parser.add_argument("--limit", type=float, default=240, help="seconds for each of a table")
    parser.add_argument("--unsloth-path", help="a folder to look into first for Unsloth's TRL")
    parser.add_argument("--rows", type=int, help="sequences a step")
    parser.add_argument("--length", type=int, default=2048, help="tokens a sequence")
    parser.add_argument("--keep", type=int, help="layers that are not run again")
    parser.add_argument("--offload", action="store_true", help="inputs of the others on the host")
    parser.add_argument("--layers", type=int, help="fewer layers than the real model")
    parser.add_argument("--baseline", action="store_true", help="without the fused layers")
    parser.add_argument("--smallest", action="store_true", help="least memory: one row, keep 0")
    parser.add_argument("--check", action="store_true", help="compare gradients with float32")
    parser.add_argument("--profile", action="store_true", help="time by kind of kernel")
    chosen = parser.parse_args()
    if chosen.check:
        check(chosen.model)
        return
    rows, keep = (1, 0) if chosen.smallest else BEST[chosen.model]
    keep = keep if chosen.keep is None else chosen.keep
    loop = chosen.baseline or chosen.smallest or chosen.profile
    trainers = chosen.trainers or (["loop"] if loop else TRAINERS)
    if trainers != ["loop"]:
        if loop:
            parser.error("--baseline, --smallest and --profile are for the loop, not for a trainer")
        if len(trainers) > 1:
            given = sys.argv[1:]
            if chosen.trainers:
                at = given.index("--with")
                del given[at : at + 1 + len(trainers)]
            qlora_baselines.table(trainers, given, chosen.limit)
            return
        (trainer,) = trainers
        if trainer == "unsloth" and chosen.unsloth_path:
            sys.path.insert(0, chosen.unsloth_path)
        rows = chosen.rows or qlora_baselines.BATCH[chosen.model].get(trainer, rows)
        qlora_baselines.run(
            trainer, chosen.model, chosen.layers, rows, chosen.length, keep, chosen.offload
        )
        return
    name = torch.cuda.get_device_name()
    rows = chosen.rows or rows
    started = time.monotonic()
    model = build(chosen.model, chosen.layers)
    if chosen.baseline:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        kind = "modules as they come, checkpointed"
    else:
        fused_layers.install(model, keep=keep, offload=chosen.offload)
        kind = f"fused, {keep} layers kept" + (", offload" if chosen.offload else "")
    torch.cuda.synchronize()
    weights = torch.cuda.memory_allocated() / 2**30
    print(f"{name}: built in {time.monotonic() - started:.0f} s, {weights:.1f} GiB", flush=True)
    seconds, peak, reserved = measure(
        model, rows, chosen.length, 512 if chosen.smallest else 2048, chosen.profile
    )
    print(row(chosen.model, f"a plain loop: {kind}", rows, chosen.length, seconds, peak, reserved))


def loss_of(model: Any, tokens: torch.Tensor, chunk: int = 2048) -> torch.Tensor:
    base = model.get_base_model()
    hidden = base.model(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
    return linear_cross_entropy(
        hidden.reshape(-1, hidden.shape[-1]),
        base.lm_head.weight,
        tokens[:, 1:].flatten(),
        chunk=chunk,
    )


def measure(
    model: Any, rows: int, length: int, chunk: int, profile: bool = False
) -> tuple[float, float, float]:
    """(seconds a step, peak GiB allocated, and reserved) of whole steps, optimiser included."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=2e-4, fused=True)
    vocabulary = model.config.vocab_size

    def step() -> None:
        tokens = torch.randint(0, vocabulary, (rows, length), device=DEVICE)
        loss = loss_of(model, tokens, chunk)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()

    seconds = timed(step)
    peak, reserved = (
        x / 2**30 for x in (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved())
    )
    if profile:
        print_profile(step)
    return seconds, peak, reserved


# What a kernel's name contains, the first that matches.
KINDS = [
    ("dequantise", ("dequant",)),
    ("attention", ("flash", "fmha", "sdpa", "cudnn", "attention")),
    ("matrix products", ("gemm", "nvjet", "cutlass", "splitk", "cublas", "xmma")),
    ("swiglu", ("swiglu", "silu")),
    ("norm, rope", ("_norm", "_rope", "rms")),
    ("cross entropy", ("_cross_entropy",)),
    ("optimiser", ("multi_tensor", "adam")),
    ("copies", ("copy", "memcpy", "memset", "fill", "cat")),
]


def print_profile(step: Any) -> None:
    """Milliseconds on the GPU of one step, by kind, and the longest kernels."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        step()
        torch.cuda.synchronize()
    kinds: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    rows = []
    for event in seen.key_averages():
        if event.self_device_time_total == 0:
            continue  # calls on the CPU
        spent, count, label = event.self_device_time_total / 1e3, event.count, event.key
        kind = next((k for k, parts in KINDS if any(p in label.lower() for p in parts)), "other")
        kinds[kind][0] += spent
        kinds[kind][1] += count
        rows.append((spent, count, label))
    total = sum(spent for spent, _ in kinds.values())
    for kind, (spent, count) in sorted(kinds.items(), key=lambda item: -item[1][0]):
        print(f"  {kind:<18}{spent:9.1f} ms {spent / total:6.1%} {count:7.0f} kernels")
    for spent, count, label in sorted(rows, reverse=True)[:25]:
        print(f"    {spent:8.1f} ms {count:6} {label[:110]}")


def check(name: str, layers: int = 2, tokens: int = 512) -> None:
    """One step's adapter gradients of a few layers, fused and as they come, against the same in float32."""
    model = build(name, layers)
    for label, parameter in model.named_parameters():
        if "lora_B" in label:
            nn.init.normal_(parameter, std=0.02)
    ids = torch.randint(0, model.config.vocab_size, (2, tokens), device=DEVICE)
    exact = gradients(in_float32(model), ids)
    found = {"as they come": gradients(model, ids)}
    fused_layers.install(model, keep=layers // 2)  # the others are run again
    found["fused"] = gradients(model, ids)
    for kind, grads in found.items():
        errors = {n: float((grads[n].float() - g).norm() / g.norm()) for n, g in exact.items()}
        mean = statistics.mean(errors.values())
        worst = max(errors, key=lambda n: errors[n])
        print(f"{name}, {layers} layers, {kind}: error against float32 mean {mean:.4f}, "
              f"largest {errors[worst]:.4f} ({worst})", flush=True)  # fmt: skip


def gradients(model: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss = loss_of(model, ids)
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def in_float32(model: Any) -> Any:
    """The same model with every weight dequantised, all in float32."""
    exact = copy.deepcopy(model)
    for module in list(exact.modules()):
        for label, linear in list(module.named_children()):
            state = getattr(getattr(linear, "weight", None), "quant_state", None)
            if state is not None and not hasattr(linear, "lora_A"):
                plain = nn.Linear(
                    linear.in_features, linear.out_features, bias=False, device=DEVICE
                )
                plain.weight.requires_grad_(False)
                torch_ops.dequantise(linear.weight.data, state, plain.weight)
                setattr(module, label, plain)
    return exact.float()


if __name__ == "__main__":
    main()
