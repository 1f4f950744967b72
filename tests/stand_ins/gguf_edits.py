"""Plants faults in GGUF files: other metadata, other numbers, an end that is missing."""

import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from student.models import gguf_file

ALIGNMENT = 32


def text(value: str) -> bytes:
    """A text as a value of the metadata."""
    return struct.pack("<I", gguf_file.STRING) + _text(value)


def number(value: int) -> bytes:
    """An unsigned number of 32 bits as a value of the metadata."""
    return struct.pack("<II", 4, value)


def truth(value: bool) -> bytes:
    return struct.pack("<I?", 7, value)


def with_metadata(source: Path, to: Path, changes: Mapping[str, bytes | None]) -> Path:
    """Writes a copy with other values. None: without the key."""
    before = gguf_file.read(source)
    pairs = {
        key: value for key, value in (before.pairs | dict(changes)).items() if value is not None
    }
    tensors = list(before.tensors.values())
    first = min(tensor.start for tensor in tensors)
    with to.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)))
        for key, value in pairs.items():
            file.write(_text(key) + value)
        for tensor in tensors:
            file.write(_text(tensor.name) + struct.pack("<I", len(tensor.shape)))
            file.write(struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape)))
            file.write(struct.pack("<IQ", tensor.kind, tensor.start - first))
        file.write(bytes(-file.tell() % ALIGNMENT))
        file.write(source.read_bytes()[first:])
    return to


def with_tensors(source: Path, to: Path, edit: Callable[[str, np.ndarray], None]) -> Path:
    """Writes a copy in which `edit` has changed tensors: it gets each name and the stored rows, [rows, bytes]."""
    shutil.copyfile(source, to)
    content = np.memmap(to, np.uint8, "r+")
    for tensor in gguf_file.read(to).tensors.values():
        stored = content[tensor.start : tensor.start + tensor.size]
        edit(tensor.name, stored.reshape(tensor.shape[0], -1))
    content.flush()
    return to


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded
