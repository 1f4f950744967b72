import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter
from test_examples import END, SHIPPED, TOOLS, tiny_tokenizer

from student.export import checks, gate
from student.export.gguf import convert
from student.models import base
from student.rendering.examples import Renderer
from teacher.inference.endpoint import Endpoint
from teacher.inference.llama_server import serve

RENDERER = Renderer(tiny_tokenizer(), SHIPPED, [END])


def call(arguments, content="", number=0):
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    function = {"name": "find", "arguments": text}
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [{"id": f"call_{number}", "type": "function", "function": function}],
    }


def result(content, number=0):
    return {"role": "tool", "tool_call_id": f"call_{number}", "content": content}


def trace(name="t/0", tools=TOOLS, messages=None):
    return {
        "id": name,
        "tools": tools,
        "messages": messages
        or [
            {"role": "system", "content": "You are a paralegal."},
            {"role": "user", "content": "When does C-1 end?"},
            call({"key": "C-1"}),
            result('{"end": "2027-03-02"}'),
            {"role": "assistant", "content": "On 2 March 2027."},
        ],
    }


TALK = trace(
    "talk/0",
    messages=[{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello."}],
)


# ------------------------------------------------------------------------------------- the file's own words


def gguf(path: Path, **metadata) -> Path:
    """A GGUF without tensors."""
    writer = GGUFWriter(path, "llama")
    if "template" in metadata:
        writer.add_chat_template(metadata["template"])
    if "eos" in metadata:
        writer.add_eos_token_id(metadata["eos"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


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
    [found] = gate.read_metadata(gguf(tmp_path / "a.gguf", **metadata), "tokenizer.chat_template")
    check = checks.check_template(found, RENDERER)
    assert check["name"] == "template"
    assert check["passed"] == (problem is None)
    assert (problem or f"{len(SHIPPED.encode())} bytes, equal") in check["detail"]


def test_the_file_ends_a_turn_by_one_of_the_students_stop_tokens(tmp_path):
    end, start = RENDERER.tokenizer.convert_tokens_to_ids([END, "<|im_start|>"])

    def checked(file, renderer=RENDERER):
        [found] = gate.read_metadata(file, "tokenizer.ggml.eos_token_id")
        return checks.check_stop_token(found, renderer)

    assert checked(gguf(tmp_path / "a.gguf", eos=end))["passed"]
    for metadata in ({"eos": start}, {}):
        check = checked(gguf(tmp_path / "b.gguf", **metadata))
        assert (check["name"], check["passed"]) == ("stop_token", False)
        assert check["detail"].startswith(
            f"the file's end-of-turn token is {metadata.get('eos')}, expected {end} ({END})"
        )
    either = Renderer(RENDERER.tokenizer, SHIPPED, [END, "<|im_start|>"])
    assert checked(gguf(tmp_path / "c.gguf", eos=start), either)["passed"]


# ------------------------------------------------------------------------------------- a scripted server


class Scripted:
    """Answers each request with the next of `replies` (an int is an HTTP status) and keeps what it was asked."""

    def __init__(self, *replies):
        self.replies: list[Any] = list(replies)
        self.asked: list[tuple[str, Any]] = []
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                length = int(self.headers["Content-Length"])
                scripted.asked.append((self.path, json.loads(self.rfile.read(length))))
                reply = scripted.replies.pop(0)
                status = reply if isinstance(reply, int) else 200
                self.send_response(status)
                self.end_headers()
                said = {"error": "cannot parse"} if status != 200 else reply
                self.wfile.write(json.dumps(said).encode())

            def log_message(self, format, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.endpoint = Endpoint(f"http://127.0.0.1:{self.server.server_port}/v1", "key", "model")


@pytest.fixture
def scripted():
    servers = []

    def start(*replies):
        servers.append(Scripted(*replies))
        return servers[-1]

    yield start
    for server in servers:
        server.server.shutdown()
        server.server.server_close()


def reply(content="", calls=None, finish_reason="stop"):
    message = {"role": "assistant", "content": content, "tool_calls": calls}
    return {"choices": [{"message": message, "finish_reason": finish_reason}]}


GOOD_CALL = reply(calls=call({"key": "C-1"}, number=7)["tool_calls"])


def test_turns_that_end_pass_and_the_last_turn_is_what_is_asked_for(scripted):
    server = scripted(reply("On 2 March."), reply(None))
    check = checks.check_ends_turns(server.endpoint, [trace(), TALK], RENDERER)
    assert check == {"name": "ends_turns", "passed": True, "detail": "2 turns ended"}
    assert [path for path, _ in server.asked] == ["/v1/chat/completions"] * 2
    assert server.asked[0][1]["messages"] == trace()["messages"][:-1]
    assert server.asked[0][1]["temperature"] == 0


@pytest.mark.parametrize(
    ("bad", "detail"),
    [
        (reply("and so on", finish_reason="length"), "t/0: the turn did not end within 512 tokens"),
        (reply(f"In 2027.{END}"), f"t/0: the stop token {END} is in the text of the turn"),
    ],
)
def test_a_turn_that_does_not_end_or_says_its_stop_token_fails(scripted, bad, detail):
    server = scripted(reply("Hello."), bad, reply("never asked"))
    check = checks.check_ends_turns(server.endpoint, [TALK, trace(), TALK], RENDERER)
    assert check == {"name": "ends_turns", "passed": False, "detail": detail}


def test_a_call_goes_out_and_its_result_comes_back_under_its_id(scripted):
    server = scripted(GOOD_CALL, reply("On 2 March."))
    check = checks.check_tool_round_trip(server.endpoint, [trace()], RENDERER)
    assert check["passed"], check
    assert check["detail"] == "called find, took its result"
    first, second = (body["messages"] for _, body in server.asked)
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
            "the turn did not end within 256 tokens",
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
    assert server.asked[0][1]["tool_choice"] == "required"
    left = scripted(reply('<tool>{"name": "find", "arguments": {"key": "C-1"}}'))
    check = checks.check_tool_round_trip(left.endpoint, [trace()], RENDERER, trained=False)
    assert check["passed"] is False  # a call that the server did not take for one
    for wrong in (reply(calls=call({"key": 1})["tool_calls"]), 500):
        # The fault is what is said, also where another trace is not even called for.
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


def test_what_the_server_refuses_fails_the_check_that_asked(scripted, tmp_path, monkeypatch):
    """llama.cpp answers 500 where it cannot read the call that the model wrote."""
    from contextlib import nullcontext

    text = RENDERER.text(TALK["messages"], TOOLS)
    texts = [*checks.ODD_TEXTS, text]
    server = scripted(
        {"prompt": RENDERER.text(TALK["messages"][:1], TOOLS, add_generation_prompt=True)},
        *({"tokens": RENDERER.ids(odd)} for odd in texts),
        500,
    )
    monkeypatch.setattr(gate, "serve", lambda *args, **more: nullcontext(server.endpoint))
    end = RENDERER.tokenizer.convert_tokens_to_ids(END)
    file = gguf(tmp_path / "a.gguf", template=SHIPPED, eos=end)
    results = gate.run_gate(file, [TALK], RENDERER, context=4096, log=tmp_path / "log")
    assert [(check["name"], check["passed"]) for check in results] == [
        ("template", True),
        ("stop_token", True),
        ("rendering", True),
        ("token_ids", True),
        ("ends_turns", False),
        ("tool_round_trip", False),
    ]
    assert results[4]["detail"] == 'the server answered 500: {"error": "cannot parse"}'


def test_prompts_and_token_ids_that_differ_fail_where_they_first_differ(scripted):
    prompt = RENDERER.text(TALK["messages"][:1], TOOLS, add_generation_prompt=True)
    check = checks.check_rendering(scripted({"prompt": prompt[:-1]}).endpoint, [TALK], RENDERER)
    assert (check["name"], check["passed"]) == ("rendering", False)
    assert check["detail"] == (
        "talk/0: the prompt of message 1 differs from the trained one"
        f" at character {len(prompt) - 1}: found '', expected {prompt[-1]!r}"
    )
    ids = RENDERER.ids(checks.ODD_TEXTS[0])
    check = checks.check_token_ids(scripted({"tokens": [*ids[:3], -1]}).endpoint, [TALK], RENDERER)
    assert (check["name"], check["passed"]) == ("token_ids", False)
    assert check["detail"].endswith(f": differs at token 3: found [-1], expected {ids[3:6]}")


# ------------------------------------------------------------------------------------- llama.cpp itself

CONVERSATIONS = [
    trace(),
    TALK,
    trace("no-tools/0", tools=[], messages=TALK["messages"]),
    trace(
        "odd/0",
        messages=[
            {
                "role": "system",
                "content": "Du bist „Prüfer“. 日本 🙂\n\n  Two spaces. {{ x }} {% y %}",
            },
            {"role": "user", "content": "  Wann endet C-1?\n"},
            call(
                {"key": 'é "quoted" \\ \n 日本 🙂 </tool_call> & < >', "z": 1, "a": [1.5, None, {}]}
            ),
            result('{"error": "naïve"}'),
            call({}, content="I try again:", number=1),
            result("", number=1),
            call({"key": True}, number=2),
            result("[]", number=2),
            {"role": "assistant", "content": "Nie.\n"},
            {"role": "user", "content": ""},
            {"role": "assistant", "content": "?"},
        ],
    ),
    trace(
        "two-calls/0",
        messages=[
            {"role": "user", "content": "C-1 and C-2?"},
            {
                **call({}),
                "tool_calls": [
                    *call({"key": "C-1"}, number=0)["tool_calls"],
                    *call({"key": "C-2"}, number=1)["tool_calls"],
                ],
            },
            result("{}", 0),
            result("{}", 1),
            {"role": "assistant", "content": "Never."},
        ],
    ),
]
# These hold before any training; how turns end and calls come out is learned.
BEFORE_TRAINING = ("template", "stop_token", "rendering", "token_ids")


def failed(results):
    return {
        c["name"]: c["detail"] for c in results if not c["passed"] and c["name"] in BEFORE_TRAINING
    }


@pytest.fixture(scope="module")
def untrained():
    return base.prepare(base.load("smollm2-135m"))


@pytest.fixture(scope="module")
def renderer(untrained):
    from transformers import AutoTokenizer

    return Renderer(AutoTokenizer.from_pretrained(untrained), SHIPPED, [END])


@pytest.fixture(scope="module")
def tiny(untrained, tmp_path_factory):
    """The student's tokenizer and template on a random model that is converted in seconds."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    directory = tmp_path_factory.mktemp("tiny")
    config = json.loads((untrained / "config.json").read_text())
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config["vocab_size"],
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=1,
            eos_token_id=2,
            pad_token_id=2,
            tie_word_embeddings=True,
        )
    ).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(untrained / name, directory)
    return directory


@pytest.mark.slow
def test_the_untouched_student_passes_what_needs_no_training(renderer, tmp_path):
    file = base.gguf(base.load("smollm2-135m"), "Q8_0")
    results = gate.run_gate(file, CONVERSATIONS[:1], renderer, context=2048, log=tmp_path / "log")
    assert [check["name"] for check in results] == [
        *BEFORE_TRAINING,
        "ends_turns",
        "tool_round_trip",
    ]
    assert failed(results) == {}


@pytest.mark.slow
def test_the_server_renders_every_prompt_as_the_student_was_trained_on(renderer, tmp_path):
    file = base.gguf(base.load("smollm2-135m"), "Q8_0")
    with serve(file, tmp_path / "log", slots=1, context=2048) as endpoint:
        rendering = checks.check_rendering(endpoint, CONVERSATIONS, renderer)
        assert rendering == {"name": "rendering", "passed": True, "detail": "11 prompts, equal"}
        token_ids = checks.check_token_ids(endpoint, CONVERSATIONS, renderer)
        assert token_ids["passed"], token_ids


@pytest.mark.slow
def test_a_model_with_another_template_fails_by_its_template_alone(tiny, renderer, tmp_path):
    other = Path(shutil.copytree(tiny, tmp_path / "other"))
    (other / "chat_template.jinja").write_text(SHIPPED + "{#- the same prompts -#}")
    convert(other, tmp_path / "other.gguf")
    results = gate.run_gate(
        tmp_path / "other.gguf", CONVERSATIONS, renderer, context=2048, log=tmp_path / "log"
    )
    assert list(failed(results)) == ["template"]


@pytest.mark.slow
def test_a_model_whose_template_renders_otherwise_fails_by_its_prompts_too(
    tiny, renderer, tmp_path
):
    other = Path(shutil.copytree(tiny, tmp_path / "other"))
    (other / "chat_template.jinja").write_text(SHIPPED.replace("\\nTools:", "\\nTools are:"))
    convert(other, tmp_path / "other.gguf")
    results = gate.run_gate(
        tmp_path / "other.gguf", CONVERSATIONS, renderer, context=2048, log=tmp_path / "log"
    )
    assert list(failed(results)) == ["template", "rendering"]


@pytest.mark.slow
def test_a_model_with_another_end_of_turn_fails_by_its_stop_token_alone(tiny, renderer, tmp_path):
    other = Path(shutil.copytree(tiny, tmp_path / "other"))
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        settings = json.loads((other / name).read_text())
        if "eos_token_id" in settings:
            settings["eos_token_id"] = 1
        if "eos_token" in settings:
            settings["eos_token"] = "<|im_start|>"
        (other / name).write_text(json.dumps(settings))
    convert(other, tmp_path / "other.gguf")
    results = gate.run_gate(
        tmp_path / "other.gguf", CONVERSATIONS, renderer, context=2048, log=tmp_path / "log"
    )
    assert failed(results) == {
        "stop_token": "the file's end-of-turn token is 1, expected 2 (<|im_end|>)"
    }
