"""Validates and runs one call of a model. A tool changes only the world of its own episode."""

import json
from typing import Any

from schemas.json_text import parse_json
from schemas.task import Task
from schemas.tool_calls import check_arguments
from schemas.trace import Message, Tool
from teacher.domain.drift import run_call
from teacher.domain.pack import Domain
from teacher.domain.prompts import result_content
from teacher.domain.worlds import PackFault, ToolError
from teacher.rollout.conduct import Conduct, Ran
from teacher.scenes.images import ImageStore
from teacher.scenes.scene import SceneError


def execute(
    function: dict[str, Any],
    tools: dict[str, Tool],
    task: Task,
    world: Any,
    messages: list[Message],
    image_store: ImageStore | None,
    conduct: Conduct,
    domain: Domain,
) -> Ran:
    """Validates and runs one call, unless the task makes it fail.

    Raises:
        PackFault: the tool raised an exception that is no error of the call, or its result cannot be shown.
    """
    name = function["name"]
    if name not in tools:
        return call_error(f"there is no tool {name!r}; the tools are {', '.join(tools)}")
    try:
        arguments = parse_json(function["arguments"])
    except ValueError as error:
        return call_error(f"the arguments are not JSON: {error}")
    problem = check_arguments(tools[name], arguments)
    if problem:
        return call_error(problem)
    is_breach = conduct.breaks_policy(name, arguments, messages)
    try:
        if conduct.failing.is_due(name):
            content = conduct.failing.content(lambda: run_call(world, task, name, arguments))
            return Ran(content, is_error=True, is_fault=True)
        result = run_call(world, task, name, arguments)
    except ToolError as error:
        return call_error(str(error))
    try:
        return Ran(result_content(result, image_store), is_breach=is_breach)
    except SceneError as error:
        detail = f"{name}({function['arguments']}): its image cannot be drawn: {error}"
        raise PackFault(domain.path / "environment.py", detail) from None


def call_error(message: str) -> Ran:
    return Ran(json.dumps({"error": message[:500]}, ensure_ascii=False), is_error=True)
