"""Tasks in which a tool fails once, and the failure as the model sees it.

A task names the tool and the kind of failure (schemas/task.py, Fault). Its first valid call fails; each later one runs.
A call that fails changes nothing, so the same call solves the task when it is made again.
"""

import json
import random
from collections.abc import Callable
from typing import Any

from schemas.task import Fault, FaultKind, Task
from teacher.domain.pack import Domain
from teacher.domain.worlds import hash_world, run_tool, start_world

_ERRORS = {
    "timeout": "timeout after 30 s: nothing was changed, the call can be made again",
    "rate_limit": "rate limit reached: the call was not run, make it again",
    "stale_id": "stale reference: the index was rebuilt during the call; make the call again",
    "partial": "the connection closed before the whole result came; make the call again",
}


class FailingTool:
    """The failure of a task's tool; a task without one never fails."""

    def __init__(self, task: Task) -> None:
        self._fault: Fault | None = task.get("fault")

    def is_due(self, tool: str) -> bool:
        """Whether this valid call of a tool fails. After the first that does, none does any more."""
        if self._fault is None or self._fault["tool"] != tool:
            return False
        self._kind, self._fault = self._fault["kind"], None
        return True

    def content(self, run: Callable[[], Any]) -> str:
        """The tool message of the call that was due. run: runs it and returns its result; only a read is run."""
        error: dict[str, Any] = {"error": _ERRORS[self._kind]}
        if self._kind == "partial":
            result = run()
            error["part"] = dict(list(result.items())[: len(result) // 2])
        return json.dumps(error, ensure_ascii=False)


def with_fault(task: Task, domain: Domain) -> Task | None:
    """Returns the task with one of its solution's tools failing once; None if its solution makes no call."""
    if not task["plan"]:
        return None
    rng = random.Random(f"fault {task['id']}")
    at = rng.randrange(len(task["plan"]))
    world, _ = start_world(domain.environment, **task)
    for step in task["plan"][:at]:
        run_tool(world, step["tool"], step["arguments"])
    before, step = hash_world(world), task["plan"][at]
    first = next(i for i, other in enumerate(task["plan"]) if other["tool"] == step["tool"])
    kinds: list[FaultKind] = ["timeout", "rate_limit", "stale_id"]
    result = run_tool(world, step["tool"], step["arguments"])
    is_read = first == at and hash_world(world) == before
    if is_read and isinstance(result, dict) and len(result) > 1:
        kinds.append("partial")
    failing = task.copy()
    failing["id"], failing["kind"] = f"{task['id']}-recovery", "recovery"
    failing["fault"] = {"tool": step["tool"], "kind": rng.choice(kinds)}
    return failing
