"""Simulated users tell what they are asked for, and a model that plays one is at fault where it does more or less."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from scripted_model import LOOP, MAKER, Model, calls, play

from schemas.filter import FilterSettings, check_trace
from schemas.task import Task
from schemas.trace import End, Message
from teacher.dialects.base import Dialect
from teacher.domain import tasks
from teacher.domain.kinds.dialogue import make_dialogue
from teacher.domain.kinds.policy import load_policy, under_policy
from teacher.domain.pack import load
from teacher.rollout.agent_loop import passed
from teacher.rollout.user import PlayedBy, ScriptedUser, audit

LEGAL = load("legal")


def dialogue(template: str, changes: bool = False) -> Task:
    """The first task of a template whose user withholds a fact, or changes its mind."""
    made = (make_dialogue(tasks.build(LEGAL, template, "train", seed), LEGAL) for seed in range(60))
    return next(t for t in made if t and ("change" in t["dialogue"]) == changes)


def gold(task: Task) -> list[Any]:
    turns, asks = list[Any](), list(task["dialogue"]["asks"])
    for number, step in enumerate(task["plan"]):
        while asks and asks[0]["before_call"] <= number:
            turns.append(asks.pop(0)["text"])
        turns.append(calls((step["tool"], step["arguments"])))
    return [*turns, task["reply"]]


@pytest.fixture(scope="module")
def expiry() -> Task:
    return dialogue("contract_expiry")


def said(messages: list[Message]) -> list[str]:
    return [message["content"] for message in messages if message["role"] == "user"]


def test_a_fact_is_told_when_it_is_asked_for_and_the_user_then_has_no_more_to_say(
    expiry: Task,
) -> None:
    (fact,) = expiry["dialogue"]["facts"]
    trace = play(LEGAL, expiry, gold(expiry))
    assert passed(trace) and check_trace(trace, FilterSettings())["kept"]
    assert said(trace["messages"]) == [expiry["request"], fact["text"]]
    assert fact["value"] not in expiry["request"] and fact["value"] in fact["text"]
    assert trace["messages"][-1]["role"] == "assistant"
    assert trace["user"] == {"played_by": None, "calls": []}


def test_a_model_that_does_not_ask_is_told_nothing(expiry: Task) -> None:
    trace = play(LEGAL, expiry, ["It expires on 2027-05-03."])
    assert trace["outcome"]["ended"] == End.ANSWERED and not passed(trace)
    assert said(trace["messages"]) == [expiry["request"]]


def test_the_user_changes_its_mind_once_after_the_first_reply() -> None:
    task = dialogue("contract_expiry", changes=True)
    change = task["dialogue"]["change"]
    trace = play(LEGAL, task, gold(task))
    assert passed(trace)
    assert said(trace["messages"]) == [task["request"], change["text"]]
    assert change["before"] in task["request"]
    # Who stays with the first value has not reached the goal.
    assert not passed(play(LEGAL, task, [*gold(task)[:2], gold(task)[1]]))


def test_a_call_that_the_policy_wants_confirmed_is_a_breach_without_the_users_yes() -> None:
    policy = load_policy(LEGAL)
    assert policy
    original = next(
        task
        for seed in range(40)
        if "closed"
        in str((task := tasks.build(LEGAL, "contract_matter_status", "train", seed))["plan"])
    )
    task = under_policy(original, policy)
    task["dialogue"] = {
        "goal": task["request"],
        "persona": "a clerk",
        "manner": "terse",
        "facts": [],
        "asks": [
            {
                "before_call": 1,
                "text": "Please confirm that I should close the matter.",
                "reply": "Yes, go ahead.",
            }
        ],
    }
    asked, unasked = gold(task), [turn for turn in gold(task) if not isinstance(turn, str)]
    assert passed(play(LEGAL, task, asked))
    assert check_trace(play(LEGAL, task, asked), FilterSettings())["kept"]
    verdict = check_trace(play(LEGAL, task, [*unasked, task["reply"]]), FilterSettings())
    assert verdict["reason"] == "policy_breach"


def talk(task: Task, question: str) -> list[Message]:
    return [
        {"role": "user", "content": task["request"]},
        {"role": "assistant", "content": question},
    ]


def test_each_fault_of_a_user_is_found_and_its_near_miss_is_none(expiry: Task) -> None:
    told = expiry["dialogue"]
    value = told["facts"][0]["value"]
    asked, answered = talk(expiry, "Which contract do you mean?"), talk(expiry, "It is done.")
    for messages, text, fault in [
        (asked, "C-999, please.", "invented"),
        (asked, f"{value}, please.", None),
        (asked, f"{value}, with Nowhere Foods.", "invented"),
        (answered, f"It is about {value}.", "told_all"),
        (asked, "I am not sure which one.", None),
        (asked, None, "ended_early"),
        (answered, None, None),
        (asked, "please " * 80, "too_long"),
    ]:
        found = audit(told, messages, text)
        assert (found or "").partition(":")[0] == (fault or ""), (text, found)


def test_a_user_that_tells_one_fact_when_asked_for_another_tells_too_much(expiry: Task) -> None:
    (fact,) = expiry["dialogue"]["facts"]
    other = {**fact, "name": "days", "value": "17", "words": ["days"], "text": "17."}
    two: Any = {**expiry["dialogue"], "facts": [fact, other]}
    question = talk(expiry, "How many days?")
    assert audit(two, question, "17 days.") is None
    assert (audit(two, question, f"17 days, for {fact['value']}.") or "").startswith("told_all")


class _Client:
    """A client whose replies are a script's."""

    def __init__(self, *turns: Any) -> None:
        self.model = Model(list(turns))

    async def complete(self, messages: Any, tools: Any, sample: int, **more: Any) -> Any:
        return await self.model.complete(messages, tools, sample, **more)


def played(task: Task, user: list[Any], turns: list[Any]) -> Any:
    client = _Client(*user)
    by = PlayedBy(client, {**MAKER, "model": "u"}, Dialect(), {"max_tokens": 50})  # type: ignore[arg-type]
    trace = play(LEGAL, task, turns, replace(LOOP, user=by))
    return trace, client.model


def test_a_model_plays_the_user_and_its_requests_are_accounted_apart(expiry: Task) -> None:
    value = expiry["dialogue"]["facts"][0]["value"]
    trace, model = played(expiry, [f"Sorry, I mean {value}.", "DONE"], gold(expiry))
    assert passed(trace)
    assert said(trace["messages"])[1] == f"Sorry, I mean {value}."
    assert trace["user"]["played_by"]["model"] == "u"
    # One reply to the question, and one to the answer, which ends the dialogue.
    assert len(trace["user"]["calls"]) == 2 and len(trace["calls"]) == len(gold(expiry))
    prompt = model.shown[0]
    assert str(value) in prompt[0]["content"]
    # It is shown what was said, with the roles changed, and no call or result.
    assert [m["role"] for m in prompt] == ["system", "user", "assistant", "user"]
    assert "tool" not in str([m["role"] for m in model.shown[1]])


@pytest.mark.parametrize("text", ["It is C-999.", "DONE", None, ""])
def test_what_a_user_breaks_is_no_fault_of_the_teacher(expiry: Task, text: str | None) -> None:
    trace, _ = played(expiry, [text], gold(expiry))
    assert trace["outcome"]["ended"] == End.USER_FAULT
    assert check_trace(trace, FilterSettings())["reason"] == "user_fault"


def test_a_user_that_does_not_end_the_talk_is_stopped(expiry: Task) -> None:
    talks = ["Hm.", "Hm, hm."] * 20
    trace, _ = played(expiry, talks, ["Noted.", "Very well."] * 20)
    assert trace["outcome"]["ended"] == End.USER_FAULT
    assert trace["outcome"]["error"].startswith("goes_on: after 12 messages")


def test_a_scripted_user_says_the_same_each_time(expiry: Task) -> None:
    messages = talk(expiry, "Which contract do you mean?")
    one, other = (asyncio.run(ScriptedUser(expiry).reply(messages)) for _ in range(2))
    assert one == other and one.text
