"""Chooses the tasks that show changed tools, and how they are changed (drift.py applies it).

A drift renames every tool and parameter, rewords descriptions, shuffles the tools, adds tools of other packs, and may
write numbers and dates in another format. A student that was trained on such tasks reads the tools that it is offered
instead of remembering them. Each drifted task is proven like any other: its solution is replayed in the shown form.

In: sampled tasks of a split. Out: the same tasks, some of them with `drift`. `_TASKS_A_DRIFT` share one, so that
their prompts begin alike.
"""

import random

from schemas.errors import InputError
from schemas.task import Drift, Split, Task
from schemas.tool_calls import check_arguments
from teacher.domain.drift import drifted, is_reversible, other_pack, real_call, run_call, tools_of
from teacher.domain.drift_names import camel, parameter_name, reword, tool_name
from teacher.domain.offer import spread, subset
from teacher.domain.pack import Domain, other_packs
from teacher.domain.scoring import answer_matches
from teacher.domain.tool_types import hints_of
from teacher.domain.worlds import ToolError, hash_world, run_tool, start_world
from teacher.scenes.scene import Scene

_TASKS_A_DRIFT = 3
_MOST_DISTRACTORS = 4
_TRIES = 5
# Like names, formats belong to one split.
_ID_FORMATS: dict[Split, tuple[str, ...]] = {
    "train": ("C104", "C_104"),
    "exam": ("C.104", "C-0104"),
}
_DATE_FORMATS: dict[Split, tuple[str, ...]] = {
    "train": ("2 March 2026",),
    "exam": ("March 2, 2026",),
}
# Shares of the drifts: the whole toolbox offered (in training; in the exam always), camelCase, each other format.
_WHOLE, _CAMEL, _FORMAT = 0.5, 0.3, 0.5
_REWORDED = 0.7  # share of the descriptions


def like_task(example: Task, task: Task, domain: Domain) -> Task | None:
    """Returns a worked example with the changed tools of a task; None if they do not suit it."""
    if "drift" not in task:
        return example
    changed = drifted(example, task["drift"])
    return changed if find_problem(example, changed, domain) is None else None


class _Unsuitable(Exception):
    """A drift does not suit a task."""


def drift_tasks(tasks: list[Task], domain: Domain, *, share: float) -> list[Task]:
    """Returns the tasks, a share of them with changed tools.

    Args:
        tasks: of one split. share: 0 to 1.

    Raises:
        InputError: a task cannot be proven with its changed tools.
    """
    chosen = sorted(spread(tasks, share))
    random.Random(f"drift {[tasks[index]['id'] for index in chosen]}").shuffle(chosen)
    result = list(tasks)
    for start in range(0, len(chosen), _TASKS_A_DRIFT):
        group = chosen[start : start + _TASKS_A_DRIFT]
        needed = {step["tool"] for index in group for step in tasks[index]["plan"]}
        split = tasks[group[0]]["split"]
        rng = random.Random(f"drift {tasks[group[0]]['id']}")
        is_whole = split == "exam" or rng.random() < _WHOLE
        offered = list(domain.tools) if is_whole else subset(domain, needed, rng)
        group_tasks = [tasks[index] for index in group]
        result_tasks = _drift_group(group_tasks, domain, offered, rng)
        for index, task in zip(group, result_tasks, strict=True):
            result[index] = task
    return result


def _drift_group(
    tasks: list[Task], domain: Domain, offered: list[str], rng: random.Random
) -> list[Task]:
    """Returns proven tasks that share one drift.

    Raises:
        InputError: none of a few drifts suits all of them.
    """
    problem = ""
    for _ in range(_TRIES):
        drift = _make_drift(domain, offered, tasks[0]["split"], rng)
        order = [*drift["tools"], *drift["distractors"]]
        rng.shuffle(order)
        try:
            return [_drift(task, domain, drift, order) for task in tasks]
        except _Unsuitable as error:
            problem = str(error)
    raise InputError(
        f"{domain.path / 'domain.yaml'}: synonyms: {problem}; other synonyms may help, --set tasks.drift=0 and"
        " tasks.exam_other=0 do without"
    )


def _drift(task: Task, domain: Domain, drift: Drift, order: list[str]) -> Task:
    """Returns a proven task with changed tools; without other formats if they do not suit the task.

    Raises:
        _Unsuitable: the drift does not suit the task.
    """
    plain = drift.copy()
    plain.pop("ids", None)
    plain.pop("dates", None)
    has_scenes = "pictures" in task or any(
        hints_of(getattr(domain.environment, real)).get("return") is Scene
        for real in drift["tools"].values()
    )
    problem = None
    for each in [plain] if has_scenes else [drift, plain]:
        changed = drifted(task, each)
        changed["id"] += "-drift"
        changed["tools"] = list(order)
        problem = find_problem(task, changed, domain)
        if problem is None:
            return changed
    raise _Unsuitable(f"task {task['id']} cannot be solved with changed tools: {problem}")


def find_problem(task: Task, changed: Task, domain: Domain) -> str | None:
    """Returns why a task in its changed form is not what the task is, or None: its solution is replayed in both."""
    drift, tools = changed["drift"], tools_of(domain, changed)
    for name in ("system", "request", "reply"):
        if not is_reversible(drift, task[name]):  # type: ignore[literal-required]
            return f"its {name} already has a changed format"
    world, _ = start_world(domain.environment, **task)
    plain_world, _ = start_world(domain.environment, **task)
    for step, plain in zip(changed["plan"], task["plan"], strict=True):
        call = f"{step['tool']}({step['arguments']})"
        if step["tool"] not in tools:
            return f"{call}: the tool is not offered"
        if problem := check_arguments(tools[step["tool"]], step["arguments"]):
            return f"{call}: {problem}"
        if real_call(changed, step["tool"], step["arguments"]) != (
            plain["tool"],
            plain["arguments"],
        ):
            return f"{call} is not {plain['tool']}({plain['arguments']})"
        try:
            run_call(world, changed, step["tool"], step["arguments"])
        except ToolError as error:
            return f"{call}: {error}"
        result = run_tool(plain_world, plain["tool"], plain["arguments"])
        if not isinstance(result, Scene) and not is_reversible(drift, result):
            return f"{call}: its result cannot be translated back: {result}"
    if hash_world(world) != changed["checks"]["state"]:
        return "its solution leads to another state"
    answer = changed["checks"]["answer"]
    if answer and not answer_matches(answer, changed["reply"]):
        return f"its reply does not give its answer: {changed['reply']!r}"
    if answer and answer_matches(answer, changed["request"]):
        return f"its request already has the answer: {changed['request']!r}"
    return None


def _make_drift(domain: Domain, offered: list[str], split: Split, rng: random.Random) -> Drift:
    """Returns new names, descriptions and formats for the offered tools, and tools of other packs."""
    synonyms = domain.spec.get("synonyms", {})
    style = camel if rng.random() < _CAMEL else str
    taken = set(domain.tools)
    distractors = {}
    for pack, name in _choose_distractors(domain, rng):
        if name not in taken:
            taken.add(name)
            distractors[style(name)] = f"{pack}/{name}"
    tools, descriptions = {}, {}
    for real in offered:
        name = tool_name(real, synonyms, split, taken, rng)
        taken.add(name)
        tools[style(name)] = real
        if rng.random() < _REWORDED:
            text = domain.tools[real]["function"]["description"]
            descriptions[style(name)] = reword(text, rng)
    # Those of tools that are not offered too: results may have them as keys.
    taken = {key for tool in domain.tools.values() for key in _parameters(tool)}
    parameters = {}
    for real in sorted(taken):
        name = parameter_name(real, synonyms, split, taken, rng)
        taken.add(name)
        parameters[style(name)] = real
    drift: Drift = {
        "tools": tools,
        "parameters": parameters,
        "descriptions": descriptions,
        "distractors": distractors,
    }
    if rng.random() < _FORMAT:
        drift["ids"] = rng.choice(_ID_FORMATS[split])
    if rng.random() < _FORMAT:
        drift["dates"] = rng.choice(_DATE_FORMATS[split])
    return drift


def _parameters(tool: dict) -> list[str]:
    return list(tool["function"]["parameters"]["properties"])


def _choose_distractors(domain: Domain, rng: random.Random) -> list[tuple[str, str]]:
    """Returns (pack, tool) of some tools of the other packs in data/."""
    tools = [(pack, tool) for pack in other_packs(domain) for tool in other_pack(pack).tools]
    return rng.sample(tools, min(len(tools), rng.randint(1, _MOST_DISTRACTORS)))
