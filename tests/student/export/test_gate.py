"""The export gate: all checks on one file, then against llama.cpp itself."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
from gate_inputs import (
    END,
    RENDERER,
    SHIPPED,
    TALK,
    TOOLS,
    ScriptedServer,
    call,
    result,
    trace,
    write_gguf,
)

from student.export import checks, gate
from student.export.gguf import convert
from student.export.untrained import gguf as untrained_gguf
from student.models import base
from student.rendering.renderer import Renderer
from teacher.inference.llama_server import serve


def test_a_refusal_by_the_server_fails_the_check_that_sent_the_request(tmp_path, monkeypatch):
    """llama.cpp answers 500 where it cannot read the call that the model wrote."""
    text = RENDERER.text(TALK["messages"], TOOLS)
    prompt = RENDERER.text(TALK["messages"][:1], TOOLS, add_generation_prompt=True)
    texts = [*checks.ODD_TEXTS, *checks.added_token_texts(RENDERER), text]
    server = ScriptedServer(
        {"prompt": prompt},
        *({"tokens": RENDERER.ids(odd)} for odd in texts),
        {"usage": {"prompt_tokens": len(RENDERER.ids(prompt))}},
        500,
    )
    monkeypatch.setattr(gate, "serve", lambda *args, **more: nullcontext(server.endpoint))
    monkeypatch.setattr(gate, "reply_seconds", lambda *limits: 300)
    end = RENDERER.tokenizer.convert_tokens_to_ids(END)
    file = write_gguf(tmp_path / "a.gguf", template=SHIPPED, eos=end)
    results = gate.run_gate(file, [TALK], RENDERER, context=4096, log=tmp_path / "log")
    assert [(check["name"], check["passed"]) for check in results] == [
        ("template", True),
        ("stop_token", True),
        ("rendering", True),
        ("token_ids", True),
        ("prompt_tokens", True),
        ("ends_turns", False),
        ("tool_round_trip", False),
    ]
    assert results[5]["detail"] == 'the server answered 500: {"error": "cannot parse"}'
    server.close()


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
BEFORE_TRAINING = ("template", "stop_token", "rendering", "token_ids", "prompt_tokens")


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
    file = untrained_gguf(base.load("smollm2-135m"), "Q8_0")
    results = gate.run_gate(file, CONVERSATIONS[:1], renderer, context=2048, log=tmp_path / "log")
    assert [check["name"] for check in results] == [
        *BEFORE_TRAINING,
        "ends_turns",
        "tool_round_trip",
    ]
    assert failed(results) == {}


@pytest.mark.slow
def test_the_server_renders_every_prompt_as_the_student_was_trained_on(renderer, tmp_path):
    file = untrained_gguf(base.load("smollm2-135m"), "Q8_0")
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
    assert list(failed(results)) == ["template", "rendering", "prompt_tokens"]


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
