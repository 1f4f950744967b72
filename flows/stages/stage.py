"""A stage of a run: what it reads, declared beside its body, and how it is run or skipped.

The declaration decides when a stage is repeated. The body gets a context with only the declared fields of the recipe
and the declared models, so a setting that a stage reads cannot be missing from its receipt (flows/run_directory.py):

    @partial(Stage, name="export", reads=("export", "train.max_length"), models=("student",), outputs=("export",))
    def export(context: RunContext) -> dict[str, Any]: ...
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NoReturn, TypeVar, cast

from flows.progress import log
from flows.run_context import RunContext
from flows.stages.model_digest import model_digest
from schemas.recipe import Recipe, Section

Model = Literal["teacher", "student"]
SectionType = TypeVar("SectionType", bound=Section)


class UndeclaredRead(Exception):
    """A bug: a stage reads a setting or a model that it does not declare."""


def _no_digests(context: RunContext) -> dict[str, str]:
    return {}


def _always(context: RunContext) -> bool:
    return True


def _print_nothing(context: RunContext) -> None:
    return None


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline.

    Attributes:
        body: does the work; returns a small summary, which becomes the receipt's "result".
        name: one of flows.run_directory.STAGES.
        outputs: files and directories that the body writes, relative to the run's directory.
        reads: the recipe's fields ("train.max_length") or whole sections ("train") that its outputs depend on. Of a
            field with "?" at its end it counts only whether it is set.
        also_reads: recipe fields that the body may read although a change repeats nothing: where and how fast the
            work is done, or what only goes into a record of the run.
        models: the models that its outputs depend on. The domain pack is an input of every stage; the hardware only
            where `digests` has it.
        earlier: the earlier stages whose outputs it reads, each with the path, in the run's directory, at which those
            outputs begin; "" for all of them.
        digests: further inputs by name, such as the digest of a file outside the run.
        holds: whether the outputs of a finished stage can still be used. It checks what the receipt does not list,
            such as files outside the stage's outputs.
        report: prints lines about the outputs, also if the stage was done already.
    """

    body: Callable[[RunContext], dict[str, Any]]
    name: str
    outputs: tuple[str, ...]
    reads: tuple[str, ...]
    also_reads: tuple[str, ...] = ()
    models: tuple[Model, ...] = ()
    earlier: Mapping[str, str] = field(default_factory=dict)
    digests: Callable[[RunContext], dict[str, str]] = _no_digests
    holds: Callable[[RunContext], bool] = _always
    report: Callable[[RunContext], None] = _print_nothing

    def run(self, context: RunContext) -> None:
        """Does the stage's work and writes its receipt, or logs that it is done already.

        Raises:
            InputError: an earlier stage has not run.
            UndeclaredRead: the body reads a field or a model that the stage does not declare.
        """
        if self.is_current(context):
            log(f"{self.name} is done already")
        else:
            outputs = [context.path(output) for output in self.outputs]
            with context.run.stage(self.name, self.inputs(context), outputs) as result:
                result.update(self._checked(self.body, context))
        self.report(context)

    def preview(self, context: RunContext) -> None:
        """Does the work without a receipt: its outputs are to look at, and the stage has not run."""
        context.run.forget(self.name)
        self._checked(self.body, context)
        self.report(context)

    def is_current(self, context: RunContext) -> bool:
        """Whether the stage need not run: same inputs, unchanged outputs, and `holds` returns True."""
        return context.run.is_current(self.name, self.inputs(context)) and self._checked(
            self.holds, context
        )

    def inputs(self, context: RunContext) -> dict[str, str]:
        """Returns a digest of each declared input, by its name, as the receipt stores them.

        Raises:
            InputError: an earlier stage has not run.
        """
        inputs = {"domain": context.run.domain["sha256"]}
        for read in self.reads:
            if read.endswith("?"):
                is_set = _is_set(context.recipe, read.removesuffix("?"))
                inputs[f"recipe.{read}"] = "set" if is_set else "null"
            else:
                inputs[f"recipe.{read}"] = context.recipe.digest(read)
        for model in self.models:
            inputs[model] = model_digest(getattr(context, model))
        for name, start in self.earlier.items():
            outputs = context.run.outputs(name).items()
            inputs |= {path: digest for path, digest in outputs if path.startswith(start)}
        return inputs | self._checked(self.digests, context)

    def view(self, context: RunContext) -> RunContext:
        """Returns the context that the body gets, in which a read of an undeclared field or model raises."""
        fields = [read.removesuffix("?") for read in (*self.reads, *self.also_reads)]
        view = replace(context, recipe=limited(context.recipe, fields))
        if "teacher" not in self.models:
            view = replace(view, teacher=cast(Any, _UndeclaredModel(self.name, "teacher")))
        if "student" not in self.models:
            view = replace(view, student=cast(Any, _UndeclaredModel(self.name, "student")))
        return view

    def _checked(self, function: Callable[[RunContext], Any], context: RunContext) -> Any:
        try:
            return function(self.view(context))
        except AttributeError as error:
            if not isinstance(error.obj, Section):
                raise
            section = (
                "" if isinstance(error.obj, Recipe) else f"{type(error.obj).__name__.lower()}."
            )
            raise UndeclaredRead(_undeclared(self.name, f"{section}{error.name}")) from error


def limited(recipe: Recipe, fields: Iterable[str]) -> Recipe:
    """Returns a copy of a recipe that has only the named fields ("train.max_length") and sections ("train").

    A read of any other field raises AttributeError.
    """
    names_by_section: dict[str, set[str]] = {}
    for path in fields:
        section, _, name = path.partition(".")
        names_by_section.setdefault(section, set()).add(name)
    copy = _with_fields(recipe, names_by_section)
    for section, names in names_by_section.items():
        if "" not in names:
            vars(copy)[section] = _with_fields(getattr(recipe, section), names)
    return copy


def _with_fields(section: SectionType, names: Iterable[str]) -> SectionType:
    copy = section.model_copy()
    for name in set(vars(copy)) - set(names):
        del vars(copy)[name]
    return copy


def _is_set(recipe: Recipe, field: str) -> bool:
    section, _, name = field.partition(".")
    return getattr(getattr(recipe, section), name) is not None


class _UndeclaredModel:
    """Stands in for the description of a model that a stage does not declare: every use as a dict raises.

    It is no dict itself, because C code (json.dumps) would take it for an empty one.
    """

    def __init__(self, stage: str, model: str) -> None:
        self._message = _undeclared(stage, model)

    def _refuse(self, *_: object) -> NoReturn:
        raise UndeclaredRead(self._message)

    # get, items, copy, setdefault, ...
    __getattr__ = _refuse
    __getitem__ = __contains__ = __iter__ = __len__ = __bool__ = __or__ = __ror__ = _refuse
    __eq__ = __ne__ = _refuse  # type: ignore[assignment]


def _undeclared(stage: str, read: str) -> str:
    return (
        f"the stage {stage} reads {read}, which it does not declare: expected it in the declaration"
        f" in flows/stages/{stage}.py"
    )
