"""Checks that need no trained weights (student/export/text_checks.py), on a scripted server."""

import json

import pytest
from gate_inputs import END, RENDERER, TALK, TOOLS, ScriptedServer, call, trace

from student.export import text_checks


def replies(*messages):
    return [{"choices": [{"message": message, "finish_reason": "stop"}]} for message in messages]


@pytest.fixture
def scripted():
    servers = []

    def start(*answers):
        servers.append(ScriptedServer(*answers))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def test_a_token_more_than_in_training_fails_and_the_same_number_passes(scripted):
    prompt = RENDERER.text(TALK["messages"][:1], TOOLS, add_generation_prompt=True)
    count = len(RENDERER.ids(prompt))
    for served, passed in ((count, True), (count + 1, False), (count - 1, False)):
        server = scripted({"usage": {"prompt_tokens": served}})
        check = text_checks.check_prompt_tokens(server.endpoint, [TALK], RENDERER)
        assert check["passed"] is passed
    assert f"the server reads {count - 1} tokens for a prompt that has {count}" in check["detail"]
    assert "'<|im_start|>'" in check["detail"]


def test_a_server_that_goes_on_after_a_stop_token_fails(scripted):
    good = {"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}
    bad = {"choices": [{"message": {"content": ""}, "finish_reason": "length"}]}
    server = scripted(good)
    assert text_checks.check_stops(server.endpoint, RENDERER)["passed"]
    token = RENDERER.tokenizer.convert_tokens_to_ids(END)
    assert server.requests[0][1]["logit_bias"][0][0] == token
    check = text_checks.check_stops(scripted(bad).endpoint, RENDERER)
    assert check["detail"] == f"the server does not stop at {END}, which ends a turn of the student"


def read(arguments, name="find", content=""):
    """A reply as the server parses it."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    function = {"name": name, "arguments": text}
    return {"role": "assistant", "content": content, "tool_calls": [{"function": function}]}


@pytest.mark.parametrize(
    ("reply", "passed"),
    [
        (read({"key": "C-1"}), True),
        (read('{"key":"C-1"}'), True),
        (read({"key": "C-2"}), False),
        (read({"key": "C-1"}, name="set_end"), False),
        (read({}), False),
        ({"role": "assistant", "content": '{"name": "find"}'}, False),
    ],
)
def test_a_call_has_to_come_back_with_its_name_and_every_argument(scripted, reply, passed):
    server = scripted(*replies(reply))
    check = text_checks.check_parsing(server.endpoint, [trace()], RENDERER)
    assert check["passed"] is passed, check
    ((_, body),) = server.requests
    written = '<tool_call>\n{"name": "find", "arguments": {"key": "C-1"}}\n</tool_call>'
    assert body["messages"][-1] == {"role": "assistant", "content": written}
    assert [tool["function"]["name"] for tool in body["tools"]] == ["find"]


def test_text_beside_a_call_has_to_come_back_as_text(scripted):
    beside = trace(messages=[TALK["messages"][0], call({"key": 1}, content="I look.")])
    good, bad = read({"key": 1.0}, content="I look.\n"), read({"key": 1})
    check = text_checks.check_parsing(scripted(*replies(good)).endpoint, [beside], RENDERER)
    assert (check["passed"], check["detail"]) == (True, "the calls of 1 turns, equal")
    check = text_checks.check_parsing(scripted(*replies(bad)).endpoint, [beside], RENDERER)
    assert "the text 'I look.' beside a call is read as ''" in check["detail"]


def test_a_turn_that_the_server_cannot_parse_fails_with_its_answer(scripted):
    check = text_checks.check_parsing(scripted(500).endpoint, [trace()], RENDERER)
    assert 'the server answered 500: {"error": "cannot parse"}' in check["detail"]


def test_a_turn_that_was_read_already_is_not_read_again(scripted):
    server = scripted(*replies(read({"key": "C-1"})))
    check = text_checks.check_parsing(server.endpoint, [trace(), trace("t/1")], RENDERER)
    assert check["passed"] and len(server.requests) == 1
