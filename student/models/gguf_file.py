"""Reads a GGUF file: its metadata, and its tensors as numbers. A file that is damaged or cut short is named as such.

The package gguf has a reader too. It makes a Python object of each token, which takes ten seconds for a vocabulary, and
for a damaged file it raises whatever numpy raises. Only its decoding of quantized blocks is used here.
The format: ggml/include/gguf.h in llama.cpp.
"""

import mmap
import struct
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from schemas.errors import InputError

# Types of values by their number, as struct reads them; then a string and an array.
_FORMATS = dict(zip((*range(8), 10, 11, 12), "BbHhIif?Qqd", strict=True))
STRING, ARRAY = 8, 9
_ALIGNMENT = 32
_MOST_DIMENSIONS = 4


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file. shape: as in PyTorch, [out, in]. start: its first byte in the file. size: in bytes."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    start: int
    size: int


@dataclass(frozen=True)
class GgufFile:
    """The header of a GGUF file.

    Attributes:
        pairs: each value of the metadata in the file's own bytes, with its type before it, by its key.
        tensors: by their names.
    """

    path: Path
    pairs: dict[str, bytes]
    tensors: dict[str, Tensor] = field(repr=False)

    def value(self, key: str) -> Any:
        """Returns a number, a truth value or a text of the metadata; None where the key is missing."""
        pair = self.pairs.get(key)
        if pair is None:
            return None
        kind = struct.unpack_from("<I", pair)[0]
        if kind == STRING:
            return pair[12:].decode()
        if kind not in _FORMATS:
            raise ValueError(f"{key}: an array")
        return struct.unpack_from("<" + _FORMATS[kind], pair, 4)[0]

    def texts(self, key: str) -> list[str]:
        """Returns the elements of a value of the metadata that is an array of texts."""
        pair, found, at = self.pairs[key], [], 16
        for _ in range(struct.unpack_from("<Q", pair, 8)[0]):
            text, at = _text(pair, at)
            found.append(text)
        return found

    def rows(self, tensor: Tensor, most: int) -> np.ndarray:
        """Returns rows of a tensor in float32, [rows, in].

        most: about so many weights; of a larger tensor evenly spread rows are taken.
        """
        width = tensor.shape[-1] if tensor.shape else 1
        count = max(1, int(np.prod(tensor.shape))) // max(1, width)
        at = np.linspace(0, count - 1, min(count, max(1, most // width))).round().astype(np.int64)
        stored = self._bytes[tensor.start : tensor.start + tensor.size].reshape(count, -1)[at]
        return dequantize(stored, tensor.kind).reshape(len(at), width).astype(np.float32)

    @cached_property
    def _bytes(self) -> np.ndarray:
        return np.memmap(self.path, np.uint8, "r")


def read(path: Path) -> GgufFile:
    """Reads the header, and checks that the file is as long as its header says.

    Raises:
        InputError: not a GGUF file, or it is damaged or cut short.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected a GGUF")
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise InputError(f"{path}: not a GGUF file: it does not begin with GGUF")
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with content:
        try:
            header = _read(path, content)
        except (struct.error, ValueError, KeyError, OverflowError, RecursionError) as error:
            raise InputError(
                f"{path}: cut short or damaged: its header cannot be read: {error}: fetch the file again"
            ) from None
    end = max((tensor.start + tensor.size for tensor in header.tensors.values()), default=0)
    if size < end:
        raise InputError(
            f"{path}: cut short: found {size:,} bytes, expected {end:,} by its header: fetch the file again"
        )
    return header


def _read(path: Path, content: mmap.mmap) -> GgufFile:
    version, tensor_count, pair_count = struct.unpack_from("<IQQ", content, 4)
    if version not in (2, 3):
        raise ValueError(f"version {version}, expected 2 or 3")
    at, pairs = 24, {}
    for _ in range(pair_count):
        key, start = _text(content, at)
        at = _value_end(content, start + 4, struct.unpack_from("<I", content, start)[0])
        pairs[key] = content[start:at]
        if len(pairs[key]) != at - start:
            raise ValueError(f"the value of {key} is not complete")
    found = []
    for _ in range(tensor_count):
        name, at = _text(content, at)
        (dimensions,) = struct.unpack_from("<I", content, at)
        if dimensions > _MOST_DIMENSIONS:
            raise ValueError(f"{name}: {dimensions} dimensions")
        shape = struct.unpack_from(f"<{dimensions}Q", content, at + 4)[::-1]
        kind, offset = struct.unpack_from("<IQ", content, at + 4 + 8 * dimensions)
        at += 16 + 8 * dimensions
        found.append((name, shape, GGMLQuantizationType(kind), offset))
    align = pairs.get("general.alignment")
    alignment = struct.unpack_from("<I", align, 4)[0] if align else _ALIGNMENT
    data = -(-at // alignment) * alignment
    tensors = {}
    for name, shape, kind, offset in found:
        weights, size = GGML_QUANT_SIZES[kind]
        count = int(np.prod(shape, dtype=object)) if shape else 1
        tensors[name] = Tensor(name, shape, kind, data + offset, count // weights * size)
    return GgufFile(path, pairs, tensors)


def _text(content: mmap.mmap | bytes, at: int) -> tuple[str, int]:
    """Returns the text at a place and where it ends."""
    start = at + 8
    end = start + struct.unpack_from("<Q", content, at)[0]
    if end > len(content):
        raise ValueError("a text goes beyond the end")
    return content[start:end].decode(), end


def _value_end(content: mmap.mmap, at: int, kind: int) -> int:
    """Returns where the value that begins at `at` ends."""
    if kind == STRING:
        return at + 8 + struct.unpack_from("<Q", content, at)[0]
    if kind != ARRAY:
        return at + struct.calcsize("<" + _FORMATS[kind])
    inner, count = struct.unpack_from("<IQ", content, at)
    at += 12
    if inner in _FORMATS:
        return at + count * struct.calcsize("<" + _FORMATS[inner])
    for _ in range(count):
        at = _value_end(content, at, inner)
    return at
