"""A student that no file of student/models describes: a directory in Hugging Face's form, or a model on the hub.

What the file would say is read from the model's config, tokenizer and model card. What cannot be read is refused in
one line; a file of one's own (student: ./mine.yaml) can then say it.
"""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from schemas.documents import check_document
from schemas.error_text import one_line
from schemas.errors import InputError, StageError
from student.models.chat_template import SAY_IT, must_call, must_see
from student.rendering.vision import FAMILIES, must_be_known

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# All that a description is made of, without the weights.
_DESCRIBES = ["*.json", "*.jinja", "*.model", "*.txt", "README.md", "LICEN[SC]E*"]
_SHAPE = {
    "model_type": "model_type",
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "intermediate": "intermediate_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "vocabulary": "vocab_size",
}


def describe(name: str) -> dict[str, Any]:
    """The description of a student (schemas/student.schema.json), `name` being a directory or org/name on the hub.

    Raises:
        InputError: no such directory, or what is there cannot be trained, with what is missing.
        StageError: the hub does not give it.
    """
    directory, source = _located(name)
    config, tokenizer = read(name, directory)
    text = config.get_text_config()
    stop = stop_tokens(directory, tokenizer)
    parameters = _parameters(name, config)
    context = getattr(text, "max_position_embeddings", None)
    for what, found in (
        ("max_position_embeddings in config.json", context),
        ("end-of-turn token", stop),
    ):
        if not found:
            raise InputError(f"{name}: no {what}: {SAY_IT}")
    student = {
        "name": re.sub(r"[^a-z0-9._]+", "-", Path(name).name.lower()).strip("-._") or "student",
        "description": f"{name}, {parameters / 1e9:.3g}B parameters",
        "source": source,
        "template": None,
        "licence": _licence(name, directory, source),
        "context": context,
        "stop": stop,
        "parameters": parameters,
        "lora_targets": "all-linear",
    }
    shape = {**shape_of(text), "model_type": config.model_type}
    seeing = config.model_type in FAMILIES
    if seeing:
        student["capabilities"] = {"vision": True}
    experts = any("expert" in key for key in text.to_dict())
    # What student/training/memory.py can compute.
    if all(shape.values()) and not experts and (seeing or text is config):
        student["shape"] = {**shape, "source": f"config.json of {name}"}
    check_document(student, "student", name)
    must_call(student, directory, tokenizer)
    if seeing:
        must_see(student, directory, tokenizer)
    return student


def shape_of(config: Any) -> dict[str, Any]:
    """What student/training/memory.py computes with, of a text model's config; None what the config does not have."""
    shape = {field: getattr(config, key, None) for field, key in _SHAPE.items()}
    shape["head_dim"] = shape["head_dim"] or (shape["hidden"] or 0) // (shape["heads"] or 1)
    return shape


def _located(name: str) -> tuple[Path, dict[str, str]]:
    path = Path(name).expanduser()
    if path.is_dir():
        if not list(path.glob("*.safetensors")):
            raise InputError(
                f"{name}: no weights (*.safetensors), expected a directory in Hugging Face's form"
            )
        return path.resolve(), {"path": str(path.resolve())}
    if not _HUB_ID.fullmatch(name):
        raise InputError(
            f"{name}: no such directory, expected one, or a model on the hub (org/name)"
        )
    from huggingface_hub import snapshot_download

    try:
        directory = Path(snapshot_download(name, allow_patterns=_DESCRIBES))
    except Exception as error:
        said = one_line(str(error))
        raise StageError(
            f"{name}: no such directory, and not to be had from the hub: {said}"
        ) from error
    return directory, {"hub": name, "revision": directory.name}


def read(name: str, directory: Path) -> tuple[Any, Any]:
    """Config and tokenizer of a directory, which is called `name` in errors."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(directory)
        tokenizer = AutoTokenizer.from_pretrained(directory)
    except (
        OSError,
        ValueError,
        KeyError,
    ) as error:  # what transformers raises where files are missing or broken
        raise InputError(
            f"{name}: config or tokenizer cannot be read: {one_line(str(error))}"
        ) from error
    if getattr(config, "quantization_config", None):
        raise InputError(
            f"{name}: its weights are quantised: the adapter is merged into 16-bit weights, name those"
        )
    return config, tokenizer


def _parameters(name: str, config: Any) -> int:
    """Counted on a model without memory."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    seeing = config.model_type in FAMILIES
    kind = AutoModelForImageTextToText if seeing else AutoModelForCausalLM
    try:
        with torch.device("meta"):
            return kind.from_config(config).num_parameters()
    except ValueError as error:
        if hasattr(config, "vision_config"):
            must_be_known(name, config)
        raise InputError(
            f"{name}: not a causal language model: {one_line(str(error), 120)}"
        ) from error


def stop_tokens(directory: Path, tokenizer: Any) -> list[str]:
    """The tokens that end a turn: the server stops at those of generation_config.json and at the tokenizer's own."""
    path = directory / "generation_config.json"
    ids = (
        json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
    )
    ids = ids if isinstance(ids, list) else [ids]
    named = [tokenizer.convert_ids_to_tokens(number) for number in ids if number is not None]
    return [token for token in dict.fromkeys([*named, tokenizer.eos_token]) if token]


def _licence(name: str, directory: Path, source: dict[str, str]) -> dict[str, str]:
    """By the model card's metadata, or by the first line of a licence file."""
    url = {"url": f"https://huggingface.co/{source['hub']}"} if "hub" in source else {}
    card = directory / "README.md"
    parts = card.read_text(encoding="utf-8").split("---", 2) if card.is_file() else []
    if len(parts) == 3 and not parts[0].strip():
        try:
            said = yaml.safe_load(parts[1])
        except yaml.YAMLError:
            said = None
        said = said if isinstance(said, dict) else {}
        licence = said.get("license")
        licence = said.get("license_name") if licence == "other" else licence
        if isinstance(licence, str) and licence.strip():
            return {"id": licence.strip(), **url}
    for path in sorted(directory.glob("LICEN[SC]E*")):
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        if any(lines):
            return {"id": next(line for line in lines if line), **url}
    raise InputError(
        f"{name}: no licence: expected `license:` at the head of its README.md, or a LICENSE file; or {SAY_IT}"
    )
