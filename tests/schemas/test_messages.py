"""Conversations: each reason to reject one, and near misses that are kept."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.messages import MESSAGE_REASONS, check_messages

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_contract",
            "parameters": {
                "type": "object",
                "properties": {
                    "contract_id": {"type": "string"},
                    "on": {"type": "string", "format": "date"},
                    "limit": {"type": "integer", "minimum": 1},
                },
                "required": ["contract_id"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "function", "function": {"name": "list_matters"}},
]


def user(text="When does C-1 end?"):
    return {"role": "user", "content": text}


def answer(text):
    return {"role": "assistant", "content": text}


def calls(*triples, content=None):
    """An assistant's turn of (id, tool, arguments) calls."""
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [
            {"id": i, "type": "function", "function": {"name": name, "arguments": arguments}}
            for i, name, arguments in triples
        ],
    }


def result(call_id, content="{}"):
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def get(call_id="a", arguments='{"contract_id": "C-1"}'):
    return call_id, "get_contract", arguments


ANSWER = answer("It ends on 2 March 2027.")
GOOD = [user(), calls(get()), result("a"), ANSWER]


def around(turn):
    """A conversation whose second message is `turn`, with its calls answered."""
    answers = [result(call["id"]) for call in turn.get("tool_calls", [])]
    return [user(), turn, *answers, ANSWER]


# For each reason: conversations that are rejected with it, and near misses that are kept.
REJECTED = {
    "malformed_trace": [
        [],
        "no list",
        [user()],
        [user(), "no object"],
        [user(), {"role": "robot", "content": "x"}],
        [user(), {"role": ["assistant"], "content": "x"}],
        [user(None), ANSWER],
        [user(5), ANSWER],
        [user([{"type": "text"}]), ANSWER],
        [user(["x"]), ANSWER],
        [{**user(), "tool_calls": calls(get())["tool_calls"]}, ANSWER],
        [user(), {**ANSWER, "tool_calls": "get_contract"}],
        [user(), {**ANSWER, "tool_calls": [None]}],
        [user(), {**ANSWER, "tool_calls": [{"function": {"name": "get_contract"}}]}],
        [user(), {**ANSWER, "tool_calls": [{"id": "a", "function": None}]}],
        [user(), {**ANSWER, "reasoning_content": ["x"]}],
        [user(), calls(get()), {**result("a"), "content": None}, ANSWER],
        [user("half a pair \ud83d"), ANSWER],
        [{**user(), "score": float("nan")}, ANSWER],
    ],
    "unknown_tool": [around(calls(("a", "get_contracts", "{}")))],
    "invalid_json_arguments": [
        around(calls(get(arguments=text)))
        for text in (
            "",
            "{",
            "C-1",
            "null",
            '"C-1"',
            '["C-1"]',
            '{"contract_id": "C-1"} {}',
            "{'contract_id': 'C-1'}",
            '{"contract_id": "C-1", "limit": NaN}',
            '{"contract_id": "C-1", "limit": 1e999}',
            '{"contract_id": "C-1", "contract_id": "C-2"}',
            '{"contract_id": "\\ud800"}',
            '{"limit": ' + "9" * 5000 + "}",
            "[" * 100_000,
            None,
            7,
        )
    ],
    "invalid_arguments": [
        around(calls(get(arguments=text)))
        for text in (
            "{}",
            '{"contract_id": 1}',
            '{"contract_id": "C-1", "of": "x"}',
            '{"contract_id": "C-1", "limit": 0}',
            '{"contract_id": "C-1", "limit": true}',
            '{"contract_id": "C-1", "limit": 1.5}',
            '{"contract_id": "C-1", "on": "2 March"}',
            '{"contract_id": "C-1", "on": "2026-02-30"}',
        )
    ],
    "orphan_result": [
        [user(), calls(get("a")), result("a"), result("b"), ANSWER],
        [user(), calls(get("a")), result("a"), result("a"), ANSWER],
        [user(), result("a"), ANSWER],
        [user(), calls(get("a")), result("a"), ANSWER, user(), result("a"), ANSWER],
        [user(), calls(get("a")), result("a"), {"role": "tool", "content": "{}"}, ANSWER],
    ],
    "unanswered_call": [
        [user(), calls(get("a")), ANSWER],
        [user(), calls(get("a"), get("b")), result("a"), ANSWER],
        [user(), calls(get("a")), user("Well?"), answer("Sorry, it ends in May.")],
        [user(), calls(get("a"), get("b")), result("a")],
    ],
    "duplicate_call_id": [
        [user(), calls(get("a"), get("a")), result("a"), result("a"), ANSWER],
        [user(), calls(get("a"), get("a")), result("a"), ANSWER],
    ],
    "marker_leak": [
        around(answer(text))
        for text in (
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_contract:0",
            '<tool_call>{"name": "get_contract"}</tool_call>',
            "<think>The user wants",
            "It ends in May.</think>",
            "It ends in May.<|im_end|>",
            '[TOOL_CALLS] [{"name": "get_contract"}]',
            "<|python_tag|>get_contract()",
            "<｜tool▁calls▁begin｜>",
            "◁think▷",
            "<function=get_contract>",
        )
    ]
    + [
        around(calls(get(), content="<think>")),
        around({"role": "assistant", "content": [{"type": "text", "text": "<think>"}]}),
    ],
    "empty_turn": [
        around(answer(content))
        for content in (None, "", " \n\t", [], [{"type": "text", "text": " "}])
    ]
    + [
        around({**answer(None), "tool_calls": []}),
        around({**answer(None), "reasoning_content": "I should answer."}),
        around({"role": "assistant"}),
    ],
    "narrated_call": [
        [user(), answer(text)]
        for text in (
            "Let me check the contract.",
            "Now let me check its amendments.",
            "Sure! I'll look up the contract for you.",
            "I will now call get_contract with C-1.",
            "Okay, I’m going to retrieve the contract. One moment please.",
            "To answer this, I need to check contract C-1:",
            "Calling get_contract now...",
            'get_contract(contract_id="C-1")',
            '{"name": "get_contract", "arguments": {"contract_id": "C-1"}}',
            '```json\n{"name": "get_contract", "arguments": {"contract_id": "C-1"}}\n```',
        )
    ],
}
KEPT = {
    "malformed_trace": [
        GOOD,
        [{"role": "developer", "content": "Be brief."}, *GOOD],
        [user([{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {}}]), ANSWER],
        [{**user(), "name": "Ada", "extra": 1}, {**ANSWER, "reasoning_content": None}],
        [user(), {**ANSWER, "tool_calls": None}],
        [user("a whole pair \U0001f600"), ANSWER],
    ],
    "unknown_tool": [around(calls(("a", "list_matters", "{}")))],
    "invalid_json_arguments": [
        around(calls(get(arguments=' {"contract_id" : "C-1"}\n'))),
        around(calls(get(arguments={"contract_id": "C-1"}))),
        around(calls(get(arguments='{"contract_id": "\\ud83d\\ude00"}'))),
    ],
    "invalid_arguments": [
        around(calls(get(arguments='{"contract_id": "C-1", "limit": 1.0}'))),
        around(calls(get(arguments='{"contract_id": "C-1", "on": "2028-02-29"}'))),
        around(calls(("a", "list_matters", '{"any": ["thing"]}'))),
    ],
    "orphan_result": [
        [user(), calls(get("a"), get("b")), result("b"), result("a"), ANSWER],
        [user(), calls(get("a")), result("a"), calls(get("a")), result("a"), ANSWER],
    ],
    "unanswered_call": [
        [user(), calls(get("a"))],
        [user(), calls(get("a"), get("b"))],
        [user(), calls(get("a")), result("a")],
    ],
    "duplicate_call_id": [
        [user(), calls(get("a")), result("a"), ANSWER, user(), calls(get("a")), result("a"), ANSWER]
    ],
    "marker_leak": [
        around(answer(text))
        for text in (
            "Use a <b> tag.",
            "1 < 2 and 3 |> f",
            "I think so: think twice [see INST-4].",
            "f <| x |> g",
            "The tool_call was fine.",
            "List[int], <name>, </p>",
        )
    ]
    + [
        [user("What does <think> mean? And <|im_start|>?"), ANSWER],
        [user(), calls(get("a")), result("a", "<tool_call>"), ANSWER],
        around({**ANSWER, "reasoning_content": "<think>"}),
    ],
    "empty_turn": [
        around(calls(get(), content="")),
        around(answer("0")),
        around({"role": "assistant", "content": [{"type": "image_url", "image_url": {}}]}),
        [user(""), ANSWER],
    ],
    "narrated_call": [
        [user(), answer(text)]
        for text in (
            "Let me know if you need anything else.",
            "I checked: it ends on 2 March 2027. Let me know if I should look further.",
            "Let me check that I understood. Do you mean C-1?",
            "I will cancel C-1 and call list_matters. Shall I?",
            "Let me check the contract. It ends on 2 March 2027.",
            "The contract ends in May. I will check again in April.",
            "I looked up the contract with get_contract and it has no end date.",
            "I will not check contracts of other firms.",
            "None of my tools can find a restaurant, and I will look forward to your next question.",
            "Let me be clear: it is void.",
        )
    ]
    + [
        [user(), answer("Let me check the contract."), user("Well?"), ANSWER],
        [user(), calls(get(), content="Let me check the contract.")],
    ],
}


def cases(table):
    return [
        pytest.param(reason, messages, id=f"{reason}-{number}")
        for reason, conversations in table.items()
        for number, messages in enumerate(conversations)
    ]


@pytest.mark.parametrize(("reason", "messages"), cases(REJECTED))
def test_a_bad_conversation_is_rejected_with_its_reason(reason, messages):
    verdict = check_messages(messages, TOOLS)
    assert (verdict["kept"], verdict["reason"]) == (False, reason), verdict
    assert verdict["detail"] and "\n" not in verdict["detail"]
    verdict["detail"].encode()


@pytest.mark.parametrize(("reason", "messages"), cases(KEPT))
def test_a_near_miss_is_kept(reason, messages):
    verdict = check_messages(messages, TOOLS)
    assert verdict == {"kept": True, "reason": None, "detail": None, "message_index": None}, reason


def test_every_reason_has_conversations_on_both_sides():
    assert set(REJECTED) == set(KEPT) == set(MESSAGE_REASONS)


def test_a_verdict_has_the_message_and_the_problem():
    bad = [*GOOD, user(), calls(("b", "get_contract", '{"contract_id": 5}')), result("b"), ANSWER]
    assert check_messages(bad, TOOLS) == {
        "kept": False,
        "reason": "invalid_arguments",
        "detail": "get_contract: contract_id: found 5, expected string",
        "message_index": 5,
    }


def test_the_first_reason_in_order_wins_over_the_first_in_the_conversation():
    empty_then_unknown = [user(), answer(""), user(), calls(("a", "no_tool", "{")), result("a")]
    assert check_messages(empty_then_unknown, TOOLS)["reason"] == "unknown_tool"


@pytest.mark.parametrize("tools", [None, []])
def test_without_tools_every_call_is_to_an_unknown_tool(tools):
    assert check_messages(GOOD, tools)["reason"] == "unknown_tool"
    assert check_messages([user(), ANSWER], tools)["kept"]


@pytest.mark.parametrize(
    "tools",
    ["[]", [None], [{"type": "function"}], [{"function": {"name": 5}}], {"get_contract": {}}],
)
def test_tools_of_another_type_make_a_malformed_trace(tools):
    assert check_messages(GOOD, tools)["reason"] == "malformed_trace"


def test_a_tool_may_be_listed_twice_but_not_with_two_definitions():
    other: Any = copy.deepcopy(TOOLS[0])
    assert check_messages(GOOD, [*TOOLS, other])["kept"]
    other["function"]["parameters"]["required"] = []
    assert check_messages(GOOD, [*TOOLS, other])["reason"] == "malformed_trace"


UNSUPPORTED = [
    {"type": "dict"},
    {"properties": {"contract_id": {"pattern": "(?i)^c"}}},
    {"properties": {"contract_id": {"pattern": "^C.*\\Z"}}},
    {"properties": {"contract_id": {"$ref": "#/$defs/missing"}}},
    {"properties": {"contract_id": {"$ref": "http://localhost:9/x.json"}}},
    {"$ref": "#"},
    {"properties": {"contract_id": {"minimum": "1"}}},
    [],
    "string",
    7,
]


@pytest.mark.parametrize("parameters", UNSUPPORTED, ids=json.dumps)
def test_a_schema_that_cannot_be_evaluated_is_reported_with_its_tool(parameters):
    tools = [{"type": "function", "function": {"name": "get_contract", "parameters": parameters}}]
    verdict = check_messages(GOOD, tools)
    assert verdict["reason"] == "malformed_trace"
    assert (verdict["detail"] or "").startswith("get_contract: schema not supported: ")
    # The schema of a tool that is not called does not matter.
    assert check_messages([user(), ANSWER], tools)["kept"]


# --- any JSON ---

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
# Values that pass the first checks often enough to reach the later ones.
nearly = {
    "role": st.sampled_from(["user", "assistant", "tool", "system"]) | json_values,
    "content": st.none() | st.text() | json_values,
}
nearly_call = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["a", "b"]) | json_values,
        "function": st.fixed_dictionaries(
            {
                "name": st.sampled_from(["get_contract", "list_matters"]) | json_values,
                "arguments": st.text() | json_values | st.just('{"contract_id": "C"}'),
            }
        )
        | json_values,
    }
)
nearly_message = st.fixed_dictionaries(
    nearly,
    optional={
        "tool_calls": st.lists(nearly_call | json_values, max_size=3) | json_values,
        "tool_call_id": st.sampled_from(["a", "b"]) | json_values,
        "reasoning_content": json_values,
    },
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(nearly_message | json_values, max_size=6) | json_values,
    st.just(TOOLS) | st.lists(json_values, max_size=3) | json_values,
)
def test_any_json_gets_a_verdict(messages, tools):
    verdict = check_messages(messages, tools)
    assert set(verdict) == {"kept", "reason", "detail", "message_index"}
    assert verdict["kept"] == (verdict["reason"] is None)
    assert verdict["kept"] or verdict["reason"] in MESSAGE_REASONS


def test_a_conversation_nested_beyond_reason_is_malformed():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert check_messages([user(), {**ANSWER, "extra": deep}], TOOLS)["reason"] == "malformed_trace"


# --- what means the same ---


@pytest.mark.parametrize(
    "message", [calls(get()), calls(("b", "list_matters", "{}")), {"role": "assistant"}]
)
def test_no_content_null_and_an_empty_text_have_one_verdict(message):
    bare = {key: value for key, value in message.items() if key != "content"}
    verdicts = [
        check_messages(around(turn), TOOLS)
        for turn in (
            bare,
            {**bare, "content": None},
            {**bare, "content": ""},
            {**bare, "content": []},
        )
    ]
    assert verdicts == [verdicts[0]] * 4
    assert verdicts[0]["reason"] == (None if "tool_calls" in message else "empty_turn")


@pytest.mark.parametrize("arguments", ["", None])
def test_a_tool_is_called_without_arguments_by_an_empty_text_and_null(arguments):
    assert check_messages(around(calls(("a", "list_matters", arguments))), TOOLS)["kept"]
    absent = around(calls(("a", "list_matters", "{}")))
    del absent[1]["tool_calls"][0]["function"]["arguments"]
    assert check_messages(absent, TOOLS)["kept"]
    # A tool with required parameters cannot be called so.
    verdict = check_messages(around(calls(get(arguments=arguments))), TOOLS)
    assert verdict["reason"] == "invalid_json_arguments"
    assert (
        check_messages(around(calls(("a", "list_matters", " "))), TOOLS)["reason"]
        == verdict["reason"]
    )
