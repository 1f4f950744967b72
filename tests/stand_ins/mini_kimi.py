"""A miniature Kimi for vLLM: K2's architecture and K2.5's vocabulary, with a few layers and without weights.

It is built from the configuration and the tokenizer beside this checkout (shared/kimi, MIT, Moonshot AI). vLLM fills
the weights with random numbers (`--load-format dummy`), so its replies are the worst that a teacher can give.
"""

import json
from pathlib import Path
from typing import Any

from transformers.convert_slow_tokenizer import TikTokenConverter

from schemas.files import read_json, write_json, write_text
from teacher.models import catalog

ORIGINAL = Path(__file__).parents[3] / "shared" / "kimi"
# Smaller than the real model, but with the same MLA cache, vocabulary and routing of experts.
SHRUNK = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "moe_intermediate_size": 128,
    "num_hidden_layers": 2,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 128,
    "max_position_embeddings": 8192,
}
# Chinese characters are split from other letters; the rest is TikTokenConverter's own pattern.
_WORDS = (
    r"[\p{Han}]+|(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}&&[^\p{Han}]]+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def build(directory: Path) -> Path:
    """Writes config.json, the tokenizer and the chat template into a directory, and returns it."""
    config = read_json(ORIGINAL / "config.json")["text_config"]
    for name in ("auto_map", "quantization_config", "rope_scaling"):
        del config[name]
    write_json(directory / "config.json", {**config, **SHRUNK})
    build_tokenizer(directory)
    template = (catalog.TEMPLATES / "kimi-k2.jinja").read_text(encoding="utf-8")
    write_text(directory / "chat_template.jinja", template)
    return directory


def build_tokenizer(directory: Path) -> None:
    """Writes tokenizer.json with the real vocabulary, and a tokenizer_config.json that needs no remote code."""
    tokenizer = TikTokenConverter(str(ORIGINAL / "tiktoken.model"), pattern=_WORDS).converted()
    built: dict[str, Any] = json.loads(tokenizer.to_str())
    settings = read_json(ORIGINAL / "tokenizer_config.json")
    named = {int(number): token for number, token in settings["added_tokens_decoder"].items()}
    # Added tokens are numbered by their order, so numbers without a token get a reserved one, as in the original.
    plain = named[min(named)]
    built["added_tokens"] = [
        {"id": number, **named.get(number, {**plain, "content": f"<|reserved_token_{number}|>"})}
        for number in range(min(named), max(named) + 1)
    ]
    write_json(directory / "tokenizer.json", built)
    for name in ("auto_map", "added_tokens_decoder", "additional_special_tokens"):
        del settings[name]
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    # The token that ends a reply, as in generation_config.json of the original.
    settings["eos_token"] = "<|im_end|>"
    write_json(directory / "tokenizer_config.json", settings)
