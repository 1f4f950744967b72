"""Training steps of 4,096 tokens: two rows of 2,048, and packed sequences of other lengths by either attention.

    python -m benchmarks.packed_rows [--model 32b|70b] [--bits 4|8]

Whole steps of the fused layers in a bare training loop, optimiser included. The one that training takes
(student/kernels/attention_cudnn.py) is named. Needs a Hopper GPU and the packages of benchmarks/qlora.py.
"""

import argparse
import functools
import itertools
from collections.abc import Callable
from typing import Any
from unittest import mock

# Imported first: it configures torch's memory allocator, which must happen before torch is imported.
from benchmarks import qlora, qlora_setup

# isort: split
import torch

from student.kernels import attention_cudnn, fused_layers

LENGTHS = [
    (2048, 2048),
    (3000, 1096),
    (1500, 1300, 1296),
    (913, 455, 1200, 700, 828),
    (*[300] * 13, 196),
]


def packed_loss(model: Any, lengths: tuple[int, ...]) -> torch.Tensor:
    """The mean cross entropy of random tokens in one row of packed sequences."""
    device = qlora_setup.DEVICE
    starts = [0, *itertools.accumulate(lengths)]
    return qlora.loss_of(
        model,
        torch.randint(0, model.config.vocab_size, (1, starts[-1]), device=device),
        position_ids=torch.cat([torch.arange(n, device=device) for n in lengths])[None],
        cu_seq_lens_q=torch.tensor(starts, dtype=torch.int32, device=device),
        max_length_q=max(lengths),
    )


def seconds(model: Any, loss: Callable[[], torch.Tensor]) -> float:
    """The median seconds of a step."""
    return qlora_setup.timed(qlora.whole_step(model, loss))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("32b", "70b"), default="32b")
    parser.add_argument("--bits", type=int, choices=(4, 8), default=8)
    options = parser.parse_args()
    _, keep = qlora_setup.planned(options.model, options.bits, 2048, rows=2)
    model = qlora_setup.build(options.model, None, options.bits)
    fused_layers.install(model, keep)
    size = model.config.vocab_size

    def rows() -> torch.Tensor:
        return qlora.loss_of(model, torch.randint(0, size, (2, 2048), device=qlora_setup.DEVICE))

    print(f"rows, 2 x 2,048: {seconds(model, rows):.4f} s", flush=True)
    for lengths in LENGTHS:
        loss = functools.partial(packed_loss, model, lengths)
        times = []
        for with_cudnn in (False, True):
            with mock.patch.object(attention_cudnn, "applies", return_value=with_cudnn):
                times.append(seconds(model, loss))
        takes = attention_cudnn.pays([*lengths])
        print(
            f"packed {lengths}: FlashAttention-2 {times[0]:.4f} s, cuDNN {times[1]:.4f} s,"
            f" {'cuDNN' if takes else 'FlashAttention-2'} is taken",
            flush=True,
        )
    print(f"rows again: {seconds(model, rows):.4f} s")


if __name__ == "__main__":
    main()
