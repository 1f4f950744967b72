"""The chat template that a student is trained, exported and served with.

Only this module reads its text. It also refuses templates that cannot render tool calls or images, before the teacher
generates anything.
"""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from schemas.error_text import one_line
from schemas.errors import InputError
from schemas.files import read_text
from schemas.trace import Message, Tool
from student.models import files, named_templates
from student.rendering.errors import Unrenderable
from student.rendering.probe import check_generation_prompt, check_tools
from student.rendering.renderer import Renderer
from student.rendering.vision import VisionRenderer
from teacher.models import catalog
from teacher.planning.cost import CHARACTERS_PER_TOKEN, json_tokens
from teacher.scenes.images import ImageStore

# Qwen3-Coder's and Qwen3.5's templates write a call's boolean and null as Python does, True and None. llama.cpp's
# parser reads neither, vLLM's no None. Qwen3.6's own template has this change.
_AS_PYTHON = "else args_value | string"
_AS_JSON = "else args_value if args_value is string else args_value | tojson | safe"
ADVICE = "describe the student in a file (as student/models/*.yaml) and name that"


def chat_template(student: dict[str, Any], directory: Path) -> str:
    """The text of the chat template. The description's `template` takes precedence over the one in `directory`.

    Of the latter, one that writes a call's booleans and null as Python does is changed to write JSON.

    Raises:
        InputError: there is neither.
    """
    own = catalog.template(student)
    return read_text(own) if own else original_template(directory).replace(_AS_PYTHON, _AS_JSON)


def original_template(directory: Path) -> str:
    """The text of the chat template in a directory, unchanged.

    Raises:
        InputError: there is none.
    """
    template = named_templates.find(directory)
    if template is None:
        raise InputError(
            f"{directory}: no chat template: name one in the student's file (template: ...)"
        )
    return template.text


def template_place(student: dict[str, Any]) -> str:
    """Which chat template `chat_template` returns, in words; what is not on this machine is not fetched for it."""
    if student.get("template"):
        return f"{student['template']} of teacher/templates"
    directory = files.on_this_machine(student)
    template = named_templates.find(directory) if directory else None
    if template is None:
        return "its own, not on this machine yet"
    changed = ", its booleans and null as JSON" if _AS_PYTHON in template.text else ""
    return f"{template.describe()}{changed}"


def check_tool_template(student: dict[str, Any], directory: Path, tokenizer: Any) -> list[str]:
    """Returns what a student's template leaves out without harm (student/rendering/probe.py), one line each.

    Raises:
        InputError: it does not render tools, calls and results, or ends a turn wrongly.
    """
    renderer = Renderer(tokenizer, chat_template(student, directory), student["stop"])
    with _as_input_error(directory):
        check_generation_prompt(renderer)
        return check_tools(renderer)


def check_vision(student: dict[str, Any], directory: Path, tokenizer: Any = None) -> None:
    """Raises InputError if a vision-language student lacks what training on pixels needs.

    It needs a known family, an image processor, and a template that renders an image.
    """
    from transformers import AutoTokenizer

    template = chat_template(student, directory)
    tokenizer = tokenizer or AutoTokenizer.from_pretrained(directory)
    image_store = ImageStore(directory)  # no image is read from it
    try:
        renderer = VisionRenderer(tokenizer, template, student["stop"], image_store, directory)
    except (OSError, ValueError) as error:  # transformers raises these for broken files
        raise InputError(
            f"{directory}: config or image processor cannot be read: {one_line(str(error))}"
        ) from error
    request: Message = {
        "role": "user",
        "content": [{"type": "image"}, {"type": "text", "text": "?"}],
    }
    with _as_input_error(directory):
        if renderer.text([request], []).count(renderer.image_marker) != 1:
            raise Unrenderable(
                f"its chat template shows no images, expected {renderer.image_marker} for each"
            )


@contextlib.contextmanager
def _as_input_error(directory: Path) -> Iterator[None]:
    """Turns Unrenderable into an InputError that says what to do."""
    try:
        yield
    except Unrenderable as error:
        raise InputError(
            f"{directory}: {one_line(str(error))}; {ADVICE}, with a `template`"
        ) from error


def tools_counter(student: dict[str, Any]) -> Callable[[list[Tool]], int]:
    """A function that returns about how many tokens of a prompt list some tools.

    Counted in characters of what the student's template renders. Nothing is downloaded: of a student whose template is
    not on this machine, the tools' JSON is counted, as such templates list it. The template is read once, and the same
    tools are rendered once.
    """
    directory = None if student.get("template") else files.on_this_machine(student)
    if not student.get("template") and directory is None:
        return lambda tools: round(json_tokens(tools))
    from transformers.utils.chat_template_utils import render_jinja_template

    template = chat_template(student, directory or Path())
    conversation = [[{"role": "user", "content": "?"}]]

    @functools.cache
    def length(tools: str) -> int:
        offered = json.loads(tools) or None
        return len(render_jinja_template(conversation, tools=offered, chat_template=template)[0][0])

    return lambda tools: round((length(json.dumps(tools)) - length("[]")) / CHARACTERS_PER_TOKEN)
