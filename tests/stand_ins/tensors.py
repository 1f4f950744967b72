"""Comparison of tensors."""

import torch


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The norm of the difference, relative to the norm of `expected`."""
    return float((actual.double() - expected.double()).norm() / expected.double().norm())
