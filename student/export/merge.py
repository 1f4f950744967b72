"""The adapter merged into the 16-bit weights, shard by shard, as a directory that vLLM and transformers load.

W + scale * B A is computed in float32 for one tensor at a time and rounded once, so a 70B model is merged in the memory
of its largest shard, and never on 4-bit weights, where merging would quantise again.
"""

import json
import shutil
from pathlib import Path

from schemas.errors import StageError
from schemas.files import whole
from student.training.vision import limit_pictures

_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "model.safetensors.index.json")


def merge(base: Path, adapter: Path, to: Path, template: str) -> None:
    """Writes base + adapter to `to`, with the base's tokenizer and the given chat template.

    Args:
        base: the untrained student: config, tokenizer, safetensors in 16 bits.
        adapter: what student/training/sft.py wrote: a LoRA adapter, or full weights.
        template: Jinja text; it goes where both transformers (chat_template.jinja) and llama.cpp's converter
            (tokenizer_config.json) look first.

    Raises:
        StageError: the adapter names a tensor that the base does not have, or the disk is full.
    """
    with whole(to) as temporary:
        shutil.copytree(base, temporary, ignore=shutil.ignore_patterns(*_WEIGHTS, ".*"))
        if (adapter / "adapter_config.json").is_file():
            _merge_shards(base, adapter, temporary)
        else:
            for file in [
                *adapter.glob("*.safetensors"),
                *adapter.glob("model.safetensors.index.json"),
            ]:
                shutil.copy2(file, temporary / file.name)
        set_template(temporary, template)
        (temporary / "chat_template.json").unlink(missing_ok=True)  # an older name of the template
        limit_pictures(temporary)


def set_template(directory: Path, template: str) -> None:
    """Puts the chat template into both files that carry it, so that no reader finds another."""
    (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["chat_template"] = template
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _merge_shards(base: Path, adapter: Path, to: Path) -> None:
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file, save_file

    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    lora = load_file(adapter / "adapter_model.safetensors")
    pairs = {
        _named(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")) + ".weight": (
            tensor,
            lora[name.replace(".lora_A.", ".lora_B.")],
        )
        for name, tensor in lora.items()
        if ".lora_A." in name
    }
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
    merged = set()
    for shard in sorted(base.glob("*.safetensors")):
        tensors = {}
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                weight = file.get_tensor(name)
                if _named(name) in pairs:
                    a, b = pairs[_named(name)]
                    delta = b.to(torch.float32) @ a.to(torch.float32)
                    weight = (weight.to(torch.float32) + scale * delta).to(weight.dtype)
                    merged.add(_named(name))
                tensors[name] = weight
        try:
            save_file(tensors, to / shard.name, metadata={"format": "pt"})
        except SafetensorError as error:  # a full disk is no OSError there
            raise StageError(f"{to / shard.name}: cannot be written: {error}") from error
    for index in base.glob("model.safetensors.index.json"):
        shutil.copy2(index, to / index.name)
    missing = sorted(set(pairs) - merged)
    if missing:
        raise StageError(
            f"{adapter}: the base model has no tensor {missing[0]} (and {len(missing) - 1} others)"
        )


def _named(tensor: str) -> str:
    """A tensor's name wherever its checkpoint puts the language model: Qwen2.5-VL's files call model.layers what is
    model.language_model.layers once it is loaded."""
    return tensor.replace("language_model.", "")
