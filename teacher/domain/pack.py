"""Loads a domain pack: a directory with domain.yaml and environment.py, and optionally textual.py and visual.py.

In: a pack's name in data/, or its directory. Out: a `Domain` with the checked domain.yaml, the world's class, the task
templates, and the schemas of the tools. What the files hold is described in `teacher.domain` for pack authors.
"""

import importlib
import inspect
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from schemas.documents import check_document
from schemas.errors import InputError
from schemas.trace import Tool
from teacher.domain.blueprint import Environment, Template
from teacher.domain.tool_schemas import make_tools

PACKS = Path(__file__).resolve().parents[2] / "data"
_MODULES = ("environment", "textual", "visual")


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
    ('legal', 'LegalDesk', ['chart', 'document', 'lookup', 'workflow'])
    >>> legal.tools["get_billing"]["function"]["parameters"]["required"]
    ['matter_id']
    """

    name: str
    path: Path
    spec: dict[str, Any]
    environment: type[Environment]
    templates: dict[str, Template]
    tools: dict[str, Tool] = field(default_factory=dict)


def load(domain: str) -> Domain:
    """Loads a pack by its name in data/ or by its directory.

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
    modules = _load_modules(path, spec["name"])
    environment = _find_environment(modules[0], path / "environment.py")
    templates = _find_templates(modules)
    undeclared = {template.kind for template in templates.values()} ^ set(spec["kinds"])
    if undeclared:
        raise InputError(
            f"{path / 'domain.yaml'}: kinds: {', '.join(sorted(undeclared))}: expected exactly the kinds"
            f" that environment.py, textual.py and visual.py have templates for"
        )
    tools = make_tools(environment, path / "environment.py")
    return Domain(spec["name"], path, spec, environment, templates, tools)


def _load_spec(path: Path) -> dict[str, Any]:
    try:
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
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


def _find_environment(module: ModuleType, file: Path) -> type[Environment]:
    """Returns the one subclass of Environment that a module defines itself."""
    environments = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Environment)
        and value.__module__ == module.__name__
    ]
    if len(environments) != 1:
        raise InputError(
            f"{file}: found {len(environments)} subclasses of Environment, expected one"
        )
    return environments[0]


def _find_templates(modules: list[ModuleType]) -> dict[str, Template]:
    """Returns every template that the modules define themselves, in the order of the files."""
    templates: dict[str, Template] = {}
    for module in modules:
        own = {
            value.name: value
            for value in vars(module).values()
            if isinstance(value, Template) and value.function.__module__ == module.__name__
        }
        if duplicates := sorted(templates.keys() & own.keys()):
            name = duplicates[0]
            first = templates[name].file.name
            raise InputError(f"{module.__file__}: {name}: {first} has a template of that name")
        templates |= own
    return templates
