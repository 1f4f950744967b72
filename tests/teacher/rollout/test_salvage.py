"""Of a failed trace, the steps are salvaged that the world proves harmless; all others are masked."""

from dataclasses import replace
from typing import Any

import pytest
from scripted_model import calls, play
from small_students import RENDERER, TINY
from turns import stretches

from schemas.filter import FilterSettings, check_trace
from schemas.task import Task
from teacher.domain import tasks
from teacher.domain.kinds.recovery import with_fault
from teacher.domain.pack import load
from teacher.rollout.salvage import REASONS, harmless_turns

LEGAL = load("legal")


@pytest.fixture(scope="module")
def task() -> Task:
    """get_deadline, add_business_days, set_deadline, and an answer."""
    made = tasks.build(LEGAL, "extended_deadline", "train", 3)
    made["tools"] = list(LEGAL.tools)
    return made


def gold(task: Task) -> list[Any]:
    return [calls((step["tool"], step["arguments"])) for step in task["plan"]]


def salvaged(task: Task, *turns: Any) -> tuple[str | None, list[int]]:
    """The reason of the rejection, and which of the assistant's turns are salvaged, from 0."""
    trace = play(LEGAL, task, list(turns))
    assistants = [i for i, m in enumerate(trace["messages"]) if m["role"] == "assistant"]
    found = harmless_turns(trace, task, LEGAL)
    return check_trace(trace, FilterSettings())["reason"], [assistants.index(i) for i in found]


def test_the_calls_before_a_wrong_answer_are_salvaged_and_the_answer_is_not(task: Task) -> None:
    assert salvaged(task, *gold(task), "It is 1999-01-01.") == ("wrong_answer", [0, 1, 2])


def test_a_read_that_the_solution_does_not_make_is_masked_and_what_follows_is_not(
    task: Task,
) -> None:
    other = calls(("get_matter", {"matter_id": task["plan"][0]["arguments"]["matter_id"]}))
    first, *rest = gold(task)
    reason, turns = salvaged(task, first, other, *rest, "No idea.")
    assert (reason, turns) == ("wrong_answer", [0, 2, 3])


def test_nothing_is_salvaged_from_the_write_on_that_puts_the_goal_out_of_reach(task: Task) -> None:
    matter = task["plan"][0]["arguments"]["matter_id"]
    wrong = calls(("log_time", {"matter_id": matter, "hours": 2}))
    first, second, third = gold(task)
    reason, turns = salvaged(task, first, wrong, second, third, task["reply"])
    assert (reason, turns) == ("wrong_state", [0])


def test_a_wrong_write_that_the_right_one_would_mend_leaves_the_goal_in_reach(task: Task) -> None:
    write = task["plan"][2]["arguments"]
    wrong = calls(("set_deadline", {**write, "date": "2026-09-01"}))
    reason, turns = salvaged(task, *gold(task)[:2], wrong, "It is 2026-09-01.")
    assert (reason, turns) == ("wrong_answer", [0, 1])


def test_nothing_is_salvaged_in_a_world_that_cannot_be_copied(task: Task) -> None:
    class Remote(LEGAL.environment):  # type: ignore[name-defined, misc]
        def _fork(self) -> Any:
            return self

    trace = play(LEGAL, task, [*gold(task), "It is 1999-01-01."])
    assert harmless_turns(trace, task, LEGAL)
    assert harmless_turns(trace, task, replace(LEGAL, environment=Remote)) == []


def test_a_turn_that_met_an_error_is_masked_and_a_failure_given_up_keeps_what_came_before(
    task: Task,
) -> None:
    error = calls(("get_deadline", {"matter_id": "M-0"}))
    first, second, third = gold(task)
    assert salvaged(task, error, first, "No idea.") == ("wrong_answer", [1])
    failing = with_fault(task, LEGAL)
    assert failing
    failing["fault"] = {"tool": "set_deadline", "kind": "timeout"}
    assert salvaged(failing, first, second, third, "It timed out.") == ("gave_up", [0, 1])


def test_only_salvaged_turns_are_trained_and_the_others_are_read(task: Task) -> None:
    from student.rendering.examples import examples

    trace = play(LEGAL, task, [*gold(task), "It is 1999-01-01."])
    trace["trained"] = harmless_turns(trace, task, LEGAL)[:2]
    learned = [TINY.decode(labels) for _, labels in stretches(examples(trace, RENDERER))]
    text = " ".join(map(str, learned))
    assert "get_deadline" in text and "add_business_days" in text
    assert "set_deadline" not in text and "1999" not in text


def test_reasons_to_salvage_are_reasons_of_the_ledger() -> None:
    from schemas.ledger import REASONS as ALL

    assert set(ALL) > REASONS
