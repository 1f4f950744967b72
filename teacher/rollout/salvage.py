"""Finds the steps of a failed trace that are worth training on, by replaying its prefixes in the task's world.

A step is trained if each of its calls succeeds, is a call of the solution, and leaves the goal in reach: the calls of
the solution that are left still lead to the final state. All other steps are masked, and so is the last message, which
did not pass. From the first step on that puts the goal out of reach, nothing is trained. Nothing is salvaged in a world
that cannot be copied, such as that of an MCP server.
"""

from typing import Any

from schemas.json_text import parse_json
from schemas.task import Task
from schemas.tool_calls import check_arguments
from schemas.trace import Message, Trace
from teacher.domain.drift import real_call, tools_of
from teacher.domain.kinds.policy import Policy, load_policy
from teacher.domain.pack import Domain
from teacher.domain.worlds import (
    PackFault,
    ToolError,
    fork_world,
    hash_world,
    run_tool,
    start_world,
)
from teacher.rollout.conduct import is_confirmed
from teacher.rollout.unasked_writes import canonical_call

# Why a trace failed whose earlier steps may be right. A conversation that is malformed teaches nothing.
REASONS = frozenset(
    {
        *("step_limit", "truncated", "gave_up", "tool_error_unrecovered", "over_refused"),
        *("wrong_answer", "wrong_state", "unasked_write"),
    }
)


def harmless_turns(trace: Trace, task: Task, domain: Domain) -> list[int]:
    """Returns the indexes of the assistant's turns that are proven harmless, in order.

    Args:
        trace: one attempt at the task, that failed; without images and sub-agents.
    """
    replay = _Replay(task, domain)
    messages = trace["messages"]
    failed = {messages[i].get("tool_call_id") for i in trace["outcome"]["tool_errors"]}
    turns = []
    for index, message in enumerate(messages):
        calls = message.get("tool_calls") or []
        if message["role"] != "assistant" or not calls:
            continue
        # The task made it fail, or it made no sense: the world did not change.
        is_right = not any(call["id"] in failed for call in calls)
        for call in calls:
            if call["id"] not in failed:
                is_right &= replay.run(call["function"], messages[: index + 1])
        if not replay.can_reach_goal():
            break
        if is_right:
            turns.append(index)
    return turns


class _Replay:
    """A task's world and the calls of its solution that are not made yet."""

    def __init__(self, task: Task, domain: Domain) -> None:
        self._task, self._domain = task, domain
        self._world, _ = start_world(domain.environment, **task)
        self._tools = tools_of(domain, task)
        self._policy: Policy | None = load_policy(domain) if task.get("policy") else None
        self._is_lost = False
        self._left = [self._named(step["tool"], step["arguments"]) for step in task["plan"]]

    def run(self, function: dict[str, Any], messages: list[Message]) -> bool:
        """Runs a call; returns whether it succeeded and is the solution's."""
        try:
            arguments = parse_json(function["arguments"])
            tool = self._tools[function["name"]]
        except (ValueError, KeyError):
            return False
        if check_arguments(tool, arguments):
            return False
        name, real = real_call(self._task, function["name"], arguments)
        if name not in self._domain.tools:
            return False  # a tool of another pack
        if self._policy and (rule := self._policy.rule_for(self._world, name, real)):
            self._is_lost |= not (rule.then == "confirm" and is_confirmed(messages))
        call = self._named(function["name"], arguments)
        try:
            run_tool(self._world, name, real)
        except (ToolError, PackFault):
            return False
        if call not in self._left:
            return False
        self._left.remove(call)
        return True

    def can_reach_goal(self) -> bool:
        """Whether the solution's calls that are left lead to the final state from here."""
        if self._is_lost:
            return False
        world = fork_world(self._world)
        if world is self._world:
            return False  # its state is elsewhere: the calls that are left would change it
        try:
            for tool, arguments in self._left:
                run_tool(world, tool, arguments)
        except (ToolError, PackFault):
            return False
        return hash_world(world) == self._task["checks"]["state"]

    def _named(self, tool: str, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return canonical_call(self._world, self._task, tool, arguments)


def has_words_alone(trace: Trace) -> bool:
    """Whether a trace has neither images nor sub-agents."""
    return not trace["images"] and not trace["children"] and "agent" not in trace
