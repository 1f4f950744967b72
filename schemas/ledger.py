"""The ledger of a run's traces: every trace is counted, as kept or under one named rejection."""

from collections import Counter
from typing import Literal, NotRequired, TypedDict

from schemas.messages import MESSAGE_REASONS
from schemas.trace import SWARM_CAUSES, SWARM_FAILURES, Trace, is_kept

# In the order of the checks, with one exception: a trace that a failure of the teacher or of a tool cut off is a
# teacher_error or tool_crashed and not a malformed conversation, so check_trace tests for that before the messages.
REASONS = (
    *MESSAGE_REASONS,
    "teacher_error",
    "tool_crashed",
    "user_fault",
    "truncated",
    "step_limit",
    *SWARM_CAUSES,
    "gave_up",
    "tool_error_unrecovered",
    "policy_breach",
    "guessed",
    "not_declined",
    "over_refused",
    "wrong_answer",
    "wrong_state",
    "unasked_write",
    *SWARM_FAILURES,
    "needless_call",
    "engines_differ",
    "too_long",
    "answer_leaked",
    "blind_answerable",
    "disagreed",
    "contaminated",
    "near_duplicate",
    "over_represented",
)


class Count(TypedDict):
    """traces: all of a group. kept: those of them that were kept."""

    traces: int
    kept: int


class Rewriting(TypedDict):
    """Counts of reworded requests, as the ledger has them.

    asked: requests that the teacher was to reword. taken: those that the tasks have now. rejected: the others, by
    reason. personas, languages: of those taken.
    """

    asked: int
    taken: int
    rejected: dict[str, int]
    personas: dict[str, int]
    languages: dict[str, int]


class Salvaged(TypedDict):
    """Rejected traces of which some turns are trained (train.salvage); they stay under their reason of rejection."""

    traces: int
    turns: int


class Ledger(TypedDict):
    """The content of RUN/filter/ledger.json; traces = kept + the sum of rejected.

    rejected: count by reason. tasks_without_kept: ids of tasks. hinted: of traces made with the solution shown.
    by_template: by task template. images: by grounding (pixels, source), present where a trace has images.
    rewritten: present with tasks.rewrite. sub_agents: of sub-agents, whose traces count everywhere but in tasks;
    present where there are any. salvaged: present with train.salvage.
    """

    traces: int
    kept: int
    rejected: dict[str, int]
    tasks: int
    tasks_without_kept: list[str]
    hinted: Count
    by_template: dict[str, Count]
    images: NotRequired[dict[str, Count]]
    salvaged: NotRequired[Salvaged]
    rewritten: NotRequired[Rewriting]
    sub_agents: NotRequired[Count]


class LedgerCount:
    """Counts judged traces one by one. A malformed trace may lack its task: its id and template are then ""."""

    def __init__(self) -> None:
        self._reasons: Counter[str | None] = Counter()
        self._tasks: dict[str, bool] = {}  # whether a trace of it was kept
        self._templates: dict[str, Count] = {}
        self._images: dict[str, Count] = {name: _zero() for name in ("pixels", "source")}
        self._has_images = False
        self._hinted, self._all, self._agents = _zero(), _zero(), _zero()

    def add(self, trace: Trace) -> None:
        kept, task = is_kept(trace), _task_field(trace, "id")
        if not kept:
            self._reasons[_reason(trace)] += 1
        is_agent = bool(trace.get("agent"))
        if not is_agent:
            self._tasks[task] = self._tasks.get(task, False) or kept
        template = self._templates.setdefault(_task_field(trace, "template"), _zero())
        groups = [self._all, template]
        if is_agent:
            groups.append(self._agents)
        if trace.get("hinted") is True:
            groups.append(self._hinted)
        if (grounding := str(trace.get("grounding"))) in self._images:
            groups.append(self._images[grounding])
        self._has_images |= bool(trace.get("images"))
        for group in groups:
            group["traces"] += 1
            group["kept"] += kept

    def ledger(self) -> Ledger:
        traces, kept = self._all["traces"], self._all["kept"]
        assert traces == kept + self._reasons.total()
        ledger: Ledger = {
            "traces": traces,
            "kept": kept,
            "rejected": {
                reason: self._reasons[reason] for reason in REASONS if self._reasons[reason]
            },
            "tasks": len(self._tasks),
            "tasks_without_kept": [task for task, solved in self._tasks.items() if not solved],
            "hinted": self._hinted,
            "by_template": dict(sorted(self._templates.items())),
        }
        if self._has_images:
            ledger["images"] = self._images
        if self._agents["traces"]:
            ledger["sub_agents"] = self._agents
        return ledger


def _zero() -> Count:
    return {"traces": 0, "kept": 0}


def _reason(trace: Trace) -> str | None:
    return trace["verdict"]["reason"] if trace["verdict"] else None


def _task_field(trace: Trace, field: Literal["id", "template"]) -> str:
    task = trace.get("task")
    value = task.get(field) if isinstance(task, dict) else None
    return value if isinstance(value, str) else ""
