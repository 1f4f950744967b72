"""Finds by running calls whether a task's goal can be reached with some tools and some known values.

The search makes every call whose arguments are known: values of the request, of the tools' schemas, and of the results
so far. It goes a few calls deep. A task whose goal it does not reach is taken as out of reach.
"""

import itertools
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from schemas.task import Task
from schemas.tool_calls import arguments_problem, check_arguments
from teacher.domain.pack import Domain
from teacher.domain.scoring import answer_matches
from teacher.domain.worlds import ToolError, hash_world, run_tool, start_world
from teacher.scenes.scene import Scene

# Rounds of calls, calls in all, and calls of one tool in a round.
_DEPTH, _CALLS, _COMBINATIONS = 3, 1_500, 200


def is_reachable(
    task: Task, domain: Domain, *, tools: Collection[str], known: Iterable[Any]
) -> bool:
    """Returns whether calls of these tools lead to the task's final state or show its answer.

    Args:
        tools: names of the tools offered. known: the values that the model may use at first.
    """
    world, _ = start_world(domain.environment, **task)
    start, goal, answer = hash_world(world), task["checks"]["state"], task["checks"]["answer"]
    values = list(dict.fromkeys(known))
    made: set[str] = set()
    readers: set[str] = set()  # of which the state need not be looked at again
    for _ in range(_DEPTH):
        found: list[Any] = []
        for tool in tools:
            for arguments in _arguments(domain.tools[tool], values):
                name = f"{tool} {arguments}"
                if name in made or len(made) >= _CALLS:
                    continue
                made.add(name)
                try:
                    result = run_tool(world, tool, arguments)
                except ToolError:
                    result = None
                if tool not in readers:
                    if (state := hash_world(world)) != start:
                        if state == goal:
                            return True
                        # Most calls read, so making the world again is cheaper than a copy for each call.
                        world, _ = start_world(domain.environment, **task)
                        if goal == start:
                            break  # a write shows nothing but what it was given
                    elif result is not None and goal == start:
                        readers.add(tool)
                if result is None or isinstance(result, Scene):
                    continue
                shown = list(scalars(result))
                # Where only the state is checked, or both are, the state decides.
                if goal == start and answer and any(answer_matches(answer, str(v)) for v in shown):
                    return True
                found += shown
        fresh = [value for value in dict.fromkeys(found) if value not in values]
        if not fresh:
            break
        values += fresh
    return False


def scalars(value: Any) -> Iterator[Any]:
    """Yields the texts and numbers of a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from scalars(part)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield value


def _arguments(tool: dict[str, Any], values: list[Any]) -> Iterator[dict[str, Any]]:
    """Yields valid arguments of a tool made of known values, and of the values that its schema lists."""
    parameters = tool["function"]["parameters"]
    properties = parameters.get("properties", {})
    required = [name for name in properties if name in parameters.get("required", [])]
    choices = []
    for name in required:
        schema = properties[name]
        options = schema.get("enum") or [
            value for value in values if arguments_problem(schema, value) is None
        ]
        choices.append(options)
    for combination in itertools.islice(itertools.product(*choices), _COMBINATIONS):
        arguments = dict(zip(required, combination, strict=True))
        if check_arguments(tool, arguments) is None:
            yield arguments
