"""The student's weights as they are trained on: in 16 bits, or quantised once and kept for the next run.

A 70B student is 141 GB in 16 bits and 40 in NF4. The quantised weights stay in the user's cache, under a name that
tells what they were made from; a second run reads those. What is merged and exported is always the 16-bit original.
"""

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

from schemas.cache import cache_directory, make_once
from schemas.errors import StageError
from schemas.files import sha256_text, whole
from student.training import vision
from teacher.inference.llamacpp import Progress

# Raised when what is stored below changes, so that nobody trains on what an older version kept.
_VERSION = 1


def load(directory: Path, settings: Any, sees: bool, say: Progress = print) -> Any:
    """The model of a directory (student/models/base.py), ready for an adapter.

    Args:
        settings: the recipe's `train` section for this machine (student/training/memory.py): method, bits, dtype. sees: whether it
            is a model that sees: its vision tower is neither quantised nor trained.

    Raises:
        StageError: qlora without bitsandbytes.
    """
    model = _load(directory, settings, sees, say)
    if sees:
        vision.prepare_tower(model)
    return model


def _load(directory: Path, settings: Any, sees: bool, say: Progress) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    kind = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    dtype = getattr(torch, settings.dtype)
    place = {"device_map": {"": 0}} if torch.cuda.is_available() else {}
    quantisation = scheme(settings)
    if quantisation is None:
        return kind.from_pretrained(directory, dtype=dtype, **place)
    kept = cache_directory() / "quantised" / _name(directory, settings)
    with make_once(kept) as missing:
        if not missing:
            say(f"reading the weights in {settings.bits} bits from {kept}")
            return kind.from_pretrained(kept, dtype=dtype, **place)
        say(f"quantising the weights to {settings.bits} bits (once; kept in {kept})")
        if sees:
            quantisation.llm_int8_skip_modules = ["model.visual", "lm_head"]
        model = kind.from_pretrained(
            directory, dtype=dtype, quantization_config=quantisation, **place
        )
        with whole(kept) as temporary:
            model.save_pretrained(temporary)
        return model


def scheme(settings: Any) -> Any:
    """NF4 with double quantisation (QLoRA, arXiv:2305.14314) or LLM.int8() (arXiv:2208.07339), None without qlora.

    Raises:
        StageError: qlora without bitsandbytes.
    """
    import torch
    from transformers import BitsAndBytesConfig

    if settings.method != "qlora":
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise StageError(
            "train.method=qlora: needs bitsandbytes: `pip install -e '.[gpu]'` in .venv brings it"
        )

    if settings.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, settings.dtype),
    )


def _name(directory: Path, settings: Any) -> str:
    """What tells these weights from others: their files as they lie there, the scheme, and who quantised them."""
    files = [*directory.glob("*.safetensors"), directory / "config.json"]
    # A hub's snapshot links to files that are named by their content.
    states = [
        (f.name, f.resolve().name, f.stat().st_size, f.stat().st_mtime_ns) for f in sorted(files)
    ]
    made_by = importlib.metadata.version("bitsandbytes")
    state = f"{_VERSION} {directory.resolve()} {states} {settings.bits} {settings.dtype} {made_by}"
    return f"{directory.name}-{settings.bits}bit-{sha256_text(state)[:16]}"
