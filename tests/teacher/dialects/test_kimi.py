"""Kimi's dialect: ids and reasoning as it was trained on them, and each known failure by its name."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kimi_messages import (
    BEGIN,
    END,
    MODES,
    MOONSHOT,
    OFFERED,
    TOOLS,
    VLLM,
    call,
    found,
    raw,
    read,
    result,
    section,
    turn,
)

from schemas.filter import DETECTED
from schemas.json_text import parse_json
from schemas.text_heuristics import marker_in
from teacher.dialects.base import Detection, for_teacher
from teacher.dialects.kimi import Kimi, raw_calls
from teacher.models import catalog

# ------------------------------------------------------------------------------------- what is sent


def test_calls_are_counted_over_the_whole_history_and_results_follow_them() -> None:
    history = [
        {"role": "user", "content": "?"},
        turn("get_contract", "close_matter", ids=["a", "b"]),
        result("b", "second"),
        result("a", "first"),
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": "And?"},
        turn("get_contract", ids=["a"]),  # an id used again in a later turn
        result("a", "third"),
    ]
    before = json.dumps(history)
    sent, _, _ = VLLM.adapt_request(history, [], {})
    assert [c["id"] for m in sent for c in m.get("tool_calls", [])] == [
        "functions.get_contract:0",
        "functions.close_matter:1",
        "functions.get_contract:2",
    ]
    assert {m["content"]: m["tool_call_id"] for m in sent if m["role"] == "tool"} == {
        "second": "functions.close_matter:1",
        "first": "functions.get_contract:0",
        "third": "functions.get_contract:2",
    }
    assert json.dumps(history) == before


def test_calls_under_one_id_are_told_apart_by_their_order() -> None:
    history = [turn("get_contract", "close_matter", ids=["x", "x"]), result("x"), result("x")]
    sent, _, _ = VLLM.adapt_request(history, [], {})
    assert [m["tool_call_id"] for m in sent[1:]] == [c["id"] for c in sent[0]["tool_calls"]]


def test_a_result_without_its_call_keeps_its_id() -> None:
    sent, _, _ = VLLM.adapt_request([turn("get_contract", ids=["a"]), result("other")], [], {})
    assert sent[1]["tool_call_id"] == "other"


def test_reasoning_goes_back_under_the_name_that_both_servers_read() -> None:
    for name in ("reasoning", "reasoning_content"):
        for dialect in (VLLM, MOONSHOT):
            sent, _, _ = dialect.adapt_request([{**turn("get_contract"), name: "I look."}], [], {})
            assert sent[0]["reasoning_content"] == "I look." and "reasoning" not in sent[0]


def test_moonshot_gets_reasoning_with_every_call_while_it_thinks() -> None:
    history = [turn("get_contract"), {"role": "assistant", "content": "Done."}]
    for mode in (None, "thinking"):
        sent, _, _ = MOONSHOT.adapt_request(history, [], {}, mode)
        assert sent[0]["reasoning_content"] == " " and "reasoning_content" not in sent[1]
    assert "reasoning_content" not in MOONSHOT.adapt_request(history, [], {}, "instant")[0][0]
    assert "reasoning_content" not in VLLM.adapt_request(history, [], {}, "thinking")[0][0]


def test_tools_are_sent_without_defaults_and_stay_whole_here() -> None:
    before = json.dumps(TOOLS)
    _, tools, _ = VLLM.adapt_request([], TOOLS, {})
    assert '"default"' not in json.dumps(tools) and '"default"' in before == json.dumps(TOOLS)


def test_the_modes_of_each_server() -> None:
    for dialect, thinking, instant in (
        (VLLM, {"chat_template_kwargs": {"thinking": True}}, {"chat_template_kwargs": {"thinking": False}}),
        (MOONSHOT, {"thinking": {"type": "enabled"}}, {"thinking": {"type": "disabled"}}),
    ):  # fmt: skip
        assert dialect.adapt_request([], [], {}, "thinking")[2]["extra_body"] == thinking
        assert dialect.adapt_request([], [], {}, "instant")[2]["extra_body"] == instant


@pytest.mark.parametrize("name", ["kimi-k2.5", "kimi-k2.6", "kimi-k2-thinking"])
def test_the_shipped_teachers_can_be_asked_in_each_of_their_modes(name: str) -> None:
    teacher = catalog.load(name, catalog.TEACHERS, "teacher")
    for url in (None, "https://api.moonshot.ai/v1"):
        dialect = for_teacher(teacher, url)
        for mode in teacher["modes"]:
            sent = dialect.adapt_request([], [], {}, mode)[2]
            assert sent["temperature"] == teacher["modes"][mode]["sampling"]["temperature"]


# ------------------------------------------------------------------------------------- good replies


@pytest.mark.parametrize(
    "message",
    [
        {"content": "The contract ends on 2 March 2027."},
        {"content": "It ends in 2027.", "reasoning": "I read it, and I will call it done."},
        {"content": "Shall I close it? I will need to check it first."},
        {"content": "", "tool_calls": [call("get_contract", call_id="functions.get_contract:3")]},
        {"content": None, "tool_calls": [call("get_contract", call_id="call_1"), call("close_matter")]},
        {"content": "I will look it up.", "tool_calls": [call("get_contract")]},
        {"content": "", "tool_calls": [call("get_contract", call_id="chatcmpl-tool-0123456789abcdef")]},
        {"content": "", "tool_calls": [call("get_contract", arguments={"id": "C-1"})]},
        {"content": "Great!!! It is closed!!!"},
    ],
)  # fmt: skip
def test_nothing_is_found_in_a_good_reply(message: dict[str, Any]) -> None:
    reading = read(**message)
    assert reading.detected == [] and reading.failure is None
    assert reading.message["content"] == (message["content"] or "")
    assert len(reading.message.get("tool_calls", [])) == len(message.get("tool_calls", []))


def test_reasoning_is_read_under_both_names() -> None:
    for name in ("reasoning", "reasoning_content"):
        assert read(content="Yes.", **{name: "Hm."}).message["reasoning_content"] == "Hm."
    assert "reasoning_content" not in read(content="Yes.").message


# ------------------------------------------------------------------------------------- repairs


def test_a_whole_section_of_raw_calls_in_the_content_is_parsed() -> None:
    written = [raw("get_contract", '{"id": "C-7"}', 4), raw("close_matter", ' {"id": "M-1"} ', 5)]
    reading = read(content=f"I look.\n{section(*written)}\n")
    assert found(reading) == [("raw_markers", "")] and reading.failure is None
    assert reading.message["content"] == "I look."
    made = [c["function"] for c in reading.message["tool_calls"]]
    assert made == [
        {"name": "get_contract", "arguments": '{"id": "C-7"}'},
        {"name": "close_matter", "arguments": '{"id": "M-1"}'},
    ]


def test_a_whole_section_at_the_end_of_an_unclosed_think_block_is_parsed() -> None:
    reading = read(content=None, reasoning="I need it. " + section(raw("get_contract", "{}")))
    assert found(reading) == [("call_in_reasoning", "")] and reading.failure is None
    assert reading.message["reasoning_content"] == "I need it."
    assert reading.message["tool_calls"][0]["function"]["name"] == "get_contract"


@pytest.mark.parametrize("call_id", ["functions.get_contract:" + "4" * 130, "", None, 7, "a b"])
def test_a_malformed_id_is_counted_and_the_call_kept(call_id: Any) -> None:
    reading = read(content="", tool_calls=[call("get_contract", call_id=call_id)])
    assert found(reading) == [("malformed_id", "")]
    assert reading.message["tool_calls"][0]["function"]["name"] == "get_contract"


@pytest.mark.parametrize(
    "name", ["functions.get_contract:0", "functions.get_contract", "get_contract:12"]
)
def test_an_id_in_the_place_of_a_name_gives_the_name(name: str) -> None:
    reading = read(content="", tool_calls=[call(name)])
    assert found(reading) == [("malformed_id", "")]
    assert reading.message["tool_calls"][0]["function"]["name"] == "get_contract"


WHOLE = raw("get_contract", '{"id": "C-7"}')


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no call",
        WHOLE,  # no section around it
        BEGIN + WHOLE,  # the section is not closed: more may have been to come
        section(),
        section("get_contract"),
        section(WHOLE, WHOLE[:-1]),
        section(WHOLE, raw("get_contract", '{"id": "C-')),
        section(raw("get_contract", "C-7")),
        section(raw("get_contract", "[]")),
        section(raw("get_contract", '{"id": "C-7", "id": "C-8"}')),
        section(raw("sell_contract", "{}")),
        section(raw("", "{}")),
        section(WHOLE).replace("<|tool_call_argument_begin|>", ""),
        section(WHOLE).replace("<|tool_call_begin|>", ""),
        section(WHOLE) + "It says that it ends in 2027.",
        section(WHOLE) + section(WHOLE),
        "<think>" + section(WHOLE),
        "<|tool_call_end|>" + section(WHOLE),
    ],
)
def test_what_is_not_a_whole_section_of_calls_is_not_parsed(text: str) -> None:
    assert raw_calls(text, OFFERED) is None
    if marker_in(text):
        assert found(read(content=text)) == [("raw_markers", "required")]
        assert read(content=text).message["content"] == text
        assert found(read(content=None, reasoning=text)) in (
            [("call_in_reasoning", "instant")],
            [("answer_in_reasoning", "instant")],
        )


def test_raw_calls_beside_parsed_ones_are_not_parsed_again() -> None:
    reading = read(content=section(WHOLE), tool_calls=[call("get_contract")])
    assert found(reading) == [("raw_markers", "required")]
    reading = read(content="", reasoning=section(WHOLE), tool_calls=[call("get_contract")])
    assert found(reading) == [("call_in_reasoning", "instant")]


def test_nothing_of_a_reply_that_was_cut_off_is_repaired() -> None:
    reading = read("length", content=section(WHOLE))
    assert reading.detected == [] and "tool_calls" not in reading.message
    endless = call("get_contract", "{}", "functions.get_contract:" + "4" * 500)
    assert read("length", content="", tool_calls=[endless]).detected == []


PIECES = st.sampled_from(
    [BEGIN, END, "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"]
    + ["functions.get_contract:0", "close_matter:1", "functions.sell:2", '{"id": "C-1"}', "{}", "{"]
    + [" ", "\n", "I look.", "<think>", "</think>", "!!!!", section(WHOLE), WHOLE]
)
TEXTS = st.lists(PIECES, max_size=8).map("".join) | st.text(max_size=20) | st.none()
ODD: Any = st.none() | st.integers() | st.text(max_size=5) | st.just([]) | st.just({})
CALLS = st.lists(
    st.builds(call, st.sampled_from([*OFFERED, "sell", ""]) | ODD, TEXTS | ODD, TEXTS | ODD) | ODD,
    max_size=3,
)


@settings(max_examples=500, deadline=None)
@given(TEXTS | ODD, TEXTS | ODD, CALLS | ODD, st.sampled_from(["stop", "tool_calls", "length", ""]))
def test_whatever_comes_back_is_read_and_nothing_is_made_up(
    content: Any, reasoning: Any, calls: Any, finish_reason: str
) -> None:
    message = {"content": content, "reasoning": reasoning, "tool_calls": calls}
    reading = VLLM.parse_reply(message, finish_reason, OFFERED)
    said = json.dumps(message, ensure_ascii=False)
    came = (
        [c for c in calls if isinstance(c, dict) and c.get("function")]
        if isinstance(calls, list)
        else []
    )
    for made in reading.message.get("tool_calls", []):
        function = made["function"]
        assert (
            function["name"] == "" or json.dumps(function["name"], ensure_ascii=False)[1:-1] in said
        )
        if not came:  # it was parsed: out of the text, whole
            assert function["name"] in OFFERED and isinstance(
                parse_json(function["arguments"]), dict
            )
            assert any(
                function["arguments"] in text
                for text in (content, reasoning)
                if isinstance(text, str)
            )
    assert reading.message["content"] in (content if isinstance(content, str) else "")
    assert reading.message.get("reasoning_content", "") in (
        reasoning if isinstance(reasoning, str) else ""
    )
    # A message with nothing left to guess: only then is it used.
    if reading.failure is None and finish_reason != "length":
        assert not marker_in(reading.message["content"])
        for made in reading.message.get("tool_calls", []):
            assert made["function"]["name"] in OFFERED
    for detection in reading.detected:
        assert detection.name in {*DETECTED, "malformed_id"} and "\n" not in detection.detail


# ------------------------------------------------------------------------------------- failures


CUT_OFF = call("get_contract", '{"id": "C-')
NOISE = call("get_contract", '{"id": "' + "!" * 99)


@pytest.mark.parametrize(
    ("message", "finish_reason", "name", "remedy"),
    [
        ({"content": None, "reasoning": "It ends in 2027."}, "stop", "answer_in_reasoning", "instant"),
        ({"content": " \n", "reasoning_content": "2027."}, "stop", "answer_in_reasoning", "instant"),
        ({"content": "Now, I will look up the contract."}, "stop", "narrated_call", "required"),
        ({"content": "Let me use get_contract to check this."}, "stop", "narrated_call", "required"),
        ({"content": "</think>It ends in 2027."}, "stop", "raw_markers", "instant"),
        ({"content": "functions.x:0<|tool_call_end|>"}, "stop", "raw_markers", "required"),
        ({"content": None, "reasoning": BEGIN + WHOLE}, "stop", "call_in_reasoning", "instant"),
        ({"content": "", "tool_calls": [call("sell_it")]}, "tool_calls", "unknown_tool", "required"),
        ({"content": "", "tool_calls": [call("")]}, "tool_calls", "unknown_tool", "required"),
        ({"content": "", "tool_calls": [CUT_OFF]}, "tool_calls", "truncated_json", "required"),
        ({"content": "", "tool_calls": [call("get_contract", "[]")]}, "tool_calls", "truncated_json", "required"),
        ({"content": "", "tool_calls": []}, "tool_calls", "empty_tool_calls", "required"),
        ({"content": "I will look.", "tool_calls": None}, "tool_calls", "empty_tool_calls", "required"),
        ({"content": "!!!!!!!!"}, "stop", "degenerate_output", "instant"),
        ({"content": "It ends" + "!" * 500}, "length", "degenerate_output", "instant"),
        ({"content": None, "reasoning": "!" * 16}, "stop", "degenerate_output", "instant"),
        ({"content": "", "tool_calls": [NOISE]}, "length", "degenerate_output", "instant"),
    ],
)  # fmt: skip
def test_each_known_failure_has_its_name_and_its_remedy(
    message: dict[str, Any], finish_reason: str, name: str, remedy: str
) -> None:
    reading = read(finish_reason, **message)
    assert found(reading) == [(name, remedy)] and reading.failure.name == name
    assert reading.failure.detail and DETECTED[name]


def test_where_no_tool_is_offered_no_call_is_asked_for() -> None:
    reading = VLLM.parse_reply({"content": "", "tool_calls": [call("f")]}, "tool_calls", [])
    assert found(reading) == [("unknown_tool", "instant")]
    assert found(VLLM.parse_reply({"content": "Let me check."}, "stop", [])) == []


# ------------------------------------------------------------------------------------- second tries


def second(dialect: Kimi, remedy: Any, **more: Any) -> Any:
    sent = dialect.adapt_request(
        [], [], {"max_tokens": 9, **more}, "thinking" if dialect.modes else None
    )[2]
    tried = dialect.retry_parameters(Detection("narrated_call", "", remedy), sent)
    assert tried != sent  # another request, so another key in the journal
    return tried


def test_a_call_that_was_due_is_required() -> None:
    tried = second(VLLM, "required")
    assert tried == {
        "max_tokens": 9,
        "temperature": 1.0,
        "top_p": 0.95,
        "tool_choice": "required",
        "extra_body": {"chat_template_kwargs": {"thinking": True}},
    }


def test_thinking_that_went_wrong_is_left_out_with_the_sampling_that_goes_with_it() -> None:
    tried = second(VLLM, "instant", extra_body={"logit_bias": []})
    assert tried == {
        "max_tokens": 9,
        "temperature": 0.6,
        "top_p": 0.95,
        "extra_body": {"logit_bias": [], "chat_template_kwargs": {"thinking": False}},
    }


def test_moonshot_is_never_required_to_call_while_it_thinks() -> None:
    tried = second(MOONSHOT, "required")
    assert tried["tool_choice"] == "required" and tried["temperature"] == 0.6
    assert tried["extra_body"] == {"thinking": {"type": "disabled"}}


def test_a_call_that_was_required_already_is_asked_for_without_thinking() -> None:
    tried = second(VLLM, "required", tool_choice="required")
    assert tried["extra_body"] == {"chat_template_kwargs": {"thinking": False}}


def test_where_there_is_no_other_way_to_ask_there_is_no_second_try() -> None:
    only_thinks = Kimi({"thinking": MODES["thinking"]})
    assert second(only_thinks, "instant") is None
    assert second(only_thinks, "required")["tool_choice"] == "required"
    assert second(Kimi({"thinking": MODES["thinking"]}, "moonshot"), "required") is None
    # Asked without thinking already, at whatever temperature.
    instant = VLLM.adapt_request([], [], {"temperature": 1.0}, "instant")[2]
    assert VLLM.retry_parameters(Detection("degenerate_output", "", "instant"), instant) is None
    at_moonshot = MOONSHOT.adapt_request([], [], {}, "instant")[2]
    tried = MOONSHOT.retry_parameters(Detection("narrated_call", "", "required"), at_moonshot)
    assert tried == {**at_moonshot, "tool_choice": "required"}
