"""Requests to llama-server's own API (/props, /tokenize, /apply-template), which no client library covers."""

import json
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from schemas.errors import StageError
from teacher.inference.endpoint import Endpoint

# The server runs on this machine: a proxy of the environment must not answer in its place.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
# A warning of llama.cpp's src/llama-vocab.cpp.
_OVERRIDDEN = re.compile(r"control-looking token: +\d+ '(.+?)' was not control-type")
# An error of its tools/server/server-context.cpp.
_TEMPLATE_PROBLEM = re.compile(r"chat template parsing error: (.+)")


def get(endpoint: Endpoint, path: str) -> Any:
    """Returns the JSON at a path of the server. Raises urllib's HTTPError for any status but 2xx.

    Raises:
        StageError: no answer within the endpoint's `reply_seconds`, the server is gone, or the answer is a page of
            another program, such as a proxy.
    """
    return _send(endpoint, path, None)


def post(endpoint: Endpoint, path: str, body: dict[str, Any]) -> Any:
    """Posts JSON to a path of the server and returns the JSON of its reply. Raises as `get`."""
    return _send(endpoint, path, json.dumps(body).encode())


def refusal(error: urllib.error.HTTPError) -> str:
    """Returns what the server answered in place of a result: its status, and the beginning of its message."""
    return f"the server answered {error.code}: {error.read().decode(errors='replace')[:200]}"


def overridden_tokens(log: Path, start: int = 0) -> list[str]:
    """Returns the tokens that llama.cpp took for control tokens although the file does not, by the server's log.

    start: the byte of the log at which the server's output begins.
    """
    output = log.read_bytes()[start:] if log.is_file() else b""
    return list(dict.fromkeys(_OVERRIDDEN.findall(output.decode(errors="replace"))))


def template_problem(log: Path, start: int = 0) -> str | None:
    """Returns why the server cannot use the file's chat template and did not start, by its log; None if it can.

    start: the byte of the log at which the server's output begins.
    """
    output = log.read_bytes()[start:].decode(errors="replace") if log.is_file() else ""
    match = _TEMPLATE_PROBLEM.search(output)
    return match.group(1) if match else None


def _send(endpoint: Endpoint, path: str, body: bytes | None) -> Any:
    root = endpoint.url.removesuffix("/v1")
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {endpoint.key}"}
    request = urllib.request.Request(root + path, body, headers)
    try:
        with _DIRECT.open(request, timeout=endpoint.reply_seconds) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        if error.headers.get_content_type() == "text/html":
            raise StageError(
                f"{root}{path}: found a page with status {error.code}, expected an answer of llama-server: another"
                " program answers at this address"
            ) from None
        raise
    except OSError as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            raise StageError(
                f"llama-server: {path}: no answer within {endpoint.reply_seconds:,.0f} s: is the machine busy?"
                " Run the command again"
            ) from None
        raise StageError(f"llama-server: {path}: the connection was lost: {reason}") from None
