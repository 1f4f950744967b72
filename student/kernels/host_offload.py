"""Layer inputs in pinned host memory, for the layers that are recomputed in the backward pass."""

import torch
from torch import Tensor


class HostMemory:
    """Copies of layer inputs in pinned host memory, on a stream of their own; the next input is prefetched."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()
        self.memory: dict[int, Tensor] = {}
        self.stored: dict[int, tuple[torch.Size, torch.device]] = {}
        self.prefetched: dict[int, Tensor] = {}

    def put(self, index: int, x: Tensor) -> None:
        """Starts the copy of layer `index`'s input to the host."""
        memory = self.memory.get(index)
        if memory is None or memory.numel() < x.numel() or memory.dtype != x.dtype:
            self.memory[index] = torch.empty(x.numel(), dtype=x.dtype, pin_memory=True)
        self.stored[index] = (x.shape, x.device)
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self.memory[index][: x.numel()].view(x.shape).copy_(x, non_blocking=True)
        x.record_stream(self.stream)

    def get(self, index: int) -> Tensor:
        """Returns layer `index`'s input on the GPU and starts to fetch that of the layer before it."""
        x = self.prefetched.pop(index, None)
        if x is None:
            x = self._fetch(index)
        torch.cuda.current_stream().wait_stream(self.stream)
        x.record_stream(torch.cuda.current_stream())
        if index - 1 in self.stored:
            self.prefetched[index - 1] = self._fetch(index - 1)
        return x

    def _fetch(self, index: int) -> Tensor:
        shape, device = self.stored.pop(index)
        with torch.cuda.stream(self.stream):
            memory = self.memory[index][: shape.numel()].view(shape)
            return memory.to(device, non_blocking=True)
