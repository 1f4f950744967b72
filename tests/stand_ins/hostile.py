"""Hostile calls of a pack's tools: whatever the arguments, a tool returns JSON or raises a one-line ValueError."""

from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from schemas.files import dumps
from teacher.domain.pack import Domain
from teacher.scenes.scene import Scene


def call(
    data: st.DataObject,
    domain: Domain,
    desk: Any,
    exists: Iterable[str],
    hostile: st.SearchStrategy[Any],
    longest: int = 250,
) -> None:
    """Makes one call of any tool. Half of the arguments exist in the world, so that calls also pass the first check."""
    tool = data.draw(st.sampled_from(sorted(domain.tools)))
    properties = domain.tools[tool]["function"]["parameters"]["properties"]
    real = [*exists, *(value for schema in properties.values() for value in schema.get("enum", []))]
    arguments = {name: data.draw(hostile | st.sampled_from(real)) for name in properties}
    try:
        result = getattr(desk, tool)(**arguments)
    except ValueError as error:
        assert len(str(error)) < longest and "\n" not in str(error)
        dumps(str(error)).encode()
    else:
        dumps(result.data if isinstance(result, Scene) else result).encode()
        dumps(desk._state()).encode()
