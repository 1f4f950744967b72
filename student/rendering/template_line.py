"""Finds the line of a chat template that wrote a part of its output."""

from typing import Any


def line_at(template: str, variables: dict[str, Any], at: int) -> tuple[int, str]:
    """Returns the number, from 1, and the text of the line that writes character `at` of the output.

    A line inside a macro counts as the line that uses the macro.
    """
    from transformers.utils.chat_template_utils import _compile_jinja_template

    compiled = _compile_jinja_template(template)
    # Jinja compiles a template to a generator, which yields the output in pieces.
    pieces = compiled.root_render_func(compiled.new_context(variables))
    length, number = 0, 1
    for piece in pieces:
        number = compiled.get_corresponding_lineno(pieces.gi_frame.f_lineno)
        length += len(piece)
        if length > at:
            break
    lines = template.splitlines() or [""]
    return number, lines[min(number, len(lines)) - 1].strip()
