"""The line of a template that writes a part of a prompt (student/rendering/template_line.py)."""

import pytest
from small_students import QWEN25, RENDERER
from turns import TOOLS, calls, result, user

MESSAGES = [user("?"), calls({"key": "some value"}), result("a result")]


@pytest.mark.parametrize(
    ("renderer", "part", "line"),
    [
        (QWEN25, "some value", "{{- tool_call.arguments | tojson }}"),
        (QWEN25, "Does find", "{{- tool | tojson }}"),
        (QWEN25, "a result", "{{- message.content }}"),
        (RENDERER, "some value", "{{- call.function.arguments | tojson -}}"),
    ],
)
def test_the_line_that_writes_a_value_is_found(renderer, part, line):
    prompt = renderer.text(MESSAGES, TOOLS, add_generation_prompt=True)
    number, text = renderer.template_line(MESSAGES, TOOLS, prompt.index(part))
    assert text == line
    assert renderer.template.splitlines()[number - 1].strip() == line


def test_a_place_after_the_end_is_the_last_line_that_writes():
    prompt = RENDERER.text(MESSAGES, TOOLS, add_generation_prompt=True)
    last = RENDERER.template_line(MESSAGES, TOOLS, len(prompt) - 1)
    assert RENDERER.template_line(MESSAGES, TOOLS, len(prompt) + 5) == last
