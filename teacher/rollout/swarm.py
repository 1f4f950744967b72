"""Plays a swarm: an orchestrator that gives parts of a task to sub-agents and merges their messages.

The orchestrator runs in the agent loop with two more tools, `create_subagent` and `assign_task`. Each assignment runs
a new sub-agent in the same loop, with its own conversation, the pack's tools and a copy of the world; it cannot start
others, and returns one message. The assignments of one message are a stage and run in parallel. When all of a stage
have ended, what they changed is repeated in the orchestrator's world, in the order of the calls: a swarm played again
from the journal sends the same requests, whichever sub-agent was faster.

All agents ask through the episode's one client, so its limit of requests in flight counts for all of them.
"""

import asyncio
import functools
import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.error_text import brief
from schemas.json_text import parse_arguments, parse_json
from schemas.messages import text_of
from schemas.task import Task
from schemas.tool_calls import check_arguments
from schemas.trace import End, Maker, Message, Trace
from teacher.domain.drift import run_call
from teacher.domain.pack import Domain
from teacher.domain.prompts import Content, created
from teacher.domain.swarm import (
    CREATE,
    MAX_NAME,
    MAX_PROMPT,
    MAX_SYSTEM,
    TOOLS,
    all_match,
    child_task,
    lead_task,
    parts_in,
)
from teacher.domain.worlds import ToolError, fork_world, hash_world
from teacher.rollout import agent_loop
from teacher.rollout.agent_loop import CallBudget, Complete, Settings
from teacher.rollout.swarm_score import measure

Examples = Callable[[Task, bool], Sequence[Sequence[Message]]]


async def play(
    task: Task,
    domain: Domain,
    complete: Complete,
    settings: Settings,
    maker: Maker,
    *,
    attempt: int,
    hinted: bool,
    examples: Examples,
    running: asyncio.Semaphore,
) -> Trace:
    """Runs one attempt at a swarm task and returns the orchestrator's trace, with those of its sub-agents.

    Args:
        complete: as of a client; each agent names a session of its own.
        examples: worked examples of a task, for the orchestrator and for a sub-agent.
        running: held by each sub-agent while it runs, so that many swarms at once do not have all theirs in memory.
    """
    session = f"{task['id']}/{attempt}"
    budget = CallBudget(settings.caps.calls)
    crew = _Crew(
        task, domain, complete, settings, maker, attempt, hinted, examples, running, budget
    )
    lead = lead_task(task, settings.caps.agents)
    trace = await agent_loop.run(
        lead,
        domain,
        functools.partial(complete, session=session),
        settings,
        maker,
        attempt=attempt,
        hinted=hinted,
        examples=examples(task, hinted),
        crew=crew,
        budget=budget,
    )
    trace["outcome"]["swarm"] = measure(trace, task, crew.over_cap)
    return trace


@dataclass
class _Crew:
    """The sub-agents of one swarm; the first fields are arguments of `play`.

    budget: the orchestrator's, from which each stage has its share. children: their traces, by assignment. over_cap:
    what was refused for the caps.
    """

    task: Task
    domain: Domain
    complete: Complete
    settings: Settings
    maker: Maker
    attempt: int
    hinted: bool
    examples: Examples
    running: asyncio.Semaphore
    budget: CallBudget
    children: list[Trace] = field(default_factory=list)
    over_cap: list[str] = field(default_factory=list)
    # The system prompt of each created sub-agent.
    _prompts: dict[str, str] = field(default_factory=dict)
    _started: int = 0
    _stages: int = 0

    async def answer(
        self, calls: list[dict[str, Any]], world: Any
    ) -> dict[str, tuple[Content, bool]]:
        """Answers the calls of one message that are for sub-agents; other calls are the loop's."""
        results: dict[str, tuple[Content, bool]] = {}
        assigned: list[tuple[str, str, str]] = []  # call id, agent, prompt
        for call in calls:
            tool = call["function"]["name"]
            if tool not in TOOLS:
                continue
            try:
                arguments = _arguments(call["function"])
                if tool == CREATE:
                    results[call["id"]] = self._create(**arguments), False
                else:
                    self._check_assignment(len(assigned), **arguments)
                    self._started += 1
                    assigned.append((call["id"], arguments["agent"], arguments["prompt"]))
            except ToolError as error:
                results[call["id"]] = _error(str(error)), True
        if assigned:
            results |= await self._run_stage(assigned, world)
        return results

    def _create(self, name: str, system_prompt: str) -> str:
        _check_size("name", name, MAX_NAME)
        _check_size("system_prompt", system_prompt, MAX_SYSTEM)
        if name in self._prompts:
            raise ToolError(
                f"duplicate_name: {brief(name)} was created already: assign tasks to it"
            )
        if len(self._prompts) == self.settings.caps.agents:
            raise self._refuse(f"{len(self._prompts)} kinds of sub-agents")
        self._prompts[name] = system_prompt
        return created(name)

    def _check_assignment(self, started: int, agent: str, prompt: str) -> None:
        """Raises ToolError where a sub-agent cannot be started. started: how many the message has before this one."""
        if agent not in self._prompts:
            names = ", ".join(self._prompts) or f"none: create one with {CREATE}"
            raise ToolError(f"unknown_agent: {brief(agent)}: expected one of {names}"[:400])
        _check_size("prompt", prompt, MAX_PROMPT)
        if self._started >= self.settings.caps.agents:
            raise self._refuse(f"{self._started} sub-agents")
        if self.budget.left <= started:
            raise self._refuse(f"{self.settings.caps.calls} calls of tools")

    def _refuse(self, what: str) -> ToolError:
        self.over_cap.append(what)
        return ToolError(f"over_cap: {what} were used, no more can be: finish with what you have")

    async def _run_stage(
        self, assigned: list[tuple[str, str, str]], world: Any
    ) -> dict[str, tuple[Content, bool]]:
        """Runs the assignments of one message in parallel and repeats what they changed in the orchestrator's world."""
        self._stages += 1
        before = hash_world(world)
        # An even share, so that who is faster does not decide who may call.
        shares = [CallBudget(self.budget.left // len(assigned)) for _ in assigned]
        forks = [fork_world(world) for _ in assigned]
        traces = await _all(
            [
                self._run_child(number, assignment, fork, before, share)
                for number, (assignment, fork, share) in enumerate(
                    zip(assigned, forks, shares, strict=True), len(self.children) + 1
                )
            ]
        )
        self.budget.made += sum(share.made for share in shares)
        results: dict[str, tuple[Content, bool]] = {}
        for (call_id, agent, _), fork, trace in zip(assigned, forks, traces, strict=True):
            self.children.append(trace)
            if fork is not world and hash_world(fork) != before:
                self._repeat(trace, world)
            results[call_id] = _result(agent, trace)
        return results

    async def _run_child(
        self,
        number: int,
        assignment: tuple[str, str, str],
        world: Any,
        before: str,
        budget: CallBudget,
    ) -> Trace:
        call_id, agent, prompt = assignment
        covered = parts_in(self.task, prompt)
        parts = [self.task["swarm"]["parts"][index] for index in covered]
        state = before
        if parts:
            solved = fork_world(world)
            if solved is not world:
                for step in (step for part in parts for step in part["plan"]):
                    _try(solved, self.task, step["tool"], step["arguments"])
                state = hash_world(solved)
        task = child_task(
            self.task,
            number=number,
            system_prompt=self._prompts[agent],
            prompt=prompt,
            covered=covered,
            state=state,
        )
        hinted = self.hinted and bool(parts)
        async with self.running:
            trace = await agent_loop.run(
                task,
                self.domain,
                functools.partial(self.complete, session=f"{task['id']}/{self.attempt}"),
                self.settings,
                self.maker,
                attempt=self.attempt,
                hinted=hinted,
                examples=self.examples(task, hinted),
                world=world,
                budget=budget,
            )
        if parts and trace["outcome"]["ended"] == End.ANSWERED:
            trace["outcome"]["checks"]["answer"] = all_match(parts, _last_text(trace))
        trace["agent"] = {
            "name": agent,
            "call_id": call_id,
            "stage": self._stages,
            "parts": covered,
        }
        return trace

    def _repeat(self, trace: Trace, world: Any) -> None:
        """Repeats a sub-agent's calls that succeeded. One that no longer can fails the check of the final state."""
        failed = {trace["messages"][i]["tool_call_id"] for i in trace["outcome"]["tool_errors"]}
        offered = {tool["function"]["name"] for tool in trace["tools"]}
        for message in trace["messages"]:
            for call in message.get("tool_calls") or []:
                function = call["function"]
                if call["id"] not in failed and function["name"] in offered:
                    arguments = parse_arguments(function["arguments"])
                    _try(world, self.task, function["name"], arguments)


def _try(world: Any, task: Task, tool: str, arguments: Any) -> None:
    try:
        run_call(world, task, tool, arguments)
    except ToolError:
        return  # the state that the task expects is then missed, which its check finds


async def _all(runs: list[Coroutine[Any, Any, Trace]]) -> list[Trace]:
    """Returns the results in order; an error of one cancels the others."""
    tasks = [asyncio.create_task(run) for run in runs]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _arguments(function: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a call for sub-agents.

    Raises:
        ToolError: they are not JSON, or not those of the tool.
    """
    try:
        arguments = parse_json(function["arguments"])
    except ValueError as error:
        raise ToolError(f"the arguments are not JSON: {error}") from None
    if problem := check_arguments(TOOLS[function["name"]], arguments):
        raise ToolError(problem)
    return dict(arguments)


def _check_size(name: str, text: str, most: int) -> None:
    if not text.strip():
        raise ToolError(f"empty_{name}: expected text")
    if len(text) > most:
        raise ToolError(f"oversized_{name}: found {len(text)} characters, expected at most {most}")


def _result(agent: str, trace: Trace) -> tuple[str, bool]:
    """The one message of a sub-agent, as the orchestrator's tool result."""
    ended = trace["outcome"]["ended"]
    text = _last_text(trace) if ended == End.ANSWERED else ""
    if text.strip():
        return text, False
    why = "an empty message" if ended == End.ANSWERED else ended
    return _error(f"unfinished_subagent: {brief(agent)} ended without an answer ({why})"), True


def _last_text(trace: Trace) -> str:
    return text_of(trace["messages"][-1].get("content"))


def _error(message: str) -> str:
    return json.dumps({"error": message[:500]}, ensure_ascii=False)
