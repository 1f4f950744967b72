# mypy: allow-untyped-defs
"""Triton's names, so that modules with kernels can be imported where it is not installed: there they are None."""

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None

__all__ = ["jit", "tl", "triton"]


def jit(function):
    """`triton.jit`, or the function as it is."""
    return triton.jit(function) if triton else function
