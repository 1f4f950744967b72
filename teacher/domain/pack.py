"""A domain pack: a directory with domain.yaml and environment.py, and textual.py or visual.py where it has them.

environment.py holds one subclass of `Environment`, the world, whose task templates may stand below it:

    from teacher.domain import Answer, Blueprint, Environment, template

    class Desk(Environment):
        def reset(self, **task) -> str | None: ...      # builds the world from task["seed"], task["split"]
        def get_contract(self, contract_id: str) -> dict:   # a public method is a tool
            '''Get a contract's main terms.

            Args:
                contract_id: The contract's number, such as C-1042.
            '''

    @template(kind="lookup")
    def who_signed(world: Desk, rng: random.Random) -> Blueprint: ...

textual.py holds templates, too: those whose tasks are words alone, where environment.py would be long with them.
visual.py holds those whose tasks show pictures. A tool may return a picture as well: a `teacher.scenes.Scene`, which is
drawn for the model that called it.

The files are loaded by path, as modules of one package: they import from each other, and from any other file beside
them, with a dot (`from .environment import Desk`).

The class follows TRL's environment convention, so a pack also serves as `environment_factory` of GRPOTrainer.
"""

import datetime as dt
import importlib
import inspect
import random
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from schemas.documents import check_document
from schemas.errors import InputError
from teacher.domain.scoring import state_hash
from teacher.scenes.scene import Scene

PACKS = Path(__file__).resolve().parents[2] / "data"
_MODULES = ("environment", "textual", "visual")
_NOT_TOOLS = {"reset", "get_reward"}

Plan = list[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Answer:
    """What the final message must say; `teacher.domain.scoring.answer_matches` decides.

    type: amount, number, date (value an ISO string), text, choice (one of `options`), point (value the box [left, top,
    right, bottom], in pixels, that the coordinates must lie in), or not_shown (no value: the right reply says that
    the picture does not show what was asked for).
    """

    type: str
    value: Any = None
    tolerance: float = 0
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Blueprint:
    """A task before it is proven: what the user says, the gold calls, the answer.

    plan: [(tool, arguments)] in order. answer: None where only the world's final state is checked.
    reply: the final message a good assistant would write after the plan.
    pictures: shown with the request, before its text.
    program: the question about them (teacher/domain/questions.py). The pictures must show every cell that it uses. Where the
        plan changes nothing and `answer` is None, what it computes is the answer; where there is no plan at all,
        an `answer` that is given must be what it computes.
    """

    request: str
    plan: Plan
    reply: str
    answer: Answer | None = None
    pictures: list[Scene] = field(default_factory=list)
    program: dict[str, Any] | None = None


Template = Callable[[Any, random.Random], Blueprint]


def template(kind: str, pixels: bool = False) -> Callable[[Template], Template]:
    """Marks a function of a pack as a task template of `kind`, named as the function is.

    pixels: its tasks can be done only by who sees the pictures themselves, not by who reads what they show: a point is
        asked for. A run with a teacher or student that reads has none of them.
    """

    def mark(function: Template) -> Template:
        function.kind = kind  # type: ignore[attr-defined]
        function.pixels = pixels  # type: ignore[attr-defined]
        return function

    return mark


# ------------------------------------------------------------------------- what worlds are drawn from


def dealt(pool: list[Any], split: str) -> list[Any]:
    """The part of a pool that belongs to a split: every third is the exam's, so that train and exam share no name."""
    return [one for i, one in enumerate(pool) if (i % 3 == 0) == (split == "exam")]


@cache
def dealt_numbers(split: str, first: int = 100) -> list[int]:
    """A split's numbers of as many digits as `first`, which is that of the tools' examples and of nothing else."""
    wanted = range(first + 1, first * 10)
    return [number for number in wanted if (number % 7 in (2, 5)) == (split == "exam")]


def day_between(rng: random.Random, first: str, last: str) -> dt.date:
    """A day from `first` to `last`, both of them ISO dates and among the days."""
    start, end = dt.date.fromisoformat(first), dt.date.fromisoformat(last)
    return start + dt.timedelta(rng.randrange((end - start).days + 1))


# ------------------------------------------------------------------- what tools ask of their arguments


def quoted(value: Any) -> str:
    """A value as an error of a tool shows it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 40 else text[:36] + "..."


def same_name(name: str, asked: Any) -> bool:
    """Whether a model asks for this name, whatever its case and spacing."""
    return isinstance(asked, str) and name.casefold() == " ".join(asked.split()).casefold()


def known(table: dict[str, Any], key: Any, what: str, example: str = "") -> Any:
    """The entry that a model asks for by its number, or by a key like `example`. Raises ValueError for any other."""
    if not isinstance(key, str) or key not in table:
        number = f"one's number, such as {what[0].upper()}-100"
        wanted = f"one such as {example}" if example else number
        raise ValueError(f"no {what} {quoted(key)}: expected {wanted}")
    return table[key]


def one_of(value: Any, allowed: Collection[str], what: str) -> str:
    """The value, if it is one of those allowed. Raises ValueError where it is not."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{what}: {quoted(value)}: expected one of {', '.join(allowed)}")
    return value


class Environment:
    """The world of a domain. A subclass's public methods are the tools.

    A tool returns something JSON can hold, or a Scene. It raises ValueError for a call that makes no sense in this
    world (an unknown contract, a date that is none); the message is what the model reads. Any other exception is a
    bug of the pack.
    """

    _task: dict[str, Any]

    def reset(self, **task: Any) -> str | None:
        """Builds the world of a task (at least seed and split). Returns text for the system message, or None."""
        raise TypeError(f"{type(self).__name__} must define reset(**task)")

    def _state(self) -> Any:
        """Everything a tool can change, as JSON can hold it; two worlds are equal when this is."""
        raise TypeError(f"{type(self).__name__} must define _state()")

    def get_reward(self) -> float:
        """1.0 when the world is in the state that the task's plan leads to, else 0.0 (TRL's convention)."""
        return float(state_hash(self._state()) == self._task["checks"]["state"])


@dataclass
class Domain:
    """A loaded pack: `spec` is domain.yaml, `tools` every tool's OpenAI function schema by name."""

    name: str
    path: Path
    spec: dict[str, Any]
    environment: type[Environment]
    templates: dict[str, Template]
    tools: dict[str, dict[str, Any]] = field(default_factory=dict)


def load(domain: str) -> Domain:
    """Loads a pack by its name in data/ or by its directory.

    Raises:
        InputError: no such pack, or a file of it that is not what it should be, naming file and field.
    """
    is_path = "/" in domain or domain in {".", ".."} or Path(domain).is_absolute()
    path = Path(domain).resolve() if is_path else PACKS / domain
    if not (path / "domain.yaml").is_file():
        known = ", ".join(sorted(p.parent.name for p in PACKS.glob("*/domain.yaml")))
        raise InputError(
            f"{domain}: no such domain: expected one of {known}, or a directory with a domain.yaml"
            f" (`stillhouse new-domain {domain}` makes one)"
        )
    spec = _spec(path / "domain.yaml")
    modules = _modules(path, spec["name"])
    own = _own(modules[0])
    environments = [v for v in own if inspect.isclass(v) and issubclass(v, Environment)]
    if len(environments) != 1:
        raise InputError(
            f"{path / 'environment.py'}: found {len(environments)} subclasses of Environment, expected one"
        )
    templates = _templates(modules)
    undeclared = {t.kind for t in templates.values()} ^ set(spec["kinds"])  # type: ignore[attr-defined]
    if undeclared:
        raise InputError(
            f"{path / 'domain.yaml'}: kinds: {', '.join(sorted(undeclared))}: expected exactly the kinds"
            f" that environment.py, textual.py and visual.py have templates for"
        )
    return Domain(
        spec["name"], path, spec, environments[0], templates, _tools(path, environments[0])
    )


def _own(module: ModuleType) -> list[Any]:
    """What a file of a pack defines itself."""
    return [
        value
        for value in vars(module).values()
        if getattr(value, "__module__", None) == module.__name__
    ]


def _templates(modules: list[ModuleType]) -> dict[str, Template]:
    """Every template of a pack, in the order of the files."""
    templates: dict[str, Template] = {}
    for module in modules:
        own = [v for v in _own(module) if inspect.isfunction(v) and hasattr(v, "kind")]
        more = {function.__name__: function for function in own}
        if twice := sorted(templates.keys() & more.keys()):
            first = Path(templates[twice[0]].__code__.co_filename).name
            raise InputError(f"{module.__file__}: {twice[0]}: {first} has a template of that name")
        templates |= more
    return templates


def _spec(path: Path) -> dict[str, Any]:
    try:
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    check_document(spec, "domain", path)
    return spec


def _modules(path: Path, name: str) -> list[ModuleType]:
    """Runs a pack's files: code of the person who runs the command, as a recipe or a Makefile is."""
    if not (path / "environment.py").is_file():
        raise InputError(
            f"{path / 'environment.py'}: no such file: a domain needs an environment.py"
        )
    package = ModuleType(f"stillhouse_domain_{name.replace('-', '_')}")
    package.__path__ = [str(path)]
    # A pack of this name that was loaded before may have lain elsewhere, or said something else.
    for loaded in [m for m in list(sys.modules) if m.startswith(f"{package.__name__}.")]:
        del sys.modules[loaded]
    sys.modules[package.__name__] = package
    importlib.invalidate_caches()
    modules = []
    for file in (path / f"{module}.py" for module in _MODULES):
        if not file.is_file():
            continue
        try:
            modules.append(importlib.import_module(f"{package.__name__}.{file.stem}"))
        except Exception as error:
            raise InputError(
                f"{file}: cannot be loaded: {type(error).__name__}: {error}"
            ) from error
    return modules


def _tools(path: Path, environment: type[Environment]) -> dict[str, dict[str, Any]]:
    from transformers.utils import get_json_schema  # two seconds, only paid by who needs it

    tools = {}
    for name, method in inspect.getmembers(environment, inspect.isfunction):
        if name.startswith("_") or name in _NOT_TOOLS:
            continue
        try:
            schema = get_json_schema(method)
        except Exception as error:
            raise InputError(
                f"{path / 'environment.py'}: {environment.__name__}.{name}: no tool schema: {error}"
            ) from None
        schema["function"].pop("return", None)
        schema["function"]["parameters"]["additionalProperties"] = False
        schema["function"]["parameters"].setdefault("required", [])
        tools[name] = schema
    if not tools:
        raise InputError(
            f"{path / 'environment.py'}: {environment.__name__}: no public method, so no tool"
        )
    return tools
