"""Checks tool calls against the schemas of the tools that were offered.

No remote `$ref` is fetched. A tool's schema that Python cannot evaluate is reported as such.
"""

import functools
import json
from typing import Any

import jsonschema
from jsonschema.exceptions import best_match
from jsonschema_specifications import REGISTRY as SPECIFICATIONS

from schemas.error_text import brief, describe, one_line
from schemas.json_text import parse_json

# jsonschema ignores `format` without a checker, and most invalid instances of real tool schemas would pass.
_FORMATS = jsonschema.FormatChecker()


class SchemaNotSupported(Exception):
    """A tool's parameter schema is invalid or cannot be evaluated, so the call cannot be judged."""


def arguments_problem(parameters: Any, arguments: Any) -> str | None:
    """What is wrong with a call's arguments by its tool's parameter schema, or None.

    Raises:
        SchemaNotSupported: the schema is invalid, uses a pattern that Python's `re` does not know
            (`\\p{L}`), refers to something outside itself, or refers to itself without end.
    """
    # An absent schema accepts everything, as an empty one does.
    compiled = _compiled(json.dumps({} if parameters is None else parameters, sort_keys=True))
    try:
        error = best_match(compiled.iter_errors(arguments))
    except (
        Exception
    ) as problem:  # evaluating a user's schema can fail in re, arithmetic, references, recursion
        raise SchemaNotSupported(
            one_line(f"{type(problem).__name__}: {problem}", limit=120)
        ) from problem
    return describe(error) if error is not None else None


@functools.lru_cache(maxsize=4096)
def _compiled(schema_text: str) -> Any:
    try:
        schema = json.loads(schema_text)
        # A schema that names its draft is read by that draft: `items: [...]` has another meaning in draft 7.
        draft = _DRAFTS.get(_named_draft(schema), jsonschema.Draft202012Validator)
        draft.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise SchemaNotSupported(describe(error)) from None
    except RecursionError:
        raise SchemaNotSupported("nested too deeply") from None
    # The registry holds the drafts' own schemas and fetches nothing.
    return draft(schema, registry=SPECIFICATIONS, format_checker=_FORMATS)


_DRAFTS: dict[str, Any] = {
    draft.META_SCHEMA["$schema"].rstrip("#"): draft
    for draft in (
        jsonschema.Draft4Validator,
        jsonschema.Draft6Validator,
        jsonschema.Draft7Validator,
        jsonschema.Draft201909Validator,
    )
}


def _named_draft(schema: Any) -> str:
    name = schema.get("$schema") if isinstance(schema, dict) else None
    return name.rstrip("#") if isinstance(name, str) else ""


def call_problem(
    name: str, arguments: Any, tools: dict[str, dict[str, Any]]
) -> tuple[str, str] | None:
    """The rejection reason and detail of one call, or None where the call can be executed.

    Args:
        name: the tool's name.
        arguments: JSON text, or a parsed object.
        tools: the functions that were offered, from `functions_by_name`.
    """
    if name not in tools:
        offered = f"expected one of {', '.join(tools)}" if tools else "no tools were offered"
        return "unknown_tool", f"{name}: no such tool, {offered}"
    if isinstance(arguments, str):
        try:
            arguments = parse_json(arguments)
        except ValueError as error:
            return "invalid_json_arguments", f"{name}: {error}"
    if not isinstance(arguments, dict):
        return (
            "invalid_json_arguments",
            f"{name}: found {brief(arguments)}, expected a JSON object",
        )
    try:
        problem = arguments_problem(tools[name].get("parameters"), arguments)
    except SchemaNotSupported as error:
        return "malformed_trace", f"{name}: schema not supported: {error}"
    return ("invalid_arguments", f"{name}: {problem}") if problem else None


def check_arguments(tool: dict[str, Any], arguments: Any) -> str | None:
    """What is wrong with parsed arguments by their tool (an OpenAI function schema), or None."""
    if not isinstance(arguments, dict):
        return f"found {brief(arguments)}, expected a JSON object"
    try:
        return arguments_problem(tool["function"].get("parameters"), arguments)
    except SchemaNotSupported as error:
        return f"schema not supported: {error}"


def functions_by_name(tools: list[dict[str, Any]] | None) -> dict[str, dict[str, Any]]:
    """The functions {"name", "parameters", ...} of OpenAI function tools, by name."""
    return {tool["function"]["name"]: tool["function"] for tool in tools or []}
