"""The header of a GGUF file, value by value in the file's own bytes.

gguf's reader takes ten seconds for a vocabulary, this half of one.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

# GGUF's types of values: of a fixed number of bytes, a string, an array (ggml/include/gguf.h).
_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9


def header(gguf: Path) -> dict[str, bytes]:
    """Returns each key of a file and its value, with the number of its type (uint32) before it."""
    return dict(_pairs(gguf.read_bytes()))


def texts(value: bytes) -> list[str]:
    """Returns the elements of a value that is an array of strings."""
    found, at = [], 16
    for _ in range(struct.unpack_from("<Q", value, 8)[0]):
        end = _end(value, at, STRING)
        found.append(value[at + 8 : end].decode())
        at = end
    return found


def _pairs(content: bytes) -> Iterator[tuple[str, bytes]]:
    at = 24
    for _ in range(struct.unpack_from("<Q", content, 16)[0]):
        start = at + 8 + struct.unpack_from("<Q", content, at)[0]
        key = content[at + 8 : start].decode()
        kind = struct.unpack_from("<I", content, start)[0]
        at = _end(content, start + 4, kind)
        yield key, content[start:at]


def _end(content: bytes, at: int, kind: int) -> int:
    """Returns where the value that begins at `at` ends."""
    if kind == STRING:
        return at + 8 + struct.unpack_from("<Q", content, at)[0]
    if kind != ARRAY:
        return at + _BYTES[kind]
    inner, elements = struct.unpack_from("<IQ", content, at)
    at += 12
    if inner in _BYTES:
        return at + elements * _BYTES[inner]
    for _ in range(elements):
        at = _end(content, at, inner)
    return at
