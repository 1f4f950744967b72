"""What the fused layers can train, for the planning that must not load torch."""

# Decoders whose layers student/kernels/fused_layers.py can fuse: model_type of config.json, and the layer's class in
# transformers.
FUSED = {
    "llama": "LlamaDecoderLayer",
    "qwen2": "Qwen2DecoderLayer",
    "qwen3": "Qwen3DecoderLayer",
    "qwen2_5_vl": "Qwen2_5_VLDecoderLayer",
    "qwen3_vl": "Qwen3VLTextDecoderLayer",
}


def padded_rank(rank: int) -> int:
    """The rank that the fused layers' kernels work with: a power of two from 16."""
    return max(16, 1 << (rank - 1).bit_length())
