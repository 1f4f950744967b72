"""What a swarm task is: the tools of the orchestrator, its gold decomposition, and the tasks that sub-agents get.

A swarm task's row has two solutions. `plan` is what one agent calls, part after part. `swarm` has the parts, which are
independent of each other; `lead_task` turns them into what the orchestrator calls, and `child_task` into what one
sub-agent is asked. `prove` shows that both give the same answer and the same world.

In: rows of tasks. Out: rows of tasks in the view of one agent, which teacher/rollout/swarm.py plays. No file has them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from schemas.error_text import brief
from schemas.task import Answer, GoldCall, SwarmPart, Task
from schemas.trace import Tool
from teacher.domain.scoring import answer_matches, contains_words

CREATE, ASSIGN = "create_subagent", "assign_task"
# Longer texts are refused. A prompt holds a page of records; a system prompt says what an agent is for.
MAX_NAME, MAX_SYSTEM, MAX_PROMPT = 64, 4_000, 16_000


@dataclass(frozen=True)
class Caps:
    """The most that one swarm may use. agents: sub-agents that are started. calls: calls of tools, of all agents."""

    agents: int = 100
    calls: int = 1_500


def _text(description: str) -> dict[str, str]:
    return {"type": "string", "description": description}


def _tool(tool: str, description: str, /, **parameters: dict[str, str]) -> Tool:
    schema = {
        "type": "object",
        "properties": parameters,
        "required": [*parameters],
        "additionalProperties": False,
    }
    function = {"name": tool, "description": description, "parameters": schema}
    return {"type": "function", "function": function}


TOOLS: dict[str, Tool] = {
    CREATE: _tool(
        CREATE,
        "Create a kind of sub-agent, which can then be given tasks.",
        name=_text("A new name, e.g. reader"),
        system_prompt=_text("What the sub-agent is for and how it replies"),
    ),
    ASSIGN: _tool(
        ASSIGN,
        "Give a task to a new sub-agent of this kind and get its one message back. It has tools, but does not see this"
        " conversation. Several calls in one message run in parallel.",
        agent=_text("Name of a created sub-agent"),
        prompt=_text("The task, with all that the sub-agent needs to know"),
    ),
}


def lead_task(task: Task, most: int | None = None) -> Task:
    """Returns a swarm task as its orchestrator solves it: `plan` has its own calls.

    most: sub-agents that it may start; with more parts than that, each gets several.
    """
    swarm = task["swarm"]
    parts = swarm["parts"]
    size = -(-len(parts) // most) if most else 1
    plan: list[GoldCall] = [
        {
            "tool": CREATE,
            "arguments": {"name": swarm["name"], "system_prompt": swarm["system_prompt"]},
        }
    ]
    for start in range(0, len(parts), size):
        prompt = "\n".join(part["prompt"] for part in parts[start : start + size])
        plan.append({"tool": ASSIGN, "arguments": {"agent": swarm["name"], "prompt": prompt}})
    return cast(Task, {**task, "plan": [*plan, *own_calls(task)]})


def own_calls(task: Task) -> list[GoldCall]:
    """Returns the calls of a swarm task's plan that the orchestrator makes itself, after its sub-agents."""
    count = task["swarm"]["own"]
    return task["plan"][len(task["plan"]) - count :] if count else []


def calls_together(lead: Task, step: int) -> int:
    """Returns the index after the last call that belongs in the same message as call `step` of the plan."""
    if step >= len(lead["plan"]) or lead["plan"][step]["tool"] != ASSIGN or "swarm" not in lead:
        return step + 1
    return sum(call["tool"] in (CREATE, ASSIGN) for call in lead["plan"])


def parts_in(task: Task, prompt: str) -> list[int]:
    """Returns the indexes of the parts that an assignment covers: those whose `about` it names."""
    parts = task["swarm"]["parts"]
    return [index for index, part in enumerate(parts) if contains_words(prompt, part["about"])]


def child_task(
    task: Task, *, number: int, system_prompt: str, prompt: str, covered: Sequence[int], state: str
) -> Task:
    """Returns the task of one sub-agent. Its solution and answer are those of the parts that its prompt covers.

    number: of the sub-agent, from 1. state: hash of the world's state after a correct solution.
    """
    parts = [task["swarm"]["parts"][index] for index in covered]
    child: Any = {key: value for key, value in task.items() if key not in ("swarm", "part")}
    child |= {
        "id": f"{task['id']}:{number}",
        "system": system_prompt,
        "request": prompt,
        "plan": [call for part in parts for call in part["plan"]],
        "reply": "\n".join(part["reply"] for part in parts) or "Done.",
        # Several answers are checked by `all_match`.
        "checks": {"state": state, "answer": parts[0]["answer"] if len(parts) == 1 else None},
    }
    return cast(Task, child)


def gold_child(task: Task, index: int, state: str) -> Task:
    """Returns the task of the sub-agent that does one part as the gold decomposition has it."""
    swarm = task["swarm"]
    return child_task(
        task,
        number=index + 1,
        system_prompt=swarm["system_prompt"],
        prompt=swarm["parts"][index]["prompt"],
        covered=[index],
        state=state,
    )


def as_asked(example: Task, task: Task) -> Task:
    """Returns a worked example for a task: for that of a sub-agent, the first part of a swarm's."""
    if "swarm" in example and "swarm" not in task:
        return gold_child(example, 0, example["checks"]["state"])
    return example


def all_match(parts: Sequence[SwarmPart], text: str) -> bool:
    """Returns whether one message gives the answers of all parts. Of several, each may stand anywhere in it."""
    if len(parts) == 1:
        return answer_matches(parts[0]["answer"], text)
    return all(answer_matches(_alone(part["answer"]), text, parts=len(parts)) for part in parts)


def _alone(answer: Answer) -> Answer:
    """A choice as a text: a message about several parts names several of its options."""
    return {"type": "text", "value": answer["value"]} if answer["type"] == "choice" else answer


def prove(task: Task, run: Callable[[list[GoldCall]], list[Any]]) -> str | None:
    """Returns why the gold decomposition of a task is not one, or None.

    The parts are independent if each sees, in a world of its own, what one agent sees that does all of them: then a
    swarm's answer and final state are those of the serial solution.

    run: replays calls in a fresh world and returns their results.
    """
    parts = task["swarm"]["parts"]
    if [call for part in parts for call in part["plan"]] + own_calls(task) != task["plan"]:
        return "its plan is not its parts' plans, one after the other, and then its own calls"
    serial = iter(run(task["plan"]))
    for number, part in enumerate(parts, 1):
        where = f"part {number} ({part['about']})"
        if not answer_matches(part["answer"], part["reply"]):
            return f"{where}: its reply does not give its answer: {part['reply']!r}"
        if answer_matches(part["answer"], part["prompt"]):
            return f"{where}: its prompt already contains the answer {part['answer']['value']!r}"
        if parts_in(task, part["prompt"]) != [number - 1]:
            return f"{where}: its prompt must name {part['about']}, and nothing of another part"
        if not contains_words(task["request"], part["about"]):
            return f"{where}: the request does not name {part['about']}"
        for call, alone in zip(part["plan"], run(part["plan"]), strict=True):
            if alone != (seen := next(serial)):
                return (
                    f"{where}: {call['tool']} returns {brief(alone)} in a world of its own and {brief(seen)} after"
                    " the other parts: the parts must not depend on each other"
                )
    return None
