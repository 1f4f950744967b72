"""Tools whose schemas are given: those of an MCP server, of an OpenAPI file, or of a list of functions.

`stillhouse new-domain --from-...` writes them to tools.json of the pack:

    {"tools": [{"type": "function", "function": {"name", "description", "parameters"}}, ...],
     "reads": ["get_order"], "names": {"files_read": "files/read"}}

reads: tools that change nothing. names: what the server calls a tool, where a model may not call it so.
"""

import functools
import inspect
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from schemas.documents import check_document
from schemas.files import read_json
from schemas.trace import Tool

# The attribute of a method that has its tool.
GIVEN = "__stillhouse_tool__"
Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True)
class GivenTools:
    """The content of tools.json. tools: by name. reads: of those that change nothing. names: on the server."""

    tools: dict[str, Tool]
    reads: frozenset[str] = frozenset()
    names: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tool:
        return self.tools[name]


def read_tools(file: Path | str) -> GivenTools:
    """Returns the tools of a pack's tools.json.

    Raises:
        InputError: the file is missing, or is not of the form above; the message names the field.

    >>> import json, tempfile
    >>> ping = {"name": "ping", "description": "Answers.", "parameters": {"type": "object"}}
    >>> with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
    ...     json.dump({"tools": [{"type": "function", "function": ping}], "reads": ["ping"]}, file)
    ...     file.flush()
    ...     tools = read_tools(file.name)
    >>> tools["ping"]["function"]["description"], sorted(tools.reads)
    ('Answers.', ['ping'])
    """
    document = read_json(Path(file))
    check_document(document, "tools", file)
    tools = {tool["function"]["name"]: tool for tool in document["tools"]}
    return GivenTools(tools, frozenset(document.get("reads", [])), document.get("names", {}))


def given_tool(tool: Tool) -> Callable[[Method], Method]:
    """Decorates a method of a world as a tool with a given schema, whatever its own signature says.

    The method gets the arguments as JSON values, and is called by the tool's name, which may be no name in Python.

    >>> from teacher.domain import Environment
    >>> from teacher.domain.tool_schemas import make_tools
    >>> find = {"name": "find-order", "description": "Find an order.", "parameters": {"type": "object"}}
    >>> class Shop(Environment):
    ...     @given_tool({"type": "function", "function": find})
    ...     def find_order(self, /, **arguments):
    ...         return {"found": sorted(arguments)}
    >>> list(make_tools(Shop, Path("environment.py")))
    ['find-order']
    >>> method_of(Shop(), "find-order")(by="name")
    {'found': ['by']}
    """

    def decorate(method: Method) -> Method:
        setattr(method, GIVEN, tool)
        return method

    return decorate


def tool_of(method: Any) -> Tool | None:
    """Returns the tool that a method was given, or None."""
    return getattr(method, GIVEN, None)


def method_of(world: Any, tool: str) -> Any:
    """Returns the method of a world that runs a tool."""
    return getattr(world, _given_names(cast(Hashable, type(world))).get(tool, tool))


@functools.cache
def _given_names(environment: Any) -> dict[str, str]:
    """The name in Python of each method with a given tool, by the tool's name."""
    methods = inspect.getmembers(environment, inspect.isfunction)
    given = [(name, tool_of(method)) for name, method in methods]
    return {tool["function"]["name"]: name for name, tool in given if tool is not None}
