"""Every known failure of Kimi's servers, played by a real one: each ends in its named repair or its named rejection."""

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import pytest
from filter_traces import filter_traces
from scripted_server import DROPS, Line, Scripted, calls, fails, says

import teacher.inference.client as client_module
from schemas.documents import check_document
from schemas.errors import StageError
from schemas.filter import DETECTED, REASONS, FilterSettings, check_trace
from schemas.task import Task
from schemas.trace import Maker, Trace
from teacher.dialects.base import for_teacher
from teacher.domain.pack import Domain, load
from teacher.domain.tasks import build
from teacher.inference.client import Client
from teacher.inference.journal import Journal
from teacher.models import catalog
from teacher.rollout import agent_loop
from teacher.rollout.agent_loop import Settings, count_detected, passed
from teacher.rollout.scheduler import rollouts

MAKER: Maker = {"model": "kimi-k2.5", "revision": "r", "engine": "vllm", "licence": "MIT"}
IDENTITY = {"model": "kimi-k2.5", "revision": "r"}
JUDGED_BY = FilterSettings(max_tokens=10_000, near_duplicate=1, contamination=1, per_task=9)
THINKING = {"chat_template_kwargs": {"thinking": True}}
INSTANT = {"chat_template_kwargs": {"thinking": False}}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_FIRST_WAIT", 0.001)


@pytest.fixture(scope="module")
def legal() -> Domain:
    return load("legal")


@pytest.fixture(scope="module")
def task(legal: Domain) -> Task:
    """A lookup: one call and an answer."""
    return build(legal, "contract_expiry", "train", 1)


def settings(url: str | None = None, mode: str = "thinking") -> Settings:
    teacher = catalog.load("kimi-k2.5", catalog.TEACHERS, "teacher")
    return Settings(5, 100, 1.0, 0.95, mode=mode, dialect=for_teacher(teacher, url))


def gold(task: Task, **message: Any) -> Line:
    step = task["plan"][0]
    return calls(step["tool"], step["arguments"], f"functions.{step['tool']}:0", **message)


def raw(task: Task) -> str:
    step = task["plan"][0]
    return (
        f"<|tool_calls_section_begin|><|tool_call_begin|>functions.{step['tool']}:0"
        f"<|tool_call_argument_begin|>{json.dumps(step['arguments'])}<|tool_call_end|>"
        "<|tool_calls_section_end|>"
    )


def play(
    domain: Domain,
    task: Task,
    script: list[Line],
    where: Path,
    loop: Settings | None = None,
) -> tuple[Trace, list[dict[str, Any]]]:
    """The trace of one episode against a server that plays the script to its end, and what the server was sent."""

    async def scene() -> tuple[Trace, list[dict[str, Any]]]:
        async with Scripted(script) as server:
            journal = Journal(where)
            async with Client(server.endpoint(), IDENTITY, journal, 1, 10) as client:
                used = loop or settings()
                trace = await agent_loop.run(task, domain, client.complete, used, MAKER)
                sent, again = list(server.requests), Journal(where)
                async with Client(server.endpoint(), IDENTITY, again, 1, 10) as replaying:
                    replayed = await agent_loop.run(task, domain, replaying.complete, used, MAKER)
            journal.close()
            # A run that is started again asks for nothing that was answered, second tries included.
            assert replayed == trace and server.requests == sent and server.left == 0
            return trace, sent

    trace, sent = asyncio.run(scene())
    check_document(trace, "trace", "trace")
    assert len({call["key"] for call in trace["calls"]}) == len(trace["calls"])
    return trace, sent


def verdict(trace: Trace) -> tuple[str | None, str]:
    judged = check_trace(cast(Any, trace), JUDGED_BY)
    return judged["reason"], judged["detail"] or ""


def detections(trace: Trace) -> list[tuple[int, str, str]]:
    return [(d["step"], d["name"], d["action"]) for d in trace["outcome"]["detected"]]


# ------------------------------------------------------------------------------------- repaired


@pytest.mark.parametrize(
    "name", ["raw_markers", "call_in_reasoning", "malformed_id", "parsed arguments"]
)
def test_what_was_said_in_the_wrong_form_is_repaired_without_asking_again(
    legal: Domain, task: Task, tmp_path: Path, name: str
) -> None:
    step = task["plan"][0]
    line = {
        "raw_markers": says(f"I look it up. {raw(task)}"),
        "call_in_reasoning": says(None, reasoning=f"I need it. {raw(task)}"),
        "malformed_id": calls(step["tool"], step["arguments"], f"functions.{step['tool']}:{'4' * 130}"),
        "parsed arguments": gold(task),
    }[name]  # fmt: skip
    trace, sent = play(legal, task, [line, says(task["reply"], reasoning="I say it.")], tmp_path)
    assert passed(trace) and verdict(trace)[0] is None
    assert detections(trace) == ([] if name == "parsed arguments" else [(1, name, "repaired")])
    assert len(sent) == trace["outcome"]["steps"] == 2
    made = trace["messages"][2]["tool_calls"][0]
    assert json.loads(made["function"]["arguments"]) == step["arguments"]
    assert "<|" not in json.dumps(trace["messages"]) and "4444" not in json.dumps(trace["messages"])
    # The second request shows the call under the id that the model knows.
    history = sent[1]["messages"]
    assert history[2]["tool_calls"][0]["id"] == f"functions.{step['tool']}:0"
    assert history[3]["tool_call_id"] == f"functions.{step['tool']}:0"


def test_reasoning_in_vllms_field_goes_back_in_the_field_of_both(
    legal: Domain, task: Task, tmp_path: Path
) -> None:
    script = [gold(task, reasoning="It is in the contract."), says(task["reply"])]
    trace, sent = play(legal, task, script, tmp_path)
    assert passed(trace) and detections(trace) == []
    assert sent[1]["messages"][2]["reasoning_content"] == "It is in the contract."
    assert trace["messages"][2]["reasoning_content"] == "It is in the contract."
    assert "default" not in json.dumps(sent[0]["tools"])


# ------------------------------------------------------------------------------------- retried, rejected

# Each failure, whether it shows where a call is due or where the answer is, and how it is asked for again.
FAILURES: list[tuple[str, str, Line, dict[str, Any]]] = [
    ("answer_in_reasoning", "answer", says(None, reasoning="English law it is."), INSTANT),
    ("answer_in_reasoning", "call", says("", reasoning_content="I should look."), INSTANT),
    ("narrated_call", "call", says("I will look up the contract."), THINKING),
    ("narrated_call", "answer", says("Next, I will check the clause."), THINKING),
    ("raw_markers", "call", says("<|tool_calls_section_begin|><|tool_call_begin|>"), THINKING),
    ("raw_markers", "answer", says("</think>It is English law."), INSTANT),
    ("call_in_reasoning", "call", says(None, reasoning="<|tool_call_begin|>get"), INSTANT),
    ("unknown_tool", "call", calls("search_the_web", {"query": "law"}), THINKING),
    ("truncated_json", "call", calls("get_contract", '{"contract_id": "C-'), THINKING),
    ("empty_tool_calls", "call", says("", "tool_calls"), THINKING),
    ("empty_tool_calls", "answer", says(None, "tool_calls", tool_calls=[]), THINKING),
    ("degenerate_output", "call", says("!" * 300, "length"), INSTANT),
    ("degenerate_output", "answer", says(None, reasoning="!" * 300), INSTANT),
]


@pytest.mark.parametrize(("name", "where", "bad", "asked"), FAILURES)
def test_a_failure_is_asked_again_once_and_the_better_reply_is_kept(
    legal: Domain,
    task: Task,
    tmp_path: Path,
    name: str,
    where: str,
    bad: Line,
    asked: dict[str, Any],
) -> None:
    good = [gold(task), says(task["reply"])]
    at = 0 if where == "call" else 1
    trace, sent = play(legal, task, [*good[:at], bad, *good[at:]], tmp_path)
    assert passed(trace) and verdict(trace)[0] is None
    assert detections(trace) == [(at + 1, name, "retried")]
    assert trace["outcome"]["steps"] == 2 and len(trace["calls"]) == 3
    # What could not be used is neither stored nor shown again.
    assert len(trace["messages"]) == 5
    first, second = sent[at], sent[at + 1]
    assert second["messages"] == first["messages"] and second["tools"] == first["tools"]
    assert {k: second[k] for k in asked} == asked
    assert second.get("tool_choice") == ("required" if asked == THINKING else None)
    assert second["temperature"] == (1.0 if asked == THINKING else 0.6)
    # After a second try, the episode goes on as it was.
    assert {k: sent[-1][k] for k in THINKING} == (THINKING if where == "call" else asked)


@pytest.mark.parametrize(("name", "where", "bad", "asked"), FAILURES)
def test_a_failure_that_stays_is_rejected_by_its_name(
    legal: Domain,
    task: Task,
    tmp_path: Path,
    name: str,
    where: str,
    bad: Line,
    asked: dict[str, Any],
) -> None:
    before = [gold(task)] if where == "answer" else []
    trace, sent = play(legal, task, [*before, bad, bad], tmp_path)
    step = len(before) + 1
    assert detections(trace) == [(step, name, "retried"), (step, name, "rejected")]
    assert len(sent) == len(before) + 2 and trace["outcome"]["steps"] == step
    assert trace["outcome"]["ended"] == "unusable_reply" and not passed(trace)
    reason, detail = verdict(trace)
    assert reason == DETECTED[name] and reason in REASONS and name in detail
    # None of its calls was run.
    assert trace["messages"][-1]["role"] == "assistant"


def test_a_second_try_that_fails_in_another_way_is_named_too(
    legal: Domain, task: Task, tmp_path: Path
) -> None:
    script = [says("I will look up the contract."), calls("search_the_web", {})]
    trace, _ = play(legal, task, script, tmp_path)
    assert detections(trace) == [(1, "narrated_call", "retried"), (1, "unknown_tool", "rejected")]
    assert verdict(trace)[0] == "unknown_tool"


def test_a_second_try_that_is_itself_repaired_is_used(
    legal: Domain, task: Task, tmp_path: Path
) -> None:
    script = [says("", "tool_calls"), says(raw(task)), says(task["reply"])]
    trace, _ = play(legal, task, script, tmp_path)
    assert passed(trace)
    assert detections(trace) == [(1, "empty_tool_calls", "retried"), (1, "raw_markers", "repaired")]


def test_a_second_try_that_the_server_refuses_leaves_the_first_failure(
    legal: Domain, task: Task, tmp_path: Path
) -> None:
    script = [says("I will look up the contract."), fails(400, "tool_choice is not supported")]
    trace, _ = play(legal, task, script, tmp_path)
    assert detections(trace) == [(1, "narrated_call", "retried"), (1, "narrated_call", "rejected")]
    reason, detail = verdict(trace)
    assert reason == "narrated_call" and "tool_choice is not supported" in detail
    assert trace["messages"][-1]["content"] == "I will look up the contract."


def test_each_step_has_its_own_second_try(legal: Domain, task: Task, tmp_path: Path) -> None:
    script = [says("", "tool_calls"), gold(task), says(None, reasoning="Hm."), says(task["reply"])]
    trace, _ = play(legal, task, script, tmp_path)
    assert passed(trace)
    assert detections(trace) == [
        (1, "empty_tool_calls", "retried"),
        (2, "answer_in_reasoning", "retried"),
    ]


def test_where_there_is_no_other_mode_the_failure_is_rejected_at_once(
    legal: Domain, task: Task, tmp_path: Path
) -> None:
    trace, sent = play(legal, task, [says("!!!!!!!!")], tmp_path, settings(mode="instant"))
    assert detections(trace) == [(1, "degenerate_output", "rejected")] and len(sent) == 1
    assert verdict(trace)[0] == "teacher_error"


def test_at_moonshot_a_call_is_required_without_thinking_and_thinking_goes_on_after(
    legal: Domain, task: Task, tmp_path: Path
) -> None:
    script = [
        says("I will look up the contract."),
        gold(task),
        says(task["reply"], reasoning_content="So."),
    ]
    loop = settings("https://api.moonshot.ai/v1")
    trace, sent = play(legal, task, script, tmp_path, loop)
    assert passed(trace)
    assert [request["thinking"]["type"] for request in sent] == ["enabled", "disabled", "enabled"]
    assert sent[1]["tool_choice"] == "required" and "tool_choice" not in sent[2]
    # The call that was made without thinking has no reasoning, and the API wants some.
    assert sent[2]["messages"][2]["reasoning_content"] == " "
    assert "reasoning_content" not in trace["messages"][2]


# ------------------------------------------------------------------------------------- the server


@pytest.mark.parametrize(
    "cut_off",
    [
        says(None, "length", reasoning="It is long."),
        says("It is", "length"),
        says("<|tool_calls_section_begin|>", "length"),
        calls("get_contract", '{"contract_id": "C-', finish_reason="length"),
    ],
)
@pytest.mark.parametrize("before", [0, 1])
def test_a_reply_that_was_cut_off_is_truncated_and_not_asked_again(
    legal: Domain, task: Task, tmp_path: Path, cut_off: Line, before: int
) -> None:
    trace, sent = play(legal, task, [*[gold(task)] * before, cut_off], tmp_path)
    assert len(sent) == before + 1 and detections(trace) == []
    assert trace["outcome"]["ended"] == verdict(trace)[0] == "truncated"
    # What went wrong before is still what the trace is rejected for.
    if before:
        trace["messages"][2]["tool_calls"][0]["function"]["name"] = "search_the_web"
        assert verdict(trace)[0] == "unknown_tool"


def test_a_request_that_is_refused_for_good_is_a_teacher_error(
    legal: Domain, task: Task, tmp_path: Path
) -> None:
    trace, _ = play(legal, task, [fails(400, "the prompt is too long")], tmp_path)
    assert verdict(trace) == ("teacher_error", trace["outcome"]["error"])
    assert "the prompt is too long" in (trace["outcome"]["error"] or "") and detections(trace) == []


@pytest.mark.parametrize(
    "dead", [fails(500, "EngineDeadError: EngineCore"), fails(503, "loading"), DROPS]
)
def test_a_dead_engine_is_revived_and_asked_again(
    legal: Domain, task: Task, tmp_path: Path, dead: Line
) -> None:
    restarts = []

    async def scene() -> tuple[Trace, int]:
        async with Scripted([dead, gold(task), dead, dead, says(task["reply"])]) as server:
            endpoint = server.endpoint()
            endpoint.restart = lambda: restarts.append(len(server.requests))
            async with Client(endpoint, IDENTITY, Journal(tmp_path), 1, 10) as client:
                trace = await agent_loop.run(task, legal, client.complete, settings(), MAKER)
            return trace, server.left

    trace, left = asyncio.run(scene())
    assert passed(trace) and left == 0 and detections(trace) == []
    assert restarts == [1, 3, 4]


def test_an_engine_that_stays_dead_ends_the_stage_and_no_reply_is_lost(
    legal: Domain, task: Task, tmp_path: Path
) -> None:
    async def scene(script: list[Line]) -> tuple[Trace, int]:
        async with Scripted(script) as server:
            async with Client(
                server.endpoint(), IDENTITY, Journal(tmp_path), 1, 10, patience=0.5
            ) as client:
                trace = await agent_loop.run(task, legal, client.complete, settings(), MAKER)
            return trace, len(server.requests)

    with pytest.raises(StageError, match="EngineDeadError"):
        asyncio.run(scene([gold(task), *[fails(500, "EngineDeadError")] * 9999]))
    trace, asked = asyncio.run(scene([says(task["reply"])]))
    assert passed(trace) and asked == 1


# ------------------------------------------------------------------------------------- the account


def test_every_episode_is_accounted_for_and_every_failure_counted(
    legal: Domain, tmp_path: Path
) -> None:
    rows = [build(legal, "contract_expiry", "train", seed) for seed in range(3)]
    script: list[Line] = []
    script += [says("", "tool_calls"), gold(rows[0]), says(rows[0]["reply"])]
    script += [says(None, reasoning="Hm."), says(None, reasoning="Hm.")]
    script += [says(raw(rows[2])), says(rows[2]["reply"])]

    async def scene() -> list[Trace]:
        async with (
            Scripted(script) as server,
            Client(server.endpoint(), IDENTITY, Journal(tmp_path), 1, 10) as client,
        ):
            made = rollouts(rows, legal, client, settings(), MAKER, workers=1)
            return [rollout.trace async for rollout in made]

    traces = asyncio.run(scene())
    counts = {
        "answer_in_reasoning": {"rejected": 1, "retried": 1},
        "empty_tool_calls": {"retried": 1},
        "raw_markers": {"repaired": 1},
    }
    assert count_detected(traces) == counts
    inside: Any = {**traces[0], "children": traces[1:]}
    assert count_detected([inside]) == counts
    _, ledger = filter_traces(cast(Any, traces), [], JUDGED_BY)
    assert (ledger["traces"], ledger["kept"], ledger["rejected"]) == (3, 2, {"empty_turn": 1})


def test_every_name_has_a_reason_of_the_filter() -> None:
    assert set(DETECTED.values()) <= set(REASONS)
    failing = {name for name, *_ in FAILURES}
    assert failing == set(DETECTED)  # each is played above


def test_a_trace_file_that_names_no_failure_is_still_judged(
    legal: Domain, task: Task, tmp_path: Path
) -> None:
    trace, _ = play(legal, task, [says("!!!!!!!!")] * 2, tmp_path)
    for detected in ([], [{"step": 1, "name": "of_a_later_version", "action": "rejected"}]):
        outcome: Any = {**trace["outcome"], "detected": detected, "error": None}
        assert verdict({**trace, "outcome": outcome})[0] == "teacher_error"
    del trace["outcome"]["detected"]
    assert verdict(trace)[0] == "teacher_error"
