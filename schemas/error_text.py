"""Error messages in one line: where a value is, what was found, what was expected."""

import re
import reprlib
from collections.abc import Iterable
from typing import Any

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 60
_repr.maxlist = _repr.maxdict = 4
_repr.maxlevel = 2


def one_line(text: str, limit: int = 300) -> str:
    """`text` as one line of valid Unicode, cut to `limit` characters."""
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def without_logins(text: str) -> str:
    """The text with no user name and password in its URLs.

    >>> without_logins("no answer from https://me:secret@host/api")
    'no answer from https://host/api'
    """
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)


def brief(value: Any) -> str:
    """The repr of a value, shortened where it is long."""
    return _repr.repr(value)


def last_line(text: str) -> str:
    """The last line of a program's output that mentions an error, else its last line; 300 characters at most."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error", line, re.IGNORECASE)]
    return (errors or lines or ["no output"])[-1][:300]


def dotted(path: Iterable[Any]) -> str:
    """A path such as ["a", "b", 0, "c"] as a.b[0].c."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part != "":
            text += f".{part}" if text else str(part)
    return text
