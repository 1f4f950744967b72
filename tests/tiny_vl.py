"""A random Qwen2.5-VL, small enough to train on a CPU in seconds, with the embedded student's tokenizer."""

from pathlib import Path
from typing import Any

# The converter reads a projector of two layers only where the tower has more blocks than that.
_BLOCKS = 4
VISION_TOKENS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


def write(tokenizer, template: str, directory: Path) -> Path:
    """Config, weights, tokenizer, template and image processor, as on the hub. `tokenizer` gets the vision tokens."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer.add_special_tokens({"additional_special_tokens": VISION_TOKENS})
    start, end, image, video = tokenizer.convert_tokens_to_ids(VISION_TOKENS)
    stop = tokenizer.eos_token_id
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 8192,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [8, 12, 12],
            },
            "eos_token_id": stop,
            "bos_token_id": stop,
            "pad_token_id": stop,
            "initializer_range": 0.1,
        },
        vision_config={
            "depth": _BLOCKS,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 128,
            "fullatt_block_indexes": [1, 3],
            "window_size": 112,
            "initializer_range": 0.1,
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    # Padding begins as zeros, on which llama.cpp's norm is not a number; here it is also the end of a turn.
    with torch.no_grad():
        embeddings: Any = model.get_input_embeddings()
        embeddings.weight[stop].normal_(std=0.1)
    model.bfloat16().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (directory / "chat_template.jinja").write_text(template)
    Qwen2VLImageProcessorPil().save_pretrained(directory)
    return directory
