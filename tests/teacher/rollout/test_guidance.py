"""Hints, worked examples and constraints: shown to the model as long as they help it, and never stored."""

import json
from typing import Any

import pytest
from scripted_model import Model, play, roles, solution

from schemas.filter import HINT_HEADER
from schemas.task import Task
from teacher.domain import Domain
from teacher.domain.prompts import demonstration, hint
from teacher.domain.tasks import build
from teacher.rollout.agent_loop import Settings, passed
from teacher.rollout.guidance import Constrained, Guidance, choose_guidance

pytest_plugins = ["stock_tasks"]


# ------------------------------------------------------------------------------------- hints, examples


def said_by_system(messages: list[dict[str, Any]]) -> list[str]:
    return [m["content"] for m in messages if HINT_HEADER in (m["content"] or "")]


def test_a_hint_is_shown_and_not_stored(stock: Domain, move: Task) -> None:
    model = Model(solution(move))
    trace = play(stock, move, model, hinted=True)
    assert trace["hinted"] and passed(trace)
    assert said_by_system(trace["messages"]) == []
    assert roles(trace).count("system") == 1
    for shown in model.shown:
        assert said_by_system(shown) == [hint(move)]
    assert not play(stock, move, solution(move))["hinted"]


def test_a_hint_holds_every_step_of_the_plan_and_the_reply(move: Task) -> None:
    text = hint(move)
    for step in move["plan"]:
        assert step["tool"] in text and json.dumps(step["arguments"]) in text
    assert move["reply"] in text
    assert move["plan"][1]["tool"] not in hint(move, 0)
    assert move["reply"] in hint(move, 2) and hint(move, 9) == hint(move, 2)


def test_examples_are_shown_before_the_request_and_not_stored(stock: Domain, count: Task) -> None:
    other = build(stock, "count_of_item", "train", 77)
    example = demonstration(other, stock)
    model = Model(solution(count))
    trace = play(stock, count, model, examples=[example, example])
    for shown in model.shown:
        assert shown[1 : 1 + 2 * len(example)] == example * 2
        assert shown[0]["role"] == "system"
        assert shown[1 + 2 * len(example)]["content"] == count["request"]
    assert passed(trace)
    assert other["request"] not in json.dumps(trace["messages"])
    assert trace["messages"] == play(stock, count, solution(count))["messages"]


# ------------------------------------------------------------------------------------- constraint


def constrained(prefix: str = "") -> Settings:
    return Settings(6, 80, 0.2, 0.95, guidance=Constrained(prefix))


def choices(model: Model) -> list[Any]:
    return [parameters.get("tool_choice") for parameters in model.parameters]


def test_a_free_teacher_is_sent_no_tool_choice(stock: Domain, move: Task) -> None:
    model = Model(solution(move))
    play(stock, move, model, hinted=True)
    assert choices(model) == [None, None, None]


def test_a_constrained_teacher_must_call_once_and_may_then(stock: Domain, move: Task) -> None:
    model = Model(solution(move))
    play(stock, move, model, constrained())
    assert choices(model) == ["required", "auto", "auto"]


def test_a_constrained_teacher_under_a_hint_must_call_as_often_as_the_plan(
    stock: Domain, move: Task
) -> None:
    model = Model(solution(move))
    trace = play(stock, move, model, constrained(), hinted=True)
    assert choices(model) == ["required", "required", "none"]
    assert [said_by_system(shown)[-1] for shown in model.shown] == [hint(move, n) for n in range(3)]
    assert [len(said_by_system(shown)) for shown in model.shown] == [1, 2, 3]
    assert said_by_system(trace["messages"]) == [] and passed(trace)


@pytest.mark.parametrize("hinted", [False, True])
def test_the_prefix_of_a_call_is_sent_only_when_a_call_is_required(
    stock: Domain, move: Task, hinted: bool
) -> None:
    model = Model(solution(move))
    trace = play(stock, move, model, constrained("<tool_call>\n"), hinted=hinted)
    begun = {"role": "assistant", "content": "<tool_call>\n"}
    for shown, choice in zip(model.shown, choices(model), strict=True):
        assert (shown[-1] == begun) is (choice == "required")
        assert begun not in shown[:-1]
    assert begun not in trace["messages"] and passed(trace)
    unconstrained = Model(solution(move))
    guidance = choose_guidance(constrain=False, call_prefix="<tool_call>\n")
    loop = Settings(6, 80, 0.2, 0.95, guidance=guidance)
    play(stock, move, unconstrained, loop, hinted=hinted)
    assert all(begun not in shown for shown in unconstrained.shown)


# ------------------------------------------------------------------------------------- few tools


def test_a_teacher_with_few_tools_makes_a_trace_with_all_that_the_task_offers(
    stock: Domain, move: Task
) -> None:
    task = move.copy()
    task["tools"] = list(stock.tools)
    model = Model(solution(task))
    loop = Settings(6, 80, 0.2, 0.95, guidance=choose_guidance(constrain=False, few=True))
    trace = play(stock, task, model, loop)
    assert passed(trace) and trace["tools"] == list(stock.tools.values())
    needed = {step["tool"] for step in task["plan"]}
    names = [[tool["function"]["name"] for tool in shown] for shown in model.tools]
    assert names == [names[0]] * 3 and needed < set(names[0])
    tool = trace["tools"][0]
    many = stock.tools | {f"other_{number}": tool for number in range(20)}
    shown = loop.guidance.shown_tools(task, many)
    assert len(needed) < len(shown) <= len(needed) + 2
    assert Guidance().shown_tools(task, many) == list(many.values())
