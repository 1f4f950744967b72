"""What a chat template can render (student/rendering/probe.py)."""

import pytest
from small_students import END, QWEN3, QWEN25, RENDERER, SHIPPED, TINY, trl_template

from student.rendering.errors import Unrenderable
from student.rendering.probe import check_tools
from student.rendering.renderer import Renderer

CHATML = (
    "{%- for m in messages -%}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{%- endfor -%}"
)
START = "{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}"
TOOLS = "{%- if tools -%}{{ tools | tojson }}{%- endif -%}"
# Lists tools and writes an assistant's text, but none of its calls.
LISTS_TOOLS_ONLY = TOOLS + CHATML + START
NAMES_ONLY = SHIPPED.replace("tool.function.parameters.properties.items()", "{}.items()")
WITHOUT_ARGUMENTS = SHIPPED.replace(
    "call.function.arguments is string", "true"
).replace("{{- call.function.arguments -}}", "{{- '{}' -}}")  # fmt: skip
# As DeepSeek's distills: a message with text is written without its calls.
DROPS_BESIDE_TEXT = SHIPPED.replace(
    "{%- if message.tool_calls -%}", "{%- if message.tool_calls and not message.content -%}"
)
WITHOUT_RESULTS = SHIPPED.replace(
    "{%- else -%}\n        {{- '<|im_start|>' + message.role",
    "{%- elif message.role != 'tool' -%}\n        {{- '<|im_start|>' + message.role",
)
FORGETS_CALLS = SHIPPED.replace(
    "{%- if message.tool_calls -%}", "{%- if message.tool_calls and loop.last -%}"
)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (CHATML + START, "knows no tools"),
        (trl_template("qwen2_5_vl"), "knows no tools"),
        (LISTS_TOOLS_ONLY, "drops the call of probe_tool in message 1"),
        (NAMES_ONLY, "lists tools without their parameters"),
        (WITHOUT_ARGUMENTS, "loses the names of a call's arguments"),
        (DROPS_BESIDE_TEXT, "drops the call of probe_tool in message 1"),
        (WITHOUT_RESULTS, "loses a tool's result"),
        (FORGETS_CALLS, "loses a call once its result is there"),
    ],
)
def test_a_template_that_loses_tools_calls_or_results_is_refused_by_what_it_loses(
    template, message
):
    with pytest.raises(Unrenderable, match=message):
        check_tools(Renderer(TINY, template, [END]))


@pytest.mark.parametrize("renderer", [RENDERER, QWEN25, QWEN3], ids=["own", "qwen2.5", "qwen3"])
def test_a_template_that_renders_everything_has_no_notes(renderer):
    assert check_tools(renderer) == []


def test_what_a_template_leaves_out_without_harm_is_noted():
    llama = Renderer(TINY, trl_template("llama3_1").replace("<|eot_id|>", END), [END])
    one_call, no_text, date = check_tools(llama)
    assert "writes a date" in date
    assert "renders one call in a turn" in one_call
    assert "leaves out text beside a call" in no_text
    text = Renderer(TINY, SHIPPED.replace("call.function.arguments is string", "true"), [END])
    (note,) = check_tools(text)
    assert "reads arguments as JSON text" in note
