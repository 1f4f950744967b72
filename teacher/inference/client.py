"""Requests to a served model: bounded concurrency, retries, usage; each reply journalled before it is used."""

import asyncio
import json
import random
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import openai

from schemas.errors import StageError
from teacher.inference.endpoint import Endpoint, on_this_machine
from teacher.inference.journal import Journal, key
from teacher.scenes.images import Album, with_pixels

# Seconds before a retry: doubled each time, jittered so that many clients do not return at once.
_FIRST_WAIT, _LONGEST_WAIT, _TRIES = 0.5, 30.0, 6


class _NoMessage(Exception):
    """The server answered, and there is no message in what it said."""


class _BrokenOff(Exception):
    """The server was stopped half way through the reply, and sent the half."""


@dataclass(frozen=True)
class Reply:
    """One reply. `message` is an OpenAI assistant message; `error` says why there is none."""

    key: str
    message: dict[str, Any] | None
    finish_reason: str
    seconds: float
    usage: dict[str, int]
    error: str | None = None


class Client:
    """Sends chat requests of one model to one endpoint. Use as an async context manager.

    Args:
        endpoint: where the model is served.
        identity: {"model", "revision"}: what the journal remembers the replies under.
        concurrency: requests in flight; a request that waits to be sent again holds no place.
        timeout: seconds a single reply may take.
        album: where the pictures lie that messages name by their hash.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        identity: dict[str, str],
        journal: Journal,
        concurrency: int,
        timeout: float,
        album: Album | None = None,
    ) -> None:
        self._endpoint, self._identity, self._journal = endpoint, identity, journal
        self._slots = asyncio.Semaphore(concurrency)
        self._timeout, self._album = timeout, album
        self.sent = 0  # requests that went to the server, replies of the journal not counted

    async def __aenter__(self) -> "Client":
        self._openai = openai.AsyncOpenAI(
            base_url=self._endpoint.url,
            api_key=self._endpoint.key,
            max_retries=0,
            timeout=self._timeout,
            # A proxy of the environment is the way to a remote server, never to one on this machine.
            http_client=openai.DefaultAioHttpClient(
                trust_env=not on_this_machine(self._endpoint.url)
            ),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._openai.close()

    async def complete(
        self,
        messages: list[dict],
        tools: list[dict],
        sample: int,
        session: str | None = None,
        **parameters: Any,
    ) -> Reply:
        """The reply to a conversation: from the journal, else from the server.

        Args:
            messages, tools: as OpenAI's chat completions take them, but for pictures, which go by their hash
                (teacher/scenes/images.py): the journal remembers them by it, and only the server gets the bytes.
            sample: which of several replies to the same request this is.
            session: names the (sub-)agent whose conversation it is, so that a router before several servers sends it
                to the one that has read its beginning. It changes no reply, so the journal knows nothing of it.
            parameters: temperature, top_p, max_tokens, tool_choice, extra_body.

        Returns:
            A Reply; a request that the server refuses for good (400, 413, 422), or to which it gives no message
            however often it is asked, comes back with its `error`.

        Raises:
            StageError: the server stays unreachable or refuses the key.
        """
        request = {
            **self._identity,
            "messages": messages,
            "tools": tools,
            "sample": sample,
            **parameters,
        }
        name = key(request)
        stored = self._journal.get(name)
        if stored is None:
            body = {"messages": messages, "tools": tools, **parameters}
            if session is not None:
                body["extra_headers"] = {"X-Session-ID": quote(session, safe="/:")}
            stored = await self._send(body)
            self._journal.put(name, stored)
        return Reply(key=name, **stored)

    async def _send(self, body: dict[str, Any]) -> dict[str, Any]:
        if not body["tools"]:
            del body["tools"]
            body.pop("tool_choice", None)
        wait, last, answered = _FIRST_WAIT, "", False
        for _ in range(_TRIES):
            started = time.monotonic()
            try:
                async with self._slots:
                    self.sent += 1
                    # The pictures' bytes are read here, so that no more are held than there are requests in flight.
                    whole = {**body, "messages": with_pixels(body["messages"], self._album)}
                    with self._endpoint.request_in_flight():
                        completion = await self._openai.chat.completions.create(
                            model=self._endpoint.model, **whole
                        )
                return _stored(completion, time.monotonic() - started)
            except (
                openai.AuthenticationError,
                openai.PermissionDeniedError,
                openai.NotFoundError,
            ) as error:
                raise StageError(
                    f"{self._endpoint.url}: refused: {self._first_line(error)}"
                ) from None
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                return _failed(self._first_line(error), time.monotonic() - started)
            except (openai.APIConnectionError, openai.APIStatusError) as error:
                if isinstance(error, openai.APIStatusError) and error.status_code == 413:
                    return _failed(self._first_line(error), time.monotonic() - started)
                last, answered = self._first_line(error), False
            except _BrokenOff as error:
                last, answered = self._first_line(error), False
            except (_NoMessage, json.JSONDecodeError) as error:
                last, answered = self._first_line(error), True
            await self._endpoint.revive()
            await asyncio.sleep(wait * random.uniform(0.5, 1.5))
            wait = min(wait * 2, _LONGEST_WAIT)
        if answered:
            return _failed(last, time.monotonic() - started)
        raise StageError(f"{self._endpoint.url}: no reply after {_TRIES} tries: {last}")

    def _first_line(self, error: Exception) -> str:
        """What an error says. A server may quote the key that it was sent: that stays here."""
        cause: BaseException = error
        while cause.__cause__ and str(cause.__cause__):  # "timed out" is also said of a closed port
            cause = cause.__cause__
        lines = str(cause).replace(self._endpoint.key or "\n", "***").splitlines()
        return lines[0][:300] if lines else type(error).__name__


def _stored(completion: Any, seconds: float) -> dict[str, Any]:
    # The library checks nothing of what a server sends: any part may be missing, or the whole be a proxy's page.
    choice: Any = next(iter(getattr(completion, "choices", None) or []), None)
    if getattr(choice, "message", None) is None:
        raise _NoMessage("the reply has no message")
    if getattr(choice, "finish_reason", None) == "abort":  # vLLM's word for it
        raise _BrokenOff("the server broke the reply off")
    message = {
        k: v
        for k, v in choice.message.model_dump(exclude_unset=True, warnings=False).items()
        if v not in (None, [])
    }
    usage = getattr(completion, "usage", None)
    return {
        # Half of a surrogate pair, which JSON can say and no file can hold, becomes a question mark.
        "message": json.loads(json.dumps(message, ensure_ascii=False).encode(errors="replace")),
        "finish_reason": getattr(choice, "finish_reason", None) or "",
        "seconds": round(seconds, 3),
        "usage": {
            name: getattr(usage, name, None) or 0 for name in ("prompt_tokens", "completion_tokens")
        },
    }


def _failed(error: str, seconds: float) -> dict[str, Any]:
    usage = {"prompt_tokens": 0, "completion_tokens": 0}
    return {
        "message": None,
        "finish_reason": "error",
        "seconds": round(seconds, 3),
        "usage": usage,
        "error": error,
    }
