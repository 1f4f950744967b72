"""A random Qwen2.5-VL or Qwen3-VL, small enough to train on a CPU in seconds, with the embedded student's tokenizer."""

from pathlib import Path
from typing import Any

# The converter needs more blocks in the tower than the two layers of Qwen2.5-VL's projector.
_BLOCKS = 4
VISION_TOKENS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
_TEXT = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 8192,
    "initializer_range": 0.1,
}
_TOWER = {
    "depth": _BLOCKS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "out_hidden_size": 128,
    "initializer_range": 0.1,
}


def write(tokenizer, template: str, directory: Path, family: str = "qwen2_5_vl") -> Path:
    """Writes a model's files as they lie on the hub; adds vision tokens to `tokenizer`."""
    import torch
    from transformers import AutoModelForImageTextToText
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer.add_special_tokens({"additional_special_tokens": VISION_TOKENS})
    stop = tokenizer.eos_token_id
    text = _TEXT | {
        "vocab_size": len(tokenizer),
        "eos_token_id": stop,
        "bos_token_id": stop,
        "pad_token_id": stop,
    }
    config, settings = {"qwen2_5_vl": _qwen25, "qwen3_vl": _qwen3}[family](text)
    for token, name in zip(VISION_TOKENS, _TOKEN_IDS, strict=True):
        setattr(config, name, tokenizer.convert_tokens_to_ids(token))
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config)
    # The padding token ends turns here; its embedding starts as zeros, for which llama.cpp's norm is NaN.
    with torch.no_grad():
        embeddings: Any = model.get_input_embeddings()
        embeddings.weight[stop].normal_(std=0.1)
        if family == "qwen3_vl":  # large enough that wrong positions change the output
            model.model.visual.pos_embed.weight.normal_(std=2.0)
    model.bfloat16().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (directory / "chat_template.jinja").write_text(template)
    Qwen2VLImageProcessorPil(**settings).save_pretrained(directory)
    return directory


_TOKEN_IDS = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")


def _qwen25(text: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The config, with tied embeddings as in the 3B model."""
    from transformers import Qwen2_5_VLConfig

    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]}
    config = Qwen2_5_VLConfig(
        text_config=text | {"rope_parameters": rope},
        vision_config=_TOWER | {"fullatt_block_indexes": [1, 3], "window_size": 112},
        tie_word_embeddings=True,
    )
    return config, {}


def _qwen3(text: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The config, with untied embeddings as in 8B and 32B. Its learned grid has 8 x 8 positions, so that most
    images are interpolated. Two layers of the tower feed the first two layers of the language model, which has three:
    llama.cpp adds nothing after the last."""
    from transformers import Qwen3VLConfig

    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [12, 10, 10],
        "mrope_interleaved": True,
    }
    config = Qwen3VLConfig(
        text_config=text | {"num_hidden_layers": 3, "head_dim": 64, "rope_parameters": rope},
        vision_config=_TOWER | {"num_position_embeddings": 64, "deepstack_visual_indexes": [1, 2]},
    )
    half = [0.5, 0.5, 0.5]
    # Limits of size as the hub's preprocessor_config.json has them: 64 to 16,384 tokens of 32 x 32 pixels.
    limits = {"shortest_edge": 256 * 256, "longest_edge": 4096 * 4096}
    return config, {"patch_size": 16, "image_mean": half, "image_std": half, "size": limits}
