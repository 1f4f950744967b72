"""A swarm: an orchestrator assigns parts to sub-agents, merges their messages, and is measured."""

import functools
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from scripted_model import LOOP, calls, solution
from scripted_model import play as play_alone
from swarm_model import Script, Swarm, Turn, failures, gold, gold_child, play, results

from schemas.filter import FilterSettings, check_trace
from schemas.task import Task
from schemas.trace import failure_reason, nodes
from teacher.domain import Domain, load, tasks
from teacher.domain.prompts import hint
from teacher.domain.swarm import ASSIGN, CREATE, MAX_PROMPT, MAX_SYSTEM, Caps, lead_task
from teacher.planning.cost import fewest_replies
from teacher.rollout import agent_loop
from teacher.rollout.guidance import Constrained


@pytest.fixture(scope="module")
def legal() -> Domain:
    return load("legal")


@pytest.fixture(scope="module")
def task(legal: Domain) -> Task:
    """Compares the terms of four contracts."""
    return next(
        task
        for seed in range(30)
        if len((task := tasks.build(legal, "compared_terms", "train", seed))["swarm"]["parts"]) == 4
    )


def with_lead(task: Task, *turns: Any, child: Script | None = None) -> Swarm:
    """A swarm whose orchestrator says these turns, the last one again and again."""

    def lead(step: int, prompt: str) -> Turn:
        return turns[min(step, len(turns) - 1)]

    return Swarm(lead, child or functools.partial(gold_child, task))


def create(name: str = "reader", system_prompt: str = "Read contracts.") -> tuple[str, dict]:
    return CREATE, {"name": name, "system_prompt": system_prompt}


def assign(prompt: str, agent: str = "reader") -> tuple[str, dict]:
    return ASSIGN, {"agent": agent, "prompt": prompt}


def prompts(task: Task) -> list[str]:
    return [part["prompt"] for part in task["swarm"]["parts"]]


def swarm_templates() -> Iterator[tuple[str, str]]:
    for name in ("legal", "code-review", "tech-research"):
        pack = load(name)
        yield from ((name, t) for t, made in pack.templates.items() if made.kind == "swarm")


@pytest.mark.parametrize(("pack", "template"), [*swarm_templates()])
def test_the_gold_swarm_and_a_serial_run_both_solve_each_template(pack: str, template: str) -> None:
    domain = load(pack)
    for split, seed in (("train", 1), ("exam", 500_000_001)):
        task = tasks.build(domain, template, split, seed)  # type: ignore[arg-type]
        trace = play(domain, task)
        assert failure_reason(trace["outcome"]) is None, trace["outcome"]
        parts = task["swarm"]["parts"]
        measured = trace["outcome"]["swarm"]
        assert measured["agents"] == measured["answered"] == measured["used"] == len(parts)
        longest = max(len(part["plan"]) for part in parts) + 1
        own = 3 + task["swarm"]["own"]
        assert measured["critical_steps"] == own + longest
        assert measured["serial_steps"] == own + sum(len(part["plan"]) + 1 for part in parts)
        assert measured["serial_steps"] == fewest_replies(task)  # as planned
        # The same request to one agent without sub-agents: the same checks pass.
        alone = dict(task)
        del alone["swarm"]
        steps = len(task["plan"]) + 1
        loop = agent_loop.Settings(max_steps=steps, max_tokens=80, temperature=0, top_p=1)
        serial = play_alone(domain, alone, solution(task), loop)  # type: ignore[arg-type]
        assert serial["outcome"]["checks"] == trace["outcome"]["checks"]
        assert serial["messages"][-1]["content"] == trace["messages"][-1]["content"]


def test_each_agent_has_a_conversation_a_session_and_a_trace_of_its_own(
    legal: Domain, task: Task
) -> None:
    model = gold(task)
    trace = play(legal, task, model)
    children = trace["children"]
    assert [child["id"] for child in children] == [f"{task['id']}:{n}/0" for n in (1, 2, 3, 4)]
    assert set(model.sessions) == {node["id"] for node in nodes(trace)}
    for child, part in zip(children, task["swarm"]["parts"], strict=True):
        assert child["messages"][0]["content"] == task["swarm"]["system_prompt"]
        assert child["messages"][1]["content"] == part["prompt"]
        assert CREATE not in {tool["function"]["name"] for tool in child["tools"]}
    assert results(trace)[1:] == [child["messages"][-1]["content"] for child in children]


def test_a_run_of_one_agent_on_a_swarm_task_is_a_serial_collapse(legal: Domain, task: Task) -> None:
    loop = agent_loop.Settings(max_steps=9, max_tokens=80, temperature=0, top_p=1)
    trace = play(legal, task, with_lead(task, *solution(task)), loop=loop)
    assert trace["outcome"]["checks"] == {"answer": True, "state": True}
    assert failures(trace) == ["serial_collapse"]
    assert failure_reason(trace["outcome"]) == "serial_collapse"


def test_one_sub_agent_after_the_other_is_a_serial_collapse_and_two_at_once_are_not(
    legal: Domain, task: Task
) -> None:
    each = [calls(assign(prompt)) for prompt in prompts(task)]
    alone = play(legal, task, with_lead(task, calls(create()), *each, task["reply"]))
    assert failures(alone) == ["serial_collapse"]
    first, *rest = prompts(task)
    turns = [calls(create()), calls(assign(first)), calls(*map(assign, rest)), task["reply"]]
    some = play(legal, task, with_lead(task, *turns))
    assert failures(some) == []
    assert some["outcome"]["swarm"]["stages"] == 2


def test_a_prompt_assigned_twice_is_a_duplicate_and_one_repeated_after_a_failure_is_not(
    legal: Domain, task: Task
) -> None:
    first = prompts(task)[0]
    every = [*map(assign, prompts(task))]
    twice = with_lead(task, calls(create()), calls(*every, assign(f" {first}  ")), task["reply"])
    assert failures(play(legal, task, twice)) == ["duplicate_assignment"]

    seen = []

    def fails_once(step: int, prompt: str) -> Turn:
        if prompt == first and step == 0:
            seen.append(prompt)
        return None if prompt == first and len(seen) == 1 else gold_child(task, step, prompt)

    turns = [calls(create()), calls(*every), calls(assign(first)), task["reply"]]
    again = play(legal, task, with_lead(task, *turns, child=fails_once))
    assert failures(again) == []
    assert again["outcome"]["swarm"]["answered"] == 4


def test_a_part_that_nobody_finished_is_an_unfinished_sub_agent(legal: Domain, task: Task) -> None:
    first = task["swarm"]["parts"][0]

    def fails(step: int, prompt: str) -> Turn:
        return "" if prompt == first["prompt"] else gold_child(task, step, prompt)

    every = calls(*map(assign, prompts(task)))
    trace = play(legal, task, with_lead(task, calls(create()), every, task["reply"], child=fails))
    assert failures(trace) == ["unfinished_subagent"]
    assert "unfinished_subagent" in results(trace)[1]
    # The near miss: the orchestrator does the part itself.
    call = first["plan"][0]
    own = calls((call["tool"], call["arguments"]))
    model = with_lead(task, calls(create()), every, own, task["reply"], child=fails)
    assert failures(play(legal, task, model)) == []


def test_right_parts_and_a_wrong_answer_are_a_lost_result_and_a_wrong_part_is_not(
    legal: Domain, task: Task
) -> None:
    every = calls(*map(assign, prompts(task)))
    model = with_lead(task, calls(create()), every, "It is 1.")
    trace = play(legal, task, model)
    assert failures(trace) == ["lost_result"]
    assert failure_reason(trace["outcome"]) == "lost_result"
    assert trace["outcome"]["swarm"]["used"] == 0

    def wrong(step: int, prompt: str) -> Turn:
        turn = gold_child(task, step, prompt)
        return "It is 2." if isinstance(turn, str) and prompt == prompts(task)[0] else turn

    model = with_lead(task, calls(create()), every, "It is 1.", child=wrong)
    trace = play(legal, task, model)
    assert failures(trace) == []
    assert failure_reason(trace["outcome"]) == "wrong_answer"


def test_a_part_that_nobody_did_fails_a_right_answer_unless_the_orchestrator_did_it(
    legal: Domain, task: Task
) -> None:
    some = calls(*map(assign, prompts(task)[1:]))
    guessed = play(legal, task, with_lead(task, calls(create()), some, task["reply"]))
    assert failures(guessed) == ["unassigned_part"]
    assert failure_reason(guessed["outcome"]) == "unassigned_part"
    call = task["swarm"]["parts"][0]["plan"][0]
    own = calls((call["tool"], call["arguments"]))
    assert (
        failures(play(legal, task, with_lead(task, calls(create()), some, own, task["reply"])))
        == []
    )


def test_sub_agents_without_a_part_are_spurious_from_half_of_them_on(
    legal: Domain, task: Task
) -> None:
    def child(step: int, prompt: str) -> Turn:
        return "Hello." if "else" in prompt else gold_child(task, step, prompt)

    def play_with(idle: int) -> list[str]:
        every = [*prompts(task), *(f"Do something else, {n}." for n in range(idle))]
        turns = [calls(create()), calls(*map(assign, every)), task["reply"]]
        return failures(play(legal, task, with_lead(task, *turns, child=child)))

    assert play_with(4) == ["spurious_parallelism"]
    assert play_with(3) == []


def test_one_sub_agent_for_several_parts_has_to_answer_them_all(legal: Domain, task: Task) -> None:
    one, two, three, four = task["swarm"]["parts"]

    def child(step: int, prompt: str) -> Turn:
        return " ".join(p["reply"] for p in task["swarm"]["parts"] if p["about"] in prompt)

    both = [f"{a['prompt']} {b['prompt']}" for a, b in ((one, two), (three, four))]
    turns = [calls(create()), calls(*map(assign, both)), task["reply"]]
    trace = play(legal, task, with_lead(task, *turns, child=child))
    assert [child["agent"]["parts"] for child in trace["children"]] == [[0, 1], [2, 3]]
    assert [child["outcome"]["checks"]["answer"] for child in trace["children"]] == [True, True]
    half = with_lead(task, *turns, child=lambda step, prompt: one["reply"])
    checks = [child["outcome"]["checks"]["answer"] for child in play(legal, task, half)["children"]]
    assert checks == [False, False]


def test_the_caps_refuse_one_more_and_are_a_failure_only_then(legal: Domain, task: Task) -> None:
    assert failures(play(legal, task, caps=Caps(agents=4))) == []
    every = calls(*map(assign, prompts(task)))
    turns = [calls(create()), every, calls(assign(prompts(task)[3])), task["reply"]]
    trace = play(legal, task, with_lead(task, *turns), caps=Caps(agents=3))
    assert failures(trace) == ["over_cap", "unassigned_part"]
    refused = [text for text in results(trace) if "over_cap" in text]
    assert len(refused) == 2 and len(trace["children"]) == 3
    # Calls of tools: two for each of four sub-agents, each of which makes one.
    assert failures(play(legal, task, caps=Caps(calls=4))) == []
    trace = play(legal, task, gold(task), caps=Caps(calls=0))
    assert "over_cap" in failures(trace) and trace["children"] == []


def test_a_sub_agent_gets_its_share_of_the_calls_and_an_error_after_it(
    legal: Domain, task: Task
) -> None:
    def greedy(step: int, prompt: str) -> Turn:
        turn: Any = gold_child(task, 0, prompt)
        again = calls(
            *[(c["function"]["name"], c["function"]["arguments"]) for c in turn["tool_calls"]] * 3
        )
        return again if step == 0 else gold_child(task, 1, prompt)

    every = calls(*map(assign, prompts(task)))
    model = with_lead(task, calls(create()), every, task["reply"], child=greedy)
    trace = play(legal, task, model, caps=Caps(calls=8))
    assert failures(trace) == ["over_cap"]
    assert [len(child["outcome"]["tool_errors"]) for child in trace["children"]] == [1, 1, 1, 1]


def test_one_cap_counts_the_calls_of_the_orchestrator_and_of_its_sub_agents(
    legal: Domain, task: Task
) -> None:
    own = calls(*[("get_matter", {"matter_id": f"M-{n}"}) for n in (101, 102, 104)])
    every = calls(*map(assign, prompts(task)))
    model = with_lead(task, calls(create()), own, every, own, task["reply"])
    assert failures(play(legal, task, model, caps=Caps(calls=10))) == []
    trace = play(legal, task, model, caps=Caps(calls=9))
    assert "over_cap" in failures(trace) and len(trace["children"]) == 4
    assert ["over_cap: 9 calls" in text for text in results(trace)].count(True) == 1
    # Three calls are used, so that one is left, and of four assignments one starts.
    assert len(play(legal, task, model, caps=Caps(calls=4))["children"]) == 1


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (assign("Read C-1.", agent="nobody"), "unknown_agent"),
        (create("reader"), "duplicate_name"),
        (create(""), "empty_name"),
        (create("x" * 65), "oversized_name"),
        (create("y", "z" * (MAX_SYSTEM + 1)), "oversized_system_prompt"),
        (assign(" "), "empty_prompt"),
        (assign("x" * (MAX_PROMPT + 1)), "oversized_prompt"),
        ((ASSIGN, {"agent": "reader"}), "prompt: missing"),
        ((ASSIGN, {"agent": ["reader"], "prompt": "x"}), "agent: found"),
        ((ASSIGN, "{"), "not JSON"),
        ((CREATE, "[]"), "expected a JSON object"),
        (("start_swarm", {}), "there is no tool"),
    ],
)
def test_a_call_that_makes_no_sense_is_answered_by_its_name(
    legal: Domain, task: Task, call: tuple, name: str
) -> None:
    every = calls(*map(assign, prompts(task)))
    model = with_lead(task, calls(create()), calls(call), every, task["reply"])
    trace = play(legal, task, model)
    error = json.loads(results(trace)[1])["error"]
    assert name in error and len(error) <= 500
    assert trace["outcome"]["tool_errors"] == [5]
    assert failures(trace) == [] and len(trace["children"]) == 4


def test_what_sub_agents_change_is_in_the_world_when_their_stage_ends(
    legal: Domain, task: Task
) -> None:
    """Two sub-agents write what the task does not ask for: each is at fault, and the final state is."""

    def writes(step: int, prompt: str) -> Turn:
        if step == 0:
            matter = "open" if prompt == prompts(task)[0] else "closed"
            return calls(("set_matter_status", {"matter_id": matters[0], "status": matter}))
        return gold_child(task, 1, prompt)

    world = legal.environment()
    world.reset(**task)
    task = {**task, "tools": [*legal.tools]}  # type: ignore[misc]
    matters = [*world._state()["matters"]]
    every = calls(*map(assign, prompts(task)))
    read = calls(("get_matter", {"matter_id": matters[0]}))
    model = with_lead(task, calls(create()), every, read, task["reply"], child=writes)
    trace = play(legal, task, model)
    assert [bool(c["outcome"]["unasked_writes"]) for c in trace["children"]] == [
        False,
        True,
        True,
        True,
    ]
    assert json.loads(results(trace)[-1])["status"] == "closed"
    assert failure_reason(trace["outcome"]) == "wrong_state"


def test_each_node_of_a_swarm_has_its_own_verdict(legal: Domain, task: Task) -> None:
    def wrong(step: int, prompt: str) -> Turn:
        turn = gold_child(task, step, prompt)
        return "It is 2." if isinstance(turn, str) and prompt == prompts(task)[0] else turn

    every = calls(*map(assign, prompts(task)))
    model = with_lead(task, calls(create()), every, "It is 1.", child=wrong)
    verdicts = [check_trace(node, FilterSettings()) for node in nodes(play(legal, task, model))]
    assert [v["reason"] for v in verdicts] == ["wrong_answer", "wrong_answer", None, None, None]
    collapsed = play(legal, task, with_lead(task, *solution(task)))
    assert check_trace(collapsed, FilterSettings())["reason"] == "serial_collapse"


@pytest.mark.slow
def test_three_hundred_sub_agents_run_in_one_stage_and_at_most_as_many_as_may(
    legal: Domain,
) -> None:
    built = tasks.build(legal, "portfolio_review", "train", 3)
    model = gold(built)
    every = [assign(f"{prompt} (reading {n})") for n in range(8) for prompt in prompts(built)][:300]
    while len(every) < 300:
        every += every[: 300 - len(every)]
    model.lead = lambda step, prompt: (
        [calls(create()), calls(*every[:300])][step] if step < 2 else built["reply"]
    )
    trace = play(legal, built, model, Caps(agents=300, calls=4000), running=64)
    measured = trace["outcome"]["swarm"]
    assert measured["agents"] == measured["answered"] == 300
    assert measured["critical_steps"] == 5 and measured["serial_steps"] == 603
    assert measured["calls"] == 601 and model.most <= 64
    assert trace["outcome"]["checks"] == {"answer": True, "state": True}


def test_a_hinted_orchestrator_is_asked_call_by_call_for_a_message_of_all_assignments(
    legal: Domain, task: Task
) -> None:
    lead = lead_task(task)
    guidance = Constrained("<tool_call>\n")
    turn = guidance.before_turn(lead, number=2, results=1, hinted=True)
    parts = task["swarm"]["parts"]
    assert all(part["about"] in turn.hints[0]["content"] for part in parts)
    for more, part in zip(turn.together, parts[1:], strict=True):
        assert part["about"] in more.hints[0]["content"]
    assert "Make the calls 2 to 5 in one message." in hint(lead)
    assert [len(lead_task(task, most)["plan"]) for most in (1, 2, 3, 4, 9)] == [2, 3, 3, 5, 5]

    asked: Iterator[Any] = iter(
        [calls(create()), *(calls(assign(prompt)) for prompt in prompts(task)), task["reply"]]
    )
    model = gold(task)
    model.lead = lambda step, prompt: next(asked)
    trace = play(legal, task, model, loop=replace(LOOP, guidance=guidance), hinted=True)
    assert failures(trace) == []
    assert [len(m["tool_calls"]) for m in trace["messages"] if m.get("tool_calls")] == [1, 4]
    assert len(trace["calls"]) == 6
