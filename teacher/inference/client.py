"""Sends requests to a served model: bounded concurrency, retries, usage. Each reply is journalled before it is used."""

import asyncio
import json
import random
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import openai

from schemas.error_text import one_line
from schemas.errors import StageError
from schemas.trace import Message, Tool, Usage
from teacher.inference.api import without_key
from teacher.inference.endpoint import Endpoint, on_this_machine
from teacher.inference.journal import Journal, key
from teacher.scenes.images import ImageStore, inline_pixels

# Seconds before a retry: doubled each time, with jitter so that many clients do not return at once.
_FIRST_WAIT, _LONGEST_WAIT, _TRIES = 0.5, 30.0, 6


class _NoMessage(Exception):
    """The server's answer has no message."""


class _NotTheServer(Exception):
    """The answer is a page of a proxy or a gateway: it tells nothing about the model."""


class _Aborted(Exception):
    """The server was stopped during the reply and sent an incomplete one."""


@dataclass(frozen=True)
class Reply:
    """One reply. `message` is an OpenAI assistant message, or None; then `error` has the reason.

    host, model: the API that replied and the model that its answer names; None for a server of this process, and for a
    reply that was stored before they were.
    """

    key: str
    message: Message | None
    finish_reason: str
    seconds: float
    usage: Usage
    error: str | None = None
    host: str | None = None
    model: str | None = None


class Client:
    """Sends chat requests of one model to one endpoint. Use as an async context manager.

    Args:
        endpoint: where the model is served.
        identity: {"model", "revision"}; part of the key of each reply in the journal.
        concurrency: requests in flight at once. A request that waits for its retry does not count.
        timeout: seconds for one reply.
        image_store: the images that messages refer to by hash.

    Attributes:
        sent: requests sent to the server; replies from the journal are not counted.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        identity: dict[str, str],
        journal: Journal,
        concurrency: int,
        timeout: float,
        image_store: ImageStore | None = None,
    ) -> None:
        self._endpoint, self._identity, self._journal = endpoint, identity, journal
        self._slots = asyncio.Semaphore(concurrency)
        self._timeout, self._image_store = timeout, image_store
        self.sent = 0

    async def __aenter__(self) -> "Client":
        self._openai = openai.AsyncOpenAI(
            base_url=self._endpoint.url,
            api_key=self._endpoint.key,
            max_retries=0,
            timeout=self._timeout,
            # A proxy of the environment is used for remote servers, never for one on this machine.
            http_client=openai.DefaultAioHttpClient(
                trust_env=not on_this_machine(self._endpoint.url)
            ),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._openai.close()

    async def complete(
        self,
        messages: list[Message],
        tools: list[Tool],
        sample: int,
        session: str | None = None,
        **parameters: Any,
    ) -> Reply:
        """The reply to a conversation: from the journal, else from the server.

        Args:
            messages, tools: in the form of OpenAI's chat completions, but with images by hash
                (teacher/scenes/images.py), so that the journal's key holds the hash and only the server gets the bytes.
            sample: index of this reply among several replies to the same request.
            session: name of the agent or sub-agent whose conversation it is. A router in front of several servers uses
                it to reach the server that has the conversation's prefix cached. It changes no reply, so it is not part
                of the journal's key.
            parameters: temperature, top_p, max_tokens, tool_choice, extra_body.

        Returns:
            The reply. It has an `error` if the server refuses the request for good (400, 413, 422), or if every retry
            brought an answer without a message.

        Raises:
            StageError: the server stays unreachable, refuses the key or does not know the model.
        """
        request = {
            **self._identity,
            "messages": messages,
            "tools": tools,
            "sample": sample,
            **parameters,
        }
        reply_key = key(request)
        stored = self._journal.get(reply_key)
        if stored is None:
            body = {"messages": messages, "tools": tools, **parameters}
            if session is not None:
                body["extra_headers"] = {"X-Session-ID": quote(session, safe="/:")}
            stored = await self._send(body)
            self._journal.put(reply_key, stored)
        return Reply(key=reply_key, **stored)

    async def _send(self, body: dict[str, Any]) -> dict[str, Any]:
        if not body["tools"]:
            del body["tools"]
            body.pop("tool_choice", None)
        wait, last_error, has_answered = _FIRST_WAIT, "", False
        for _ in range(_TRIES):
            started = time.monotonic()
            try:
                async with self._slots:
                    self.sent += 1
                    # Image files are read here, so that memory holds only those of the requests in flight.
                    body_with_pixels = {
                        **body,
                        "messages": inline_pixels(body["messages"], self._image_store),
                    }
                    with self._endpoint.request_in_flight():
                        completion = await self._openai.chat.completions.create(
                            model=self._endpoint.model, **body_with_pixels
                        )
                return _stored(completion, time.monotonic() - started) | self._origin(completion)
            except (
                openai.AuthenticationError,
                openai.PermissionDeniedError,
                openai.NotFoundError,
            ) as error:
                raise StageError(
                    f"{self._endpoint.url}: refused: {self._first_line(error)}"
                ) from None
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                if not _is_page(error.response.text):
                    return _failed(self._first_line(error), time.monotonic() - started)
                last_error, has_answered = _page_line(error.status_code, error.response.text), False
            except (openai.APIConnectionError, openai.APIStatusError) as error:
                if isinstance(error, openai.APIStatusError) and error.status_code == 413:
                    return _failed(self._first_line(error), time.monotonic() - started)
                last_error, has_answered = self._first_line(error), False
            except (_Aborted, _NotTheServer) as error:
                last_error, has_answered = self._first_line(error), False
            except (_NoMessage, json.JSONDecodeError) as error:
                last_error, has_answered = self._first_line(error), True
            await self._endpoint.revive()
            await asyncio.sleep(wait * random.uniform(0.5, 1.5))
            wait = min(wait * 2, _LONGEST_WAIT)
        if has_answered:
            return _failed(last_error, time.monotonic() - started)
        raise StageError(f"{self._endpoint.url}: no reply after {_TRIES} tries: {last_error}")

    def _origin(self, completion: Any) -> dict[str, str]:
        """{"host", "model"} of an answer of an API, where it names the model; empty for a server of this process."""
        if self._endpoint.served is None:
            return {}
        model = getattr(completion, "model", None)
        name = one_line(model, 120) if isinstance(model, str) else ""
        origin = {
            "host": self._endpoint.served["host"],
            "model": without_key(name, self._endpoint.key),
        }
        return {key: value for key, value in origin.items() if value}

    def _first_line(self, error: Exception) -> str:
        """The first line of the error at the root, without the key, which a server may quote in its answer."""
        cause: BaseException = error
        # The outer error may read "timed out" for a closed port.
        while cause.__cause__ and str(cause.__cause__):
            cause = cause.__cause__
        lines = str(cause).replace(self._endpoint.key or "\n", "***").splitlines()
        return lines[0][:300] if lines else type(error).__name__


def _stored(completion: Any, seconds: float) -> dict[str, Any]:
    # The library does not validate answers: any part may be missing, or the answer may be the page of a proxy.
    if isinstance(completion, str) and _is_page(completion):
        raise _NotTheServer(_page_line(200, completion))
    choice: Any = next(iter(getattr(completion, "choices", None) or []), None)
    if getattr(choice, "message", None) is None:
        raise _NoMessage("the reply has no message")
    if getattr(choice, "finish_reason", None) == "abort":  # set by vLLM when it is stopped
        raise _Aborted("the server aborted the reply")
    message = {
        k: v
        for k, v in choice.message.model_dump(exclude_unset=True, warnings=False).items()
        if v not in (None, [])
    }
    usage = getattr(completion, "usage", None)
    return {
        # A lone surrogate is valid in JSON but cannot be encoded as UTF-8: it becomes a question mark.
        "message": json.loads(json.dumps(message, ensure_ascii=False).encode(errors="replace")),
        "finish_reason": getattr(choice, "finish_reason", None) or "",
        "seconds": round(seconds, 3),
        "usage": {
            name: getattr(usage, name, None) or 0 for name in ("prompt_tokens", "completion_tokens")
        },
    }


def _is_page(text: str) -> bool:
    return text.lstrip().startswith("<")


def _page_line(status: int, page: str) -> str:
    return f"found a page in place of a reply (status {status}): {one_line(page, 80)}"


def _failed(error: str, seconds: float) -> dict[str, Any]:
    usage = {"prompt_tokens": 0, "completion_tokens": 0}
    return {
        "message": None,
        "finish_reason": "error",
        "seconds": round(seconds, 3),
        "usage": usage,
        "error": error,
    }
