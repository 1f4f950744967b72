"""The label of tokens that do not count in the loss. A module of its own, so that kernels import nothing else for it."""

IGNORED = -100  # PyTorch's cross entropy skips this label
