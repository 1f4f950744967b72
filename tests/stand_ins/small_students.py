"""Tokenizers, renderers and a random model small enough for unit tests."""

from pathlib import Path

import trl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from student.rendering.renderer import Renderer
from teacher.models import catalog

END = "<|im_end|>"
SHIPPED = (catalog.TEMPLATES / "smollm2-tools.jinja").read_text()


def tiny_tokenizer(
    eos: str = END, others: tuple[str, ...] = ("<|im_start|>",), bos: str | None = None
) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes, special tokens (by default ChatML's) and one merge: two newlines are one token."""
    vocabulary = sorted(pre_tokenizers.ByteLevel.alphabet()) + ["ĊĊ"]
    numbers = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(vocab=numbers, merges=[("Ċ", "Ċ")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=eos,
        additional_special_tokens=list(others),
    )


def trl_template(name: str) -> str:
    """A chat template as TRL ships it."""
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()


TINY = tiny_tokenizer()
RENDERER = Renderer(TINY, SHIPPED, [END])
QWEN3 = Renderer(TINY, trl_template("qwen3"), [END])
QWEN25 = Renderer(TINY, trl_template("qwen2_5"), [END])


def random_llama(directory: Path) -> int:
    """Writes a random Llama of two layers as a user may have it. Returns its number of parameters."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer(END, ("<|im_start|>", "<|endoftext|>"))
    tokenizer.chat_template = SHIPPED
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    ends = tokenizer.convert_tokens_to_ids(["<|endoftext|>", END])
    GenerationConfig(eos_token_id=ends).save_pretrained(directory)
    (directory / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# Mine\n")
    return model.num_parameters()
