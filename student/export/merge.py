"""Merges the adapter into the 16-bit weights and writes a directory that vLLM and transformers load.

W + scale * B A is computed in float32 for one tensor at a time and rounded once. So merging a 70B model needs the
memory of its largest shard. The base is never the 4-bit weights: merging into them would quantize a second time.
"""

import json
import shutil
from pathlib import Path

from schemas.errors import StageError
from schemas.files import whole
from student.export.image_limits import limit_images

_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "model.safetensors.index.json")


def merge(base: Path, adapter: Path, to: Path, template: str) -> None:
    """Writes base + adapter to `to`, with the base's tokenizer and the given chat template.

    Args:
        base: the untrained student: config, tokenizer, safetensors in 16 bits.
        adapter: the output of student/training/sft.py: a LoRA adapter, or full weights.
        template: Jinja text.

    Raises:
        StageError: the adapter has a tensor that the base has not, or the disk is full.
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
        (temporary / "chat_template.json").unlink(
            missing_ok=True
        )  # older name of chat_template.jinja
        limit_images(temporary)


def set_template(directory: Path, template: str) -> None:
    """Writes the chat template to both files that hold it.

    transformers reads chat_template.jinja first, llama.cpp's converter tokenizer_config.json.
    """
    (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["chat_template"] = template
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _merge_shards(base: Path, adapter: Path, to: Path) -> None:
    """Writes the base's shards to `to`, with the LoRA adapter merged into the tensors that it has."""
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file, save_file

    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    lora = load_file(adapter / "adapter_model.safetensors")
    pairs = {
        _bare_name(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
        + ".weight": (
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
                if _bare_name(name) in pairs:
                    a, b = pairs[_bare_name(name)]
                    delta = b.to(torch.float32) @ a.to(torch.float32)
                    weight = (weight.to(torch.float32) + scale * delta).to(weight.dtype)
                    merged.add(_bare_name(name))
                tensors[name] = weight
        try:
            save_file(tensors, to / shard.name, metadata={"format": "pt"})
        except SafetensorError as error:  # safetensors raises it, not OSError, for a full disk
            raise StageError(f"{to / shard.name}: cannot be written: {error}") from error
    for index in base.glob("model.safetensors.index.json"):
        shutil.copy2(index, to / index.name)
    missing = sorted(set(pairs) - merged)
    if missing:
        raise StageError(
            f"{adapter}: found an adapter for {missing[0]} and {len(missing) - 1} other tensors that the base model"
            f" {base} does not have: expected an adapter that was trained on this base"
        )


def _bare_name(tensor: str) -> str:
    """Returns a tensor's name without the place of the language model in a vision-language model.

    Qwen2.5-VL's files have model.layers where the loaded model has model.language_model.layers.
    """
    return tensor.replace("language_model.", "")
