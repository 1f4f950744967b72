"""The rows of a batch and the sequences in them, as the fused layers compute it."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass
class Batch:
    """The rows and sequences of a batch.

    Without `starts` each row is a sequence. With `starts` the batch is one row that holds the sequences end to end.
    With `keys` a sequence is the end of a longer one, whose earlier tokens lie elsewhere in the row: its tokens attend
    to those tokens as well (student/training/shared_prefix.py).
    """

    rows: int
    length: int
    starts: Tensor | None = None  # int32: the first token of each sequence, and the end
    longest: int = 0  # tokens of the longest sequence, with `starts`
    keys: Tensor | None = None  # int64: indexes of the tokens to attend to, of all sequences
    key_starts: Tensor | None = None  # int32: where the indexes of each sequence begin, and the end
    longest_keys: int = 0  # the most tokens that a sequence attends to, with `keys`

    @cached_property
    def lengths(self) -> list[int]:
        """The tokens of each sequence. The first use waits for the GPU, if `starts` is there."""
        if self.starts is None:
            return [self.length] * self.rows
        return self.starts.diff().tolist()

    def sequences(self, device: torch.device) -> tuple[Tensor, int]:
        """Returns the starts of the sequences all rows end to end, plus the end (int32), and the longest length."""
        if self.starts is not None:
            return self.starts, self.longest
        end = self.rows * self.length + 1
        return torch.arange(0, end, self.length, dtype=torch.int32, device=device), self.length

    def key_sequences(self, device: torch.device) -> tuple[Tensor, int]:
        """Returns the same for the tokens that are attended to."""
        if self.key_starts is not None:
            return self.key_starts, self.longest_keys
        return self.sequences(device)

    def gather(self, x_TND: Tensor) -> Tensor:
        """Returns keys or values in the order of `keys`; unchanged without them."""
        return x_TND if self.keys is None else x_TND[self.keys]

    def scatter(self, grad_KND: Tensor) -> Tensor:
        """Returns the gradients of keys or values from those of `gather`'s result, summed in float32."""
        if self.keys is None:
            return grad_KND
        total_TND = grad_KND.new_zeros(self.length, *grad_KND.shape[1:], dtype=torch.float32)
        return total_TND.index_add_(0, self.keys, grad_KND.float()).to(grad_KND.dtype)
