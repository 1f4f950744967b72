"""Loads a recipe file, with the command line's overrides, as a Recipe; reports an invalid one in one line."""

import difflib
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from schemas.errors import InputError
from schemas.recipe import Recipe
from schemas.yaml_text import parse_yaml, read_yaml

RECIPES = Path(__file__).resolve().parent / "recipes"


def load(name_or_path: str, overrides: list[str] | None = None) -> Recipe:
    """Loads a recipe by its name in flows/recipes or by its path, and applies each override `a.b=c`.

    Raises:
        InputError: no such recipe, broken YAML, or an invalid field; the message names the file, the field, what was
            found and what was expected.
    """
    path = _find(name_or_path)
    values = _read(path)
    if "name" in values:
        raise InputError(
            f"{path}: name: found one, expected none: a recipe's name is its file's name"
        )
    overridden: dict[str, str] = {}
    for override in overrides or []:
        overridden[_set(values, override)] = override
    try:
        return Recipe.model_validate({**values, "name": path.stem})
    except ValidationError as error:
        raise InputError(_one_line(error, path, overridden)) from None


def _find(name_or_path: str) -> Path:
    if "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path)
        if not path.is_file():
            raise InputError(f"{path}: no such recipe file")
        return path
    path = RECIPES / f"{name_or_path}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in RECIPES.glob("*.yaml"))
        raise InputError(
            f"--recipe {name_or_path}: no such recipe{_did_you_mean(name_or_path, known)}:"
            f" expected one of {', '.join(known)}, or a path to a YAML file"
        )
    return path


def _read(path: Path) -> dict[str, Any]:
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise InputError(
            f"{path}: top level: found {_brief(values)},"
            f" expected a mapping with teacher, student and sections"
        )
    return values


def _set(values: dict[str, Any], override: str) -> str:
    """Sets one override `a.b=c` in the values of a recipe and returns `a.b`."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise InputError(
            f"--set {override}: expected FIELD=VALUE, such as --set generate.attempts=3"
        )
    *sections, last = key.split(".")
    target = values
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise InputError(
                f"--set {override}: {section}: found a value, expected a section with fields"
            )
    if key == "name":
        raise InputError(
            f"--set {override}: name: found one, expected none: a recipe's name is its file's name"
        )
    try:
        target[last] = _override_value(text.strip(), _types(key.split(".")))
    except ValueError:
        raise InputError(
            f"--set {override}: {key}: found {text!r}, expected a YAML value"
        ) from None
    return key


# In the text of an override, # begins no comment. This character of Unicode's private use area stands for it.
_HASH = "\ue023"


def _override_value(text: str, kinds: list[Any]) -> Any:
    """The value of an override's text for a field of one of the types `kinds`.

    A list or mapping is YAML. Any other value stays the text that the user wrote, because the type of the field decides
    whether 1.10 is a number, and nothing in a path or a name is YAML's. Quotes around the whole text are removed.
    """
    if type(None) in kinds and text in ("", "~", "null", "Null", "NULL"):
        return None
    if any(_is_container(each) for each in kinds):
        value = _with_hashes(parse_yaml(text.replace("#", _HASH)))
        return value if isinstance(value, dict | list | str) else text
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        try:
            value = _with_hashes(parse_yaml(text.replace("#", _HASH)))
        except ValueError:
            return text  # two quoted words
        return value if isinstance(value, str) else text
    return text


def _with_hashes(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace(_HASH, "#")
    if isinstance(value, list):
        return [_with_hashes(item) for item in value]
    if isinstance(value, dict):
        return {_with_hashes(key): _with_hashes(item) for key, item in value.items()}
    return value


def _types(path: list[str]) -> list[Any]:
    """The types that the field at a path may have; none for an unknown field, which the Recipe reports."""
    kinds: list[Any] = [Recipe]
    for part in path:
        below: list[Any] = []
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                field = kind.model_fields.get(part)
                below += _members(field.annotation) if field else []
            elif typing.get_origin(kind) is dict:
                below += _members(typing.get_args(kind)[1])
        kinds = below
    return kinds


def _members(annotation: Any) -> list[Any]:
    """The members of a union, or the type itself."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return list(typing.get_args(annotation))
    return [annotation]


def _is_container(kind: Any) -> bool:
    return typing.get_origin(kind) in (dict, list, tuple) or (
        isinstance(kind, type) and issubclass(kind, BaseModel)
    )


_SHORTER_MESSAGES = (
    ("Input should be ", ""),
    ("a valid dictionary or instance of", "a section with the fields of"),
    ("String should match pattern", "a text that matches"),
    ("String should have", "a text of"),
    ("Tuple should have", "a list of"),
)


def _one_line(error: ValidationError, path: Path, overridden: dict[str, str]) -> str:
    """The first error of a recipe in one line (place, field, found, expected), and the number of others."""
    first, *others = error.errors()
    field = _field(first["loc"])
    message = first["msg"]
    if first["type"] == "value_error":
        # Raised by a validator of schemas/recipe*.py, whose message begins with the field.
        inner, _, message = str(first["ctx"]["error"]).partition(": ")
        field = f"{field}.{inner}".removeprefix(".")
    where = next(
        (
            # The value of a URL may be a password.
            f"--set {text}" if field != "serve.url" else f"--set {key}"
            for key, text in overridden.items()
            if f"{field}.".startswith(f"{key}.") or key.startswith(f"{field}.")
        ),
        str(path),
    )
    more = f" (and {len(others)} more)" if others else ""
    if first["type"] == "value_error":
        return f"{where}: {field}: {message}{more}"
    if first["type"] == "extra_forbidden":
        known = _known_fields(first["loc"])
        prefix = f"{_field(first['loc'][:-1])}." if len(first["loc"]) > 1 else ""
        guess = _did_you_mean(str(first["loc"][-1]), known, prefix)
        return f"{where}: {field}: unknown field{guess}: expected one of {', '.join(known)}{more}"
    if first["type"] == "missing":
        missing = _section(first["loc"]).model_fields[str(first["loc"][-1])]
        meaning = (missing.description or "a value").rstrip(".")
        return f"{where}: {field}: missing: expected {meaning[0].lower()}{meaning[1:]}{more}"
    for long, short in _SHORTER_MESSAGES:
        message = message.replace(long, short)
    expected = message.split(", unable to")[0]
    return f"{where}: {field}: found {_brief(first['input'])}, expected {expected}{more}"


def _field(location: tuple[int | str, ...]) -> str:
    """The location of a pydantic error as a field's name, such as `export.variants[1]`."""
    return "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in location
    ).removeprefix(".")


def _known_fields(location: tuple[int | str, ...]) -> list[str]:
    """The names of the fields in the section of the one at `location`."""
    section = _section(location)
    return [name for name in section.model_fields if section is not Recipe or name != "name"]


def _section(location: tuple[int | str, ...]) -> type[BaseModel]:
    """The section that has the field at `location`."""
    section: Any = Recipe
    for part in location[:-1]:
        kind = section.model_fields[part].annotation
        # A section that may be null is a union with None.
        section = (*typing.get_args(kind), kind)[0]
    return section


def _did_you_mean(name: str, known: list[str], prefix: str = "") -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {prefix}{nearest[0]}?)" if nearest else ""


def _brief(value: Any) -> str:
    """A value as an error message shows it: short, and without the contents of mappings and lists."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
