"""The checks of the export gate, each against the file or a scripted server."""

import pytest
from gate_inputs import (
    END,
    RENDERER,
    SHIPPED,
    TALK,
    TOOLS,
    ScriptedServer,
    call,
    trace,
    write_gguf,
)

from student.export import checks
from student.models import gguf_file
from student.rendering.renderer import Renderer


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ({"template": SHIPPED}, None),
        ({"template": SHIPPED.replace("<|im_start|>system", "<|im_start|>System", 1)}, "first at"),
        ({"template": SHIPPED + "\n"}, f"first at character {len(SHIPPED)}"),
        ({"template": SHIPPED[:-1]}, f"first at character {len(SHIPPED) - 1}"),
        ({}, "the file has no chat template"),
    ],
    ids=["equal", "a letter", "a line feed more", "cut short", "none"],
)
def test_the_template_in_the_file_is_the_trained_one_to_the_byte(tmp_path, metadata, problem):
    file = gguf_file.read(write_gguf(tmp_path / "a.gguf", **metadata))
    template = file.value("tokenizer.chat_template")
    check = checks.check_template(template, RENDERER)
    assert check["name"] == "template"
    assert check["passed"] == (problem is None)
    assert (problem or f"{len(SHIPPED.encode())} bytes, equal") in check["detail"]


def test_the_file_ends_a_turn_by_one_of_the_students_stop_tokens(tmp_path):
    end, start = RENDERER.tokenizer.convert_tokens_to_ids([END, "<|im_start|>"])

    def checked(file, renderer=RENDERER):
        token_id = gguf_file.read(file).value("tokenizer.ggml.eos_token_id")
        return checks.check_stop_token(token_id, renderer)

    assert checked(write_gguf(tmp_path / "a.gguf", eos=end))["passed"]
    for metadata in ({"eos": start}, {}):
        check = checked(write_gguf(tmp_path / "b.gguf", **metadata))
        assert (check["name"], check["passed"]) == ("stop_token", False)
        assert check["detail"].startswith(
            f"the file's end-of-turn token is {metadata.get('eos')}, expected {end} ({END})"
        )
    either = Renderer(RENDERER.tokenizer, SHIPPED, [END, "<|im_start|>"])
    assert checked(write_gguf(tmp_path / "c.gguf", eos=start), either)["passed"]


@pytest.fixture
def scripted():
    """Starts a scripted server with the given replies."""
    servers = []

    def start(*replies):
        servers.append(ScriptedServer(*replies))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def reply(content="", calls=None, finish_reason="stop"):
    message = {"role": "assistant", "content": content, "tool_calls": calls}
    return {"choices": [{"message": message, "finish_reason": finish_reason}]}


GOOD_CALL = reply(calls=call({"key": "C-1"}, number=7)["tool_calls"])


def test_turns_that_end_pass_and_the_last_turn_is_what_is_asked_for(scripted):
    server = scripted(reply("On 2 March."), reply(None))
    check = checks.check_ends_turns(server.endpoint, [trace(), TALK], RENDERER)
    assert check == {"name": "ends_turns", "passed": True, "detail": "2 turns ended"}
    assert [path for path, _ in server.requests] == ["/v1/chat/completions"] * 2
    assert server.requests[0][1]["messages"] == trace()["messages"][:-1]
    assert server.requests[0][1]["temperature"] == 0


@pytest.mark.parametrize(
    ("bad", "detail"),
    [
        (reply("and so on", finish_reason="length"), "t/0: the turn did not end within 512 tokens"),
        (reply(f"In 2027.{END}"), f"t/0: the stop token {END} is in the text of the turn"),
    ],
)
def test_a_turn_that_does_not_end_or_says_its_stop_token_fails(scripted, bad, detail):
    server = scripted(reply("Hello."), bad, reply("not requested"))
    check = checks.check_ends_turns(server.endpoint, [TALK, trace(), TALK], RENDERER)
    assert check == {"name": "ends_turns", "passed": False, "detail": detail}


def test_a_call_goes_out_and_its_result_comes_back_under_its_id(scripted):
    server = scripted(GOOD_CALL, reply("On 2 March."))
    check = checks.check_tool_round_trip(server.endpoint, [trace()], RENDERER)
    assert check["passed"], check
    assert check["detail"] == "called find, took its result"
    first, second = (body["messages"] for _, body in server.requests)
    assert first == trace()["messages"][:2]
    assert second[2:] == [
        GOOD_CALL["choices"][0]["message"],
        {"role": "tool", "tool_call_id": "call_7", "content": '{"end": "2027-03-02"}'},
    ]


@pytest.mark.parametrize(
    ("replies", "detail"),
    [
        ([reply("I will look.")], "answered without a call"),
        ([reply(calls=call('{"key": ')["tool_calls"])], "invalid_json_arguments: find"),
        ([reply(calls=call({"key": 1})["tool_calls"])], "invalid_arguments: find: key: found 1"),
        ([GOOD_CALL, reply("")], "the turn after the tool's result is empty"),
        ([500], 'the server answered 500: {"error": "cannot parse"}'),
        (
            [reply(calls=call({"key": "C-1"})["tool_calls"], finish_reason="length")],
            "the turn did not end within 512 tokens",
        ),
    ],
    ids=["no call", "no JSON", "wrong type", "silence", "unreadable", "endless"],
)
def test_one_trace_that_comes_back_is_enough_and_none_is_a_failure(scripted, replies, detail):
    check = checks.check_tool_round_trip(scripted(*replies).endpoint, [trace()], RENDERER)
    assert (check["name"], check["passed"]) == ("tool_round_trip", False)
    assert detail in check["detail"]
    again = scripted(*replies, GOOD_CALL, reply("On 2 March."))
    assert checks.check_tool_round_trip(again.endpoint, [trace(), trace()], RENDERER)["passed"]


def test_of_a_model_that_was_not_trained_on_the_traces_the_file_is_judged_and_not_its_skill(
    scripted,
):
    endless = reply("and so on", finish_reason="length")
    ended = scripted(endless, reply("Hello."))
    check = checks.check_ends_turns(ended.endpoint, [trace(), TALK], RENDERER, trained=False)
    assert check == {"name": "ends_turns", "passed": True, "detail": "1 of 2 turns ended"}
    check = checks.check_ends_turns(scripted(endless).endpoint, [trace()], RENDERER, trained=False)
    assert check["passed"] is False

    server = scripted(reply("I find nothing."))
    check = checks.check_tool_round_trip(server.endpoint, [trace()], RENDERER, trained=False)
    assert check["passed"] is None and "without a call" in check["detail"]
    assert server.requests[0][1]["tool_choice"] == "required"
    left = scripted(reply('<tool>{"name": "find", "arguments": {"key": "C-1"}}'))
    check = checks.check_tool_round_trip(left.endpoint, [trace()], RENDERER, trained=False)
    assert check["passed"] is False  # a call that the server did not take for one
    for wrong in (reply(calls=call({"key": 1})["tool_calls"]), 500):
        # A wrong call decides, also where another conversation gets no call.
        server = scripted(wrong, reply("I find nothing."))
        check = checks.check_tool_round_trip(
            server.endpoint, [trace(), trace()], RENDERER, trained=False
        )
        assert check["passed"] is False and "without a call" not in check["detail"]
    endless = scripted(reply(calls=call({"key": 1})["tool_calls"], finish_reason="length"))
    check = checks.check_tool_round_trip(endless.endpoint, [trace()], RENDERER, trained=False)
    assert check["passed"] is None and "did not end" in check["detail"]


def test_a_further_call_after_the_result_is_a_turn_too(scripted):
    assert checks.check_tool_round_trip(
        scripted(GOOD_CALL, GOOD_CALL).endpoint, [trace()], RENDERER
    )["passed"]


@pytest.mark.parametrize("traces", [[], [TALK]])
def test_where_no_trace_has_a_call_the_round_trip_is_not_proven_and_nothing_is_asked(
    scripted, traces
):
    check = checks.check_tool_round_trip(scripted().endpoint, traces, RENDERER)
    assert check == {
        "name": "tool_round_trip",
        "passed": False,
        "detail": "no conversation with a tool call, expected at least one",
    }


def test_prompts_and_token_ids_that_differ_fail_where_they_first_differ(scripted):
    prompt = RENDERER.text(TALK["messages"][:1], TOOLS, add_generation_prompt=True)
    check = checks.check_rendering(scripted({"prompt": prompt[:-1]}).endpoint, [TALK], RENDERER)
    assert (check["name"], check["passed"]) == ("rendering", False)
    assert check["detail"] == (
        "talk/0: the prompt of message 1 differs from the trained one"
        f" at character {len(prompt) - 1}: found '', expected {prompt[-1]!r}, after {prompt[-41:-1]!r};"
        " line 54 of the template: {%- if add_generation_prompt -%}"
    )
    ids = RENDERER.ids(checks.ODD_TEXTS[0])
    check = checks.check_token_ids(scripted({"tokens": [*ids[:3], -1]}).endpoint, [TALK], RENDERER)
    assert (check["name"], check["passed"]) == ("token_ids", False)
    assert check["detail"].endswith(f": differs at token 3: found [-1], expected {ids[3:6]}")
