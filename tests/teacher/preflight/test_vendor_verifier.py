"""The two metrics of the vendor verifier, and the references that they compare with."""

from pathlib import Path
from typing import Any

import pytest
from faithful_teacher import KIMI, Server, failed, faithful_teacher, legal, preflight
from teacher_faults import never_calls

from schemas.errors import InputError, StageError
from schemas.files import read_jsonl, write_jsonl
from schemas.trace import Usage
from teacher.domain import tasks
from teacher.inference.endpoint import Endpoint
from teacher.inference.replies import Reply
from teacher.preflight import run, vendor_verifier


def reply_of(finish_reason: str, *made: tuple[str, str]) -> Reply:
    functions = [{"function": {"name": name, "arguments": text}} for name, text in made]
    usage: Usage = {"prompt_tokens": 0, "completion_tokens": 0}
    message = {"role": "assistant", "tool_calls": functions}
    return Reply("k", message, finish_reason, 1.0, usage)


def rows_of(*expected: bool) -> list[vendor_verifier.Row]:
    parameters = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    tools = [{"type": "function", "function": {"name": "count", "parameters": parameters}}]
    return [{"request": {"messages": [], "tools": tools}, "calls": each} for each in expected]


def test_schema_accuracy_is_the_share_of_calling_replies_whose_calls_are_all_valid() -> None:
    good, bad = ("count", '{"n": 1}'), ("count", '{"n": "one"}')
    replies = [
        reply_of("tool_calls", good),
        reply_of("tool_calls", good, bad),
        reply_of("tool_calls"),
        reply_of("tool_calls", ("other", "{}")),
        reply_of("stop", bad),
    ]
    measured = vendor_verifier.schema_accuracy(rows_of(*[True] * 5), replies)
    assert measured["count_finish_reason_tool_calls"] == 4
    assert measured["count_successful_tool_call"] == 1
    assert measured["share"] == 0.25
    assert vendor_verifier.schema_accuracy(rows_of(True), [reply_of("stop")])["share"] is None


def test_tool_call_f1_is_the_harmonic_mean_of_precision_and_recall_of_calling() -> None:
    rows = rows_of(True, True, True, True, False, False)
    said = ["tool_calls", "tool_calls", "tool_calls", "stop", "tool_calls", "length"]
    measured = vendor_verifier.tool_call_f1(rows, [reply_of(reason) for reason in said])
    assert [measured[name] for name in ("tp", "fp", "fn", "tn")] == [3, 1, 1, 1]
    assert measured["precision"] == measured["recall"] == measured["f1"] == 0.75
    assert measured["always"] == 0.8  # 4 of 6 are calls: precision 2/3, recall 1


def test_the_default_reference_calls_at_each_step_of_a_plan_and_answers_after_it() -> None:
    rows = vendor_verifier.reference_of_domain(legal(), thinking=True)
    planned = sum(len(task["plan"]) for task in tasks.sample(legal(), "train", 8, seed=0))
    assert [row["calls"] for row in rows].count(True) == planned
    assert [row["calls"] for row in rows].count(False) == 8
    for row in rows:
        last = row["request"]["messages"][-1]
        assert last["role"] in ("user", "tool") and row["request"]["tools"]
        for message in row["request"]["messages"]:
            assert bool(message.get("tool_calls")) == bool(message.get("reasoning_content"))


def test_a_recorded_reference_is_what_another_teacher_is_measured_against(
    server: Server, tmp_path: Path
) -> None:
    path = tmp_path / "reference.jsonl"
    count = run.record(server.endpoint, KIMI, legal(), path)
    assert count == len(list(read_jsonl(path))) == len(vendor_verifier.reference_of_domain(legal()))
    assert preflight(server, legal(), reference_file=path)["passed"]
    server.answer = lambda body: never_calls(faithful_teacher(), body)
    assert "tool_call_f1" in failed(preflight(server, legal(), reference_file=path))


def test_a_reference_is_not_recorded_from_a_server_that_refuses(
    server: Server, tmp_path: Path
) -> None:
    server.answer = lambda body: (400, {"error": {"message": "too many tools"}})
    with pytest.raises(StageError, match="too many tools"):
        run.record(server.endpoint, KIMI, legal(), tmp_path / "reference.jsonl")
    assert not (tmp_path / "reference.jsonl").exists()


def test_results_of_the_vendor_verifier_are_a_reference(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    messages = [{"role": "_input", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    request = {"messages": messages, "model": "kimi-k2", "temperature": 0.6}
    write_jsonl(
        path,
        [
            {"data_index": 1, "request": request, "finish_reason": "tool_calls"},
            {"data_index": 2, "request": request, "finish_reason": "stop"},
        ],
    )
    calling, answering = vendor_verifier.read_reference(path)
    assert calling["calls"] is True and answering["calls"] is False
    assert [m["role"] for m in calling["request"]["messages"]] == ["system", "user"]
    assert calling["request"]["tools"] == []


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("x", "line 2: request.messages: expected a list"),
        ({"request": {"messages": "hi"}, "calls": True}, "line 2: request.messages"),
        ({"request": {"messages": [{"role": "user", "content": "Hi"}]}}, "line 2: calls"),
        (
            {"request": {"messages": [{"role": "user", "content": "Hi"}]}, "calls": 1},
            "line 2: calls",
        ),
        ({"request": {"messages": [{"role": "king"}]}, "calls": True}, "line 2: request: "),
        (
            {"request": {"messages": [{"role": "user", "content": "Hi"}]}, "calls": False},
            "rows that call a tool and rows that do not",
        ),
    ],
)
def test_a_reference_that_is_none_is_bad_input_that_names_its_line(
    tmp_path: Path, row: Any, words: str
) -> None:
    path = tmp_path / "reference.jsonl"
    good = {"request": {"messages": [{"role": "user", "content": "Hi"}]}, "calls": False}
    write_jsonl(path, [good, row])
    with pytest.raises(InputError, match=words):
        run.check(Endpoint("http://127.0.0.1:1/v1", "k", "m"), KIMI, legal(), reference_file=path)
