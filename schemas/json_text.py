"""Strict JSON: RFC 8259 without the extensions that Python's json module accepts.

Models read these error messages in tool results, so they are training data: do not change them.
"""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from schemas.error_text import brief, one_line


def parse_json(text: str | bytes) -> Any:
    """Parses JSON (RFC 8259) and rejects texts that two parsers could read differently.

    Raises:
        ValueError: the text is not JSON; also for NaN, a number that overflows, a duplicate key, half of a surrogate
            pair, and more digits or deeper nesting than Python handles.
    """
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite
        )
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start}") from None
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair is no text") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def is_no_arguments(arguments: Any) -> bool:
    """Whether a call was written without arguments: as an empty text, as null, or with no field for them."""
    return arguments is None or arguments == ""


def parse_arguments(arguments: Any) -> Any:
    """The value of a call's arguments: JSON text is parsed, a parsed value is returned, and none at all are {}.

    Servers send "" or null for a tool without parameters; `{}` is what the tool is called with.

    Raises:
        ValueError: the text is not JSON.
    """
    if is_no_arguments(arguments):
        return {}
    return parse_json(arguments) if isinstance(arguments, str) else arguments


def texts_in(value: Any) -> Iterator[str]:
    """Yields the texts among the values of a JSON value, however deep they lie; keys are none of them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts_in(inner)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        repeated = next(key for key, count in counts.items() if count > 1)
        raise ValueError(f"the key {brief(repeated)} is given twice")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:20]} is out of range")
    return value


def not_json(value: Any) -> str | None:
    """Why a value cannot be written as JSON in UTF-8 (NaN, half a surrogate pair, cycles); None where it can."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        return f"cannot be written as JSON: {one_line(str(error), limit=100)}"
    return None
