"""Measures QLoRA training steps of a vision-language student on one GPU: tokens per second, the tower's share, memory.

    python -m benchmarks.qlora_vision                            # Qwen2.5-VL-32B's shape; --family qwen3_vl
    python -m benchmarks.qlora_vision --baseline                 # stock modules with activation checkpointing
    python -m benchmarks.qlora_vision --pictures 3 --length 8192

A row is a conversation with images of A4 pages at 144 dpi (1,190 x 1,684 px); its text tokens count in the loss. The
language model is built by qlora_setup.py: random weights, NF4, adapters of rank 16. The vision tower has random weights
in bfloat16. Needs an NVIDIA GPU and the packages torch, triton, transformers, peft, bitsandbytes, jinja2,
jsonschema-rs, pillow and pyyaml; downloads nothing.
"""

import argparse
from typing import Any

# Imported first: it configures torch's memory allocator, which must happen before torch is imported.
from benchmarks import qlora_setup as bench

# isort: split
import torch

from student.kernels import fused_layers
from student.kernels.linear_cross_entropy import linear_cross_entropy
from student.models.introspect import shape_of
from student.rendering.labels import IGNORED
from student.training import memory
from student.training.vision import TOWER, prepare_tower

WIDTH, HEIGHT = 1190, 1684
PLACEHOLDER = 151655


def config_of(family: str, layers: int | None) -> Any:
    """The transformers config of Qwen2.5-VL-32B or Qwen3-VL-32B (config.json on the hub)."""
    import transformers

    config: Any
    heads = {"qwen2_5_vl": 40, "qwen3_vl": 64}[family]
    text = {
        "hidden_size": 5120,
        "intermediate_size": {"qwen2_5_vl": 27648, "qwen3_vl": 25600}[family],
        "num_hidden_layers": layers or 64,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": {"qwen2_5_vl": 152064, "qwen3_vl": 151936}[family],
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    }
    if family == "qwen2_5_vl":
        tower = {"hidden_size": 1280, "intermediate_size": 3456, "out_hidden_size": 5120}
        config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=tower)
        config.architectures = ["Qwen2_5_VLForConditionalGeneration"]
    else:
        config = transformers.Qwen3VLConfig(
            text_config=text, vision_config={"out_hidden_size": 5120}
        )
        config.architectures = ["Qwen3VLForConditionalGeneration"]
    config.image_token_id = PLACEHOLDER
    config._attn_implementation = "sdpa"
    return config


def build(config: Any) -> Any:
    """A PEFT model on the GPU: the language model in NF4 with adapters, the vision tower in bfloat16."""
    model = bench.quantised_as(config)
    with torch.device(bench.DEVICE):
        model.model.visual = type(model.model.visual)(config.vision_config).to(torch.bfloat16)
    model.requires_grad_(False)
    return bench.adapted(model, exclude_modules=TOWER)


def conversation(config: Any, images: int, length: int) -> dict[str, torch.Tensor]:
    """A batch of one: token ids [1, T] with image placeholders, pixels, and labels, which are -100 on the images."""
    tower = config.vision_config
    side = tower.patch_size * tower.spatial_merge_size
    high, wide = (2 * round(pixels / side) for pixels in (HEIGHT, WIDTH))
    tokens = high * wide // 4
    if images * (tokens + 2) > length:
        raise SystemExit(
            f"--length {length}: expected at least {images * (tokens + 2)} for {images} images"
        )
    ids = torch.randint(0, 150000, (1, length), device=bench.DEVICE)
    for image in range(images):
        start = 1 + image * (tokens + 2)
        ids[0, start : start + tokens] = PLACEHOLDER
    is_image = ids == PLACEHOLDER
    values = 3 * tower.temporal_patch_size * tower.patch_size**2
    pixels = torch.randn(images * high * wide, values, device=bench.DEVICE, dtype=torch.bfloat16)
    return {
        "input_ids": ids,
        "labels": ids.masked_fill(is_image, IGNORED),
        "mm_token_type_ids": is_image.long(),
        "pixel_values": pixels,
        "image_grid_thw": torch.tensor([[1, high, wide]] * images, device=bench.DEVICE),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--family", choices=["qwen2_5_vl", "qwen3_vl"], default="qwen2_5_vl")
    parser.add_argument("--pictures", type=int, default=1, help="images in a conversation")
    parser.add_argument("--length", type=int, default=4096, help="tokens in it, images included")
    parser.add_argument(
        "--keep", type=int, help="layers that keep their activations (default: what fits)"
    )
    parser.add_argument("--layers", type=int, help="fewer layers than the real model")
    parser.add_argument(
        "--baseline", action="store_true", help="stock modules instead of the fused layers"
    )
    options = parser.parse_args()
    config = config_of(options.family, options.layers)
    model = build(config)
    shape = shape_of(config.get_text_config())
    trainable = [p for p in model.parameters() if p.requires_grad]
    if options.baseline:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        label = "stock modules, activation checkpointing"
    else:
        free = torch.cuda.mem_get_info()[0] - 3 * sum(2 * p.numel() for p in trainable) - 2 * 2**30
        keep = (
            memory.layers_to_keep(shape, options.length, free)
            if options.keep is None
            else options.keep
        )
        fused_layers.install(model).keep_layers(keep)
        prepare_tower(model.get_base_model())
        label = f"fused, {keep} of {shape['layers']} layers kept"
    inputs = conversation(config, options.pictures, options.length)
    labels = inputs.pop("labels")[:, 1:].flatten()
    base, optimiser = model.get_base_model(), torch.optim.AdamW(trainable, lr=2e-4, fused=True)
    weights = torch.cuda.memory_allocated() / 2**30

    def step() -> None:
        hidden = base.model(**inputs, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
        linear_cross_entropy(hidden, base.lm_head.weight, labels).backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimiser.step()
        optimiser.zero_grad()

    def run_tower() -> None:
        with torch.no_grad():
            base.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])

    whole, peak = bench.timed(step), torch.cuda.max_memory_allocated() / 2**30
    tower = bench.timed(run_tower)
    print(
        f"| {options.family} | {label} | {options.pictures} images in {options.length:,} tokens |"
        f" {options.length / whole:,.0f} tokens/s | {whole:.3f} s | tower {tower:.3f} s |"
        f" {peak:.1f} GiB, {weights:.1f} before the first step |"
    )


if __name__ == "__main__":
    main()
