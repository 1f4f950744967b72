"""Sessions with MCP servers for worlds, which are plain code: the client's event loop runs in a thread of its own.

The client is that of the package `mcp` (the extra `mcp`), imported when the first session starts. A session of a server
that is a command is a process of its own; of a server that is a URL, it is a session of Streamable HTTP.
"""

import asyncio
import atexit
import contextlib
import os
import shlex
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from schemas.api_key import key_for
from schemas.error_text import one_line
from schemas.errors import InputError

# In a server's command and variables: a new, empty directory of the session.
DIRECTORY = "{directory}"
# Sent to a server that is a URL, as `Authorization: Bearer`.
TOKEN_VARIABLE = "STILLHOUSE_MCP_TOKEN"
_START_SECONDS = 60
_MOST_RESULT = 1_000_000
_MOST_PAGES = 1_000  # of a list of tools


class McpFault(RuntimeError):
    """A server cannot be started, ended, did not answer in time, or answered with something that is no text."""


@dataclass(frozen=True)
class McpServer:
    """A server that a session is started with. command: its arguments; or url. variables: added to its environment.

    >>> McpServer.parse("DATA={directory}/data.json python -m server --quiet").command
    ('python', '-m', 'server', '--quiet')
    """

    command: tuple[str, ...] = ()
    url: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "McpServer":
        """Returns the server of a URL, or of a command line that may begin with NAME=VALUE.

        Raises:
            InputError: there is no command, its quotes do not close, the URL has a user name, or it must not have the
                token.
        """
        if text.startswith(("http://", "https://")):
            if "@" in text.partition("//")[2].partition("/")[0]:
                raise InputError(
                    f"an MCP server's URL with a user name: put the token in {TOKEN_VARIABLE}"
                )
            key_for(text, TOKEN_VARIABLE)  # raises where it must not be sent
            return cls(url=text)
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise InputError(f"{text}: {error}") from None
        variables: dict[str, str] = {}
        while words and words[0].partition("=")[0].isidentifier() and "=" in words[0]:
            name, _, value = words.pop(0).partition("=")
            variables[name] = value
        if not words:
            raise InputError(f"{text!r}: expected the command or the URL of an MCP server")
        return cls(command=tuple(words), variables=variables)

    def __str__(self) -> str:
        return self.url or shlex.join(self.command)


class McpSession:
    """One session with a server, from its start to `close`.

    Raises:
        McpFault: it does not start.
        InputError: the package `mcp` is not installed.
    """

    def __init__(self, server: McpServer, *, cwd: Path | None = None) -> None:
        try:
            import mcp  # noqa: F401
        except ImportError:
            raise InputError(
                "the package mcp is not installed: pip install 'stillhouse[mcp]'"
            ) from None
        self.server = server
        self._cwd = cwd
        self._started: Future[Any] = Future()
        self._stop: asyncio.Event | None = None
        self._loop = _event_loop()
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  read when it failed
        self._ended = asyncio.run_coroutine_threadsafe(self._live(), self._loop)
        try:
            self._client = self._started.result(_START_SECONDS)
        except Exception as error:
            self._ended.cancel()
            raise McpFault(f"{server}: no session: {self._why(error)}") from None
        _open.add(self)

    @property
    def is_open(self) -> bool:
        """Whether the session has neither ended nor been closed."""
        return not self._ended.done() and self._stop is not None and not self._stop.is_set()

    def list_tools(self) -> list[dict[str, Any]]:
        """Returns all tools of the server, each as the protocol names its fields."""
        tools: list[dict[str, Any]] = []
        cursor = None
        for _ in range(_MOST_PAGES):
            try:
                page = self._wait(
                    self._client.list_tools(cursor=cursor), "tools/list", _START_SECONDS
                )
            except ValueError as error:
                raise McpFault(f"{self.server}: tools/list: {one_line(str(error))}") from None
            tools += [
                tool.model_dump(mode="json", by_alias=True, exclude_none=True)
                for tool in page.tools
            ]
            cursor = page.next_cursor
            if not cursor or len(tools) > 10_000:
                return tools
        raise McpFault(f"{self.server}: tools/list: more than {_MOST_PAGES} pages")

    def call(self, tool: str, arguments: dict[str, Any], seconds: float) -> tuple[str, Any]:
        """Returns the text of a tool's result, and its value where the server gives one (structured content).

        Raises:
            ValueError: the server reports an error of the call; a model reads the text.
            McpFault: the server ended, did not answer, or returned an image or another thing that is no text.
        """
        result = self._wait(self._client.call_tool(tool, arguments), tool, seconds)
        texts = []
        for part in result.content:
            if part.type != "text":
                raise McpFault(f"{self.server}: {tool}: returned {part.type}, expected text")
            texts.append(part.text)
        text = "\n".join(texts)
        if len(text) > _MOST_RESULT:
            raise McpFault(f"{self.server}: {tool}: returned {len(text):,} characters")
        if result.is_error:
            raise ValueError(text or "the call failed")
        value = result.structured_content
        # How the SDKs of MCP wrap a result that is no object.
        return text, value["result"] if value and value.keys() == {"result"} else value

    def close(self) -> None:
        """Asks the session to end; it ends in the background."""
        _open.discard(self)
        if self._stop is not None and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop.set)

    async def _live(self) -> None:
        """Holds the session open until `close`."""
        from mcp import Client

        self._stop = asyncio.Event()
        with tempfile.TemporaryDirectory(prefix="stillhouse-mcp-") as directory:
            try:
                async with (
                    self._http_client() as http,
                    Client(self._transport(directory, http)) as client,
                ):
                    self._started.set_result(client)
                    await self._stop.wait()
            except BaseException as error:
                if not self._started.done():
                    self._started.set_exception(error)
                elif not self._stop.is_set():
                    raise

    def _http_client(self) -> Any:
        """The client of a server that is a URL; the transport does not close one that it is given."""
        if not self.server.url:
            return contextlib.nullcontext()
        import httpx2

        token = key_for(self.server.url, TOKEN_VARIABLE)
        return httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {token}"} if token else None,
            timeout=httpx2.Timeout(_START_SECONDS, read=None),  # `_wait` ends a call
        )

    def _transport(self, directory: str, http: Any) -> Any:
        if self.server.url:
            from mcp.client.streamable_http import streamable_http_client

            return streamable_http_client(self.server.url, http_client=http)
        from mcp import StdioServerParameters, stdio_client

        words = [word.replace(DIRECTORY, directory) for word in self.server.command]
        variables = {
            name: value.replace(DIRECTORY, directory)
            for name, value in self.server.variables.items()
        }
        # By this mark, the run's next start ends what a killed one left.
        variables |= {k: v for k, v in os.environ.items() if k == "STILLHOUSE_RUN"}
        parameters = StdioServerParameters(
            command=words[0], args=words[1:], env=variables, cwd=self._cwd
        )
        return stdio_client(parameters, errlog=self._log)  # type: ignore[arg-type]

    def _wait(self, coroutine: Any, what: str, seconds: float) -> Any:
        """Returns an answer of the server; a session that fails is closed, so that no later episode uses it.

        Raises:
            ValueError: the server says that the parameters are invalid.
            McpFault: it ended, did not answer in time, or answered with something else than the protocol says.
        """
        from mcp.shared.exceptions import MCPError

        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(seconds)
        except TimeoutError:
            future.cancel()
            why = f"no answer within {seconds:g} s"
        except Exception as error:  # also pydantic's, of an answer that is not the protocol's
            if isinstance(error, MCPError) and error.error.code == _INVALID_PARAMS:
                raise ValueError(error.error.message) from None
            why = self._why(error)
        self.close()
        raise McpFault(f"{self.server}: {what}: {why}")

    def _why(self, error: BaseException) -> str:
        """An error, and the last line that the server wrote to stderr."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        text = one_line(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
        # Without `seek`: the server writes at the same position.
        log = self._log.fileno()
        last = os.pread(log, 2000, max(0, os.fstat(log).st_size - 2000))
        last = last.strip().rpartition(b"\n")[2]
        return f"{text} ({one_line(last.decode(errors='replace'))})" if last else text


_INVALID_PARAMS = -32602  # of JSON-RPC
_open: set[McpSession] = set()
_loops: dict[int, asyncio.AbstractEventLoop] = {}
_lock = threading.Lock()


def _event_loop() -> asyncio.AbstractEventLoop:
    """The loop of this process, in its thread; a forked process has its own."""
    with _lock:
        if os.getpid() not in _loops:
            loop = _loops[os.getpid()] = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="mcp", daemon=True).start()
        return _loops[os.getpid()]


@atexit.register
def close_sessions(seconds: float = 5) -> None:
    """Ends all sessions of this process and waits for them."""
    sessions = [*_open]
    for session in sessions:
        session.close()
    for session in sessions:
        with contextlib.suppress(Exception):
            session._ended.result(seconds)
