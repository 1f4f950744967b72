"""Markup of chat templates in an assistant's text."""

from pathlib import Path

import pytest

from schemas.text_heuristics import marker_in

SOURCES = sorted((Path.home() / ".cache" / "stillhouse").glob("llama.cpp-*/source"))
TEMPLATES = [path for source in SOURCES for path in source.rglob("models/templates/*.jinja")]

# What each family's template writes at the start of a call, by a part of the template's file name.
CALLS = {
    "DeepSeek-V3.1": "<｜tool▁calls▁begin｜>",
    "MiniMax-M2": "<minimax:tool_call>",
    "gemma-4-31B-it.jinja": "<|tool_call>",
    "Mistral-Small-3.2": "[TOOL_CALLS]",
    "Qwen3-Coder": "<tool_call>",
    "Kimi-K2-Instruct": "<|tool_call_begin|>",
    "GLM-4.6": "<arg_key>",
    "gpt-oss": "<|channel|>",
    "Llama-3.1": "<|python_tag|>",
    "command-r7b": "<|START_ACTION|>",
    "Seed-OSS": "<seed:tool_call>",
    "LFM2-8B": "<|tool_list_start|>",
}


@pytest.mark.skipif(not TEMPLATES, reason="llama.cpp's source is not in ~/.cache/stillhouse")
@pytest.mark.parametrize(("name", "marker"), CALLS.items())
def test_the_marker_that_a_familys_template_writes_is_found(name, marker):
    assert any(marker in path.read_text() for path in TEMPLATES if name in path.name)
    assert marker_in(f"One moment. {marker}") == marker


@pytest.mark.parametrize(
    "text",
    [
        '<｜DSML｜function_calls><｜DSML｜invoke name="get_contract">',
        "</｜DSML｜function_calls>",
        '<minimax:tool_call>\n<invoke name="get_contract">',
        '<invoke name="get_contract"><parameter name="id">C-1</parameter></invoke>',
        "<|tool_call>call:get_contract{id:1}<tool_call|>",
        "<|START_ACTION|>[{}]<|END_ACTION|>",
        "[THINK]It is due.[/THINK] It ends in May.",
        "[TOOL_CALL] get_contract",
        "See `id`. <|tool_call_begin|>functions.get_contract:0",
    ],
)
def test_markup_of_any_family_is_a_marker(text):
    assert marker_in(text)


@pytest.mark.parametrize(
    "text",
    [
        "Qwen writes its calls as `<tool_call>`, and Mistral as `[TOOL_CALLS]`.",
        "For example:\n```\n<minimax:tool_call>\n</minimax:tool_call>\n```\nThat is all.",
        "Use <parameter name> and <action> in your HTML, or a <form action='x'>.",
        "The array a[THINKING] and the note [1] stay; see [ACTION REQUIRED].",
        "In Elm, x |> f <| y, and a <| b |> c.",
        "<soap:Envelope><wsdl:invoke/></soap:Envelope>",
    ],
)
def test_quoted_markup_and_other_markup_is_none(text):
    assert marker_in(text) is None
