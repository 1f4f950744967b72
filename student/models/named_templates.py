"""Finds the one chat template of a directory, wherever it lies there.

Files may hold several: chat_template.jinja, additional_chat_templates/*.jinja, and a text or a list of named templates
in tokenizer_config.json, chat_template.json or processor_config.json. transformers and llama.cpp read them in different
orders and switch between them with the tools of a request. A student has one for everything: the one that transformers
(and so vLLM) takes for a request with tools.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import InputError
from schemas.files import read_json, read_text

JINJA, ADDITIONAL = "chat_template.jinja", "additional_chat_templates"
# In the order in which they count, after the files in Jinja.
_JSON = ("tokenizer_config.json", "chat_template.json", "processor_config.json")
_WITH_TOOLS, _DEFAULT = "tool_use", "default"


@dataclass(frozen=True)
class Template:
    """A chat template of a directory.

    place: its file, with its name in a list. others: the places of those that differ.
    """

    text: str
    place: str
    others: tuple[str, ...]

    def describe(self) -> str:
        """The place, and what is not used."""
        others = f" (not used: {', '.join(self.others)})" if self.others else ""
        return f"{self.place}{others}"


def find(directory: Path) -> Template | None:
    """The template that a student of this directory is trained, exported, evaluated and served with, or None.

    Raises:
        InputError: a file cannot be read, or of several named templates none is for tools or the default.
    """
    groups = [group for group in (_in_jinja(directory), *_in_json(directory)) if group]
    if not groups:
        return None
    first = groups[0]
    name = next((name for name in (_WITH_TOOLS, _DEFAULT) if name in first), None)
    if name is None and len(first) > 1:
        places = ", ".join(place for place, _ in first.values())
        raise InputError(
            f"{directory}: chat template: found {places}, expected one named {_WITH_TOOLS} or {_DEFAULT}: keep one of"
            f" them, or name one in the student's file (template: ...)"
        )
    place, text = first[name or next(iter(first))]
    others = dict.fromkeys(
        other for group in groups for other, content in group.values() if content != text
    )
    return Template(text, place, tuple(others))


# The templates of one file or folder: place and text by name.
_Group = dict[str, tuple[str, str]]


def _in_jinja(directory: Path) -> _Group:
    paths = {_DEFAULT: directory / JINJA}
    paths |= {path.stem: path for path in sorted((directory / ADDITIONAL).glob("*.jinja"))}
    texts = {name: read_text(path) for name, path in paths.items() if path.is_file()}
    return {
        name: (paths[name].relative_to(directory).as_posix(), text)
        for name, text in texts.items()
        if text.strip()
    }


def _in_json(directory: Path) -> list[_Group]:
    groups = []
    for file in _JSON:
        path = directory / file
        content = read_json(path) if path.is_file() else None
        found = content.get("chat_template") if isinstance(content, dict) else None
        groups.append(
            {
                name: (f"{file}: {name}" if isinstance(found, (list, dict)) else file, text)
                for name, text in _named(found, path).items()
                if text.strip()
            }
        )
    return groups


def _named(found: Any, path: Path) -> dict[str, str]:
    """The templates by name in a value of `chat_template`: a text, [{"name", "template"}] or {name: text}."""
    if found is None:
        return {}
    if isinstance(found, str):
        return {_DEFAULT: found}
    if isinstance(found, list) and all(isinstance(item, dict) for item in found):
        found = {item.get("name"): item.get("template") for item in found}
    if isinstance(found, dict) and all(
        isinstance(value, str) for item in found.items() for value in item
    ):
        return found
    raise InputError(
        f"{path}: chat_template: found {type(found).__name__} of another form, expected a text or a list of"
        f' {{"name", "template"}}'
    )
