"""The canonical form of a call's arguments, in which traces store them and prompts and training show them.

Chat templates print a call's arguments, and two engines must print the same text. A whole number has no fraction in
this form: 15.0 and 1.5e1 are 15, -0.0 is 0. Other numbers, keys and their order stay as they are. JSON Schema does not
distinguish 15.0 from 15, so a value stays valid or invalid.

transformers and vLLM print a number as Python's json does. llama.cpp stores an integer in 64 bits and prints a decimal
with six significant digits where a template uses `tojson`, or else with six decimals (common/jinja/value.cpp and
value.h). `number_problem` reports a number that these do not print the same.
"""

import json
from typing import Any, ClassVar

from schemas.error_text import brief
from schemas.json_text import parse_arguments

_MOST_INTEGER = 2**63


class Refused(ValueError):
    """A conversation that no student can be trained on. reason: of schemas.ledger.REASONS."""

    reason: ClassVar[str]


class EnginesDiffer(Refused):
    """llama.cpp renders the conversation otherwise than transformers and vLLM."""

    reason = "engines_differ"


class MarkerInText(Refused):
    """A text of the conversation has a word that the student or its server takes for a control token."""

    reason = "marker_leak"


def canonical(value: Any) -> Any:
    """A JSON value with each whole number as an integer.

    Raises:
        RecursionError: the value is nested too deeply.
    """
    if isinstance(value, dict):
        return {key: canonical(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(part) for part in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < _MOST_INTEGER:
        return int(value)
    return value


def arguments_text(arguments: Any) -> str:
    """A call's arguments as canonical JSON text.

    Args:
        arguments: as `parse_arguments` reads them. Text that is not JSON is returned unchanged, for the checks to
            report it.
    """
    try:
        value = canonical(parse_arguments(arguments))
        return json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):
        if isinstance(arguments, str):
            return arguments
        raise


def number_problem(value: Any, place: str = "") -> str | None:
    """The first number in a canonical JSON value that llama.cpp prints otherwise than transformers; None if none is.

    Returns:
        For example "rates[0].fee: found 1234567.89, expected at most 6 significant digits".
    """
    if isinstance(value, dict):
        parts = [(f"{place}.{key}" if place else str(key), part) for key, part in value.items()]
    elif isinstance(value, list | tuple):
        parts = [(f"{place}[{index}]", part) for index, part in enumerate(value)]
    else:
        expected = _expected(value)
        return f"{place}: found {brief(value)}, expected {expected}" if expected else None
    problems = (number_problem(part, inner) for inner, part in parts)
    return next((problem for problem in problems if problem), None)


def _expected(value: Any) -> str | None:
    if isinstance(value, int) and not -_MOST_INTEGER <= value < _MOST_INTEGER:
        return "an integer of 64 bits"
    if isinstance(value, float):
        text = repr(value)
        if f"{value:g}" != text or f"{value:.6f}".rstrip("0") != text:
            return "a decimal of at most 6 significant digits, from 0.0001 to 999999"
    return None
