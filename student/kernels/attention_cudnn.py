"""Causal attention by cuDNN, on a Hopper GPU 1.5 to 1.7 times as fast as FlashAttention-2.

cuDNN takes rows of one length, a multiple of 128 here. Packed sequences of other lengths are computed one by one, each
made longer by the tokens that follow it: no token attends to later ones, and the gradients of the added tokens' outputs
are set to zero, so they change nothing. (cuDNN's own form for packed sequences reads outside its memory in torch 2.11:
benchmarks/qlora.md.)
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from student.kernels.batch import Batch

_attend = torch.ops.aten._scaled_dot_product_cudnn_attention
_attend_backward = torch.ops.aten._scaled_dot_product_cudnn_attention_backward
# Lengths for which cuDNN was checked: a row of 64 tokens had wrong gradients (benchmarks/qlora.md). Wrong results are
# also reported with masks and with few key heads (pytorch/pytorch #196678, #193893).
_STEP = 128
# Tokens of a sequence, in the mean, from which on a call each is faster than FlashAttention-2.
_LONG = 1024


class _Piece(NamedTuple):
    """Sequences that cuDNN computes together."""

    start: int  # the first token
    rows: int
    length: int  # tokens of a row
    padded: int  # tokens of a row as cuDNN sees it

    @property
    def tokens(self) -> int:
        """Its own tokens."""
        return self.rows * self.length


def applies(batch: Batch, q_BSND: Tensor) -> bool:
    """Returns whether cuDNN was checked for such a batch, and is faster: D = 128 on Hopper, no shared prefixes.

    The first call for a packed batch waits for the GPU.
    """
    if not q_BSND.is_cuda or q_BSND.shape[-1] != 128 or batch.keys is not None:
        return False
    if torch.cuda.get_device_capability(q_BSND.device) != (9, 0):
        return False
    return pays(batch.lengths)


def pays(lengths: list[int]) -> bool:
    """Returns whether cuDNN is faster than FlashAttention-2 for sequences of these lengths."""
    return _is_one_call(lengths) or sum(lengths) >= _LONG * len(lengths)


def forward(
    batch: Batch, q_TND: Tensor, k_TGD: Tensor, v_TGD: Tensor, scale: float
) -> tuple[Tensor, list[Any]]:
    """Returns the output [T, N, D], and what `backward` needs of it."""
    outputs, saved = [], []
    for piece in _pieces(batch.lengths):
        inputs = (_rows(x, piece) for x in (q_TND, k_TGD, v_TGD))
        out, *rest = _attend(*inputs, None, True, 0.0, True, scale=scale)
        outputs.append(_own(out, piece))
        saved.append(rest[:7])
    return _joined(outputs), saved


def backward(
    batch: Batch,
    grad_TND: Tensor,
    q_TND: Tensor,
    k_TGD: Tensor,
    v_TGD: Tensor,
    out_TND: Tensor,
    saved: list[Any],
    scale: float,
) -> tuple[Tensor, ...]:
    """Returns the gradients of q, k and v from that of `forward`'s output."""
    parts = []
    for piece, (lse, starts_q, starts_k, longest_q, longest_k, seed, offset) in zip(
        _pieces(batch.lengths), saved, strict=True
    ):
        inputs = (_rows(x, piece) for x in (q_TND, k_TGD, v_TGD, out_TND))
        grads = _attend_backward(
            _rows(grad_TND, piece, zeros=True), *inputs,
            lse, seed, offset, None, starts_q, starts_k, longest_q, longest_k, 0.0, True,
            scale=scale,
        )  # fmt: skip
        parts.append([_own(grad, piece) for grad in grads])
    return tuple(_joined(each) for each in zip(*parts, strict=True))


def _pieces(lengths: list[int]) -> Iterator[_Piece]:
    """Yields all sequences at once, or one after the other."""
    if _is_one_call(lengths):
        yield _Piece(0, len(lengths), lengths[0], lengths[0])
        return
    for start, length in zip(itertools.accumulate(lengths, initial=0), lengths, strict=False):
        yield _Piece(start, 1, length, -(-length // _STEP) * _STEP)


def _is_one_call(lengths: list[int]) -> bool:
    return len(set(lengths)) == 1 and lengths[0] % _STEP == 0


def _rows(x_TND: Tensor, piece: _Piece, zeros: bool = False) -> Tensor:
    """Returns a piece's tokens, heads first, without a copy where it can; with `zeros` the added tokens are zero."""
    padded = piece.rows * piece.padded
    own = x_TND[piece.start : piece.start + (piece.tokens if zeros else padded)]
    if len(own) < padded:
        own = torch.nn.functional.pad(own, (0, 0, 0, 0, 0, padded - len(own)))
    return own.unflatten(0, (piece.rows, piece.padded)).transpose(1, 2)


def _own(x_RNPD: Tensor, piece: _Piece) -> Tensor:
    """Returns what cuDNN made for a piece's own tokens, without the added ones."""
    return x_RNPD.transpose(1, 2).flatten(0, 1)[: piece.tokens]


def _joined(pieces: Sequence[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat([*pieces])
