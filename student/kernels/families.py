"""The models that the fused layers can train. Planning imports this module, so it must not import torch."""

# Decoders whose layers student/kernels/fused_layers.py can fuse: model_type of config.json to the layer's class in
# transformers.
FUSED = {
    "llama": "LlamaDecoderLayer",
    "qwen2": "Qwen2DecoderLayer",
    "qwen3": "Qwen3DecoderLayer",
    "qwen2_5_vl": "Qwen2_5_VLDecoderLayer",
    "qwen3_vl": "Qwen3VLTextDecoderLayer",
}


def padded_rank(rank: int) -> int:
    """Returns the rank that the kernels compute with: the next power of two, at least 16."""
    return max(16, 1 << (rank - 1).bit_length())
