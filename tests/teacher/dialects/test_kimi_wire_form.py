"""Kimi's wire form: the chat template writes it, the dialect parses it, and the real tokenizer knows its tokens."""

import json
from pathlib import Path
from typing import Any

import pytest
from kimi_messages import (
    BEGIN,
    END,
    OFFERED,
    TOOLS,
    VLLM,
    raw,
    result,
    section,
    turn,
)
from transformers.utils.chat_template_utils import render_jinja_template

from teacher.dialects.kimi import raw_calls
from teacher.models import catalog

SHARED = Path(__file__).parents[4] / "shared" / "kimi"
TEMPLATE = (catalog.TEMPLATES / "kimi-k2.jinja").read_text(encoding="utf-8")
IMAGE = ["<|media_begin|>", "<|media_content|>", "<|media_pad|>", "<|media_end|>"]
CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "You are a paralegal."},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Whose is this? "},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        ],
    },
    turn("get_contract", "close_matter", ids=["a", "b"], reasoning_content="Both at once."),
    result("a", '{"ends": 2027}'),
    result("b", "closed"),
]


def rendered(messages: list[dict[str, Any]], tools: Any = None, **kwargs: Any) -> str:
    sent, tools, _ = VLLM.adapt_request(messages, tools or [], {})
    made = render_jinja_template(
        [sent], tools=tools or None, chat_template=TEMPLATE, add_generation_prompt=True, **kwargs
    )
    return made[0][0]


def test_the_templates_text_is_the_documented_wire_form() -> None:
    tools = json.dumps(VLLM.adapt_request([], TOOLS, {})[1], separators=(",", ":"))
    assert rendered(CONVERSATION, TOOLS) == (
        f"<|im_system|>tool_declare<|im_middle|>{tools}<|im_end|>"
        "<|im_system|>system<|im_middle|>You are a paralegal.<|im_end|>"
        "<|im_user|>user<|im_middle|>Whose is this? "
        "<|media_begin|>image<|media_content|><|media_pad|><|media_end|><|im_end|>"
        "<|im_assistant|>assistant<|im_middle|><think>Both at once.</think>"
        + section(raw("get_contract", '{"id": "C-1"}', 0), raw("close_matter", '{"id": "C-1"}', 1))
        + "<|im_end|>"
        '<|im_system|>tool<|im_middle|>## Return of functions.get_contract:0\n{"ends": 2027}<|im_end|>'
        "<|im_system|>tool<|im_middle|>## Return of functions.close_matter:1\nclosed<|im_end|>"
        "<|im_assistant|>assistant<|im_middle|><think>"
    )


def test_what_the_template_writes_is_what_the_parser_reads() -> None:
    text = rendered(CONVERSATION[:3])
    turn_text = text.split("</think>")[1].split("<|im_end|>")[0]
    parsed = raw_calls(turn_text, OFFERED)
    assert parsed and [c["function"] for c in parsed[1]] == [
        c["function"] for c in CONVERSATION[2]["tool_calls"]
    ]


def test_an_instant_reply_begins_after_an_empty_think_block() -> None:
    assert rendered(CONVERSATION, thinking=False).endswith("<|im_middle|><think></think>")
    assert rendered(CONVERSATION, thinking=True).endswith("<|im_middle|><think>")


def test_reasoning_of_an_answered_turn_is_kept_only_where_it_is_to_be_preserved() -> None:
    answer = {"role": "assistant", "content": "2027.", "reasoning_content": "I say it."}
    longer = [*CONVERSATION, answer, {"role": "user", "content": "Sure?"}]
    assert "Both at once." in rendered(CONVERSATION)
    assert "Both at once." not in rendered(longer) and "I say it." not in rendered(longer)
    kept = rendered(longer, preserve_thinking=True)
    assert "Both at once." in kept and "I say it." in kept


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"Kimi's tokenizer is not at {SHARED}")
def test_the_real_tokenizer_sees_the_documented_special_tokens_in_order() -> None:
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe

    settings = json.loads((SHARED / "tokenizer_config.json").read_text())
    special = {t["content"]: int(n) for n, t in settings["added_tokens_decoder"].items()}
    ranks = load_tiktoken_bpe(str(SHARED / "tiktoken.model"))
    # How ordinary text is cut into words is of no interest here.
    kimi = tiktoken.Encoding(
        "kimi", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens=special
    )
    ids = kimi.encode(rendered(CONVERSATION, TOOLS), allowed_special="all")
    names = {number: name for name, number in special.items()}
    called = ["<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"]
    assert [names[i] for i in ids if i in names] == [
        *["<|im_system|>", "<|im_middle|>", "<|im_end|>"],
        *["<|im_system|>", "<|im_middle|>", "<|im_end|>"],
        *["<|im_user|>", "<|im_middle|>", *IMAGE, "<|im_end|>"],
        *["<|im_assistant|>", "<|im_middle|>", "<think>", "</think>", BEGIN],
        *called * 2,
        *[END, "<|im_end|>"],
        *["<|im_system|>", "<|im_middle|>", "<|im_end|>"] * 2,
        *["<|im_assistant|>", "<|im_middle|>", "<think>"],
    ]
    # The placeholder of an image, by the number that config.json gives it; 0 is what a broken engine says.
    config = json.loads((SHARED / "config.json").read_text())
    assert config["media_placeholder_token_id"] in ids
    assert kimi.decode([0]) == "!"
