# mypy: allow-untyped-defs
"""Triton's names, or None where Triton is not installed, so that modules with kernels can always be imported."""

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None

__all__ = ["jit", "tl", "triton"]


def jit(function):
    """Applies `triton.jit`, or returns the function unchanged without Triton."""
    return triton.jit(function) if triton else function
