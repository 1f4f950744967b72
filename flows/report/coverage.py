"""Counts what the traces of a run cover: kinds of tasks, templates and tools, in training and in the exam."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from flows.report.traces import TEACHER, items, judge, part, word
from schemas.trace import Trace


@dataclass
class Cover:
    """What the traces of one kind, template or tool are.

    tasks, attempts, kept: of the teacher. exam: of each model of the exam, {name: (tasks, passed)}.
    """

    tasks: int = 0
    attempts: int = 0
    kept: int = 0
    exam: dict[str, list[int]] = field(default_factory=dict)


@dataclass
class ToolCover:
    """How a tool is used, whatever the name under which a task offers it.

    offered: attempts that could call it. calls: of the teacher. kept: calls in kept attempts. errors: calls whose
    result is an error. exam: calls in the exam.
    """

    offered: int = 0
    calls: int = 0
    kept: int = 0
    errors: int = 0
    exam: int = 0


class Coverage:
    """Counts traces one by one.

    Attributes:
        kinds, templates: by name. tools: by name, those that were offered or called.
    """

    def __init__(self) -> None:
        self.kinds: dict[str, Cover] = {}
        self.templates: dict[str, Cover] = {}
        self.tools: dict[str, ToolCover] = {}
        self._seen: set[str] = set()  # ids of the teacher's tasks

    def add(self, maker: str, trace: Trace, renamed: dict[str, str]) -> None:
        """Counts a trace.

        renamed: the pack's name of each tool that the task offers under another one.
        """
        state, _ = judge(trace)
        task = part(trace, "task")
        is_new = word(task, "id") not in self._seen
        for covers, name in ((self.kinds, "kind"), (self.templates, "template")):
            cover = covers.setdefault(word(task, name), Cover())
            if maker == TEACHER:
                cover.tasks += is_new
                cover.attempts += 1
                cover.kept += state == "kept"
            else:
                counts = cover.exam.setdefault(maker, [0, 0])
                counts[0] += 1
                counts[1] += state == "passed"
        if maker == TEACHER:
            self._seen.add(word(task, "id"))
        self._count_tools(maker, trace, state == "kept", renamed)

    def _count_tools(self, maker: str, trace: Any, is_kept: bool, renamed: dict[str, str]) -> None:
        calls, errors = _calls(trace)
        if maker != TEACHER:
            for name, count in calls.items():
                self._tool(renamed.get(name, name)).exam += count
            return
        for offered in {word(part(tool, "function"), "name") for tool in items(trace, "tools")}:
            self._tool(renamed.get(offered, offered)).offered += 1
        for name, count in calls.items():
            tool = self._tool(renamed.get(name, name))
            tool.calls += count
            tool.kept += count if is_kept else 0
            tool.errors += errors[name]

    def _tool(self, name: str) -> ToolCover:
        return self.tools.setdefault(name, ToolCover())


def _calls(trace: Any) -> tuple[Counter[str], Counter[str]]:
    """The calls of a trace and its sub-agents by tool, and those whose result is an error."""
    calls: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    names: dict[str, str] = {}
    failed = set(map(str, items(part(trace, "outcome"), "tool_errors")))
    for index, message in enumerate(items(trace, "messages")):
        for call in items(message, "tool_calls"):
            name = word(part(call, "function"), "name")
            calls[name] += 1
            names[word(call, "id")] = name
        if str(index) in failed:
            errors[names.get(word(message, "tool_call_id"), "")] += 1
    for child in items(trace, "children"):
        for total, more in zip((calls, errors), _calls(child), strict=True):
            total.update(more)
    return calls, errors
