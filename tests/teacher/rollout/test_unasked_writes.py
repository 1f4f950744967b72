"""A write is unasked where the solution has no such call; reads, errors and the solution's own writes are not."""

import json
from typing import Any

import pytest
from scripted_model import Turn, calls, play, solution

from schemas.task import GoldCall, Task, TaskChecks
from teacher.domain import Domain, Environment
from teacher.domain.given_tools import given_tool
from teacher.domain.scoring import state_hash
from teacher.domain.worlds import run_tool
from teacher.rollout.agent_loop import passed
from teacher.rollout.unasked_writes import WriteCheck

pytest_plugins = ["stock_tasks"]


def unasked(stock: Domain, task: Task, *turns: Turn) -> list[str]:
    """The results of the unasked writes of an episode with these turns and the whole toolbox."""
    task = {**task, "tools": list(stock.tools)}
    trace = play(stock, task, [*turns, task["reply"]])
    return [trace["messages"][index]["content"] for index in trace["outcome"]["unasked_writes"]]


def written(task: Task, **changes: object) -> tuple[str, dict]:
    """The write of the task's solution, with other arguments."""
    return "move_item", {**task["plan"][1]["arguments"], **changes}


def test_the_solution_of_a_task_makes_no_unasked_write(
    stock: Domain, count: Task, move: Task
) -> None:
    for task in (count, move):
        assert unasked(stock, task, *solution(task)[:-1]) == []


def test_any_write_is_unasked_where_the_solution_only_reads(stock: Domain, count: Task) -> None:
    item = count["plan"][0]["arguments"]["item"]
    assert len(unasked(stock, count, calls(("take_item", {"item": item, "count": 1})))) == 1
    both = calls(("get_item", {"item": item}), ("take_item", {"item": item, "count": 1}))
    (result,) = unasked(stock, count, both)
    assert '"count"' in result and '"shelf"' not in result


def test_a_read_that_the_solution_does_not_make_is_no_write(stock: Domain, move: Task) -> None:
    item = move["plan"][1]["arguments"]["item"]
    assert unasked(stock, move, calls(("get_item", {"item": item})), *solution(move)[:-1]) == []


def test_a_call_that_met_an_error_or_changed_nothing_is_no_write(
    stock: Domain, count: Task
) -> None:
    item = count["plan"][0]["arguments"]["item"]
    for arguments in ({"item": item, "count": 100000}, {"item": "S-0", "count": 1}, "{"):
        assert unasked(stock, count, calls(("take_item", arguments))) == []


def test_a_write_with_other_arguments_than_the_solutions_is_unasked(
    stock: Domain, move: Task
) -> None:
    shelf = move["plan"][1]["arguments"]["shelf"]
    other = "A1" if shelf != "A1" else "A2"
    assert len(unasked(stock, move, calls(written(move, shelf=other)))) == 1


def test_a_write_that_was_taken_back_is_counted_though_the_task_is_passed(
    stock: Domain, move: Task
) -> None:
    shelf = move["plan"][1]["arguments"]["shelf"]
    other = "A1" if shelf != "A1" else "A2"
    detour: list[Turn] = [calls(written(move, shelf=other)), calls(written(move)), move["reply"]]
    trace = play(stock, move, detour)
    assert passed(trace) and trace["outcome"]["unasked_writes"] == [3]


class Till(Environment):
    """A till, into which money is put."""

    def reset(self, **task: object) -> None:
        self._task = task
        self._sum = 0.0

    def _state(self) -> object:
        return self._sum

    def put(self, amount: float, times: int = 1) -> dict:
        """Put an amount in.

        Args:
            amount: The amount.
            times: How often.
        """
        self._sum += amount * times
        return {"sum": self._sum}


@pytest.fixture
def paid(stock: Domain, move: Task) -> tuple[Domain, Task]:
    """A pack with the till as its world, and a task to put in 15 once."""
    put = {
        "type": "function",
        "function": {
            "name": "put",
            "description": "Put an amount in.",
            "parameters": {
                "type": "object",
                "properties": {"amount": {"type": "number"}, "times": {"type": "integer"}},
                "required": ["amount"],
            },
        },
    }
    pack = Domain(stock.name, stock.path, stock.spec, Till, {}, {"put": put})
    plan: list[GoldCall] = [{"tool": "put", "arguments": {"amount": 15}}]
    checks: TaskChecks = {"state": state_hash(15.0), "answer": None}
    return pack, {**move, "tools": ["put"], "plan": plan, "checks": checks}


@pytest.mark.parametrize(
    "arguments",
    [{"amount": 15}, {"amount": 15.0}, {"times": 1, "amount": 15}, '{"amount": 1.5e1}'],
    ids=str,
)
def test_equal_arguments_in_another_form_are_the_solutions(
    paid: tuple[Domain, Task], arguments: object
) -> None:
    assert unasked(*paid, calls(("put", arguments))) == []


def test_a_write_of_the_solution_is_asked_for_once(paid: tuple[Domain, Task]) -> None:
    once = ("put", {"amount": 15})
    assert len(unasked(*paid, calls(once), calls(once))) == 1
    assert len(unasked(*paid, calls(("put", {"amount": 15, "times": 2})))) == 1


def test_a_write_of_a_tool_whose_name_is_no_name_of_python_is_judged_by_its_arguments() -> None:
    function = {"name": "move-item", "description": "Move.", "parameters": {"type": "object"}}

    class Shop(Environment):
        def reset(self, **task: Any) -> None:
            self._shelves: list[Any] = []

        def _state(self) -> Any:
            return self._shelves

        @given_tool({"type": "function", "function": function})
        def move_item(self, /, **arguments: Any) -> str:
            self._shelves.append(arguments["to"])
            return "moved"

    shop = Shop()
    shop.reset()
    plan = [{"tool": "move-item", "arguments": {"to": "B"}}]
    check = WriteCheck({"plan": plan, "checks": {"state": "other"}}, shop)  # type: ignore[typeddict-item]
    for to, is_unasked in (("B", False), ("C", True)):
        run_tool(shop, "move-item", {"to": to})
        call = {"name": "move-item", "arguments": json.dumps({"to": to})}
        assert check.is_unasked(call) == is_unasked
