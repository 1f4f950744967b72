"""Compares each tensor of a GGUF with that of the 16-bit GGUF which llama.cpp's converter makes of the original.

It finds what a few conversations may not show: one tensor that is damaged, exchanged or taken from other weights, and
weights that were quantized once more on the way. What it cannot find is a fault of the converter: logits.py does.
"""

import numpy as np
from gguf.constants import GGMLQuantizationType as Kind

from student.export.checks import Check, result
from student.models.gguf_file import GgufFile, Tensor

# Weights of a tensor that are compared, in evenly spread rows. Smaller tensors are compared as a whole.
_MOST_WEIGHTS = 1 << 20
# Largest squared error of a tensor, over the sum of its squares, by the type in which it is stored: about three times
# llama-quantize's own on normally distributed weights (docs/student.md). An importance matrix adds to that.
_LARGEST = {
    Kind.F32: 1e-5,
    Kind.F16: 1e-5,
    Kind.BF16: 1e-5,
    Kind.Q8_0: 1.5e-4,
    Kind.Q6_K: 1.2e-3,
    Kind.Q5_K: 5e-3,
    Kind.Q5_1: 6e-3,
    Kind.Q5_0: 8e-3,
    Kind.Q4_K: 1.8e-2,
    Kind.Q4_1: 2.4e-2,
    Kind.Q4_0: 3e-2,
}
# Types of fewer bits, which this project does not write.
_LARGEST_OF_OTHERS = 0.3


def check_weights(file: GgufFile, original: GgufFile, name: str = "weights") -> Check:
    """Checks that the file has every tensor of the original, with the same numbers but for the error of its type."""
    wrong: list[tuple[float, str]] = []
    for tensor in original.tensors.values():
        actual = file.tensors.get(tensor.name)
        if actual is None:
            return result(name, f"{tensor.name}: the file lacks this tensor of the original")
        if actual.shape != tensor.shape:
            return result(
                name, f"{tensor.name}: found shape {actual.shape}, expected {tensor.shape}"
            )
        largest = _LARGEST.get(actual.kind, _LARGEST_OF_OTHERS)
        error = _error(file, actual, original, tensor)
        if not error <= largest:  # also where it is not a number
            problem = (
                f"{tensor.name} ({actual.kind.name}): the squared error is {error:.2g} of the original's squares,"
                f" expected at most {largest:.2g}"
            )
            wrong.append((error / largest, problem))
    total = len(original.tensors)
    if wrong:
        worst = max(wrong, key=lambda row: row[0])[1]
        return result(name, f"{worst}; {len(wrong)} of {total} tensors are wrong")
    return result(name, None, f"{total} tensors, equal but for the error of their types")


def _error(file: GgufFile, tensor: Tensor, original: GgufFile, expected: Tensor) -> float:
    """Returns the squared error of a tensor over the sum of its squares; infinite where it is not a number."""
    actual = file.rows(tensor, _MOST_WEIGHTS)
    reference = original.rows(expected, _MOST_WEIGHTS)
    squares = float(np.square(reference, dtype=np.float64).sum())
    error = float(np.square(actual - reference, dtype=np.float64).sum())
    if not np.isfinite(error):
        return np.inf
    return error / squares if squares else error
