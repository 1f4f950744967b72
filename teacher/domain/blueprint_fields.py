"""Checks the fields that a template gives an Answer and a Blueprint, where they are made: the line at fault is known.

Each function returns what is wrong with the value of a field, or None.
"""

import datetime as dt
import math
from typing import Any, get_args

from schemas.error_text import brief
from schemas.task import Answer as AnswerRow
from teacher.domain.json_answers import schema_problem
from teacher.scenes.scene import Scene

ANSWER_TYPES = get_args(AnswerRow.__annotations__["type"])
_EXPECTED = {
    "amount": "a number",
    "number": "a number",
    "date": "an ISO date such as 2026-03-02",
    "text": "words",
    "choice": "one of its options",
    "point": "the box [left, top, right, bottom] in pixels",
    "not_shown": "no value",
    "json": "a JSON object",
    "declines": "no value",
    "asks": "what is asked for",
    "refuses": "the reason",
}


def answer_problem(
    kind: Any, value: Any, tolerance: Any, options: Any, schema: Any = None
) -> str | None:
    """Returns what is wrong with an answer, whose dates are ISO texts already."""
    if kind not in ANSWER_TYPES:
        return f"type: found {brief(kind)}, expected one of {', '.join(ANSWER_TYPES)}"
    if kind == "choice" and not (
        isinstance(options, tuple | list)
        and len(options) > 1
        and all(isinstance(option, str) and option.strip() for option in options)
        and len(set(options)) == len(options)
    ):
        return f"options: found {brief(options)}, expected at least two texts, each once"
    if kind in ("asks", "refuses"):
        if not options or not all(isinstance(word, str) and word.strip() for word in options):
            return f"options: found {brief(options)}, expected words, of which the message has one"
    elif kind != "choice" and options:
        return f"options: found {brief(options)} for the type {kind}: only a choice has options"
    if not _is_number(tolerance) or tolerance < 0:
        return f"tolerance: found {brief(tolerance)}, expected a number from 0"
    if tolerance and kind not in ("amount", "number"):
        return f"tolerance: found {tolerance} for the type {kind}: only amount and number have one"
    if kind == "json" or schema is not None:
        if kind != "json":
            return f"schema: found one for the type {kind}: only json has one"
        return schema_problem(schema, value)
    if not _fits(kind, value, options):
        return f"value: found {brief(value)} for the type {kind}, expected {_EXPECTED[kind]}"
    return None


def _fits(kind: str, value: Any, options: Any) -> bool:
    match kind:
        case "amount" | "number":
            return _is_number(value)
        case "date":
            return isinstance(value, str) and _is_iso_date(value)
        case "text" | "asks" | "refuses":
            return isinstance(value, str) and bool(value.strip())
        case "choice":
            return isinstance(value, str) and value in options
        case "point":
            is_box = isinstance(value, list | tuple) and len(value) == 4
            return (
                is_box
                and all(map(_is_number, value))
                and value[0] < value[2]
                and value[1] < value[3]
            )
    return value is None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_iso_date(value: str) -> bool:
    try:
        return dt.date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


def blueprint_problem(
    request: Any, plan: Any, reply: Any, pictures: Any, program: Any
) -> str | None:
    """Returns what is wrong with the fields of a blueprint other than its answer."""
    for name, text in (("request", request), ("reply", reply)):
        if not isinstance(text, str) or not text.strip():
            return f"{name}: found {brief(text)}, expected text"
    form = "(tool, {argument: value})"
    if not isinstance(plan, list | tuple):
        return f"plan: found {brief(plan)}, expected a list of {form}"
    for index, call in enumerate(plan):
        is_call = isinstance(call, tuple | list) and len(call) == 2
        if not is_call or not isinstance(call[0], str) or not isinstance(call[1], dict):
            return f"plan[{index}]: found {brief(call)}, expected {form}"
    if not isinstance(pictures, list | tuple):
        return f"pictures: found {brief(pictures)}, expected a list of scenes"
    for index, scene in enumerate(pictures):
        if not isinstance(scene, Scene):
            return f"pictures[{index}]: found {brief(scene)}, expected a Scene"
    if not isinstance(program, dict | None):
        return f"program: found {brief(program)}, expected a dict"
    return None
