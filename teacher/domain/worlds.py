"""Runs the code of a pack: its worlds, tools and templates. A fault of that code is named, with its line.

A tool has three ways to end: a result, an error that the model reads (`ToolError`), and a fault of the pack
(`PackFault`), which no argument of a model should be able to cause.
"""

import inspect
import random
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from schemas.error_text import one_line
from schemas.errors import InputError
from teacher.domain.blueprint import Blueprint, Environment, Template
from teacher.domain.given_tools import method_of, tool_of
from teacher.domain.json_values import NotJson, to_json
from teacher.domain.scoring import state_hash
from teacher.domain.tool_types import convert, hints_of
from teacher.scenes.scene import Scene


class PackFault(InputError):
    """The code of a pack is wrong. detail: what happened and at which line, without the file's path."""

    def __init__(self, file: Path, detail: str) -> None:
        super().__init__(f"{file}: {detail}")
        self.file, self.detail = file, detail

    def of_task(self, template: Template, split: str, seed: int) -> "PackFault":
        """Returns the fault as that of a task, with its template and seed."""
        where = f"{template.name}: seed {seed} ({split})"
        if self.file != template.file:
            where += f": {self.file.name}"
        return PackFault(template.file, f"{where}: {self.detail}")


class ToolError(Exception):
    """A call makes no sense in the world, as the tool itself reports. The model reads the message."""


def start_world(environment: type[Environment], **task: Any) -> tuple[Environment, str | None]:
    """Returns a world that is reset for a task, and the text that it adds to the system message.

    task: at least seed and split.

    Raises:
        PackFault: the world cannot be made or reset.
    """
    file, name = _file_of(environment), f"{environment.__name__}.reset"
    with pack_code(file, f"{environment.__name__}()"):
        world = environment()
    with pack_code(file, name):
        note = world.reset(**task)
    if not isinstance(note, str | None):
        kind = type(note).__name__
        raise PackFault(
            file, f"{name}: returned {kind}, expected text for the system message or None"
        )
    return world, note


def hash_world(world: Environment) -> str:
    """Returns the hash of a world's state, by which two worlds are compared.

    Raises:
        PackFault: `_state` raises, or returns something that has no form in JSON.
    """
    file, name = _file_of(type(world)), f"{type(world).__name__}._state"
    with pack_code(file, name):
        state = world._state()
    try:
        return state_hash(state)
    except NotJson as error:
        raise PackFault(file, f"{name}: {error}") from None


def fork_world(world: Environment) -> Environment:
    """Returns a world in the same state whose calls change nothing here, or the world itself if it cannot be copied.

    Raises:
        PackFault: `_fork` raises, or returns something else.
    """
    file, name = _file_of(type(world)), f"{type(world).__name__}._fork"
    with pack_code(file, name):
        fork = world._fork()
    if type(fork) is not type(world):
        raise PackFault(file, f"{name}: returned {type(fork).__name__}, expected a world")
    return fork


def run_tool(world: Environment, tool: str, arguments: dict[str, Any]) -> Any:
    """Runs a tool and returns its result, as JSON values or a Scene.

    arguments: JSON values that are valid by the tool's schema. The tool gets them as its annotations say, or as they
        are if its schema was given.

    Raises:
        ToolError: the tool raised ValueError or one of the exceptions in `Environment.errors`, or an argument cannot be
            made into its type.
        PackFault: it raised something else, or its result has no form in JSON.
    """
    file, name = _file_of(type(world)), f"{type(world).__name__}.{tool}"
    method = method_of(world, tool)
    with pack_code(file, name):
        try:
            values = arguments if tool_of(method) else convert(method, arguments)
            result = method(**values)
        except ValueError as error:
            raise ToolError(str(error) or type(error).__name__) from None
        except world.errors as error:
            raise ToolError(f"{type(error).__name__}: {error}") from None
    if isinstance(result, Scene):
        return result
    if result is None and not _may_return_none(method):
        raise PackFault(
            file,
            f"{name}: returned None, which tells a model nothing: return what changed or what was found, or"
            " annotate the tool with `-> None`",
        )
    try:
        return to_json(result, name="result")
    except NotJson as error:
        raise PackFault(file, f"{name}: {error}") from None


def make_blueprint(
    environment: type[Environment], template: Template, *, split: str, seed: int
) -> tuple[str | None, Blueprint]:
    """Returns a template's blueprint for a seed, and the text that its world adds to the system message.

    Raises:
        PackFault: the world cannot be reset, or the template raises or returns something else.
    """
    try:
        world, note = start_world(environment, seed=seed, split=split)
        blueprint = run_template(world, template, split=split, seed=seed)
    except PackFault as fault:
        raise fault.of_task(template, split, seed) from fault.__cause__
    return note, blueprint


def run_template(world: Environment, template: Template, *, split: str, seed: int) -> Blueprint:
    """Returns a template's blueprint for a world that is reset for this split and seed.

    Raises:
        PackFault: the template raises, or returns something else.
    """
    rng = random.Random(f"{template.name}/{split}/{seed}")
    with pack_code(template.file, "the template"):
        blueprint = template(world, rng)
    if not isinstance(blueprint, Blueprint):
        kind = type(blueprint).__name__
        raise PackFault(template.file, f"the template returned {kind}, expected a Blueprint")
    return blueprint


@contextmanager
def pack_code(file: Path, name: str) -> Iterator[None]:
    """Turns an exception of a pack's code into a PackFault that names its last line in the pack.

    file: the pack's file that is at fault. name: what runs, such as "StockRoom.get_item".
    """
    try:
        yield
    except (PackFault, ToolError):
        raise
    except (Exception, SystemExit) as error:
        raise PackFault(file, f"{name} raised {describe_fault(error, file.parent)}") from error


def describe_fault(error: BaseException, directory: Path) -> str:
    """Returns an exception's type, message and last line in a directory, as
    "KeyError: 'S-1' (environment.py:88: return self._items[item])"."""
    text = one_line(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    if isinstance(error, SyntaxError) and error.filename:
        code = one_line(error.text or "", limit=100)
        return f"SyntaxError: {error.msg} ({Path(error.filename).name}:{error.lineno}: {code})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if directory in Path(frame.filename).parents]
    if not own:
        return text
    code = one_line(own[-1].line or "", limit=100)
    return f"{text} ({Path(own[-1].filename).name}:{own[-1].lineno}: {code})"


def _file_of(environment: type[Environment]) -> Path:
    return Path(inspect.getfile(environment))


def _may_return_none(method: Any) -> bool:
    """Returns whether a tool's annotation says that it returns None."""
    hint = hints_of(method).get("return")
    return hint is NoneType or NoneType in get_args(hint)
