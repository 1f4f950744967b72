"""Reads YAML that a person wrote. A key that is given twice is an error: parsers of YAML keep the last one."""

from typing import Any

import yaml


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
        ValueError: the text is no YAML, or gives a key twice; the message is one line and names line and column.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
