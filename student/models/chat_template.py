"""The chat template that a student is trained, exported and served with.

Its text is found here and nowhere else. A template that could not carry the student's work is refused before a teacher
is asked.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from schemas.error_text import one_line
from schemas.errors import InputError
from student.rendering.examples import Renderer, Unrenderable
from student.rendering.vision import VisionRenderer
from teacher.models import catalog
from teacher.scenes.images import ImageStore

SAY_IT = "describe the student in a file (as student/models/*.yaml) and name that"


def chat_template(student: dict[str, Any], directory: Path) -> str:
    """The text of the template the student is trained with, exported with and served with."""
    own = catalog.template(student)
    if own:
        return own.read_text(encoding="utf-8")
    path = directory / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    from transformers import AutoTokenizer

    template = AutoTokenizer.from_pretrained(directory).chat_template
    if not isinstance(template, str):
        raise InputError(
            f"{directory}: no chat template: name one in the student's file (template: ...)"
        )
    return template


def must_call(student: dict[str, Any], directory: Path, tokenizer: Any) -> None:
    """That a student's template shows tools and ends a turn by a stop token.

    Raises:
        InputError: it does not.
    """
    renderer = Renderer(tokenizer, chat_template(student, directory), student["stop"])
    asked: dict[str, Any] = {"role": "user", "content": "?"}
    parameters = {"type": "object", "properties": {"key": {"type": "string"}}}
    function = {"name": "probe_tool", "description": "Probes.", "parameters": parameters}
    with _refused(directory):
        renderer.turn([asked, {"role": "assistant", "content": "Yes."}], [], 1)
        if "probe_tool" not in renderer.text([asked], [{"type": "function", "function": function}]):
            raise Unrenderable("its chat template knows no tools")


def must_see(student: dict[str, Any], directory: Path, tokenizer: Any = None) -> None:
    """That a student which is said to see can: its family is known, its image processor is there, and its template
    shows a picture.

    Raises:
        InputError: with what is missing.
    """
    from transformers import AutoTokenizer

    template = chat_template(student, directory)
    tokenizer = tokenizer or AutoTokenizer.from_pretrained(directory)
    album = ImageStore(directory)  # none of its pictures is asked for
    try:
        renderer = VisionRenderer(tokenizer, template, student["stop"], album, directory)
    except (OSError, ValueError) as error:  # what transformers raises where a file is broken
        raise InputError(
            f"{directory}: config or image processor cannot be read: {one_line(str(error))}"
        ) from error
    asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}
    with _refused(directory):
        if renderer.text([asked], []).count(renderer.shows) != 1:
            raise Unrenderable(
                f"its chat template shows no pictures, expected {renderer.shows} for each"
            )


@contextlib.contextmanager
def _refused(directory: Path) -> Iterator[None]:
    """Says of a template that cannot show something what to do about it."""
    try:
        yield
    except Unrenderable as error:
        raise InputError(
            f"{directory}: {one_line(str(error))}; {SAY_IT}, with a `template`"
        ) from error
