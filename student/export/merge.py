"""Merges the adapter into the 16-bit weights and writes a directory that vLLM and transformers load.

W + scale * B A is computed in float32 for one tensor at a time and rounded once. So merging a 70B model needs the
memory of its largest shard. The base is never the 4-bit weights: merging into them would quantize a second time.
"""

import shutil
from pathlib import Path
from typing import Any

from schemas.errors import StageError
from schemas.files import read_json, whole, write_json
from student.export.image_limits import limit_images
from student.models import files

# Settings of PEFT's adapter_config.json, with the values that leave a plain LoRA adapter. Any other value is refused.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (False, None),
    "modules_to_save": (None, []),
    "bias": ("none",),
    "lora_bias": (False, None),
    "fan_in_fan_out": (False, None),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    "use_qalora": (False, None),
    "alora_invocation_tokens": (None, []),
    "arrow_config": (None,),
}
# Ways to begin the training that take a part out of the base's weights.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq")


def merge(base: Path, adapter: Path, to: Path, template: str) -> None:
    """Writes base + adapter to `to`, with the base's config and tokenizer and the given chat template.

    Nothing else is taken of the base. The weights get the usual names: the base's may be such that a store refuses.

    Args:
        base: the untrained student: config, tokenizer, safetensors in 16 bits.
        adapter: the output of student/training/sft.py: a LoRA adapter, or full weights.
        template: Jinja text.

    Raises:
        StageError: the adapter has a tensor that the base has not, or the disk is full.
    """
    with whole(to) as temporary:
        temporary.mkdir()
        copy_small_files(base, temporary)
        if (adapter / "adapter_config.json").is_file():
            _merge_shards(base, adapter, temporary)
        else:
            shards = usual_names(adapter)
            for shard, name in shards.items():
                shutil.copyfile(shard, temporary / name)
            write_index(adapter, temporary)
        set_template(temporary, template)
        limit_images(temporary)


def copy_small_files(base: Path, to: Path) -> None:
    """Copies what a student's directory has besides weights and chat template (student/models/files.py)."""
    for name in files.EXPORTED:
        if (base / name).is_file():
            # Without its mode: a file of the base may be read-only.
            shutil.copyfile(base / name, to / name)


def set_template(directory: Path, template: str) -> None:
    """Writes the chat template to both files that hold it, and removes the one that a processor's settings may have.

    transformers reads chat_template.jinja first, llama.cpp's converter tokenizer_config.json.
    """
    (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    path = directory / "tokenizer_config.json"
    config = read_json(path) if path.is_file() else {}
    write_json(path, config | {"chat_template": template})
    for path in directory.glob("*processor_config.json"):
        settings = read_json(path)
        if settings.pop("chat_template", None) is not None:
            write_json(path, settings)


def _merge_shards(base: Path, adapter: Path, to: Path) -> None:
    """Writes the base's shards to `to`, with the LoRA adapter merged into the tensors that it has."""
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    pairs = _read_adapter(adapter)
    merged = set()
    for shard, name in usual_names(base).items():
        tensors = {}
        with safe_open(shard, framework="pt") as file:
            for tensor in file.keys():  # noqa: SIM118 - not a dict
                weight = file.get_tensor(tensor)
                if _bare_name(tensor) in pairs:
                    a, b, scale = pairs[_bare_name(tensor)]
                    if (b.shape[0], a.shape[1]) != weight.shape:
                        raise StageError(
                            f"{adapter}: {tensor}: found an adapter for a weight of"
                            f" {(b.shape[0], a.shape[1])}, expected {tuple(weight.shape)} as in {base}"
                        )
                    delta = b.to(torch.float32) @ a.to(torch.float32)
                    weight = (weight.to(torch.float32) + scale * delta).to(weight.dtype)
                    merged.add(_bare_name(tensor))
                tensors[tensor] = weight
        try:
            save_file(tensors, to / name, metadata={"format": "pt"})
            # safetensors writes for the owner alone; the directory has what the umask leaves.
            (to / name).chmod(to.stat().st_mode & 0o666)
        except SafetensorError as error:  # safetensors raises it, not OSError, for a full disk
            raise StageError(f"{to / name}: cannot be written: {error}") from error
    write_index(base, to)
    missing = sorted(set(pairs) - merged)
    if missing:
        raise StageError(
            f"{adapter}: found an adapter for {missing[0]} and {len(missing) - 1} other tensors that the base model"
            f" {base} does not have: expected an adapter that was trained on this base"
        )


def _read_adapter(adapter: Path) -> dict[str, tuple[Any, Any, float]]:
    """Reads a LoRA adapter: A [r, in], B [out, r] and the scale of B A for each tensor, by the tensor's bare name.

    rank_pattern, alpha_pattern and rslora are applied as PEFT does.

    Raises:
        StageError: the adapter has a setting or a tensor that merging would otherwise ignore.
    """
    from peft.utils.other import get_pattern_key
    from safetensors.torch import load_file

    config = read_json(adapter / "adapter_config.json")
    file = adapter / "adapter_model.safetensors"
    refused = [name for name, plain in _PLAIN.items() if config.get(name, plain[0]) not in plain]
    if str(config.get("init_lora_weights")).startswith(_CHANGES_BASE):
        refused.append("init_lora_weights")  # it changed the base's weights before training
    if refused:
        raise StageError(
            f"{adapter / 'adapter_config.json'}: {refused[0]}: found {config[refused[0]]!r}, which cannot be merged:"
            " expected a plain LoRA adapter"
        )
    alphas = config.get("alpha_pattern") or {}
    lora, pairs = load_file(file), {}
    for name, tensor in lora.items():
        module, is_a, _ = name.partition(".lora_A.weight")
        if not is_a:
            if not name.endswith(".lora_B.weight") or name.replace("lora_B", "lora_A") not in lora:
                raise StageError(
                    f"{file}: {name}: cannot be merged: expected pairs of lora_A.weight and lora_B.weight alone"
                )
            continue
        module = module.removeprefix("base_model.model.")
        rank = tensor.shape[0]  # rank_pattern may give it
        alpha = alphas.get(get_pattern_key(list(alphas), module), config["lora_alpha"])
        scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
        b = lora.get(name.replace("lora_A", "lora_B"))
        if b is None:
            raise StageError(f"{file}: {name}: has no lora_B.weight beside it")
        pairs[f"{_bare_name(module)}.weight"] = (tensor, b, scale)
    return pairs


def usual_names(directory: Path) -> dict[Path, str]:
    """The files of weights of a directory, each with the name that transformers and llama.cpp's converter expect."""
    shards = files.weights(directory)
    if len(shards) == 1:
        return {shards[0]: files.SINGLE}
    return {
        shard: f"model-{number:05}-of-{len(shards):05}.safetensors"
        for number, shard in enumerate(shards, 1)
    }


def write_index(directory: Path, to: Path) -> None:
    """Writes the index of a directory's shards to `to`, with their usual names. A single file has no index."""
    names = {shard.name: name for shard, name in usual_names(directory).items()}
    if len(names) > 1:
        index = read_json(directory / files.INDEX)
        shards = {tensor: names[shard] for tensor, shard in index["weight_map"].items()}
        write_json(to / files.INDEX, {**index, "weight_map": shards})


def _bare_name(tensor: str) -> str:
    """Returns a tensor's name without the place of the language model in a vision-language model.

    Qwen2.5-VL's files have model.layers where the loaded model has model.language_model.layers.
    """
    return tensor.replace("language_model.", "")
