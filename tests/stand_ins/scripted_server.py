"""A real HTTP server on this machine with OpenAI's chat completions. It plays a script: one line a request, in order.

async with Scripted([says("Hello."), fails(500, "the engine is dead"), DROPS]) as server:
    async with Client(server.endpoint(), ...) as client:
        ...
assert server.requests[0]["messages"] == ...
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from teacher.inference.endpoint import Endpoint


@dataclass(frozen=True)
class Line:
    """The server's response to one request: a status and a body. With status 0 it closes the connection."""

    status: int
    body: dict[str, Any] = field(default_factory=dict)


DROPS = Line(0)


def says(content: str | None = None, finish_reason: str | None = None, **message: Any) -> Line:
    """Returns the line of a reply. `message`: its other fields (reasoning, reasoning_content, tool_calls)."""
    reason = finish_reason or ("tool_calls" if message.get("tool_calls") else "stop")
    reply = {"role": "assistant", "content": content, **message}
    return Line(200, {"choices": [{"index": 0, "message": reply, "finish_reason": reason}]})


def calls(name: str, arguments: Any, call_id: str = "functions.x:0", **message: Any) -> Line:
    """Returns the line of a reply with one call; arguments that are text are sent unchanged."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": text}}
    return says(message.pop("content", None), tool_calls=[call], **message)


def fails(status: int, message: str) -> Line:
    return Line(status, {"error": {"message": message, "type": "scripted", "code": status}})


class Scripted:
    """Plays its lines and stores the requests. A request after the last line gets status 400."""

    def __init__(self, script: Sequence[Line]) -> None:
        self._script = list(script)
        self.requests: list[dict[str, Any]] = []

    @property
    def left(self) -> int:
        """The number of lines that are still to be played."""
        return len(self._script)

    def endpoint(self, path: str = "/v1") -> Endpoint:
        return Endpoint(f"http://127.0.0.1:{self._port}{path}", "secret", "teacher")

    async def _answer(self, request: web.Request) -> web.Response:
        self.requests.append(await request.json())
        line = self._script.pop(0) if self._script else fails(400, "the script is over")
        if line.status == 0:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        completion = {"id": "x", "object": "chat.completion", "created": 0, "model": "teacher"}
        usage = {"usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}}
        body = {**completion, **usage, **line.body} if line.status == 200 else line.body
        return web.json_response(body, status=line.status)

    async def __aenter__(self) -> "Scripted":
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/chat/completions", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port: int = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
