"""Reads YAML that a person wrote. A key that is given twice is an error: parsers of YAML keep the last one."""

from pathlib import Path
from typing import Any

import yaml

from schemas.errors import InputError
from schemas.files import read_text


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for position, (key, _) in enumerate(node.value):
            # `<<` merges another mapping, and may do so more than once.
            if getattr(key, "value", "<<") != "<<" and key.value in keys[:position]:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value!r} is given twice", problem_mark=key.start_mark
                )
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """Parses one YAML document.

    Raises:
        ValueError: the text is no YAML, or gives a key twice; the message is one line and begins with the number of the
            line, where it is known.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{line}not YAML: {error.problem}") from None
    # Besides YAMLError: a date of month 13, an integer of 5,000 digits, a thousand brackets.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from None


def read_yaml(path: Path) -> Any:
    """The value of a YAML file. Raises InputError, which names the file and the line, where it cannot be read."""
    try:
        return parse_yaml(read_text(path))
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
