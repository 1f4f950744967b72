# mypy: allow-untyped-defs
"""NF4, the 4-bit format of bitsandbytes' weights (QLoRA, arXiv:2305.14314), unpacked by a Triton kernel."""

# Annotations stay strings: Triton may not be installed.
from __future__ import annotations

from typing import Any

import torch

from student.kernels import torch_ops
from student.kernels.triton_compat import jit, tl, triton

BLOCK = 64  # values that share one absmax
ABSMAX_BLOCK = 256  # absmax values that share one absmax of their own (double quantisation)

# The sixteen values of NF4 (arXiv:2305.14314, appendix E), with the digits of bitsandbytes.
VALUES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def _unpack_assembly() -> str:
    """Returns PTX that unpacks a word of eight codes ($4) with their scale ($5) to bfloat16 values in pairs ($0 to $3).

    A table in memory costs one load per value and takes three times as long as reading the codes. Instead each thread
    scales and rounds all sixteen values, so that a result is rounded once, from the float32 product (as in
    bitsandbytes). It splits them into bytes and looks up four codes at once: `prmt` selects four bytes out of eight by
    three bits of each code, so two `prmt` and a selection by the fourth bit look up a table of sixteen.
    """
    lines = [".reg .f32 t<16>;", ".reg .b32 c<8>, l<4>, h<4>, w, s, m, a, b, x, y;"]
    for i, value in enumerate(VALUES):
        bits = int(torch.tensor(value, dtype=torch.float32).view(torch.int32)) & 0xFFFFFFFF
        lines.append(f"mul.rn.f32 t{i}, $5, 0f{bits:08X};")
    lines += [f"cvt.rn.bf16x2.f32 c{i}, t{2 * i + 1}, t{2 * i};" for i in range(8)]
    for i in range(4):
        lines.append(f"prmt.b32 l{i}, c{2 * i}, c{2 * i + 1}, 0x6420;")
        lines.append(f"prmt.b32 h{i}, c{2 * i}, c{2 * i + 1}, 0x7531;")
    for half in range(2):
        lines += [
            f"shr.b32 w, $4, {16 * half};",
            "and.b32 s, w, 0x7777;",
            "shr.b32 m, w, 3;",
            "and.b32 m, m, 0x1111;",
            "prmt.b32 m, 0xFF00, 0, m;",  # a byte of ones where the fourth bit is set
        ]
        for plane, result in (("l", "x"), ("h", "y")):
            lines += [
                f"prmt.b32 a, {plane}0, {plane}1, s;",
                f"prmt.b32 b, {plane}2, {plane}3, s;",
                f"lop3.b32 {result}, a, b, m, 0xD8;",  # b where m is set, else a
            ]
        # The high half of each byte is the first code.
        lines += [
            f"prmt.b32 ${2 * half}, x, y, 0x4051;",
            f"prmt.b32 ${2 * half + 1}, x, y, 0x6273;",
        ]
    return "{" + "\n".join(lines) + "}"


UNPACK = tl.constexpr(_unpack_assembly()) if triton else None


@jit
def _dequantise(
    packed,  # int32: eight codes a word
    absmax,  # uint8 with NESTED, else float32
    absmax_code,
    absmax_absmax,
    offset,
    out,  # int32: pairs of bfloat16
    out_stride,
    blocks,
    blocks_per_row,
    NESTED: tl.constexpr,
    ABSMAX_BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    inside = block < blocks
    scale = tl.load(absmax + block, mask=inside, other=0)
    if NESTED:
        scale = tl.load(absmax_code + scale.to(tl.int32))
        scale = scale * tl.load(absmax_absmax + block // ABSMAX_BLOCK, mask=inside, other=0.0)
        scale = scale + tl.load(offset)
    word = tl.arange(0, 8)
    words = tl.load(packed + block[:, None] * 8 + word[None, :], mask=inside[:, None], other=0)
    first, second, third, fourth = tl.inline_asm_elementwise(
        UNPACK,
        "=r,=r,=r,=r,r,f",
        [words, tl.broadcast_to(scale[:, None], (BLOCKS, 8))],
        dtype=(tl.int32, tl.int32, tl.int32, tl.int32),
        is_pure=True,
        pack=1,
    )
    pairs = tl.join(tl.join(first, third), tl.join(second, fourth)).reshape(BLOCKS, 32)
    row, column = block // blocks_per_row, (block % blocks_per_row) * 32
    start = row.to(tl.int64) * out_stride + column
    tl.store(out + start[:, None] + tl.arange(0, 32)[None, :], pairs, mask=inside[:, None])


def dequantise(weight: torch.Tensor, state: Any, out_OK: torch.Tensor) -> None:
    """Writes the values of a bitsandbytes NF4 weight into `out_OK`, equal to those of bitsandbytes bit for bit.

    Args:
        weight: the packed weight, uint8.
        state: its bitsandbytes QuantState.
        out_OK: bfloat16 for the kernel; torch_ops writes other dtypes. K is a multiple of 64, the row stride is even.
    """
    if out_OK.dtype != torch.bfloat16:
        return torch_ops.dequantise(weight, state, out_OK)
    rows, columns = out_OK.shape
    blocks = rows * columns // BLOCK
    per_program = 64
    pairs = out_OK.view(torch.int32)
    _dequantise[(triton.cdiv(blocks, per_program),)](
        weight.view(torch.uint8).flatten().view(torch.int32),
        state.absmax,
        state.state2.code if state.nested else None,
        state.state2.absmax if state.nested else None,
        state.offset if state.nested else None,
        pairs,
        pairs.stride(0),
        blocks,
        columns // BLOCK,
        NESTED=state.nested,
        ABSMAX_BLOCK=ABSMAX_BLOCK,
        BLOCKS=per_program,
        enable_fp_fusion=False,  # bitsandbytes rounds the product before it adds the offset
    )
