"""Finds the writes of an episode that its task does not ask for.

A write is a call that changed the world's state, whatever its result. The task asks for the calls of its solution, each
once; a task whose solution leaves the state as it is asks for no write.
"""

import inspect
from typing import Any

from schemas.json_text import parse_json
from schemas.task import Task
from teacher.domain.drift import real_call
from teacher.domain.given_tools import method_of
from teacher.domain.json_values import to_json
from teacher.domain.swarm import TOOLS
from teacher.domain.worlds import hash_world


class WriteCheck:
    """Compares the state of an episode's world after each call with the one before it.

    Args:
        world: as its task resets it.

    Attributes:
        state: hash of the world's state after the last call that was checked.
    """

    def __init__(self, task: Task, world: Any) -> None:
        self._world, self._task = world, task
        self.state = hash_world(world)
        reads_only = self.state == task["checks"]["state"]
        self._asked = (
            []
            if reads_only
            else [
                self._canonical(call["tool"], call["arguments"])
                for call in task["plan"]
                if call["tool"] not in TOOLS  # an orchestrator's, which the world does not have
            ]
        )

    def is_unasked(self, function: dict[str, Any]) -> bool:
        """Returns whether the call that just ran is a write that the task does not ask for.

        function: name and arguments (JSON text) of the call, as the model sent them.
        """
        before, self.state = self.state, hash_world(self._world)
        if self.state == before:
            return False
        call = self._canonical(function["name"], parse_json(function["arguments"]))
        if call not in self._asked:
            return True
        self._asked.remove(call)
        return False

    def _canonical(self, tool: str, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return canonical_call(self._world, self._task, tool, arguments)


def canonical_call(
    world: Any, task: Task, tool: str, arguments: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Returns a call as the world knows it, with the defaults of the arguments that it leaves out.

    15 and 15.0 are equal in Python.
    """
    tool, arguments = real_call(task, tool, arguments)
    bound = inspect.signature(method_of(world, tool)).bind(**arguments)
    bound.apply_defaults()
    return tool, to_json(dict(bound.arguments), name="arguments")
