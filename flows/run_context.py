"""What a run works with: its directory, its recipe, and what the recipe names, loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flows.progress import say
from flows.run_directory import Run
from schemas.errors import InputError
from schemas.files import dumps, sha256_text
from schemas.recipe import Recipe
from teacher.domain.pack import Domain
from teacher.planning.hardware import Hardware
from teacher.scenes.images import Album

if TYPE_CHECKING:
    from student.rendering.examples import Renderer


@dataclass
class Work:
    """What every stage is given: the run's directory, the recipe, the domain, teacher, student and hardware."""

    run: Run
    recipe: Recipe
    domain: Domain
    teacher: dict[str, Any]
    student: dict[str, Any]
    hardware: Hardware

    @property
    def directory(self) -> Path:
        return self.run.directory

    def path(self, *parts: str) -> Path:
        return self.directory.joinpath(*parts)

    @property
    def album(self) -> Album:
        """The pictures of the tasks and of what tools returned."""
        return Album(self.path("images"))

    @property
    def grounding(self) -> Literal["pixels", "source"]:
        """What the teacher is shown of pictures: generate.images, or by what the teacher can.

        Raises:
            InputError: pixels for a teacher that sees none.
        """
        sees, wanted = self.teacher["capabilities"]["vision"], self.recipe.generate.images
        if wanted == "pixels" and not sees:
            raise InputError(
                f"generate.images: found pixels, expected source: {self.teacher['name']} sees no images"
                " (capabilities.vision of its file)"
            )
        return "pixels" if sees and wanted != "source" else "source"

    @property
    def student_sees(self) -> bool:
        """Whether the student is shown pictures rather than what they show in words.

        Raises:
            InputError: pixels for a student that sees none.
        """
        from student.training.vision import sees

        wanted = self.recipe.train.images
        if wanted == "pixels" and not sees(self.student):
            raise InputError(
                f"train.images: found pixels, expected source: {self.student['name']} sees no images"
            )
        return sees(self.student) and wanted != "source"

    def gguf_name(self, variant: str) -> str:
        return f"{self.domain.name}-{self.student['name']}-{variant}.gguf"

    def digest(self, *sections: str) -> dict[str, str]:
        """The inputs of a stage that come from outside the run: sections of the recipe, and the models they name."""
        models = {"teacher": self.teacher, "student": self.student}
        return {
            "recipe": self.recipe.digest(*sections),
            "domain": self.run.domain["sha256"],
            **{name: sha256_text(dumps(models[name])) for name in sections if name in models},
        }

    def tasks(self) -> dict[str, str]:
        """The tasks as an input; what else the plan says depends on the machine and changes nothing."""
        files = self.run.outputs("plan")
        return {file: digest for file, digest in files.items() if file.startswith("tasks/")}

    def renderer(self) -> "Renderer":
        """The student's tokenizer with the template that ships with it."""
        from transformers import AutoTokenizer

        from student.models import base
        from student.rendering.chat_template import chat_template
        from student.rendering.examples import Renderer
        from student.training import vision

        directory = base.prepare(self.student, say)
        tokenizer = AutoTokenizer.from_pretrained(directory)
        template, stop = chat_template(self.student, directory), self.student["stop"]
        if self.student_sees:
            return vision.SeeingRenderer(tokenizer, template, stop, self.album, directory)
        return Renderer(tokenizer, template, stop, self.album)
