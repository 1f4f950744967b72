"""Loads the student's weights for training: in 16 bits, or quantised once and cached for the next run.

A 70B student is 141 GB in 16 bits, 71 GB in FP8 and 40 GB in NF4. The quantised weights are stored in the user's
cache, under a name made of their source and the quantisation. Merging and export always use the 16-bit original.
"""

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

from schemas.cache import cache_directory, make_once
from schemas.errors import StageError
from schemas.files import sha256_text, whole
from schemas.recipe import Train
from student.training import vision
from teacher.inference.llamacpp import Progress

# To be raised with each change of the stored weights, so that older cached weights are not used.
_VERSION = 1


def load(directory: Path, settings: Train, has_vision: bool, log: Progress = print) -> Any:
    """The model of a directory (student/models/base.py), ready for an adapter.

    Args:
        settings: the recipe's `train` section, its dtype resolved (student/training/memory.py).
        has_vision: whether it is a vision-language model. Its vision tower is neither quantised nor trained.

    Raises:
        StageError: 4 bits without bitsandbytes.
    """
    model = _load(directory, settings, has_vision, log)
    if has_vision:
        vision.prepare_tower(model)
    return model


def _load(directory: Path, settings: Train, has_vision: bool, log: Progress) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    kind = AutoModelForImageTextToText if has_vision else AutoModelForCausalLM
    dtype = getattr(torch, settings.dtype)
    place = {"device_map": {"": 0}} if torch.cuda.is_available() else {}
    quantisation = quantisation_config(settings, has_vision)
    if quantisation is None:
        return kind.from_pretrained(directory, dtype=dtype, **place)
    cached = cache_directory() / "quantised" / _cache_name(directory, settings)
    with make_once(cached) as missing:
        if not missing:
            log(f"reading the weights in {settings.bits} bits from {cached}")
            return kind.from_pretrained(cached, dtype=dtype, **place)
        log(f"quantising the weights to {settings.bits} bits (once; kept in {cached})")
        model = kind.from_pretrained(
            directory, dtype=dtype, quantization_config=quantisation, **place
        )
        with whole(cached) as temporary:
            model.save_pretrained(temporary)
        return model


def quantisation_config(settings: Train, has_vision: bool = False) -> Any:
    """NF4 with double quantisation (QLoRA, arXiv:2305.14314) or FP8 with a scale a row (fp8_checkpoint.py).

    None without qlora. A vision tower and the output layer are left as they are.

    Raises:
        StageError: NF4 without bitsandbytes.
    """
    import torch
    from transformers import BitsAndBytesConfig

    if settings.method != "qlora":
        return None
    if settings.bits == 8:
        from student.training.fp8_checkpoint import Fp8Config

        return Fp8Config(skip=["model.visual"] if has_vision else None)
    if importlib.util.find_spec("bitsandbytes") is None:
        raise StageError(
            "train.method=qlora: needs bitsandbytes: `pip install -e '.[gpu]'` in .venv brings it"
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, settings.dtype),
        llm_int8_skip_modules=["model.visual", "lm_head"] if has_vision else None,
    )


def _cache_name(directory: Path, settings: Train) -> str:
    """A name that changes with the weights' files, the quantisation and, for NF4, the version of bitsandbytes."""
    files = [*directory.glob("*.safetensors"), directory / "config.json"]
    # In a hub's snapshot the files are links to files that are named by their content.
    states = [
        (f.name, f.resolve().name, f.stat().st_size, f.stat().st_mtime_ns) for f in sorted(files)
    ]
    version = importlib.metadata.version("bitsandbytes") if settings.bits == 4 else "e4m3"
    state = f"{_VERSION} {directory.resolve()} {states} {settings.bits} {settings.dtype} {version}"
    return f"{directory.name}-{settings.bits}bit-{sha256_text(state)[:16]}"
