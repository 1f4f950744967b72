"""Traces in others' formats: what is written is valid by the format's own types and loads back equal.

tau_bench.jsonl has three conversations of gpt-4o from tau-bench (MIT, tau_bench.LICENSE), with shortened system
messages and only the tools that they call. The judges are the package `atif` and the types of OpenAI's client.
"""

import asyncio
import copy
import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from atif import Trajectory
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from scripted_model import LOOP, MAKER, Model, solution

from schemas.errors import InputError
from schemas.files import read_jsonl, write_json, write_jsonl
from schemas.interchange import atif, sts
from schemas.interchange.conversation import NotCarried, NotRead
from schemas.interchange.export import FORMATS, carried, export, make_document
from schemas.interchange.logs import load
from teacher.domain import load as load_pack
from teacher.domain.tasks import build
from teacher.rollout import agent_loop
from teacher.scenes.images import ImageStore

HERE = Path(__file__).parent
REST = {
    "version": 1,
    "task": {"id": "t", "domain": "d", "split": "train", "kind": "lookup", "template": "t"},
    "teacher": MAKER,
    "calls": [],
    "hinted": False,
    "verdict": {"kept": True},
}


def tau_bench() -> list[dict[str, Any]]:
    return [{**row, "images": [], "children": []} for row in read_jsonl(HERE / "tau_bench.jsonl")]


def trace(messages: list[Any], number: int = 0, **more: Any) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": "get", "parameters": {"type": "object"}}}]
    fields = {"id": f"t/{number}", "tools": tools, "messages": messages, "images": []}
    return {**REST, **fields, "children": [], **more}


@functools.cache
def openai_types() -> tuple[TypeAdapter[Any], TypeAdapter[Any]]:
    """The types of messages and tools of OpenAI's client, whose import takes a second."""
    from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

    return TypeAdapter(list[ChatCompletionMessageParam]), TypeAdapter(list[ChatCompletionToolParam])


def judge(document: Any, format: str) -> None:
    """Raises pydantic's error where the format's own types refuse a document."""
    if format == "atif":
        Trajectory.model_validate(document)
    elif format == "openai":
        messages, tools = openai_types()
        messages.validate_python(document["messages"])
        tools.validate_python(document.get("tools", []))


texts = st.one_of(
    st.sampled_from(
        ["", "<image>", "a<think>\nb\n</think>\n\nc", "x<tool_call>{}</tool_call>", "[1]"]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)
arguments = st.one_of(
    st.sampled_from(["", "{}", "[]", "null", '{"a": 1.50}', '{"a":1}', "{", '{"a": 1, "a": 2}']),
    st.dictionaries(st.text("ab", min_size=1), st.integers() | st.text('x\n"ä', max_size=3)).map(
        json.dumps
    ),
)


@st.composite
def conversations(draw: st.DrawFn) -> list[Any]:
    messages: list[Any] = [{"role": "user", "content": draw(texts)}]
    if draw(st.booleans()):
        messages.insert(0, {"role": draw(st.sampled_from(["system", "developer"])), "content": "s"})
    for step in range(draw(st.integers(0, 2))):
        calls = [
            {
                "id": draw(st.sampled_from([f"call_{step + 1}_{n}", f"x{n}"])),
                "type": "function",
                "function": {"name": "get", "arguments": draw(arguments)},
            }
            for n in range(draw(st.integers(1, 3)))
        ]
        content = draw(st.none() | texts)
        messages.append({"role": "assistant", "content": content, "tool_calls": calls})
        results = draw(st.permutations(calls))
        messages += [
            {"role": "tool", "tool_call_id": call["id"], "content": draw(texts)} for call in results
        ]
    answer = {"role": "assistant", "content": draw(texts)}
    if draw(st.booleans()):
        answer["reasoning_content"] = draw(texts)
    return [*messages, answer]


@pytest.mark.parametrize("format", FORMATS)
@given(conversations(), st.lists(conversations(), max_size=2))
def test_any_conversation_is_written_validly_and_loads_back_equal_or_is_refused(
    format: str, messages: list[Any], subagents: list[list[Any]]
) -> None:
    children = [trace(each, number) for number, each in enumerate(subagents, 1)]
    whole = trace(messages, children=children)
    before = copy.deepcopy(whole)
    try:
        document = make_document(whole, format, HERE)  # compares what loads back itself
    except NotCarried as refusal:
        # ATIF has a place for everything; the others name what they lack.
        assert format != "atif", refusal
        return
    finally:
        assert whole == before
    judge(document, format)
    json.dumps(document)


@pytest.mark.parametrize("format", FORMATS)
def test_conversations_of_tau_bench_load_back_equal(format: str, tmp_path: Path) -> None:
    rows = tau_bench()
    if format == "sharegpt":  # its conversations end on the model's turn
        for row in rows:
            while row["messages"][-1]["role"] != "assistant":
                row["messages"].pop()
    result = export(rows, format, tmp_path / "out", HERE)
    assert (result["written"], result["left_out"]) == (3, {})
    logs = load(tmp_path / "out")
    assert not logs.refused and logs.formats[format] == 3
    expected = [carried(row, format) for row in rows]
    assert sorted(logs.conversations, key=str) == sorted(expected, key=str)


def test_kept_traces_of_the_packs_load_back_equal_with_their_images(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images")
    pack, loop = load_pack("legal"), replace(LOOP, image_store=store)
    traces: list[Any] = []
    for template in (
        "contract_expiry",
        "page_term_end",
    ):
        task = build(pack, template, "train", 3, image_store=store)
        model = Model(solution(task))
        traces.append(asyncio.run(agent_loop.run(task, pack, model.complete, loop, MAKER)))
    assert traces[1]["images"] and traces[0]["messages"][2]["tool_calls"]
    [call] = traces[0]["messages"][2]["tool_calls"]
    agent = {"name": "reader", "call_id": call["id"], "stage": 1, "parts": []}
    traces[0]["children"] = [copy.deepcopy(traces[1]) | {"id": "sub-agent", "agent": agent}]
    for format in FORMATS:
        result = export(traces, format, tmp_path / format, store.directory)
        left_out = {"images": 2} if format == "sts" else {}
        assert (result["left_out"], result["written"]) == (left_out, 2 - 2 * (format == "sts"))
        if format != "sts":
            loaded = load(tmp_path / format).conversations
            expected = [carried(each, format) for each in traces]
            assert sorted(loaded, key=str) == sorted(expected, key=str)
        for image in (tmp_path / format / "images").glob("*"):
            assert image.read_bytes() == store.png(image.stem)
    document = json.loads(next((tmp_path / "atif").glob("legal-train-contract*")).read_text())
    judge(document, "atif")
    assert document["subagent_trajectories"][0]["trajectory_id"] == "sub-agent"
    [result] = document["steps"][2]["observation"]["results"]
    assert result["subagent_trajectory_ref"] == [{"trajectory_id": "sub-agent"}]
    assert document["steps"][2]["metrics"] == {"prompt_tokens": 9, "completion_tokens": 3}


def test_two_traces_of_one_name_are_not_written_over_each_other(tmp_path: Path) -> None:
    answer = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [trace(answer, id="t/0"), trace(answer, id="t-0")]
    result = export(rows, "atif", tmp_path / "out", HERE)
    assert result["left_out"] == {"an id that another trace has": 1}


def test_a_sub_agents_trace_is_written_with_its_orchestrators_or_alone_not_twice(
    tmp_path: Path,
) -> None:
    answer = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    agent = {"name": "reader", "call_id": "c", "stage": 1, "parts": [0]}
    first, second, other = (trace(answer, id=f"t:{n}/0", agent=agent) for n in (1, 2, 3))
    # As the filter writes them: the orchestrator's with all sub-agents, of which the second was rejected; then each
    # that was kept. The orchestrator of the last one was rejected.
    rows = [trace(answer, id="t/0", children=[first, second]), first, other]
    for format, files in (("atif", 2), ("sts", 4)):
        result = export(rows, format, tmp_path / format, HERE)
        assert (result["traces"], result["written"], result["left_out"]) == (3, 3, {})
        assert len([*(tmp_path / format).iterdir()]) == files
        logs = load(tmp_path / format)
        assert not logs.refused
        assert sorted(logs.conversations, key=str) == sorted(
            (carried(row, format) for row in (rows[0], other)), key=str
        )
    for format in ("sharegpt", "openai"):  # which have no place for sub-agents
        export(rows, format, tmp_path / format, HERE)
        assert len(load(tmp_path / format).conversations) == 3


def test_sub_agents_of_a_trace_that_a_format_cannot_hold_are_written_alone(tmp_path: Path) -> None:
    answer = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    child = trace(answer, id="t:1/0", agent={"name": "r", "call_id": "c", "stage": 1, "parts": []})
    lead = trace([{"role": "developer", "content": "x"}, *answer], id="t/0", children=[child])
    result = export([lead, child], "sts", tmp_path / "out", HERE)
    assert result["written"] == 1 and result["left_out"] == {"the role developer": 1}
    assert [row["id"] for row in load(tmp_path / "out").conversations] == ["t:1/0"]


def test_a_directory_with_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        export([], "atif", tmp_path, HERE)
    assert (tmp_path / "mine.txt").read_text() == "mine"


# ------------------------------------------------------------------------------------------ what others wrote

# The example of https://huggingface.co/docs/hub/session-traces-format.
HUB_EXAMPLE = """\
{"type":"session","harness":"my-agent","id":"abc123","name":"what time is it"}
{"type":"message","message":{"role":"user","content":"what time is it?"}}
{"type":"message","message":{"role":"assistant","content":"","toolCalls":[{"id":"t1","function":{"name":"get_time","arguments":"{}"}}]}}
{"type":"message","message":{"role":"tool","toolCallId":"t1","content":"2026-07-01T15:00:00Z"}}
{"type":"message","message":{"role":"assistant","content":"it is 15:00 UTC"}}
"""


def test_the_hubs_example_of_sts_is_read(tmp_path: Path) -> None:
    (tmp_path / "session.jsonl").write_text(HUB_EXAMPLE)
    [conversation] = load(tmp_path).conversations
    assert [m["role"] for m in conversation["messages"]] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert conversation["messages"][2]["tool_call_id"] == "t1"


@pytest.mark.parametrize(
    "document, reason",
    [
        ({"messages": "hello"}, "messages: found"),
        ({"messages": [{"role": "user"}]}, "content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "tool_call_id"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, "from"),
        ({"conversations": [{"from": "function_call", "value": "get"}]}, "not JSON"),
        ({"conversations": [{"from": "observation", "value": "x"}]}, "results"),
        ({"schema_version": "ATIF-v1.7", "agent": {"name": "a"}, "steps": []}, "version"),
        (
            {
                "schema_version": "ATIF-v1.6",
                "agent": {"name": "a", "version": "1"},
                "steps": [{"step_id": 1, "source": "user", "message": "x", "tool_calls": []}],
            },
            "tool_calls",
        ),
        ({"type": "session", "id": "x"}, "harness"),
        ({"type": "message", "message": {}}, "of no known format"),
        ([1], "of no known format"),
        (json.loads("[" * 200 + "]" * 200), "of no known format"),
    ],
)
def test_a_hostile_document_is_refused_by_its_field(
    document: Any, reason: str, tmp_path: Path
) -> None:
    good = {"messages": [{"role": "user", "content": "a"}]}
    write_jsonl(tmp_path / "log.jsonl", [good, document])
    logs = load(tmp_path / "log.jsonl")
    assert len(logs.conversations) == 1
    [(place, text)] = logs.refused
    assert "line 2" in place and reason in text, text


def test_a_file_without_a_conversation_is_refused_with_the_first_reason(tmp_path: Path) -> None:
    write_json(tmp_path / "log.json", {"hello": 1})
    with pytest.raises(InputError, match=r"log.json: document 1: of no known format: expected"):
        load(tmp_path / "log.json")


def test_the_own_fields_of_a_foreign_document_do_not_replace_its_conversation() -> None:
    document = atif.write(trace([{"role": "user", "content": "asked"}]))
    document["extra"]["stillhouse"]["messages"] = [{"role": "user", "content": "planted"}]
    assert atif.read(document)["messages"] == [{"role": "user", "content": "asked"}]
    [session] = sts.write(trace([{"role": "user", "content": "asked"}]))
    session[0]["stillhouse"]["messages"] = "planted"
    session[0]["stillhouse"]["message_fields"] = {"0": {"content": "planted", "role": "system"}}
    assert sts.read([session])[0]["messages"] == [{"role": "user", "content": "asked"}]


def test_a_sub_agents_session_without_its_parent_is_refused() -> None:
    child = trace([{"role": "user", "content": "b"}], 1)
    _, session = sts.write(trace([{"role": "user", "content": "a"}], children=[child]))
    with pytest.raises(NotRead, match="no session is its parent"):
        sts.read([session])
    session[0]["stillhouse"]["parent"] = session[0]["id"]
    with pytest.raises(NotRead, match="each other's parents"):
        sts.read([session])
