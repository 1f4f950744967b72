"""The agent loop against scripted models: what runs, what is stored, how it ends."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_model import MAKER, USAGE, Model, calls, outcome, play, roles, solution

from schemas.filter import FilterSettings, check_trace
from schemas.messages import check_messages
from schemas.task import Task
from teacher.domain import Domain, pack, tasks
from teacher.domain.prompts import demonstration, hint
from teacher.rollout.agent_loop import Settings, passed

pytest_plugins = ["stock_tasks"]


# ------------------------------------------------------------------------------------- good runs


def test_a_run_that_follows_the_plan_passes(stock: Domain, count: Task, move: Task) -> None:
    for task in (count, move):
        trace = play(stock, task, solution(task))
        assert passed(trace)
        assert trace["outcome"] == {
            "steps": len(task["plan"]) + 1,
            "ended": "answered",
            "error": None,
            "checks": {"answer": True, "state": True},
            "tool_errors": [],
            "unasked_writes": [],
            "detected": [],
        }
        assert roles(trace) == ["system", "user", *["assistant", "tool"] * len(task["plan"])] + [
            "assistant"
        ]
        assert check_messages(trace["messages"], trace["tools"])["kept"]


def test_a_trace_says_whose_it_is_and_what_it_cost(stock: Domain, count: Task) -> None:
    model = Model(solution(count))
    trace = play(stock, count, model, attempt=3)
    assert trace["id"] == f"{count['id']}/3"
    assert model.samples == [3, 3]
    assert trace["teacher"] == MAKER and trace["verdict"] is None
    assert [t["function"]["name"] for t in trace["tools"]] == count["tools"]
    assert trace["calls"][0] == {
        "key": "0" * 64,
        "finish_reason": "tool_calls",
        "seconds": 0.1,
        "usage": USAGE,
    }
    assert model.parameters[0] == {"max_tokens": 80, "temperature": 0.2, "top_p": 0.95}


def test_each_turn_is_shown_all_that_was_said_before(stock: Domain, move: Task) -> None:
    model = Model(solution(move))
    trace = play(stock, move, model)
    assert model.shown == [trace["messages"][:length] for length in (2, 4, 6)]


def test_an_episode_has_a_world_of_its_own(stock: Domain, move: Task) -> None:
    assert passed(play(stock, move, solution(move)))
    assert outcome(play(stock, move, ["It is moved."])) == ("answered", True, False)
    assert passed(play(stock, move, solution(move)))


def test_two_calls_in_one_turn_run_in_order_under_ids_of_their_own(
    stock: Domain, move: Task
) -> None:
    steps = [(s["tool"], s["arguments"]) for s in move["plan"]]
    trace = play(stock, move, [calls(*steps), move["reply"]])
    assert passed(trace)
    said, first, second = trace["messages"][2:5]
    ids = [call["id"] for call in said["tool_calls"]]
    assert len(set(ids)) == 2 and [first["tool_call_id"], second["tool_call_id"]] == ids
    assert "shelf" in second["content"]


def test_reasoning_is_kept_under_one_name(stock: Domain, count: Task) -> None:
    for name in ("reasoning_content", "reasoning"):
        turns = solution(count)
        turns[-1] = {"role": "assistant", "content": count["reply"], name: "I looked."}
        trace = play(stock, count, turns)
        assert passed(trace)
        assert trace["messages"][-1]["reasoning_content"] == "I looked."
        assert "reasoning" not in trace["messages"][-1]
    assert "reasoning_content" not in play(stock, count, solution(count))["messages"][-1]


# ------------------------------------------------------------------------------------- failures


def test_doing_nothing_or_repeating_the_request_does_not_pass(
    stock: Domain, count: Task, move: Task
) -> None:
    for task in (count, move):
        for text in ("", "Done.", task["request"]):
            assert not passed(play(stock, task, [text]))


def test_a_wrong_answer_and_a_wrong_state_are_told_apart(
    stock: Domain, count: Task, move: Task
) -> None:
    assert outcome(play(stock, count, ["There are 100000."])) == ("answered", False, True)
    assert outcome(play(stock, move, ["Moved."])) == ("answered", True, False)
    silent = [*solution(move)[:-1], "  "]
    assert outcome(play(stock, move, silent)) == ("answered", False, True)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (("sell_item", "{}"), "there is no tool 'sell_item'; the tools are "),
        (("reset", "{}"), "there is no tool 'reset'"),
        (("_state", "{}"), "there is no tool '_state'"),
        (("__class__", "{}"), "there is no tool"),
        (("", "{}"), "there is no tool ''"),
        (("x" * 5000, "{}"), "there is no tool"),
        (("move_item", '{"item": '), "the arguments are not JSON"),
        (("move_item", "S-1042"), "the arguments are not JSON"),
        (("move_item", '{"item": NaN}'), "NaN is no JSON number"),
        (("move_item", '{"item": 1' + "0" * 5000 + "}"), "the arguments are not JSON"),
        (("move_item", '{"item": "a", "item": "b"}'), "is given twice"),
        (("move_item", '{"item": "\\ud800", "shelf": "A1"}'), "surrogate"),
        (("move_item", "[" * 100_000), "nested too deeply"),
        (("move_item", "[]"), "expected a JSON object"),
        (("move_item", "null"), "expected a JSON object"),
        (("move_item", {}), "missing"),
        (("move_item", {"item": 7, "shelf": "A1"}), "item: found 7, expected string"),
        (("move_item", {"item": "S-1", "shelf": "A1", "self": 1}), "self: unknown field"),
        (("move_item", {"item": "S-0", "shelf": "A1"}), "no item 'S-0'"),
        (("move_item", {"item": "S-0", "shelf": "Z9"}), "no shelf 'Z9'"),
    ],
)
def test_a_bad_call_is_an_error_message_and_changes_nothing(
    stock: Domain, move: Task, bad: tuple[str, Any], said: str
) -> None:
    trace = play(stock, move, [calls(bad), *solution(move)])
    assert trace["outcome"]["tool_errors"] == [3]
    error = json.loads(trace["messages"][3]["content"])["error"]
    assert said in error and len(error) <= 500
    assert passed(trace)  # the model recovers


def test_a_tool_that_was_not_offered_does_not_run(stock: Domain, count: Task) -> None:
    task: Task = {**count, "tools": ["get_item"]}
    item = count["plan"][0]["arguments"]["item"]
    trace = play(stock, task, [calls(("take_item", {"item": item, "count": 1})), *solution(count)])
    assert trace["outcome"]["tool_errors"] == [3]
    assert passed(trace)


def test_a_number_of_many_digits_reaches_only_the_tools_own_check(
    stock: Domain, count: Task
) -> None:
    task: Task = {**count, "tools": ["get_item", "take_item"]}
    item = count["plan"][0]["arguments"]["item"]
    huge = calls(("take_item", f'{{"item": "{item}", "count": 1{"0" * 400}}}'))
    trace = play(stock, task, [huge, *solution(count)])
    assert trace["outcome"]["tool_errors"] == [3]
    assert "cannot be taken" in trace["messages"][3]["content"]


def test_a_bad_call_beside_a_good_one_is_the_only_error(stock: Domain, move: Task) -> None:
    good = [(s["tool"], s["arguments"]) for s in move["plan"]]
    trace = play(stock, move, [calls(good[0], ("sell_item", "{}"), good[1]), move["reply"]])
    assert trace["outcome"]["tool_errors"] == [4]
    assert passed(trace)


def test_a_bug_of_the_pack_ends_the_episode_alone_and_is_not_shown_to_the_model(
    stock: Domain, count: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, item: str) -> dict:
        raise KeyError(item)

    monkeypatch.setattr(stock.environment, "get_item", broken)
    trace = play(stock, count, solution(count))
    item = count["plan"][0]["arguments"]["item"]
    assert trace["outcome"]["ended"] == "tool_crashed" and not passed(trace)
    assert trace["outcome"]["error"] == f"StockRoom.get_item raised KeyError: '{item}'"
    assert roles(trace) == ["system", "user", "assistant"]
    verdict = check_trace(trace, FilterSettings())
    assert (verdict["reason"], verdict["detail"]) == ("tool_crashed", trace["outcome"]["error"])


def test_a_declared_exception_is_an_error_that_the_model_reads(
    stock: Domain, count: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strict(self: Any, item: str) -> dict:
        return self._items[item]

    monkeypatch.setattr(stock.environment, "get_item", strict)
    unknown = calls(("get_item", {"item": "S-0"}))
    assert play(stock, count, [unknown])["outcome"]["ended"] == "tool_crashed"
    monkeypatch.setattr(stock.environment, "errors", (KeyError,))
    trace = play(stock, count, [unknown, *solution(count)])
    assert trace["outcome"]["tool_errors"] == [3] and passed(trace)
    assert json.loads(trace["messages"][3]["content"]) == {"error": "KeyError: 'S-0'"}


def test_a_result_or_a_state_that_is_not_json_ends_the_episode_alone(
    stock: Domain, count: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tagged(self: Any, item: str) -> dict:
        return {"item": item, "tags": [{"red"}]}

    with monkeypatch.context() as patch:
        patch.setattr(stock.environment, "get_item", tagged)
        outcome = play(stock, count, solution(count))["outcome"]
        assert outcome["ended"] == "tool_crashed"
        assert str(outcome["error"]).startswith(
            "StockRoom.get_item: result.tags[0]: found a set ({'red'}), expected "
        )

    def spoils(self: Any, item: str) -> dict:
        self._items[item]["reader"] = self
        return {"item": item}

    with monkeypatch.context() as patch:
        patch.setattr(stock.environment, "get_item", spoils)
        outcome = play(stock, count, solution(count))["outcome"]
        item = count["plan"][0]["arguments"]["item"]
        assert outcome["ended"] == "tool_crashed"
        assert f"StockRoom._state: state.{item}.reader: found a StockRoom" in str(outcome["error"])


# ------------------------------------------------------------------------------------- endings


def test_a_reply_cut_off_by_its_length_ends_it_and_none_of_its_calls_runs(
    stock: Domain, move: Task
) -> None:
    for turn in (move["reply"], solution(move)[0]):
        trace = play(stock, move, Model([turn], finish_reason="length"))
        assert trace["outcome"]["ended"] == "truncated" and not passed(trace)
        assert roles(trace) == ["system", "user", "assistant"]


def test_the_step_limit_ends_it(stock: Domain, count: Task, move: Task) -> None:
    loop = Settings(max_steps=2, max_tokens=80, temperature=0, top_p=1)
    model = Model(solution(move))
    trace = play(stock, move, model, loop)
    assert outcome(trace) == ("step_limit", False, True)
    assert trace["outcome"]["steps"] == len(model.shown) == 2
    assert roles(trace)[-1] == "tool"


def test_the_same_call_three_times_in_a_row_ends_it(stock: Domain, move: Task) -> None:
    model = Model([calls(("find_item", {"name": "gold"}))])
    trace = play(stock, move, model)
    assert trace["outcome"]["ended"] == "step_limit"
    assert trace["outcome"]["error"] == "the same call 3 times in a row"
    assert len(model.shown) == 3
    assert roles(trace) == ["system", "user", *["assistant", "tool"] * 2]
    assert check_messages(trace["messages"], trace["tools"])["kept"]


def test_the_same_call_with_another_between_goes_on(stock: Domain, move: Task) -> None:
    one, other = calls(("find_item", {"name": "gold"})), calls(("find_item", {"name": "tin"}))
    trace = play(stock, move, [one, one, other, one, one, "I cannot find it."])
    assert trace["outcome"]["ended"] == "answered"


def test_a_request_that_gets_no_reply_ends_it_with_the_reason(stock: Domain, move: Task) -> None:
    trace = play(stock, move, [solution(move)[0], None])
    assert trace["outcome"]["ended"] == "teacher_error"
    assert trace["outcome"]["error"] == "the context is exceeded"
    assert roles(trace) == ["system", "user", "assistant", "tool"]
    assert len(trace["calls"]) == 2
    assert play(stock, move, [None])["outcome"]["ended"] == "teacher_error"


# ------------------------------------------------------------------------------------- odd replies


def test_a_turn_that_announces_calls_and_makes_none_is_an_answer(
    stock: Domain, count: Task
) -> None:
    for message in (
        {"role": "assistant", "content": "", "tool_calls": []},
        {"role": "assistant", "content": None, "tool_calls": None},
        {"role": "assistant"},
    ):
        trace = play(stock, count, Model([message], finish_reason="tool_calls"))
        assert outcome(trace) == ("answered", False, True)
        assert trace["messages"][-1] == {"role": "assistant", "content": ""}


def test_arguments_that_come_parsed_or_not_at_all_are_taken_as_json(
    stock: Domain, count: Task
) -> None:
    parsed = calls(("get_item", ""))
    parsed["tool_calls"][0]["function"]["arguments"] = count["plan"][0]["arguments"]
    assert passed(play(stock, count, [parsed, count["reply"]]))
    odd: list[Any] = ["absent", None, "", {}]
    for arguments in odd:
        turn = calls(("get_item", ""))
        turn["tool_calls"][0]["function"]["arguments"] = arguments
        if arguments == "absent":
            del turn["tool_calls"][0]["function"]["arguments"]
        trace = play(stock, count, [turn, *solution(count)])
        assert trace["messages"][2]["tool_calls"][0]["function"]["arguments"] == "{}"
        assert trace["outcome"]["tool_errors"] == [3] and passed(trace)


def test_a_call_without_a_type_or_name_or_function_does_not_stop_the_run(
    stock: Domain, count: Task
) -> None:
    untyped = calls(("get_item", count["plan"][0]["arguments"]))
    untyped["tool_calls"][0].update(type=None, id=None)
    assert passed(play(stock, count, [untyped, count["reply"]]))
    nameless = calls(("get_item", {}))
    nameless["tool_calls"][0]["function"]["name"] = None
    assert play(stock, count, [nameless, count["reply"]])["outcome"]["tool_errors"] == [3]
    hollow = {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "type": "function"}]}
    assert outcome(play(stock, count, [hollow])) == ("answered", False, True)


def test_content_in_parts_is_kept_as_its_text(stock: Domain, count: Task) -> None:
    parts = [{"type": "text", "text": count["reply"]}]
    turns = [solution(count)[0], {"role": "assistant", "content": parts}]
    trace = play(stock, count, turns)
    assert passed(trace) and trace["messages"][-1]["content"] == count["reply"]


@settings(max_examples=60, deadline=None)
@given(name=st.text(max_size=12) | st.just("get_item"), arguments=st.text(max_size=40))
def test_no_call_stops_the_run(stock: Domain, count: Task, name: str, arguments: str) -> None:
    trace = play(stock, count, [calls((name, arguments)), *solution(count)])
    assert trace["outcome"]["tool_errors"] == [3] and passed(trace)


def test_a_trace_passes_only_when_it_ended_by_itself_with_all_checks(
    stock: Domain, count: Task
) -> None:
    trace = play(stock, count, solution(count))
    assert passed(trace)
    for ended in ("step_limit", "truncated", "teacher_error", "unusable_reply"):
        assert not passed({**trace, "outcome": {**trace["outcome"], "ended": ended}})
    for failed in ("answer", "state"):
        checks: Any = {**trace["outcome"]["checks"], failed: False}
        assert not passed({**trace, "outcome": {**trace["outcome"], "checks": checks}})


@pytest.mark.parametrize("hours", ["3", "3.0", "30e-1", "3.000"])
def test_a_call_is_stored_in_canonical_form_however_its_number_was_written(hours: str) -> None:
    legal = pack.load("legal")
    task = tasks.build(legal, "time_on_contract", "train", 1)
    assert task["plan"][1]["arguments"]["hours"] == 3
    contract, logged = task["plan"]
    written = f'{{"matter_id":"{logged["arguments"]["matter_id"]}",  "hours": {hours}}}'
    turns = [calls((contract["tool"], contract["arguments"])), calls(("log_time", written))]
    model = Model([*turns, task["reply"]])
    trace = play(legal, task, model)
    stored = f'{{"matter_id": "{logged["arguments"]["matter_id"]}", "hours": 3}}'
    assert trace["messages"][4]["tool_calls"][0]["function"]["arguments"] == stored
    assert model.shown[-1][-2]["tool_calls"][0]["function"]["arguments"] == stored
    assert turns[1]["tool_calls"][0]["function"]["arguments"] == written  # what the journal keeps
    assert passed(trace)
    assert '"hours": 3}' in hint(task)
    assert '"hours": 3}' in json.dumps(demonstration(task, legal)).replace("\\", "")
