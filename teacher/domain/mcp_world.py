"""A world whose tools run on an MCP server: `McpEnvironment`."""

import inspect
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from schemas.files import dumps
from schemas.trace import Tool
from teacher.domain.blueprint import Environment
from teacher.domain.given_tools import GivenTools, given_tool
from teacher.domain.mcp_session import McpServer, McpSession


class McpEnvironment(Environment):
    """A world whose tools run on an MCP server, in a session of its own for each episode.

    A session starts at the first call after `reset`. Without a `_state` of its own, the state of a world is the calls
    that changed it, whatever their order: those of tools that are not among `given.reads`, with their arguments, as far
    as they succeeded.

    server: a URL, or a command, which may begin with NAME=VALUE; "{directory}" in it is a new, empty directory for
        each session. given: the pack's tools.json. seconds: the longest that a call may take.
    reuse: sessions are used again by later episodes, because `reset` undoes all that an episode can change; it
        saves the start of a process.

    >>> from teacher.domain.tool_schemas import make_tools
    >>> ping = {"name": "ping", "description": "Answers.", "parameters": {"type": "object"}}
    >>> class Desk(McpEnvironment):
    ...     server = "DATA={directory}/desk.db python server.py"
    ...     given = GivenTools({"ping": {"type": "function", "function": ping}}, reads=frozenset({"ping"}))
    >>> list(make_tools(Desk, Path("environment.py")))
    ['ping']
    """

    server: ClassVar[str] = ""
    given: ClassVar[GivenTools]
    seconds: ClassVar[float] = 60
    reuse: ClassVar[bool] = False
    _free: ClassVar[list[McpSession]]
    _session: McpSession | None = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._free = []
        given = cls.__dict__.get("given")
        for name, tool in given.tools.items() if given else ():
            # A tool may have the name of something that a world is made of, such as reset.
            is_taken = hasattr(McpEnvironment, name) or name == "given"
            setattr(cls, f"{name}_" if is_taken else name, _forward(name, tool))

    def reset(self, **task: Any) -> str | None:
        """Ends the session of the last episode. A pack's own `reset` calls this first."""
        self._task = task
        self._writes: list[str] = []
        self._leave()
        return None

    def _state(self) -> Any:
        return sorted(self._writes)

    def _call(self, tool: str, **arguments: Any) -> str:
        """Calls a tool by its name in tools.json for the world itself: nothing is recorded. Returns its text.

        Raises:
            ValueError: the server reports an error.
        """
        return self._result(tool, arguments)[0]

    def _ask(self, tool: str, **arguments: Any) -> Any:
        """Calls a tool as `_call` does, and returns its value: structured content, JSON in its text, or the text."""
        text, value = self._result(tool, arguments)
        if value is not None:
            return value
        try:
            return json.loads(text)
        except ValueError:
            return text

    def _result(self, tool: str, arguments: dict[str, Any]) -> tuple[str, Any]:
        if self._session is None:
            self._session = self._open_session()
            self._end = weakref.finalize(self, _let_go, self._session, self._free, self.reuse)
        name = self.given.names.get(tool, tool)
        return self._session.call(name, arguments, self.seconds)

    def _open_session(self) -> McpSession:
        while self._free:
            session = self._free.pop()
            if session.is_open:
                return session
        pack = Path(inspect.getfile(type(self))).parent
        return McpSession(McpServer.parse(self.server), cwd=pack)

    def _fork(self) -> "McpEnvironment":
        return self  # its state is the session's

    def _leave(self) -> None:
        if self._session is not None:
            self._session = None
            self._end()


def _forward(name: str, tool: Tool) -> Callable[..., str]:
    """The method that runs a tool on the server, and records the call if it may change something."""

    @given_tool(tool)
    def method(self: McpEnvironment, /, **arguments: Any) -> str:
        text = self._call(name, **arguments)
        if name not in self.given.reads:
            self._writes.append(dumps([name, arguments]))
        return text

    method.__name__ = method.__qualname__ = name
    return method


def _let_go(session: McpSession, free: list[McpSession], reuse: bool) -> None:
    """Ends a session that no world uses any more, or keeps it for the next one."""
    if reuse:
        free.append(session)
    else:
        session.close()
