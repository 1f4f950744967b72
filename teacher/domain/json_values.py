"""Values of Python as JSON values: what a pack hands out, such as results of tools and states of worlds.

Dates, Enums, dataclasses and pydantic models have one obvious form and are converted. A set has no order and an object
no form, so these are errors that name the value's place.
"""

import dataclasses
import datetime as dt
import enum
import math
import re
from collections.abc import Mapping
from typing import Any

import pydantic

from schemas.error_text import brief, dotted

_INSTEAD: dict[type, str] = {
    set: "a list in a fixed order, such as sorted(...)",
    frozenset: "a list in a fixed order, such as sorted(...)",
    bytes: "text",
    bytearray: "text",
}


class NotJson(ValueError):
    """A value that has no form in JSON. The message names its place, its type, and what to use instead."""


def to_json(value: Any, *, name: str) -> Any:
    """Returns a value as JSON values: dict, list, str, int, float, bool and None.

    name: what the value is called in errors, such as "result".

    Raises:
        NotJson: a part of the value has no form in JSON.
    """
    try:
        return _to_json(value, [name])
    except RecursionError:
        raise NotJson(f"{name}: contains itself, or is nested too deeply") from None


def _to_json(value: Any, path: list[Any]) -> Any:
    match value:
        case enum.Enum():
            return _to_json(value.value, path)
        case None | bool():
            return value
        case str():
            return _text(value, path)
        case int():
            return int(value)
        case float():
            if not math.isfinite(value):
                raise NotJson(f"{dotted(path)}: found {value}, which is no number in JSON")
            return float(value)
        case dt.date() | dt.time():  # a datetime is a date
            return value.isoformat()
        case pydantic.BaseModel():
            return _to_json(value.model_dump(), path)
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            return _to_json(fields, path)
        case Mapping():
            return {
                _key(key, path): _to_json(inner, [*path, _key(key, path)])
                for key, inner in value.items()
            }
        case list() | tuple():
            return [_to_json(inner, [*path, index]) for index, inner in enumerate(value)]
    instead = _INSTEAD.get(type(value), "text, a number, a list or a dict")
    kind = type(value).__name__
    # Addresses in memory would make equal runs differ.
    shown = re.sub(" at 0x[0-9a-f]+", "", brief(value))
    raise NotJson(f"{dotted(path)}: found {_article(kind)} ({shown}), expected {instead}")


def _key(key: Any, path: list[Any]) -> str:
    """Returns a key of a dict as text, as json.dumps writes it."""
    plain = _to_json(key, path) if isinstance(key, enum.Enum | dt.date) else key
    if isinstance(plain, int) and not isinstance(plain, bool):
        return str(plain)
    if not isinstance(plain, str):
        raise NotJson(f"{dotted(path)}: found the key {brief(key)}, expected text")
    return _text(plain, path)


def _text(value: str, path: list[Any]) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise NotJson(f"{dotted(path)}: found half of a surrogate pair, expected text") from None
    return str(value)


def _article(kind: str) -> str:
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"
