"""A student's vocabulary and template as llama.cpp's source carries them for its family.

They stand in for the student's own tokenizer in the checks of a plan while that is not on this machine. The
vocabularies there have placeholders for the tokens that a model adds; `Family.tokens` names them as the models do.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from schemas.cache import cache_directory, make_once
from schemas.files import sha256_text, whole, write_json
from student.models import gguf_file
from teacher.inference import llamacpp


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        vocabulary: of models/ggml-vocab-*.gguf. template: of models/templates/*.jinja.
        architecture, model_type: of config.json.
        tokens: the tokens that the family adds, by their ids. plain: those of them that are no special tokens.
        bos: the token that begins every text, or None.
        composes: whether the tokenizer composes characters (NFC), as Qwen's does.
    """

    vocabulary: str
    template: str
    architecture: str
    model_type: str
    tokens: dict[int, str]
    plain: tuple[str, ...] = ()
    bos: str | None = None

    @property
    def composes(self) -> bool:
        return self.vocabulary.startswith("qwen")


def _numbered(first: int, text: str) -> dict[int, str]:
    return dict(enumerate(text.split(), first))


_QWEN = _numbered(
    151643,
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|>"
    " <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>"
    " <tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>",
)
_QWEN3 = _QWEN | _numbered(151665, "<tool_response> </tool_response> <think> </think>")
# Tokens from <tool_call> on are no special tokens.
_QWEN_PLAIN = tuple(token for number, token in _QWEN3.items() if number >= 151657)
_R1_QWEN = _QWEN | _numbered(
    151643,
    "<｜end▁of▁sentence｜> <｜User｜> <｜Assistant｜> <｜begin▁of▁sentence｜> <|EOT|> <think> </think>",
)
_LLAMA = {
    128000: "<|begin_of_text|>",
    128001: "<|end_of_text|>",
    128004: "<|finetune_right_pad_id|>",
    128006: "<|start_header_id|>",
    128007: "<|end_header_id|>",
    128008: "<|eom_id|>",
    128009: "<|eot_id|>",
    128010: "<|python_tag|>",
}
_R1_LLAMA = _LLAMA | {
    128000: "<｜begin▁of▁sentence｜>",
    128001: "<｜end▁of▁sentence｜>",
    128011: "<｜User｜>",
    128012: "<｜Assistant｜>",
    128013: "<think>",
    128014: "</think>",
}
_R1_PLAIN = (*_QWEN_PLAIN, "<｜User｜>", "<｜Assistant｜>", "<|EOT|>", "<think>", "</think>")

FAMILIES = {
    "qwen2.5": Family(
        "qwen2", "Qwen-Qwen2.5-7B-Instruct", "Qwen2ForCausalLM", "qwen2", _QWEN, _QWEN_PLAIN
    ),
    "qwen3": Family("qwen2", "Qwen-Qwen3-0.6B", "Qwen3ForCausalLM", "qwen3", _QWEN3, _QWEN_PLAIN),
    "qwen3-coder": Family(
        "qwen2", "Qwen3-Coder", "Qwen3MoeForCausalLM", "qwen3_moe", _QWEN3, _QWEN_PLAIN
    ),
    "qwen3.5": Family("qwen35", "Qwen3.5-4B", "Qwen3ForCausalLM", "qwen3", _QWEN3, _QWEN_PLAIN),
    "llama-3.3": Family(
        "llama-bpe",
        "meta-llama-Llama-3.3-70B-Instruct",
        "LlamaForCausalLM",
        "llama",
        _LLAMA,
        bos="<|begin_of_text|>",
    ),
    "deepseek-r1-distill-qwen": Family(
        "qwen2",
        "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
        "Qwen2ForCausalLM",
        "qwen2",
        _R1_QWEN,
        _R1_PLAIN,
        bos="<｜begin▁of▁sentence｜>",
    ),
    "deepseek-r1-distill-llama": Family(
        "llama-bpe",
        "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
        "LlamaForCausalLM",
        "llama",
        _R1_LLAMA,
        _R1_PLAIN,
        bos="<｜begin▁of▁sentence｜>",
    ),
}
# To be raised with each change of what `directory` writes.
_VERSION = 3
_RESERVED = "<|reserved_special_token_"  # of Llama's vocabulary
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
# How the families' tokenizer.json split text, as src/llama-vocab.cpp of llama.cpp quotes them.
_SPLITS = {
    vocabulary: r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?"
    rf"{letters}+|\p{{N}}{digits}| ?[^\s{marks}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for vocabulary, letters, digits, marks in (
        ("qwen2", r"\p{L}", "", r"\p{L}"),
        ("qwen35", r"[\p{L}\p{M}]", "", r"\p{L}\p{M}"),
        ("llama-bpe", r"\p{L}", "{1,3}", r"\p{L}"),
    )
}


def directory(family: Family, eos: str, report: llamacpp.Progress = print) -> Path:
    """Returns a directory in Hugging Face's form, in the user's cache, with the family's tokenizer and template.

    eos: the token that ends a turn. Without weights; config.json has only what llama.cpp's converter reads.
    """
    digest = sha256_text(f"{_VERSION} {llamacpp.VERSION} {family} {eos}")[:16]
    path = cache_directory() / "families" / f"{family.vocabulary}-{digest}"
    with make_once(path) as missing:
        if missing:
            with whole(path) as temporary:
                temporary.mkdir()
                _write(family, eos, llamacpp.source(report) / "models", temporary)
    return path


def _write(family: Family, eos: str, models: Path, to: Path) -> None:
    header = gguf_file.read(models / f"ggml-vocab-{family.vocabulary}.gguf")
    tokens = header.texts("tokenizer.ggml.tokens")
    merges = header.texts("tokenizer.ggml.merges")
    reserved = {n: token for n, token in enumerate(tokens) if token.startswith(_RESERVED)}
    added = reserved | family.tokens
    split = {"type": "Split", "pattern": {"Regex": _SPLITS[family.vocabulary]}}
    tokenizer = {
        "version": "1.0",
        "normalizer": {"type": "NFC"} if family.composes else None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{**split, "behavior": "Isolated", "invert": False}, _BYTES],
        },
        "decoder": _BYTES,
        "added_tokens": [
            {
                **{"id": number, "content": token, "special": token not in family.plain},
                **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
            }
            for number, token in sorted(added.items())
        ],
        "model": {
            "type": "BPE",
            # Llama's tokenizer takes a word that is in its vocabulary whole, although no merges lead to it.
            "ignore_merges": family.vocabulary == "llama-bpe",
            "vocab": {token: number for number, token in enumerate(tokens[: min(added)])},
            "merges": [merge.split(" ") for merge in merges],
        },
    }
    (to / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": family.bos,
        "eos_token": eos,
        "pad_token": eos,
        "add_bos_token": family.bos is not None,
        "clean_up_tokenization_spaces": False,
    }
    write_json(to / "tokenizer_config.json", settings)
    ends = next(number for number, token in family.tokens.items() if token == eos)
    config = {
        "architectures": [family.architecture],
        "transformers_version": "5.17.0",  # transformers doubts the tokenizers of older ones
        "model_type": family.model_type,
        "vocab_size": len(tokens),
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "max_position_embeddings": 32768,
        "eos_token_id": ends,
    }
    write_json(to / "config.json", config)
    template = models / "templates" / f"{family.template}.jinja"
    (to / "chat_template.jinja").write_text(template.read_text(encoding="utf-8"), encoding="utf-8")
