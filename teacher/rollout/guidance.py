"""Helps a teacher through an episode: hints, constraints on what it may decode, and few tools to choose from.

The agent loop calls `Guidance.before_turn` before each turn and adds the result to the request, but not to the trace.
The default adds only a hint, and only to a hinted episode. `Constrained` is for small teachers that cannot call tools
without help.
"""

from dataclasses import dataclass, field
from typing import Any

from schemas.decodable import decodable_tools
from schemas.task import Task
from schemas.trace import Message, Tool
from teacher.domain.json_answers import response_format
from teacher.domain.offer import few_tools
from teacher.domain.prompts import hint, question_due, together
from teacher.domain.swarm import calls_together


@dataclass(frozen=True)
class Turn:
    """What guidance adds to the request of one turn.

    Attributes:
        hints: system messages before the turn; the requests of later turns keep them.
        prefill: the beginning of the assistant's message; this request alone has it.
        parameters: parameters of this request alone (tool_choice, extra_body).
        together: further requests, each for one more call of the same message; their hints are not kept.
    """

    hints: list[Message] = field(default_factory=list)
    prefill: list[Message] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    together: list["Turn"] = field(default_factory=list)


@dataclass(frozen=True)
class Guidance:
    """The default: a hinted episode shows the whole solution before its first turn; any other gets no help.

    Attributes:
        few: show the teacher only the tools of the solution and one or two others. The trace has all that the task
            offers, so the student learns to choose among them.
    """

    few: bool = field(default=False, kw_only=True)

    def shown_tools(self, task: Task, tools: dict[str, Tool]) -> list[Tool]:
        """Returns those of the task's tools, {name: tool}, that the teacher is shown."""
        if not self.few:
            return [*tools.values()]
        needed = {step["tool"] for step in task["plan"]}
        names = few_tools(tools, needed, task["template"], task["seed"])
        return [tools[name] for name in names]

    def before_turn(
        self, task: Task, *, number: int, results: int, hinted: bool, told: int = 0
    ) -> Turn:
        """Returns what to add to the request of a turn.

        Args:
            number: of the turn, from 1. results: tool messages so far. hinted: whether the episode is hinted.
            told: replies of a simulated user so far.
        """
        return Turn(hints=[_system(hint(task))]) if hinted and number == 1 else Turn()


@dataclass(frozen=True)
class Constrained(Guidance):
    """For teachers too weak to call tools without help: the server decodes calls under the tools' schemas.

    The teacher must call a tool until the world has answered once. In a hinted episode it must call as often as the
    solution does, may not call after that, and is shown the next step of the solution before each turn. An answer in
    JSON that no further call may precede is decoded under the task's schema.

    Attributes:
        call_prefix: the beginning of a reply that calls a tool, for a server that lets the model write text first
            although tool_choice is "required" (llama.cpp's does). It is sent as the beginning of the assistant's
            message.
    """

    call_prefix: str = ""

    def shown_tools(self, task: Task, tools: dict[str, Tool]) -> list[Tool]:
        """As Guidance; a call is decoded under what the server is sent."""
        return decodable_tools(super().shown_tools(task, tools))

    def before_turn(
        self, task: Task, *, number: int, results: int, hinted: bool, told: int = 0
    ) -> Turn:
        calls = len(task["plan"]) if hinted else min(1, len(task["plan"]))
        hints = [_system(hint(task, results, told))] if hinted else []
        if "dialogue" in task and (not hinted or question_due(task, step=results, told=told)):
            calls = 0  # it may be time to ask
        form = _form(task)
        parameters: dict[str, Any]
        if results < calls:
            prefix = self.call_prefix
            prefill = [{"role": "assistant", "content": prefix}] if prefix else []
            parameters = {"tool_choice": "required"}
            if prefix:
                # llama.cpp's grammar lets a small model write calls until max_tokens, whatever parallel_tool_calls says
                # (build_tool_parser_json_native): the reply ends where a second call begins.
                parameters["extra_body"] = {"stop": [prefix.strip()]}
            # A teacher this weak writes one call and stops: what belongs in one message is asked for call by call.
            last = calls_together(task, results) if hinted else results + 1
            if last == results + 1:
                return Turn(hints, prefill, parameters)
            parameters["parallel_tool_calls"] = False
            texts = [hint(task, step) for step in range(results, last)]
            further = [Turn([_system(text)], prefill, parameters) for text in texts[1:]]
            return Turn([_system(together(texts))], prefill, parameters, further)
        if not hinted and not (form and not task["plan"]):
            return Turn(hints, parameters={"tool_choice": "auto"})
        parameters = {"tool_choice": "none", **form}
        if self.call_prefix:
            # llama.cpp parses no call under "none", but the model may still write one: its first character is banned.
            parameters["extra_body"] = {"logit_bias": [[self.call_prefix[0], False]]}
        return Turn(hints, parameters=parameters)


def choose_guidance(*, constrain: bool, few: bool = False, call_prefix: str = "") -> Guidance:
    """Returns the guidance of a recipe, with the teacher's prefix of a call, if it has one.

    Args:
        constrain, few: generate.constrain, and whether generate.toolbox is "few".
    """
    return Constrained(call_prefix, few=few) if constrain else Guidance(few=few)


def _form(task: Task) -> dict[str, Any]:
    """Returns the parameter that makes the server decode an answer in JSON under the task's schema."""
    answer = task["checks"]["answer"]
    if answer is None or answer["type"] != "json":
        return {}
    return {"response_format": response_format(answer["schema"], task["template"])}


def _system(text: str) -> Message:
    return {"role": "system", "content": text}
