"""Why a request got no reply, and whether a retry can help: `judge` decides it for each error, nothing else does.

Transient failures pass with time: the client retries them. Lasting ones end the attempt that asked. What no request can
pass, such as an expired key, ends the stage.
"""

import datetime as dt
import email.utils
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from schemas.error_text import one_line
from schemas.errors import StageError
from teacher.inference.connection import EndlessAnswer, StatusError
from teacher.inference.endpoint import Endpoint

Cause = Literal[
    "rate_limited",
    "unavailable",
    "server_error",
    "no_connection",
    "timeout",
    "page",
    "unreadable",
    "no_message",
    "aborted",
    "refused",
    "too_large",
]
# They tell nothing about the request: a server that is overloaded or restarted gives them to any.
_OF_THE_SERVER: tuple[Cause, ...] = ("rate_limited", "unavailable", "aborted")
_OVERLOAD: tuple[Cause, ...] = ("rate_limited", "unavailable", "timeout")
_LASTING: tuple[Cause, ...] = ("refused", "too_large")

_UNAVAILABLE = (502, 503, 504, 529)  # 529: overloaded, of Anthropic's API
_TRANSIENT = (408, 409, 425)
# A key without credit, a wrong address or a proxy that wants a login: no request passes.
_ENDS_THE_STAGE = (402, 404, 405, 407, 410)
_CODES_THAT_END_THE_STAGE = ("model_not_found", "insufficient_quota", "invalid_api_key")


@dataclass(frozen=True)
class Failure:
    """A request without a reply. detail: one line; retry_after: seconds that the server asks to wait."""

    cause: Cause
    detail: str
    retry_after: float = 0

    @property
    def lasts(self) -> bool:
        """Whether the same request to the same server fails again, whenever it is sent."""
        return self.cause in _LASTING

    @property
    def is_overload(self) -> bool:
        """Whether fewer requests in flight may help."""
        return self.cause in _OVERLOAD

    @property
    def may_be_the_requests(self) -> bool:
        """Whether the request itself may be the reason, if the server answers others."""
        return self.cause not in _OF_THE_SERVER

    def __str__(self) -> str:
        return f"{self.cause}: {self.detail}"


class UnusableAnswer(Exception):
    """An answer with status 200 that holds no reply."""

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(detail)
        self.cause: Cause = cause


def judge(error: Exception, endpoint: Endpoint) -> Failure:
    """The failure that an error of a request stands for.

    Raises:
        StageError: the server refuses the key or does not know the model, so no request can pass.
    """
    detail = first_line(error, endpoint.key)
    if isinstance(error, UnusableAnswer):
        return Failure(error.cause, detail)
    if isinstance(error, EndlessAnswer):
        return Failure("unreadable", detail)
    if isinstance(error, TimeoutError):
        return Failure("timeout", detail if str(error) else "no whole reply in generate.timeout_s")
    if not isinstance(error, StatusError):
        return Failure("no_connection", detail)
    status, text, headers = error.status, error.text, error.headers
    if status == 401 or (status == 403 and not is_page(text)):
        raise StageError(
            f"{endpoint.url}: the key was refused ({status}): {detail}: expected a valid one in"
            " STILLHOUSE_TEACHER_KEY; the same command continues with the replies so far"
        )
    if is_page(text):
        return Failure("page", page_line(status, text), _retry_after(headers))
    if status in _ENDS_THE_STAGE or error.code in _CODES_THAT_END_THE_STAGE:
        raise StageError(f"{endpoint.url}: refused: {detail}")
    if status == 429:
        return Failure("rate_limited", detail, _retry_after(headers))
    if status in _UNAVAILABLE:
        return Failure("unavailable", detail, _retry_after(headers))
    if status >= 500 or status in _TRANSIENT:
        return Failure("server_error", detail)
    return Failure("too_large" if status == 413 else "refused", detail)


def is_page(text: str) -> bool:
    """Whether a text is the page of a proxy or a gateway, which tells nothing about the model."""
    return text.lstrip().startswith("<")


def page_line(status: int, page: str) -> str:
    """One line about a page in place of a reply."""
    return f"found a page in place of a reply (status {status}): {one_line(page, 80)}"


def first_line(error: Exception, key: str) -> str:
    """The first line of an error in valid Unicode, without the key, which a server may quote in its answer."""
    text = str(error).encode(errors="replace").decode()
    lines = text.replace(key or "\n", "***").splitlines()
    return lines[0][:300] if lines and lines[0] else type(error).__name__


def _retry_after(headers: Mapping[str, str]) -> float:
    """The seconds that `Retry-After` asks for (RFC 9110: a number or a date); 0 without the header."""
    value = headers.get("retry-after", "")
    try:
        return min(max(float(value), 0.0), 86_400.0)
    except ValueError:
        pass
    try:
        seconds = email.utils.parsedate_to_datetime(value) - dt.datetime.now(dt.UTC)
    except (ValueError, TypeError):  # no date, or one without a time zone
        return 0
    return min(max(seconds.total_seconds(), 0.0), 86_400.0)
