"""Describes a student without a file in student/models: a directory in Hugging Face's form, or a model on the hub.

The description is read from the model's config, tokenizer and model card. If one of its fields cannot be read, an error
of one line says so; the user can then write a file (student: ./mine.yaml).
"""

import re
from pathlib import Path
from typing import Any

from schemas.documents import check_document
from schemas.error_text import one_line
from schemas.errors import InputError, StageError
from schemas.files import read_json, read_text
from schemas.yaml_text import parse_yaml
from student.models import files
from student.models.chat_template import ADVICE, check_tool_template, check_vision
from student.models.vocabulary import check_vocabulary
from student.rendering.vision import FAMILIES, check_family

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# The files that a description is read from, without the weights.
DESCRIPTION_FILES = list(files.DESCRIPTION)
# Fields of a description's shape, and of a text model's config.json.
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
    """The description of a student (schemas/student.schema.json).

    Args:
        name: a directory, or org/name on the hub.

    Raises:
        InputError: there is no such directory, or the model there cannot be trained.
        StageError: the hub does not provide the model.
    """
    directory, source = _locate(name)
    config, tokenizer = read(name, directory)
    text = config.get_text_config()
    stop = stop_tokens(directory, tokenizer)
    parameters = _parameters(name, config)
    context = getattr(text, "max_position_embeddings", None)
    if not context:
        raise InputError(f"{name}: no max_position_embeddings in config.json: {ADVICE}")
    if not stop:
        raise InputError(f"{name}: no end-of-turn token: {ADVICE}")
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
    has_vision = config.model_type in FAMILIES
    if has_vision:
        student["capabilities"] = {"vision": True}
    experts = any("expert" in key for key in text.to_dict())
    # Only shapes for which student/training/memory.py can compute the memory.
    if all(shape.values()) and not experts and (has_vision or text is config):
        student["shape"] = {**shape, "source": f"config.json of {name}"}
    check_document(student, "student", name)
    check_vocabulary(name, directory, config, tokenizer)
    check_tool_template(student, directory, tokenizer)
    if has_vision:
        check_vision(student, directory, tokenizer)
    return student


def shape_of(config: Any) -> dict[str, Any]:
    """The shape of a text model's config, for student/training/memory.py. Fields that the config lacks are None."""
    shape = {field: getattr(config, key, None) for field, key in _SHAPE.items()}
    shape["head_dim"] = shape["head_dim"] or (shape["hidden"] or 0) // (shape["heads"] or 1)
    return shape


def _locate(name: str) -> tuple[Path, dict[str, str]]:
    """The directory with the model's files, and the `source` of its description."""
    path = Path(name).expanduser()
    if path.is_dir():
        if not files.weights(path):
            raise InputError(
                f"{name}: no weights: expected {files.SINGLE} or {files.INDEX} with its shards"
            )
        return path.resolve(), {"path": str(path.resolve())}
    if not _HUB_ID.fullmatch(name):
        raise InputError(
            f"{name}: no such directory, expected a directory or a model on the hub (org/name)"
        )
    from huggingface_hub import snapshot_download

    try:
        directory = Path(snapshot_download(name, allow_patterns=DESCRIPTION_FILES))
    except Exception as error:
        problem = files.hub_problem({"hub": name}, error)
        raise StageError(f"no such directory: {problem}") from error
    return directory, {"hub": name, "revision": directory.name}


def read(name: str, directory: Path) -> tuple[Any, Any]:
    """The config and the tokenizer of a directory.

    Raises:
        InputError: they cannot be read, or the weights are quantised. It calls the directory `name`.
    """
    from transformers import AutoConfig, AutoTokenizer

    files.check_readable(directory)
    try:
        config = AutoConfig.from_pretrained(directory)
        tokenizer = AutoTokenizer.from_pretrained(directory)
    except (OSError, ValueError, KeyError) as error:  # transformers raises these for broken files
        raise InputError(
            f"{name}: config or tokenizer cannot be read: {one_line(str(error))}"
        ) from error
    if getattr(config, "quantization_config", None):
        raise InputError(
            f"{name}: the weights are quantised, expected 16-bit weights, into which the adapter is merged"
        )
    return config, tokenizer


def _parameters(name: str, config: Any) -> int:
    """The number of parameters, counted on a model on the meta device."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    has_vision = config.model_type in FAMILIES
    kind = AutoModelForImageTextToText if has_vision else AutoModelForCausalLM
    try:
        with torch.device("meta"):
            return kind.from_config(config).num_parameters()
    except ValueError as error:
        if hasattr(config, "vision_config"):
            check_family(name, config)
        raise InputError(
            f"{name}: not a causal language model: {one_line(str(error), 120)}"
        ) from error


def stop_tokens(directory: Path, tokenizer: Any) -> list[str]:
    """The tokens that end a turn: those of generation_config.json and the tokenizer's own, where the server stops."""
    path = directory / "generation_config.json"
    ids = read_json(path).get("eos_token_id") if path.is_file() else None
    ids = ids if isinstance(ids, list) else [ids]
    named = [tokenizer.convert_ids_to_tokens(number) for number in ids if number is not None]
    return [token for token in dict.fromkeys([*named, tokenizer.eos_token]) if token]


def _licence(name: str, directory: Path, source: dict[str, str]) -> dict[str, str]:
    """The licence by the model card's metadata, or by the first line of a licence file.

    Raises:
        InputError: there is neither.
    """
    url = {"url": f"https://huggingface.co/{source['hub']}"} if "hub" in source else {}
    card = directory / "README.md"
    metadata = _metadata(read_text(card, prose=True)) if card.is_file() else {}
    licences = metadata.get("license")
    licences = licences if isinstance(licences, list) else [licences]
    names = [metadata.get("license_name") if name == "other" else name for name in licences]
    stated = [name.strip() for name in names if isinstance(name, str) and name.strip()]
    if stated:
        return {"id": ", ".join(dict.fromkeys(stated)), **url}
    for path in sorted(directory.glob("LICEN[SC]E*")):
        lines = [line.strip() for line in read_text(path, prose=True).splitlines()]
        if any(lines):
            return {"id": next(line for line in lines if line), **url}
    raise InputError(
        f"{name}: no licence: expected `license:` at the head of its README.md, or a LICENSE file; or {ADVICE}"
    )


def _metadata(card: str) -> dict[str, Any]:
    """The YAML between the first two lines of three dashes of a model card; empty where it cannot be read."""
    first, *lines = card.lstrip().splitlines() or [""]
    ends = [number for number, line in enumerate(lines) if line.rstrip() == "---"]
    if first.rstrip() != "---" or not ends:
        return {}
    try:
        metadata = parse_yaml("\n".join(lines[: ends[0]]))
    except ValueError:
        return {}
    return metadata if isinstance(metadata, dict) else {}
