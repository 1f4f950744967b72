"""Training examples in a file, as the training reads them."""

import uuid
from collections.abc import Iterable
from pathlib import Path

from student.rendering.examples import Example
from student.training.example_file import ExampleFile, ExampleWriter


def stored(examples: Iterable[Example], directory: Path) -> ExampleFile:
    with ExampleWriter(directory / f"{uuid.uuid4().hex}.arrow") as writer:
        writer.add(examples)
    return writer.examples
