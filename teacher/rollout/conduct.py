"""What a model does in an episode beside solving its task: writes nobody asked for, calls that the task does not need
or that the pack's policy forbids, and calls that the task makes fail.

All of it is found by rule while the calls run; the filter rejects a trace by it, and the exam counts it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from schemas.messages import text_of
from schemas.task import Task
from schemas.trace import Message, Outcome
from teacher.domain.kinds.policy import load_policy
from teacher.domain.kinds.recovery import FailingTool
from teacher.domain.pack import Domain
from teacher.domain.prompts import Content
from teacher.domain.scoring import declines
from teacher.rollout.unasked_writes import WriteCheck

# Kinds of tasks that no call solves. Under a policy, reading before refusing is no fault.
_NEEDS_NO_CALL = ("irrelevant", "missing")
_YES = re.compile(r"\b(?:yes|yep|confirm|confirmed|go ahead|please do|do it|proceed)\b", re.I)


@dataclass(frozen=True)
class Ran:
    """A call that was made: the content of its tool message, and what is to be said of it.

    is_fault: the task made it fail. is_breach: the policy does not allow it.
    """

    content: Content
    is_error: bool = False
    is_fault: bool = False
    is_breach: bool = False


class Conduct:
    """Watches the calls of one episode.

    Args:
        world: as the task resets it.
    """

    def __init__(self, task: Task, domain: Domain, world: Any) -> None:
        self._task, self._world = task, world
        self.writes = WriteCheck(task, world)
        self.failing = FailingTool(task)
        self._policy = load_policy(domain) if task.get("policy") else None
        self.faults: list[int] = []
        self._needless: list[int] = []
        self._breaches: list[int] = []
        self._unasked: list[int] = []

    def breaks_policy(
        self, tool: str, arguments: dict[str, Any], messages: Sequence[Message]
    ) -> bool:
        """Whether a valid call that is about to run is one that the policy forbids, or that was not confirmed."""
        if self._policy is None:
            return False
        rule = self._policy.rule_for(self._world, tool, arguments)
        return rule is not None and not (rule.then == "confirm" and is_confirmed(messages))

    def note(self, index: int, function: dict[str, Any], ran: Ran) -> None:
        """Notes a call that was made. index: of its result in the messages."""
        if self.writes.is_unasked(function):
            self._unasked.append(index)
        if ran.is_fault:
            self.faults.append(index)
        if ran.is_breach:
            self._breaches.append(index)
        if self._task["kind"] in _NEEDS_NO_CALL:
            self._needless.append(index)

    def outcome(self, text: str, *, passes: bool) -> Outcome:
        """The fields of a trace's outcome that this class knows; those of no interest for the task are left out.

        text: the last message, or "" if there is none. passes: whether all checks passed.
        """
        fields: dict[str, Any] = {"unasked_writes": self._unasked}
        answer = self._task["checks"]["answer"]
        if answer and answer["type"] in ("declines", "asks", "refuses"):
            fields["expected"] = answer["type"]
        elif not passes and declines(text):
            fields["declined"] = True
        if self.faults:
            fields["faults"] = self.faults
        if self._needless:
            fields["needless_calls"] = self._needless
        if self._breaches:
            fields["policy_breaches"] = self._breaches
        return fields  # type: ignore[return-value]


def is_confirmed(messages: Sequence[Message]) -> bool:
    """Whether the user's last message says yes to a question of the assistant before it."""
    users = [index for index, message in enumerate(messages) if message["role"] == "user"]
    if len(users) < 2:
        return False
    question = text_of(messages[users[-1] - 1].get("content"))
    asked = "?" in question or re.search(r"\bconfirm", question, re.I) is not None
    return asked and bool(_YES.search(text_of(messages[users[-1]].get("content"))))
