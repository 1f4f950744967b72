"""Loads a domain pack: a directory with domain.yaml and environment.py, and optionally textual, visual and swarm.py.

In: a pack's name in data/, or its directory. Out: a `Domain` with the checked domain.yaml, the world's class, the task
templates, and the schemas of the tools. What the files hold is described in `teacher.domain` for pack authors.
"""

import importlib
import inspect
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from schemas.documents import check_document
from schemas.errors import InputError
from schemas.trace import Tool
from schemas.yaml_text import read_yaml
from teacher.domain.blueprint import DECORATED, Environment, Template
from teacher.domain.tool_schemas import make_tools
from teacher.domain.worlds import describe_fault

PACKS = Path(__file__).resolve().parents[2] / "data"
# The files that may hold templates; each but the first may be divided: textual.py, textual_calendar.py.
_MODULES = ("environment", "textual", "visual", "swarm", "extraction")
# Loading replaces the pack's modules in sys.modules, where a load in another thread looks for them.
_loading = threading.RLock()


@dataclass
class Domain:
    """A loaded pack.

    name: the name in domain.yaml.
    path: the pack's directory.
    spec: domain.yaml.
    environment: the world's class.
    templates: the templates by name.
    tools: the tools by name, as OpenAI functions.

    >>> legal = load("legal")
    >>> legal.name, legal.environment.__name__, sorted(legal.spec["kinds"])
    ('legal', 'LegalDesk', ['chart', 'document', 'extract', 'lookup', 'swarm', 'workflow'])
    >>> legal.tools["get_billing"]["function"]["parameters"]["required"]
    ['matter_id']
    """

    name: str
    path: Path
    spec: dict[str, Any]
    environment: type[Environment]
    templates: dict[str, Template]
    tools: dict[str, Tool] = field(default_factory=dict)


def other_packs(domain: Domain) -> list[str]:
    """Returns the names of the packs in data/ besides one: its tasks may take tools and requests from them."""
    names = sorted(path.parent.name for path in PACKS.glob("*/domain.yaml"))
    return [name for name in names if name not in (domain.name, domain.path.name)]


def load(domain: str) -> Domain:
    """Loads a pack by its name in data/ or by its directory; also in several threads at once.

    Raises:
        InputError: no such pack, or one of its files is invalid; the message names file and field.

    >>> load("legal").path.name, load("./data/legal").name
    ('legal', 'legal')
    """
    is_path = "/" in domain or domain in {".", ".."} or Path(domain).is_absolute()
    path = Path(domain).resolve() if is_path else PACKS / domain
    if not (path / "domain.yaml").is_file():
        names = ", ".join(sorted(p.parent.name for p in PACKS.glob("*/domain.yaml")))
        raise InputError(
            f"{domain}: no such domain: expected one of {names}, or a directory with a domain.yaml"
            f" (`stillhouse new-domain {domain}` makes one)"
        )
    spec = _load_spec(path / "domain.yaml")
    with _loading:
        modules = _load_modules(path, spec["name"])
        environment = _find_environment(modules[0], path / "environment.py")
        _check_world(environment, path / "environment.py")
        templates = _find_templates(modules)
    _check_templates(templates, spec, path / "domain.yaml")
    tools = make_tools(environment, path / "environment.py")
    return Domain(spec["name"], path, spec, environment, templates, tools)


def _load_spec(path: Path) -> dict[str, Any]:
    spec = read_yaml(path)
    check_document(spec, "domain", path)
    return spec


def _load_modules(path: Path, name: str) -> list[ModuleType]:
    """Runs a pack's files. The user who runs the command trusts their code, like that of a recipe or a Makefile."""
    if not (path / "environment.py").is_file():
        raise InputError(
            f"{path / 'environment.py'}: no such file: a domain needs an environment.py"
        )
    package = ModuleType(f"stillhouse_domain_{name.replace('-', '_')}")
    package.__path__ = [str(path)]
    # An earlier pack of this name may be in another directory, or its files may have changed.
    for loaded in [m for m in list(sys.modules) if m.startswith(f"{package.__name__}.")]:
        del sys.modules[loaded]
    sys.modules[package.__name__] = package
    importlib.invalidate_caches()
    modules = []
    for file in _files(path):
        try:
            modules.append(importlib.import_module(f"{package.__name__}.{file.stem}"))
        except (Exception, SystemExit) as error:
            raise InputError(f"{file}: cannot be loaded: {describe_fault(error, path)}") from error
    return modules


def _files(path: Path) -> list[Path]:
    """Returns the files of a pack that may hold templates, in order."""
    files = []
    for module in _MODULES:
        further = sorted(path.glob(f"{module}_*.py")) if module != _MODULES[0] else []
        files += [file for file in (path / f"{module}.py", *further) if file.is_file()]
    return files


def _find_environment(module: ModuleType, file: Path) -> type[Environment]:
    """Returns the one subclass of Environment that a module defines itself."""
    environments = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Environment)
        and value.__module__ == module.__name__
    ]
    environments = list(dict.fromkeys(environments))  # a class may have two names
    if len(environments) != 1:
        names = ", ".join(each.__name__ for each in environments)
        actual = (
            f"{len(environments)} subclasses of Environment ({names})"
            if names
            else "no subclass of Environment"
        )
        raise InputError(f"{file}: found {actual}, expected one, the world")
    return environments[0]


def _check_world(environment: type[Environment], file: Path) -> None:
    """Checks the methods that every world has, before it is made."""
    place = f"{file}: {environment.__name__}"
    for name, form in (("reset", "reset(self, **task)"), ("_state", "_state(self)")):
        if getattr(environment, name) is getattr(Environment, name):
            raise InputError(f"{place}: no {name}: expected a method {form}")
        signature = inspect.signature(getattr(environment, name))
        kinds = {parameter.kind for parameter in signature.parameters.values()}
        try:
            signature.bind(None, **({"seed": 0, "split": "train"} if name == "reset" else {}))
            fits = name != "reset" or inspect.Parameter.VAR_KEYWORD in kinds
        except TypeError:
            fits = False
        if not fits:
            raise InputError(f"{place}.{name}: found the parameters {signature}, expected {form}")
    errors = environment.errors
    if not isinstance(errors, tuple) or not all(
        inspect.isclass(error) and issubclass(error, Exception) and error is not Exception
        for error in errors
    ):
        raise InputError(
            f"{place}.errors: found {errors!r}, expected a tuple of particular exceptions, such as (KeyError,)"
        )


def _find_templates(modules: list[ModuleType]) -> dict[str, Template]:
    """Returns every template that the modules define themselves, in the order of the files."""
    package = modules[0].__name__.rpartition(".")[0]
    for name, module in list(sys.modules.items()):
        others = vars(module).get(DECORATED) if name.startswith(f"{package}.") else None
        if others and module not in modules:
            raise InputError(
                f"{others[0].file}: {others[0].name}: templates are read from environment.py, textual.py,"
                " visual.py, swarm.py and extraction.py alone, and from files such as textual_more.py: move it to"
                " one of them"
            )
    templates: dict[str, Template] = {}
    for module in modules:
        for template in vars(module).get(DECORATED, []):
            place = f"{module.__file__}: {template.name}"
            if template.name in templates:
                file = templates[template.name].file.name
                file = "the file" if file == template.file.name else file
                raise InputError(f"{place}: {file} has a template of that name")
            if not isinstance(vars(module).get(template.name, template), Template):
                raise InputError(
                    f"{place}: another decorator is above @template: write @template as the first line"
                )
            templates[template.name] = template
    return templates


def _check_templates(templates: dict[str, Template], spec: dict[str, Any], path: Path) -> None:
    """Checks names, kinds and parameters of the templates. path: of domain.yaml, with its content `spec`."""
    kinds = spec["kinds"]
    for name, template in templates.items():
        place = f"{template.file}: {name}"
        if template.kind not in kinds:
            raise InputError(
                f"{place}: found the kind {template.kind}, expected one of kinds in domain.yaml:"
                f" {', '.join(kinds)}"
            )
        if name in kinds:
            raise InputError(f"{place}: a kind has this name: rename it, tasks.mix names both")
        signature = inspect.signature(template.function)
        try:
            signature.bind(None, None)
        except TypeError:
            raise InputError(
                f"{place}: found the parameters {signature}, expected (world, rng)"
            ) from None
    for kind in kinds:
        if not any(template.kind == kind for template in templates.values()):
            raise InputError(
                f"{path}: kinds.{kind}: no template has this kind: write one, or remove the kind"
            )
