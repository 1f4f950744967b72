"""The label of tokens that do not count in the loss. A module without imports, for code that needs only this number."""

IGNORED = -100  # PyTorch's cross entropy skips this label
