"""Each student file on its family's real vocabulary and template, served by llama.cpp with tiny random weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from small_students import trl_template
from transformers import AutoTokenizer

from student.export.early_gate import random_student
from student.export.llama_server import overridden_tokens
from student.export.unicode_table import unknown_characters
from student.models import base, stand_in
from student.models.chat_template import chat_template
from student.rendering.renderer import Renderer
from teacher.inference.endpoint import Endpoint
from teacher.inference.llama_server import serve

STUDENTS = sorted(path.stem for path in base.STUDENTS.glob("*.yaml"))
# The vocabularies of vision-language students, whose texts are checked here: only a run has their image processors.
VISION = {"qwen2.5-vl-32b": "qwen2.5", "qwen3-vl-32b": "qwen3"}


@dataclass
class Served:
    """A student file's renderer, the GGUF with its tokenizer and template, and the server of it."""

    name: str
    renderer: Renderer
    gguf: Path
    endpoint: Endpoint


def renderer_of(name: str) -> tuple[Renderer, Path]:
    """The renderer of a student file and the directory of its tokenizer; its family's if it has one, else its own."""
    student = base.load(name)
    if family := student.get("stand_in") or VISION.get(name):
        directory = stand_in.directory(stand_in.FAMILIES[family], student["stop"][0])
    else:
        directory = base.prepare(student)
    # The source of llama.cpp has no template of Qwen3-VL; TRL has the model's own.
    own = name == "qwen3-vl-32b"
    template = trl_template("qwen3_vl") if own else chat_template(student, directory)
    return Renderer(AutoTokenizer.from_pretrained(directory), template, student["stop"]), directory


@contextmanager
def served(name: str, log: Path) -> Iterator[Served]:
    renderer, directory = renderer_of(name)
    gguf = random_student(directory, renderer)
    with serve(gguf, log, slots=1, context=32768) as endpoint:
        renderer.overridden = overridden_tokens(log)
        renderer.unknown = unknown_characters()
        yield Served(name, renderer, gguf, endpoint)
