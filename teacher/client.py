"""Requests to a served model: bounded concurrency, retries, usage; each reply journalled before it is used."""

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any

import openai

from schemas.errors import StageError
from teacher.journal import Journal, key
from teacher.serve import Endpoint

# Seconds before a retry: doubled each time, jittered so that many clients do not return at once.
_FIRST_WAIT, _LONGEST_WAIT, _TRIES = 0.5, 30.0, 6


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
    """

    def __init__(
        self,
        endpoint: Endpoint,
        identity: dict[str, str],
        journal: Journal,
        concurrency: int,
        timeout: float,
    ) -> None:
        self._endpoint, self._identity, self._journal = endpoint, identity, journal
        self._slots = asyncio.Semaphore(concurrency)
        self._timeout = timeout
        self.sent = 0  # requests that went to the server, replies of the journal not counted

    async def __aenter__(self) -> "Client":
        self._openai = openai.AsyncOpenAI(
            base_url=self._endpoint.url,
            api_key=self._endpoint.key,
            max_retries=0,
            timeout=self._timeout,
            http_client=openai.DefaultAioHttpClient(),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._openai.close()

    async def complete(
        self, messages: list[dict], tools: list[dict], sample: int, **parameters: Any
    ) -> Reply:
        """The reply to a conversation: from the journal, else from the server.

        Args:
            messages, tools: as OpenAI's chat completions take them.
            sample: which of several replies to the same request this is.
            parameters: temperature, top_p, max_tokens, tool_choice, extra_body.

        Returns:
            A Reply; a request that the server refuses for good (400, 413, 422) comes back with its `error`.

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
            stored = await self._send({"messages": messages, "tools": tools, **parameters})
            self._journal.put(name, stored)
        return Reply(key=name, **stored)

    async def _send(self, body: dict[str, Any]) -> dict[str, Any]:
        if not body["tools"]:
            del body["tools"]
            body.pop("tool_choice", None)
        wait, last = _FIRST_WAIT, ""
        for _ in range(_TRIES):
            started = time.monotonic()
            try:
                async with self._slots:
                    self.sent += 1
                    completion = await self._openai.chat.completions.create(
                        model=self._endpoint.model, **body
                    )
                return _stored(completion, time.monotonic() - started)
            except (
                openai.AuthenticationError,
                openai.PermissionDeniedError,
                openai.NotFoundError,
            ) as error:
                raise StageError(f"{self._endpoint.url}: refused: {_first_line(error)}") from None
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                return _failed(_first_line(error), time.monotonic() - started)
            except (openai.APIConnectionError, openai.APIStatusError) as error:
                if isinstance(error, openai.APIStatusError) and error.status_code == 413:
                    return _failed(_first_line(error), time.monotonic() - started)
                last = _first_line(error)
            await self._endpoint.revive()
            await asyncio.sleep(wait * random.uniform(0.5, 1.5))
            wait = min(wait * 2, _LONGEST_WAIT)
        raise StageError(f"{self._endpoint.url}: no reply after {_TRIES} tries: {last}")


def _stored(completion: Any, seconds: float) -> dict[str, Any]:
    choice, usage = completion.choices[0], completion.usage
    message = {
        k: v
        for k, v in choice.message.model_dump(exclude_unset=True).items()
        if v not in (None, [])
    }
    return {
        "message": message,
        "finish_reason": choice.finish_reason or "",
        "seconds": round(seconds, 3),
        "usage": {
            "prompt_tokens": usage.prompt_tokens if usage else 0,
            "completion_tokens": usage.completion_tokens if usage else 0,
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


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__
