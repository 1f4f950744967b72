"""Checks tool calls against the schemas of the tools that were offered.

No remote `$ref` is fetched. A tool's schema that cannot be evaluated within the budget is reported as such.
"""

from typing import Any

from schemas.error_text import brief
from schemas.json_schema import SchemaNotSupported
from schemas.json_text import is_no_arguments, parse_arguments
from schemas.schema_budget import problem_within_budget


def arguments_problem(parameters: Any, arguments: Any) -> str | None:
    """What is wrong with a call's arguments by its tool's parameter schema, or None.

    Raises:
        SchemaNotSupported: the schema is invalid, has a pattern that is not ECMA-262, refers to something outside
            itself, or the arguments cannot be judged by it within the budget.
    """
    # An absent schema accepts everything, as an empty one does.
    return problem_within_budget({} if parameters is None else parameters, arguments)


def call_problem(
    name: str, arguments: Any, tools: dict[str, dict[str, Any]]
) -> tuple[str, str] | None:
    """The rejection reason and detail of one call, or None where the call can be executed.

    Args:
        name: the tool's name.
        arguments: as `parse_arguments` reads them.
        tools: the functions that were offered, from `functions_by_name`.
    """
    if name not in tools:
        offered = f"expected one of {', '.join(tools)}" if tools else "no tools were offered"
        return "unknown_tool", f"{name}: no such tool, {offered}"
    try:
        value = parse_arguments(arguments)
    except ValueError as error:
        return "invalid_json_arguments", f"{name}: {error}"
    no_object = f"{name}: found {brief(arguments)}, expected a JSON object"
    if not isinstance(value, dict):
        return "invalid_json_arguments", no_object
    try:
        problem = arguments_problem(tools[name].get("parameters"), value)
    except SchemaNotSupported as error:
        return "malformed_trace", f"{name}: schema not supported: {error}"
    if problem and is_no_arguments(arguments):
        return "invalid_json_arguments", no_object
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
