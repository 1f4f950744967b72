"""HTTP to one endpoint: a chat request's body goes out, its answer's bytes come back.

It is aiohttp alone. The openai library, with httpx below it, takes seven times the CPU time for a request
(benchmarks/README.md), which at a thousand requests in flight is what limits a run.
"""

import json
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import httpx

from schemas.api_url import on_this_machine
from schemas.errors import StageError
from teacher.inference.endpoint import Endpoint
from teacher.inference.placement import Placement

_CONNECT_SECONDS = 30
# llama.cpp's and vLLM's servers close a connection that is idle for 5 s; a request that is sent at that moment is lost.
_KEEP_ALIVE_SECONDS = 3
# Bytes of an answer: 16,000 tokens with 20 log-probabilities each take about 35 MB.
_LARGEST = 256 * 2**20
_METRICS_TIMEOUT = aiohttp.ClientTimeout(total=4)


class StatusError(Exception):
    """An answer whose status says that there is no reply."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str]) -> None:
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            body = None
        error = body.get("error", body) if isinstance(body, dict) else None
        fields = error if isinstance(error, dict) else {}
        message = error if isinstance(error, str) else fields.get("message") or fields.get("detail")
        super().__init__(f"status {status}: {message or text.strip() or 'no text'}")
        self.status, self.text, self.headers = status, text, headers
        code = fields.get("code")
        self.code = code if isinstance(code, str) else None


class EndlessAnswer(Exception):
    """An answer that is larger than any reply."""


class Connection:
    """Connections to an endpoint, as many as there are requests in flight. It is made in a running event loop.

    Args:
        seconds: for one request, from its first byte to the last one of its answer.
        most: requests in flight at once.

    Raises:
        StageError: the environment's proxy is none that can be used.
    """

    def __init__(self, endpoint: Endpoint, seconds: float, most: int) -> None:
        self._endpoint = endpoint
        self._placement = Placement(endpoint.urls, most)
        self._proxy = _proxy(endpoint.url)
        self._timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=_CONNECT_SECONDS)
        is_encrypted = urlsplit(endpoint.url).scheme == "https"
        self._session = aiohttp.ClientSession(
            headers={
                "Authorization": f"Bearer {endpoint.key}",
                "User-Agent": "stillhouse",
                "Content-Type": "application/json",
            },
            connector=aiohttp.TCPConnector(
                limit=0,  # by default 100 connections
                keepalive_timeout=_KEEP_ALIVE_SECONDS,
                ssl=httpx.create_ssl_context() if is_encrypted else True,
            ),
        )

    async def close(self) -> None:
        await self._session.close()

    async def ask(
        self, body: Mapping[str, Any], headers: Mapping[str, str], session: str | None
    ) -> bytes:
        """The answer to a chat request of a conversation.

        Raises:
            StatusError: its status is not 200.
            EndlessAnswer: it is larger than any reply.
            aiohttp.ClientError: there is no whole answer.
            TimeoutError: there is none in time.
        """
        with self._placement.server(session) as url:
            try:
                return await self._post(f"{url}/chat/completions", body, headers)
            except (StatusError, aiohttp.ClientError) as error:
                if not isinstance(error, StatusError) or error.status == 503:  # as it loads: 503
                    self._placement.avoid(url)
                raise

    async def _post(self, url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> bytes:
        async with self._session.post(
            url,
            data=json.dumps({"model": self._endpoint.model, **body}).encode(),
            headers=headers,
            proxy=self._proxy,
            timeout=self._timeout,
        ) as answer:
            content = await _read(answer)
            if answer.status != 200:
                text = content.decode(errors="replace")
                names = {name.lower(): value for name, value in answer.headers.items()}
                raise StatusError(answer.status, text, names)
            return content

    async def metrics(self) -> str | None:
        """The text of /metrics, of all servers; "" for one that does not answer in time.

        Returns None if a server has no metrics.
        """
        servers = self._endpoint.servers or (self._endpoint.url.removesuffix("/v1"),)
        texts = [await self._metrics_of(server) for server in servers]
        return None if None in texts else "\n".join(text for text in texts if text)

    async def _metrics_of(self, server: str) -> str | None:
        try:
            async with self._session.get(
                f"{server}/metrics", proxy=self._proxy, timeout=_METRICS_TIMEOUT
            ) as answer:
                if answer.status in (401, 403, 404, 405, 501):
                    return None
                return await answer.text(errors="replace") if answer.status == 200 else ""
        except (aiohttp.ClientError, TimeoutError, OSError):
            return ""


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    """The whole body of an answer. Raises EndlessAnswer."""
    chunks, size = [], 0
    async for chunk in answer.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > _LARGEST:
            raise EndlessAnswer(f"the answer has more than {_LARGEST / 2**20:,.0f} MiB")
    return b"".join(chunks)


def _proxy(url: str) -> str | None:
    """The environment's proxy for a URL; never one for a server on this machine.

    Raises:
        StageError: it is a SOCKS proxy.
    """
    parts = urlsplit(url)
    if on_this_machine(url) or urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and not proxy.startswith(("http://", "https://")):
        kind = urlsplit(proxy).scheme or "no URL"
        raise StageError(
            f"{parts.scheme}_proxy or all_proxy: found {kind}, expected http://HOST:PORT, or {parts.hostname} in"
            " no_proxy"
        )
    return proxy
