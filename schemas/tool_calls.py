"""Tool calls against the schemas of the tools that were offered.

No remote `$ref` is fetched, and a tool's schema that Python cannot evaluate is reported, never guessed at.
"""

import functools
import json
from typing import Any

import jsonschema
from jsonschema.exceptions import best_match
from jsonschema_specifications import REGISTRY as SPECIFICATIONS

from schemas.error_text import brief, describe, one_line
from schemas.json_text import parse_json

# Without it `format` is not checked at all, and most invalid instances of real tool schemas pass.
_FORMATS = jsonschema.FormatChecker()


class SchemaNotSupported(Exception):
    """A tool's parameter schema is invalid or cannot be evaluated: this says nothing about the call."""


def arguments_problem(parameters: Any, arguments: Any) -> str | None:
    """What is wrong with a call's arguments by its tool's parameter schema; None when nothing is.

    Raises:
        SchemaNotSupported: the schema is invalid, uses a pattern that Python's `re` does not know
            (`\\p{L}`), refers to something outside itself, or refers to itself without end.
    """
    # An absent schema says nothing; an empty one says the same.
    compiled = _compiled(json.dumps({} if parameters is None else parameters, sort_keys=True))
    try:
        error = best_match(compiled.iter_errors(arguments))
    except (
        Exception
    ) as problem:  # a schema is foreign code: re, arithmetic, references and recursion may fail
        raise SchemaNotSupported(
            one_line(f"{type(problem).__name__}: {problem}", limit=120)
        ) from problem
    return describe(error) if error is not None else None


@functools.lru_cache(maxsize=4096)
def _compiled(schema_text: str) -> Any:
    try:
        schema = json.loads(schema_text)
        # A schema that names its draft is read by it: `items: [..]` means another thing in draft 7.
        draft = _DRAFTS.get(_named_draft(schema), jsonschema.Draft202012Validator)
        draft.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise SchemaNotSupported(describe(error)) from None
    except RecursionError:
        raise SchemaNotSupported("nested too deeply") from None
    # The registry holds the drafts' own schemas and retrieves nothing.
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
    """The rejection name and detail of one call, by the tools offered; None when it can be executed.

    Args:
        name: the tool's name.
        arguments: JSON text, or a dict that was parsed already.
        tools: function schemas by name, as `functions_by_name` gives them.
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
    """What is wrong with parsed arguments by their tool (an OpenAI function schema); None when nothing is."""
    if not isinstance(arguments, dict):
        return f"found {brief(arguments)}, expected a JSON object"
    try:
        return arguments_problem(tool["function"].get("parameters"), arguments)
    except SchemaNotSupported as error:
        return f"schema not supported: {error}"


def functions_by_name(tools: list[dict[str, Any]] | None) -> dict[str, dict[str, Any]]:
    """[{"type": "function", "function": {"name", "parameters"}}] as {name: function}."""
    return {tool["function"]["name"]: tool["function"] for tool in tools or []}
