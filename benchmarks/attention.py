"""Times causal attention on this CPU, forward and backward: the fused layers' against PyTorch's kernel.

python -m benchmarks.attention [--dtype float32]

Heads as in the 135M student (9 of size 64, 3 key heads). The shapes are the branches and a root of a prefix tree, and
a long sequence.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from student.kernels import attention_cpu
from student.kernels.batch import Batch
from student.training import sft

HEADS, KEY_HEADS, SIZE, SCALE = 9, 3, 64, 0.125
# Tokens, and the tokens that the last of them attends to.
SHAPES = ((143, 698), (474, 1029), (555, 555), (1200, 1200))
TURNS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    dtype = getattr(torch, parser.parse_args().dtype)
    sft._keep_freed_memory()  # as in training
    print("| tokens | keys | PyTorch ms | fused layers ms | ratio |\n|---|---|---|---|---|")
    for tokens, keys in SHAPES:
        torch.manual_seed(0)
        inputs = [
            torch.randn(count, heads, SIZE, dtype=dtype)
            for count, heads in ((tokens, HEADS), (keys, KEY_HEADS), (keys, KEY_HEADS))
        ]
        grad = torch.randn_like(inputs[0])
        seconds: dict[Callable[..., Any], list[float]] = {pytorch: [], ours: []}
        for _ in range(TURNS):
            for attend, times in seconds.items():
                started = time.perf_counter()
                attend(*inputs, grad)
                times.append(time.perf_counter() - started)
        theirs, own = (1000 * min(times) for times in seconds.values())
        print(f"| {tokens} | {keys} | {theirs:.1f} | {own:.1f} | {theirs / own:.1f} |", flush=True)


def ours(q_TND: Tensor, k_KGD: Tensor, v_KGD: Tensor, grad_TND: Tensor) -> None:
    tokens, keys = len(q_TND), len(k_KGD)
    batch = Batch(1, tokens, torch.tensor([0, tokens]), tokens)
    batch.key_starts, batch.longest_keys = torch.tensor([0, keys]), keys
    attention_cpu.forward(batch, q_TND, k_KGD, v_KGD, SCALE)
    attention_cpu.backward(batch, grad_TND, q_TND, k_KGD, v_KGD, SCALE)


def pytorch(q_TND: Tensor, k_KGD: Tensor, v_KGD: Tensor, grad_TND: Tensor) -> None:
    inputs = [x.transpose(0, 1)[None].requires_grad_() for x in (q_TND, k_KGD, v_KGD)]
    earlier = len(k_KGD) - len(q_TND)
    mask = torch.ones(len(q_TND), len(k_KGD), dtype=torch.bool).tril(earlier) if earlier else None
    out = torch.nn.functional.scaled_dot_product_attention(
        *inputs, attn_mask=mask, is_causal=mask is None, scale=SCALE, enable_gqa=True
    )
    torch.autograd.grad(out, inputs, grad_TND.transpose(0, 1)[None])


if __name__ == "__main__":
    main()
