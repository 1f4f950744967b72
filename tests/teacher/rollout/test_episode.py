"""The agent loop against scripted models: what runs, what is stored, how it ends."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_server import Scripted, says

from schemas.documents import check_document
from schemas.filter import HINT_HEADER
from schemas.messages import check_messages
from schemas.task import Task
from schemas.trace import Maker, Trace, Usage
from teacher.domain import Domain, Environment, load
from teacher.domain.prompts import demonstration, hint
from teacher.domain.scoring import state_hash
from teacher.domain.tasks import build
from teacher.inference.client import Client, Reply
from teacher.inference.journal import Journal
from teacher.rollout import agent_loop
from teacher.rollout.agent_loop import Settings, passed
from teacher.rollout.guidance import Constrained, choose_guidance

MAKER: Maker = {"model": "m", "revision": "r", "engine": "llama.cpp", "licence": "Apache-2.0"}
LOOP = Settings(max_steps=6, max_tokens=80, temperature=0.2, top_p=0.95)
USAGE: Usage = {"prompt_tokens": 9, "completion_tokens": 3}
Turn = dict[str, Any] | str | None


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Domain:
    directory = tmp_path_factory.mktemp("domain") / "stock"
    shutil.copytree(Path(__file__).parents[3] / "flows" / "starter", directory)
    spec = directory / "domain.yaml"
    spec.write_text(spec.read_text().replace("NAME", "stock"))
    return load(str(directory))


@pytest.fixture(scope="module")
def count(stock: Domain) -> Task:
    """A lookup: one call and an answer."""
    return build(stock, "count_of_item", "train", 1)


@pytest.fixture(scope="module")
def move(stock: Domain) -> Task:
    """A workflow: two calls, the second of which changes the world; no answer to check."""
    return build(stock, "moved_item", "train", 1)


def calls(*pairs: tuple[str, Any], **more: Any) -> dict[str, Any]:
    """A turn that calls tools; arguments that are text are sent as they are."""
    made = [
        {
            "id": "whatever",
            "type": "function",
            "function": {"name": n, "arguments": a if isinstance(a, str) else json.dumps(a)},
        }
        for n, a in pairs
    ]
    return {"role": "assistant", "content": "", "tool_calls": made, **more}


def solution(task: Task) -> list[Turn]:
    return [*(calls((s["tool"], s["arguments"])) for s in task["plan"]), task["reply"]]


class Model:
    """Plays its turns in order and keeps what it was shown. A text is an answer, None a failure."""

    def __init__(self, turns: list[Turn], finish_reason: str | None = None) -> None:
        self.turns, self.finish_reason = list(turns), finish_reason
        self.shown: list[list[dict[str, Any]]] = []
        self.tools: list[list[dict[str, Any]]] = []
        self.samples: list[int] = []
        self.parameters: list[dict[str, Any]] = []

    async def complete(
        self, messages: list[dict], tools: list[dict], sample: int, **parameters: Any
    ) -> Reply:
        self.shown.append(list(messages))
        self.tools.append(tools)
        self.samples.append(sample)
        self.parameters.append(parameters)
        turn = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
        message = {"role": "assistant", "content": turn} if isinstance(turn, str) else turn
        reason = "tool_calls" if message and message.get("tool_calls") else "stop"
        if message is None:
            return Reply("0" * 64, None, "error", 0.1, USAGE, "the context is exceeded")
        return Reply("0" * 64, message, self.finish_reason or reason, 0.1, USAGE)


def play(
    stock: Domain, task: Task, model: Model | list[Turn], loop: Settings = LOOP, **more: Any
) -> Trace:
    """The trace of an episode, checked against its schema and written as JSON could hold it."""
    model = model if isinstance(model, Model) else Model(model)
    trace = asyncio.run(agent_loop.run(task, stock, model.complete, loop, MAKER, **more))
    check_document(trace, "trace", "trace")
    json.dumps(trace, allow_nan=False).encode()
    for index in trace["outcome"]["tool_errors"]:
        assert trace["messages"][index]["role"] == "tool"
        assert set(json.loads(trace["messages"][index]["content"])) == {"error"}
    return trace


def roles(trace: Trace) -> list[str]:
    return [message["role"] for message in trace["messages"]]


def outcome(trace: Trace) -> tuple[str, bool | None, bool]:
    ended, checks = trace["outcome"]["ended"], trace["outcome"]["checks"]
    return ended, checks["answer"], checks["state"]


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
        (("move_item", {"item": "S-0", "shelf": "A1"}), "no item S-0"),
        (("move_item", {"item": "S-0", "shelf": "Z9"}), "no shelf Z9"),
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


def test_a_bug_of_the_pack_is_not_shown_to_the_model(
    stock: Domain, count: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, item: str) -> dict:
        raise KeyError(item)

    monkeypatch.setattr(stock.environment, "get_item", broken)
    with pytest.raises(KeyError):
        play(stock, count, solution(count))


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


# ------------------------------------------------------------------------------------- requests


class Shelf(Environment):
    def reset(self, **task: Any) -> None: ...

    def _state(self) -> dict:
        return {}

    def get(self, item: str) -> dict:
        return {"item": item, "count": 3}


SHELF = Domain(
    "shelf",
    Path(),
    {},
    Shelf,
    {},
    {
        "get": {
            "type": "function",
            "function": {
                "name": "get",
                "description": "Get an item.",
                "parameters": {
                    "type": "object",
                    "properties": {"item": {"type": "string"}},
                    "required": ["item"],
                    "additionalProperties": False,
                },
            },
        }
    },
)
COUNT: Task = {
    "version": 1,
    "id": "shelf-train-count-1",
    "domain": "shelf",
    "split": "train",
    "kind": "lookup",
    "template": "count",
    "seed": 1,
    "system": "You keep a shelf.",
    "request": "How many S-1?",
    "tools": ["get"],
    "plan": [{"tool": "get", "arguments": {"item": "S-1"}}],
    "reply": "There are 3.",
    "checks": {"answer": {"type": "number", "value": 3}, "state": state_hash({})},
}


@pytest.mark.parametrize(
    ("loop", "hinted", "keys"),
    [
        (
            Settings(6, 80, 0.5, 0.95),
            False,
            [
                "a33cf61ae5dd618321565981a52263b596cb981fa2d552327ce6c84a3c3baf6b",
                "34b4763bc46cf8a646d3ae25891adc11ab3eae81610f2f2f73cd10621fc5f00a",
            ],
        ),
        (
            Settings(6, 80, 0.5, 0.95, guidance=Constrained("<tool_call>\n")),
            True,
            [
                "be519b36e5161dedbdc113c2d987b37ce7c051f806d51a734b060f09d4752962",
                "25959492915015204230765c776a82a1d5749f41aa762c5683eb3ef0ddd5c1bc",
            ],
        ),
    ],
)
def test_what_a_teacher_without_a_dialect_is_sent_never_changes(
    tmp_path: Path, loop: Settings, hinted: bool, keys: list[str]
) -> None:
    # Another key is another request: every journal of such a teacher would be worth nothing.
    async def scene() -> tuple[Trace, list[dict[str, Any]]]:
        lines = [says(tool_calls=solution(COUNT)[0]["tool_calls"]), says(COUNT["reply"])]  # type: ignore[index]
        async with Scripted(lines) as server:
            identity = {"model": "m", "revision": "r"}
            async with Client(server.endpoint(), identity, Journal(tmp_path), 1, 10) as client:
                trace = await agent_loop.run(
                    COUNT, SHELF, client.complete, loop, MAKER, hinted=hinted
                )
            return trace, server.requests

    trace, sent = asyncio.run(scene())
    assert passed(trace) and [call["key"] for call in trace["calls"]] == keys
    fields = {"model", "messages", "tools", "max_tokens", "temperature", "top_p"}
    assert sent[0].keys() - {"tool_choice"} == fields


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
