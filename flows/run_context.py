"""The context of a run: its directory, its recipe, and the loaded pack and models that the recipe names."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flows.progress import log
from flows.run_directory import Run
from schemas.errors import InputError
from schemas.recipe import Recipe
from teacher.domain.pack import Domain
from teacher.planning.hardware import Hardware
from teacher.scenes.images import ImageStore

if TYPE_CHECKING:
    from student.rendering.renderer import Renderer

_CONTEXT_STEP = 256  # tokens: a conversation's context is a multiple


@dataclass(frozen=True)
class RunContext:
    """The argument of every stage.

    Attributes:
        run: the run's directory, opened for this process.
        teacher, student: the descriptions of the models (schemas/teacher.schema.json, schemas/student.schema.json).
        hardware: what to plan for and train on.
        sampled: the training tasks that a preview of a large plan makes; None for all.
    """

    run: Run
    recipe: Recipe
    domain: Domain
    teacher: dict[str, Any]
    student: dict[str, Any]
    hardware: Hardware
    sampled: int | None = None

    @property
    def directory(self) -> Path:
        return self.run.directory

    def path(self, *parts: str) -> Path:
        """A path in the run's directory."""
        return self.directory.joinpath(*parts)

    @property
    def image_store(self) -> ImageStore:
        """The images of the tasks and of what tools returned."""
        return ImageStore(self.path("images"))

    @property
    def teacher_grounding(self) -> Literal["pixels", "source"]:
        """The form in which the teacher gets images: generate.images; with auto, pixels if the teacher has vision.

        Raises:
            InputError: pixels for a text-only teacher.
        """
        has_vision = self.teacher["capabilities"]["vision"]
        requested = self.recipe.generate.images
        if requested == "pixels" and not has_vision:
            raise InputError(
                f"generate.images: found pixels, expected source: {self.teacher['name']} is a text-only model"
                " (capabilities.vision of its file)"
            )
        return "pixels" if has_vision and requested != "source" else "source"

    @property
    def student_reads_pixels(self) -> bool:
        """Whether the student learns images as pixels, not as their source data in words: train.images.

        Raises:
            InputError: pixels for a text-only student.
        """
        from student.models.base import has_vision

        requested = self.recipe.train.images
        if requested == "pixels" and not has_vision(self.student):
            raise InputError(
                f"train.images: found pixels, expected source: {self.student['name']} is a text-only model"
            )
        return has_vision(self.student) and requested != "source"

    @property
    def exam_tokens(self) -> int:
        """Tokens of a conversation in the exam and beside the published student: a trained prompt and a reply."""
        tokens = self.recipe.train.max_length + self.recipe.evaluate.max_tokens
        return min(self.student["context"], -(-tokens // _CONTEXT_STEP) * _CONTEXT_STEP)

    def gguf_name(self, variant: str) -> str:
        """The file name of the exported student in a variant, such as Q8_0."""
        return f"{self.domain.name}-{self.student['name']}-{variant}.gguf"

    def renderer(self) -> "Renderer":
        """The student's tokenizer with the chat template that ships with it."""
        from student.models import base

        return self.renderer_of(base.prepare(self.student, log))

    def renderer_of(self, directory: Path) -> "Renderer":
        """The renderer of the student whose tokenizer is in a directory."""
        from transformers import AutoTokenizer

        from student.export.early_gate import overridden_tokens
        from student.export.unicode_table import unknown_characters
        from student.models.chat_template import chat_template
        from student.rendering.renderer import Renderer
        from student.rendering.vision import VisionRenderer

        tokenizer = AutoTokenizer.from_pretrained(directory)
        template, stop = chat_template(self.student, directory), self.student["stop"]
        if self.student_reads_pixels:
            renderer: Renderer = VisionRenderer(
                tokenizer, template, stop, self.image_store, directory
            )
        else:
            renderer = Renderer(tokenizer, template, stop, self.image_store)
        renderer.overridden = overridden_tokens(directory, renderer)
        renderer.unknown = unknown_characters()
        return renderer


@contextmanager
def prepare(
    domain: str, recipe: Recipe, directory: Path, hardware: str | None = None
) -> Iterator[RunContext]:
    """Loads and checks what a run needs, and opens the run's directory for the time of the block.

    Processes that a killed run left in the directory are ended.

    Args:
        domain: a pack's name or directory.
        hardware: what to plan for, such as 8xH200; None for this machine.

    Raises:
        InputError: the domain, the recipe or the directory cannot be used. No server has started by then.
    """
    from student.models import base
    from student.registry.open_store import open_store
    from student.registry.signatures import signing_key
    from student.training import mixture
    from teacher.domain import pack
    from teacher.models import catalog
    from teacher.planning import hardware as machines

    teacher = catalog.load(recipe.teacher, catalog.TEACHERS, "teacher")
    catalog.sampling(teacher, recipe.generate.mode)  # raises if the teacher has no such mode
    if recipe.train.replay:
        mixture.replay_file(recipe.train.replay.path)  # raises if the file is missing
    loaded_pack, student = pack.load(domain), base.load(recipe.student)
    open_store(recipe.publish.store).check_writable(loaded_pack.name)  # raises if it is no store
    signing_key()  # raises if it is no key
    machine = machines.parse(hardware) if hardware else machines.find()
    with Run.open(directory, recipe, loaded_pack.name, loaded_pack.path) as run:
        for process in run.reaped:
            log(f"ended a process that a killed run left: {process}")
        if not run.has_lock:
            log(f"{run.directory}: its file system has no locks: start one run at a time here")
        yield RunContext(run, recipe, loaded_pack, teacher, student, machine)
