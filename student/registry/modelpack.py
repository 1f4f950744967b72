"""The ModelPack config of a variant (model-spec v1, docs/config.md): what the weights are, read from the files."""

import json
import struct
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

from schemas.errors import InputError
from student.registry.artifact import PROJECTOR, PublishFile
from student.registry.store import Descriptor

# GGUF types that are not quantized, and the dtypes of safetensors, as ModelPack names precisions.
_PRECISIONS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F8_E4M3": "float8"}
_LARGEST_HEADER = 100 << 20  # bytes, the limit of the safetensors library


def config(
    manifest: dict[str, Any], variant: str, files: Sequence[PublishFile], layers: list[Descriptor]
) -> dict[str, Any]:
    """Returns the config of a variant.

    Args:
        manifest: with name and tag (schemas/manifest.schema.json).
        files: of the variant, each with its layer at the same place of `layers`.
    """
    inputs = ["text", "image"] if any(f.variant == PROJECTOR for f in files) else ["text"]
    capabilities: dict[str, Any] = {
        "toolUsage": True,
        "inputTypes": inputs,
        "outputTypes": ["text"],
    }
    # ModelPack has codes of two letters (ISO 639); a pack may name regions too.
    languages = [tag.partition("-")[0] for tag in manifest.get("requests", {}).get("languages", [])]
    if codes := [code for code in dict.fromkeys(languages) if len(code) == 2]:
        capabilities["languages"] = codes
    return {
        "descriptor": {
            "createdAt": manifest["created"],
            "name": manifest["name"],
            "version": manifest["tag"],
            "title": f"{manifest['student']['name']} for {manifest['domain']}",
            "licenses": [manifest["student"]["licence"]],
        },
        "config": {
            **_weights(variant, [f for f in files if f.variant == variant]),
            "capabilities": capabilities,
        },
        "modelfs": {"type": "layers", "diffIds": [layer["digest"] for layer in layers]},
    }


def _weights(variant: str, files: list[PublishFile]) -> dict[str, str]:
    """Returns format, number of parameters and precision or quantization; nothing for a variant without weights."""
    tensors = [file.path for file in files if file.name.endswith(".safetensors")]
    if tensors:
        sizes, kinds = zip(*(_safetensors(path) for path in tensors), strict=True)
        kind = max(kinds, key=lambda kind: sizes[kinds.index(kind)])
        return {
            "format": "safetensors",
            **_counted(sum(sizes)),
            **({"precision": _PRECISIONS[kind]} if kind in _PRECISIONS else {}),
        }
    models = [file.path for file in files if file.name.endswith(".gguf")]
    if not models:
        return {}
    # It needs numpy and gguf, which a command that only moves or removes tags would load for nothing.
    from student.models import gguf_file

    facts: dict[str, str] = {"format": "gguf"}
    facts |= (
        {"precision": _PRECISIONS[variant]}
        if variant in _PRECISIONS
        else {"quantization": variant.lower()}
    )
    for path in models:
        try:
            header = gguf_file.read(path)
        except InputError:
            continue  # the export gate has read it; a file of another store is described without it
        architecture = header.value("general.architecture")
        facts |= {"architecture": str(architecture)} if architecture else {}
        facts |= _counted(sum(prod(tensor.shape) for tensor in header.tensors.values()))
    return facts


def _counted(parameters: int) -> dict[str, str]:
    """Returns the number of parameters as ModelPack writes it, such as 32.8b and 135m."""
    if not parameters:
        return {}
    for unit, size in (("b", 1e9), ("m", 1e6), ("k", 1e3)):
        if parameters >= size:
            return {"paramSize": f"{parameters / size:.3g}{unit}"}
    return {"paramSize": str(parameters)}


def _safetensors(path: Path) -> tuple[int, str]:
    """Returns the number of parameters of a file and the dtype of most of them; (0, "") where it cannot be read."""
    counts: dict[str, int] = {}
    with path.open("rb") as file:
        try:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, _LARGEST_HEADER)))
            for name, tensor in header.items():
                if name != "__metadata__":
                    counts.setdefault(tensor["dtype"], 0)
                    counts[tensor["dtype"]] += prod(tensor["shape"])
        except (struct.error, ValueError, KeyError, TypeError, AttributeError):
            return 0, ""
    return sum(counts.values()), max(counts, key=lambda kind: counts[kind], default="")
