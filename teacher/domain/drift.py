"""Shows a task through changed tools: other names, other descriptions, other formats of numbers and dates.

A drifted task has `drift`, which maps what the model sees to what the world has. Its solution, request, reply and
answer are in the shown form, and its world is the domain's own: a call is translated before the world runs it, its
result after. Whatever runs or shows a task's tools does it through `tools_of` and `run_call`, drifted or not.

In: a task and its pack. Out: schemas and results in the form that the model sees.
"""

import copy
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

from schemas.task import Answer, Drift, GoldCall, Task
from schemas.trace import Tool
from teacher.domain.blueprint import Environment
from teacher.domain.pack import Domain, load
from teacher.domain.scoring import MONTHS
from teacher.domain.swarm import TOOLS
from teacher.domain.worlds import ToolError, run_tool

# The numbers of a world, such as C-104, and how drift writes them: (pattern with prefix and digits, format). No digits
# of a shown number read as an amount.
_ID = re.compile(r"(?<![\w.-])([A-Z]{1,3})-(\d{2,6})(?![\w-])")
ID_FORMATS: dict[str, tuple[re.Pattern[str], str]] = {
    "C104": (re.compile(r"(?<![\w.-])([A-Z]{1,3})(\d{2,6})(?![\w-])"), "{}{}"),
    "C_104": (re.compile(r"(?<![\w.-])([A-Z]{1,3})_(\d{2,6})(?![\w-])"), "{}_{}"),
    "C.104": (re.compile(r"(?<![\w.-])([A-Z]{1,3})\.(\d{2,6})(?![\w-])"), "{}.{}"),
    "C-0104": (re.compile(r"(?<![\w.-])([A-Z]{1,3})-0(\d{2,6})(?![\w-])"), "{}-0{}"),
}
_DATE = re.compile(r"(?<![\w-])(\d{4})-(\d{2})-(\d{2})(?![\w-])")
# Both are forms that `answer_matches` reads.
DATE_FORMATS: dict[str, tuple[re.Pattern[str], str]] = {
    "2 March 2026": (
        re.compile(r"(?<!\w)(\d{1,2}) ([A-Z][a-z]{2,8}) (\d{4})(?!\w)"),
        "{d} {m} {y}",
    ),
    "March 2, 2026": (
        re.compile(r"(?<!\w)([A-Z][a-z]{2,8}) (\d{1,2}), (\d{4})(?!\w)"),
        "{m} {d}, {y}",
    ),
}


def tools_of(domain: Domain, task: Mapping[str, Any]) -> dict[str, Tool]:
    """Returns the tools that a task offers, by the names that it shows, in its order."""
    drift: Drift | None = task.get("drift")
    # The tools of an orchestrator keep their names: the swarm is the harness's, not the pack's.
    swarm = TOOLS if "swarm" in task else {}
    if drift is None:
        return {**{name: domain.tools[name] for name in task["tools"]}, **swarm}
    return {**{name: _shown_tool(domain, drift, name) for name in task["tools"]}, **swarm}


def run_call(world: Environment, task: Mapping[str, Any], tool: str, arguments: Any) -> Any:
    """Runs a call of a task's model in the task's world and returns its result, both as the model sees them.

    Raises:
        ToolError, PackFault: as `run_tool`; a tool of another pack has none of what this world has.
    """
    drift: Drift | None = task.get("drift")
    if drift is None:
        return run_tool(world, tool, arguments)
    if tool in drift["distractors"]:
        value = next(iter(arguments.values()), tool)
        raise ToolError(f"not found: {value!r}")
    real, real_arguments = real_call(task, tool, arguments)
    try:
        return shown_value(drift, run_tool(world, real, real_arguments))
    except ToolError as error:
        raise ToolError(_shown_error(drift, str(error))) from None


def real_call(task: Mapping[str, Any], tool: str, arguments: Any) -> tuple[str, dict[str, Any]]:
    """Returns a call that a task's model made as the world knows it."""
    drift: Drift | None = task.get("drift")
    if drift is None:
        return tool, arguments
    named = {drift["parameters"].get(name, name): value for name, value in arguments.items()}
    return drift["tools"].get(tool, tool), _each_text(named, functools.partial(_real_text, drift))


def drifted(task: Task, drift: Drift) -> Task:
    """Returns a task in the form that `drift` shows; it offers the tools of the drift."""
    shown_tools, shown_parameters = _inverse(drift["tools"]), _inverse(drift["parameters"])
    result = copy.deepcopy(task)
    result["drift"] = drift
    result["tools"] = [*drift["tools"], *drift["distractors"]]

    def shown_plan(plan: list[GoldCall]) -> list[GoldCall]:
        return [
            GoldCall(
                tool=shown_tools.get(step["tool"], step["tool"]),
                arguments=_each_text(
                    {shown_parameters.get(k, k): v for k, v in step["arguments"].items()},
                    functools.partial(shown_text, drift),
                ),
            )
            for step in plan
        ]

    result["plan"] = shown_plan(task["plan"])
    for part in result["swarm"]["parts"] if "swarm" in result else []:
        part["plan"] = shown_plan(part["plan"])
        for name in ("about", "prompt", "reply"):
            part[name] = shown_text(drift, part[name])
        _show_answer(drift, part["answer"])
    result["system"] = shown_text(drift, task["system"])
    result["request"] = shown_text(drift, task["request"])
    result["reply"] = shown_text(drift, task["reply"])
    if answer := result["checks"]["answer"]:
        _show_answer(drift, answer)
    return result


def _show_answer(drift: Drift, answer: Answer) -> None:
    """Puts the words of an answer into the shown form."""
    if answer["type"] in ("text", "choice"):
        answer["value"] = shown_text(drift, answer["value"])
        if "options" in answer:
            answer["options"] = [shown_text(drift, option) for option in answer["options"]]


def shown_text(drift: Drift, text: str) -> str:
    """Returns a text with its numbers and dates in the formats of `drift`."""
    if drift.get("ids"):
        text = _ID.sub(lambda match: ID_FORMATS[drift["ids"]][1].format(*match.groups()), text)
    if drift.get("dates"):
        text = _DATE.sub(functools.partial(_shown_date, DATE_FORMATS[drift["dates"]][1]), text)
    return text


def shown_value(drift: Drift, value: Any) -> Any:
    """Returns a tool's result as `drift` shows it: texts translated, and keys such as contract_id renamed.

    A key of one word stays: it may be data, such as the name of a check.
    """
    names = _inverse(_compound(drift))
    return _each_text(value, functools.partial(shown_text, drift), names)


def is_reversible(drift: Drift, value: Any) -> bool:
    """Returns whether a JSON value of the world is the same after it was shown and translated back."""
    real_text = functools.partial(_real_text, drift)
    back = _each_text(shown_value(drift, value), real_text, _compound(drift))
    return bool(back == value) and _each_text(value, real_text) == value


def _inverse(names: Mapping[str, str]) -> dict[str, str]:
    return {value: key for key, value in names.items()}


def _compound(drift: Drift) -> dict[str, str]:
    """Returns the parameters whose real name has several words: the keys of results that are renamed."""
    return {shown: real for shown, real in drift["parameters"].items() if "_" in real}


def _real_text(drift: Drift, text: str) -> str:
    """Returns a text with its numbers and dates in the world's formats."""
    if drift.get("dates"):
        pattern, form = DATE_FORMATS[drift["dates"]]
        order = re.findall(r"{(\w)}", form)
        text = pattern.sub(functools.partial(_real_date, order), text)
    if drift.get("ids"):
        text = ID_FORMATS[drift["ids"]][0].sub(r"\1-\2", text)
    return text


def _shown_date(form: str, match: re.Match[str]) -> str:
    year, month, day = map(int, match.groups())
    if not 1 <= month <= 12:
        return match[0]
    return form.format(y=f"{year:04d}", m=MONTHS[month - 1].capitalize(), d=day)


def _real_date(order: list[str], match: re.Match[str]) -> str:
    parts = dict(zip(order, match.groups(), strict=True))
    if parts["m"].lower() not in MONTHS:
        return match[0]
    month = MONTHS.index(parts["m"].lower()) + 1
    return f"{parts['y']}-{month:02d}-{int(parts['d']):02d}"


def _shown_error(drift: Drift, text: str) -> str:
    """Returns a tool's error with the shown names of parameters, where they begin it or have an underscore."""
    for shown, real in drift["parameters"].items():
        pattern = rf"\b{real}\b" if "_" in real else rf"^{real}(?=:)"
        text = re.sub(pattern, shown, text)
    return shown_text(drift, text)


def _shown_tool(domain: Domain, drift: Drift, name: str) -> Tool:
    """Returns the schema of a tool as `drift` shows it."""
    if reference := drift["distractors"].get(name):
        pack, tool = reference.split("/")
        schema = copy.deepcopy(other_pack(pack).tools[tool])
        schema["function"]["name"] = name
        return schema
    schema = copy.deepcopy(domain.tools[drift["tools"][name]])
    function = schema["function"]
    function["name"] = name
    function["description"] = drift["descriptions"].get(name, function["description"])
    names = _inverse(drift["parameters"])
    parameters = function["parameters"]
    parameters["properties"] = {
        names.get(key, key): _each_text(value, functools.partial(shown_text, drift))
        for key, value in parameters["properties"].items()
    }
    parameters["required"] = [names.get(key, key) for key in parameters["required"]]
    if drift.get("dates"):
        for value in parameters["properties"].values():
            if value.get("format") == "date":
                del value["format"]
    return schema


@functools.cache
def other_pack(name: str) -> Domain:
    """Returns a pack of data/, of which only the tools' schemas are used."""
    return load(name)


def _each_text(
    value: Any, translate: Callable[[str], str], names: Mapping[str, str] | None = None
) -> Any:
    """Returns a JSON value with each text translated, and its objects' keys renamed by `names`."""
    if isinstance(value, str):
        return translate(value)
    if isinstance(value, list):
        return [_each_text(part, translate, names) for part in value]
    if isinstance(value, dict):
        return {
            (names or {}).get(key, key): _each_text(part, translate, names)
            for key, part in value.items()
        }
    return value
