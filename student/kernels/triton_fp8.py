# mypy: allow-untyped-defs
"""Triton kernels of the FP8 layers: quantisation of rows, transposition of bytes, and the adapters' share of a product.

student/kernels/lora_linear_fp8.py uses them. torch_ops.py has the same functions in PyTorch.
"""

# Annotations stay strings: Triton may not be installed.
from __future__ import annotations

import torch

from student.kernels.fp8 import LARGEST, LEAST, Rows8
from student.kernels.triton_compat import jit, tl, triton

_LARGEST, _LEAST = (tl.constexpr(LARGEST), tl.constexpr(LEAST)) if triton else (LARGEST, LEAST)


@jit
def scale_of(largest):
    """The scale of a row whose largest absolute value this is."""
    return tl.maximum(largest, _LEAST) / _LARGEST


@jit
def _quantise(
    x, columns, out, scales, x_stride, tokens, size,
    FOLD: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    alive = row < tokens
    row = row.to(tl.int64)[:, None]
    highest = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, size, BLOCK):
        column = (start + tl.arange(0, BLOCK))[None, :]
        inside = alive[:, None] & (column < size)
        value = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
        if FOLD:
            value *= tl.load(columns + column, mask=column < size, other=0.0).to(tl.float32)
        highest = tl.maximum(highest, tl.abs(value))
    scale = scale_of(tl.max(highest, 1))
    inverse = (1.0 / scale)[:, None]
    # The second pass finds the rows in the cache.
    for start in range(0, size, BLOCK):
        column = (start + tl.arange(0, BLOCK))[None, :]
        inside = alive[:, None] & (column < size)
        value = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
        if FOLD:
            value *= tl.load(columns + column, mask=column < size, other=0.0).to(tl.float32)
        tl.store(out + row * size + column, (value * inverse).to(out.dtype.element_ty), mask=inside)
    tl.store(scales + tl.program_id(0) * ROWS + tl.arange(0, ROWS), scale, mask=alive)


# (ROWS, BLOCK, num_warps) of the kernel above, for rows of up to so many values.
QUANTISE = ((16384, (1, 4096, 8)), (1 << 30, (1, 8192, 16)))


def quantise(x_TK: torch.Tensor, columns_K: torch.Tensor | None = None) -> Rows8:
    """Returns the rows of `x_TK`, first multiplied by `columns_K` if given, in e4m3."""
    tokens, size = x_TK.shape
    out = Rows8.empty(x_TK)
    rows, block, warps = next(setting for limit, setting in QUANTISE if size <= limit)
    _quantise[(triton.cdiv(tokens, rows),)](
        x_TK, columns_K, out.values, out.scale, x_TK.stride(0), tokens, size,
        FOLD=columns_K is not None, ROWS=rows, BLOCK=block, num_warps=warps,
    )  # fmt: skip
    return out


@jit
def _transpose(x, out, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    # A block has ROWS x COLUMNS squares of 4 x 4 bytes, of which `x` has `rows` x `columns`.
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    place = x + row.to(tl.int64)[:, None] * (4 * columns) + column[None, :]
    a = tl.load(place, mask=inside, other=0)
    b = tl.load(place + columns, mask=inside, other=0)
    c = tl.load(place + 2 * columns, mask=inside, other=0)
    d = tl.load(place + 3 * columns, mask=inside, other=0)
    to = out + column.to(tl.int64)[:, None] * (4 * rows) + row[None, :]
    inside = (column < columns)[:, None] & (row < rows)[None, :]
    for byte in tl.static_range(4):
        # Byte `byte` of each of the four words, which become a word of another row.
        w = (a >> (8 * byte)) & 255
        w |= ((b >> (8 * byte)) & 255) << 8
        w |= ((c >> (8 * byte)) & 255) << 16
        w |= (d >> (8 * byte)) << 24
        tl.store(to + byte * rows, tl.trans(w), mask=inside)


TRANSPOSE = (64, 64, 8)  # (ROWS, COLUMNS, num_warps) of the kernel above


def transpose(weight_OK: torch.Tensor, out_KO: torch.Tensor) -> None:
    """Writes the transposed bytes of `weight_OK` into `out_KO`. O and K are multiples of 4; both are contiguous."""
    rows, columns = (size // 4 for size in weight_OK.shape)
    per_row, per_column, warps = TRANSPOSE
    grid = (triton.cdiv(rows, per_row), triton.cdiv(columns, per_column))
    _transpose[grid](
        weight_OK.view(torch.int32), out_KO.view(torch.int32), rows, columns,
        ROWS=per_row, COLUMNS=per_column, num_warps=warps,
    )  # fmt: skip


@jit
def _add_low_rank(
    y, low, matrix, residual, out, low_stride, rank_stride, column_stride, residual_stride, tokens, size, rank,
    NUMBER: tl.constexpr, RANK: tl.constexpr, RESIDUAL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    alive, within = row < tokens, column < size
    inside = alive & within
    total = tl.load(y + row * size + column, mask=inside, other=0.0).to(tl.float32)
    if RESIDUAL:
        beside = tl.load(residual + row * residual_stride + column, mask=inside, other=0.0)
        total += beside.to(tl.float32)
    r = tl.arange(0, RANK)
    for i in tl.static_range(NUMBER):
        x = tl.load(low + row * low_stride + i * RANK + r[None, :], mask=alive, other=0.0)
        mine = within & (r < rank - i * RANK)[:, None]
        place = matrix + (i * RANK + r)[:, None] * rank_stride + column * column_stride
        total = tl.dot(x, tl.load(place, mask=mine, other=0.0).to(x.dtype), total)
    tl.store(out + row * size + column, total.to(out.dtype.element_ty), mask=inside)


ADD_LOW_RANK = (64, 64, 4)  # (ROWS, COLUMNS, num_warps) of the kernel above


def add_low_rank(
    y_TO: torch.Tensor,
    low_TR: torch.Tensor,
    matrix_RO: torch.Tensor,
    rank: int,
    residual_TO: torch.Tensor | None = None,
) -> torch.Tensor:
    """Adds low @ matrix, and `residual_TO` if given, to `y_TO` in place, and returns it.

    Args:
        y_TO: contiguous.
        low_TR: n x `rank` columns.
        matrix_RO: as many rows, or fewer (the columns of `low_TR` beyond them are not used); may be a transposed view.
        rank: the adapters' padded rank.
    """
    tokens, size = y_TO.shape
    rows, columns, warps = ADD_LOW_RANK
    _add_low_rank[(triton.cdiv(tokens, rows), triton.cdiv(size, columns))](
        y_TO, low_TR, matrix_RO, residual_TO, y_TO,
        low_TR.stride(0), *matrix_RO.stride(), 0 if residual_TO is None else residual_TO.stride(0),
        tokens, size, len(matrix_RO),
        NUMBER=low_TR.shape[1] // rank, RANK=rank, RESIDUAL=residual_TO is not None,
        ROWS=rows, COLUMNS=columns, num_warps=warps,
    )  # fmt: skip
    return y_TO


@jit
def _swiglu_low(
    gate_up, low, b_gate, b_up, out, in_stride, low_stride, tokens, size, rank_gate, rank_up,
    RANK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    row = (tl.program_id(1) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    alive, within, r = row < tokens, column < size, tl.arange(0, RANK)
    inside = alive & within
    place = gate_up + row * in_stride + column
    gate = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(place + size, mask=inside, other=0.0).to(tl.float32)
    low_gate = tl.load(low + row * low_stride + r[None, :], mask=alive, other=0.0)
    low_up = tl.load(low + row * low_stride + RANK + r[None, :], mask=alive, other=0.0)
    mine = within & (r < rank_gate)[:, None]
    b = tl.load(b_gate + column * rank_gate + r[:, None], mask=mine, other=0.0)
    gate = tl.dot(low_gate, b.to(low_gate.dtype), gate)
    mine = within & (r < rank_up)[:, None]
    b = tl.load(b_up + column * rank_up + r[:, None], mask=mine, other=0.0)
    up = tl.dot(low_up, b.to(low_up.dtype), up)
    result = gate * tl.sigmoid(gate) * up
    tl.store(out + row * size + column, result.to(out.dtype.element_ty), mask=inside)


SWIGLU_LOW = (32, 128, 4)  # (ROWS, COLUMNS, num_warps) of the kernel above


def swiglu_low(
    gate_up_T2F: torch.Tensor,
    low_T2R: torch.Tensor,
    b_gate_FR: torch.Tensor,
    b_up_FR: torch.Tensor,
) -> torch.Tensor:
    """Returns silu(gate) * up [T, F] of `gate_up_T2F`, to which the adapters' share is added first.

    Args:
        low_T2R: the low-rank activations of gate and up.
        b_gate_FR, b_up_FR: the adapters' B, of their own rank.
    """
    tokens, size = len(gate_up_T2F), gate_up_T2F.shape[1] // 2
    out_TF = gate_up_T2F.new_empty(tokens, size)
    rows, columns, warps = SWIGLU_LOW
    _swiglu_low[(triton.cdiv(size, columns), triton.cdiv(tokens, rows))](
        gate_up_T2F, low_T2R, b_gate_FR, b_up_FR, out_TF, gate_up_T2F.stride(0), low_T2R.stride(0),
        tokens, size, b_gate_FR.shape[1], b_up_FR.shape[1],
        RANK=low_T2R.shape[1] // 2, ROWS=rows, COLUMNS=columns, num_warps=warps,
    )  # fmt: skip
    return out_TF
