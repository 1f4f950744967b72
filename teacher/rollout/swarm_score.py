"""Measures a swarm by its trace: how much ran in parallel, what became of the results, and which known failures it has.

Steps are replies of a model. What runs in parallel counts once: of each stage the slowest sub-agent (the critical
steps of Kimi K2.5, arXiv:2602.02276). The serial steps are those of all agents, one after the other.

    over_cap              it asked for more than its teacher's caps
    unfinished_subagent   a sub-agent ended without an answer, and nobody else did its part
    duplicate_assignment  the same prompt was assigned again, although the first was answered or still running
    unassigned_part       nobody did a part of the task, so the answer cannot rest on it
    lost_result           the sub-agents' answers to all parts are right, and the orchestrator's is not
    serial_collapse       the task has independent parts, and no two sub-agents ran at the same time
    spurious_parallelism  at least half of its sub-agents did no part of the task, or one that was done already
"""

import re
from collections.abc import Iterator, Sequence

from schemas.messages import text_of
from schemas.task import Task
from schemas.trace import End, SwarmFailure, SwarmOutcome, Trace
from teacher.domain.scoring import contains_words
from teacher.domain.swarm import ASSIGN, CREATE

# A number, date or identifier in a message.
_VALUE = re.compile(r"(?<![\w.,-])[\w-]*\d[\w.,:-]*\w|(?<![\w.,-])\d")


def measure(trace: Trace, task: Task, over_cap: Sequence[str] = ()) -> SwarmOutcome:
    """Returns what a swarm's trace shows.

    Args:
        trace: of the orchestrator, with its children. task: a swarm task.
        over_cap: what the orchestrator was refused because of the caps.
    """
    children = trace["children"]
    stages: dict[int, list[int]] = {}
    for child in children:
        stages.setdefault(child["agent"]["stage"], []).append(child["outcome"]["steps"])
    own = trace["outcome"]["steps"]
    own_parts = _own_parts(trace)
    return {
        "agents": len(children),
        "stages": len(stages),
        "critical_steps": own + sum(max(steps) for steps in stages.values()),
        "serial_steps": own + sum(sum(steps) for steps in stages.values()),
        "calls": sum(
            len(message.get("tool_calls") or [])
            for each in (trace, *children)
            for message in each["messages"]
        ),
        "answered": sum(map(_is_answered, children)),
        "used": _used(trace, own_parts),
        "failures": list(_failures(trace, task, over_cap, own_parts, stages)),
    }


def _failures(
    trace: Trace,
    task: Task,
    over_cap: Sequence[str],
    own_parts: list[bool],
    stages: dict[int, list[int]],
) -> Iterator[SwarmFailure]:
    children, parts = trace["children"], task["swarm"]["parts"]
    refused = [
        text
        for each in (trace, *children)
        for index in each["outcome"]["tool_errors"]
        if '"over_cap:' in (text := text_of(each["messages"][index].get("content")))
    ]
    if over_cap or refused:
        detail = over_cap[0] if over_cap else "calls of tools"
        yield {"name": "over_cap", "detail": f"wanted more than its {detail}"}
    done = {index for child in children if _is_answered(child) for index in child["agent"]["parts"]}
    done |= _parts_called(trace, task)
    assigned = {index for child in children for index in child["agent"]["parts"]}
    for number, child in enumerate(children, 1):
        missed = set(child["agent"]["parts"]) - done
        if not _is_answered(child) and (missed or not child["agent"]["parts"]):
            yield {
                "name": "unfinished_subagent",
                "detail": f"sub-agent {number} ({child['agent']['name']}) ended as"
                f" {child['outcome']['ended']}, and nobody else did its part",
            }
            break
    missing = [part["about"] for index, part in enumerate(parts) if index not in assigned | done]
    if missing:
        yield {
            "name": "unassigned_part",
            "detail": f"{len(missing)} of {len(parts)} parts, {missing[0]} first, were given to nobody",
        }
    if again := _repeated(children):
        yield {
            "name": "duplicate_assignment",
            "detail": f"sub-agents {again[0]} and {again[1]} had the same prompt",
        }
    right = {
        index
        for child in children
        if child["outcome"]["checks"]["answer"]
        for index in child["agent"]["parts"]
    }
    if len(right) == len(parts) and not trace["outcome"]["checks"]["answer"]:
        yield {
            "name": "lost_result",
            "detail": f"all {len(parts)} parts were answered right, and the last message is not",
        }
    widest = max((len(steps) for steps in stages.values()), default=0)
    if widest < 2:
        yield {
            "name": "serial_collapse",
            "detail": f"{len(parts)} independent parts, and no two sub-agents at the same time",
        }
    if children and 2 * sum(own_parts) <= len(children):
        yield {
            "name": "spurious_parallelism",
            "detail": f"{len(children) - sum(own_parts)} of {len(children)} sub-agents did no part that others did not",
        }


def _is_answered(child: Trace) -> bool:
    if child["outcome"]["ended"] != End.ANSWERED:
        return False
    return bool(text_of(child["messages"][-1].get("content")).strip())


def _own_parts(trace: Trace) -> list[bool]:
    """For each sub-agent, whether it did a part that no earlier one had answered."""
    result: list[bool] = []
    done: set[int] = set()
    for child in trace["children"]:
        parts = set(child["agent"]["parts"])
        result.append(bool(parts - done))
        if _is_answered(child):
            done |= parts
    return result


def _parts_called(trace: Trace, task: Task) -> set[int]:
    """The parts that the orchestrator made calls about itself."""
    arguments = [
        call["function"]["arguments"]
        for message in trace["messages"]
        for call in message.get("tool_calls") or []
        if call["function"]["name"] not in (CREATE, ASSIGN)
    ]
    return {
        index
        for index, part in enumerate(task["swarm"]["parts"])
        if any(contains_words(text, part["about"]) for text in arguments)
    }


def _repeated(children: Sequence[Trace]) -> tuple[int, int] | None:
    """The numbers of two sub-agents with the same prompt, the first of which answered or ran at the same time."""
    first: dict[str, tuple[int, Trace]] = {}
    for number, child in enumerate(children, 1):
        prompt = " ".join(text_of(child["messages"][1].get("content")).casefold().split())
        if prompt in first:
            earlier_number, earlier = first[prompt]
            together = earlier["agent"]["stage"] == child["agent"]["stage"]
            if together or _is_answered(earlier):
                return earlier_number, number
        first[prompt] = number, child
    return None


def _used(trace: Trace, own_parts: list[bool]) -> int:
    """How many sub-agents' answers were used.

    The right answer depends on every part, so it used those that did one. Of a wrong answer, those were used whose
    numbers, dates or identifiers the orchestrator wrote later.
    """
    used = 0
    for child, has_part in zip(trace["children"], own_parts, strict=True):
        if not _is_answered(child):
            continue
        if (
            trace["outcome"]["checks"]["answer"]
            and has_part
            and child["outcome"]["checks"]["answer"]
        ):
            used += 1
            continue
        said = _values(text_of(child["messages"][-1].get("content")))
        asked = _values(text_of(child["messages"][1].get("content")))
        used += bool((said - asked) & _written_after(trace, child["agent"]["call_id"]))
    return used


def _written_after(trace: Trace, call_id: str) -> set[str]:
    """The values that the orchestrator wrote after a sub-agent's message came."""
    values: set[str] = set()
    has_come = False
    for message in trace["messages"]:
        has_come |= message.get("tool_call_id") == call_id
        if has_come and message["role"] == "assistant":
            texts = [message.get("reasoning_content") or "", text_of(message.get("content"))]
            texts += [call["function"]["arguments"] for call in message.get("tool_calls") or []]
            values |= _values(" ".join(texts))
    return values


def _values(text: str) -> set[str]:
    return {value.replace(",", "").casefold() for value in _VALUE.findall(text)}
