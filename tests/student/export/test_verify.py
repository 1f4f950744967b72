"""`stillhouse verify`: a GGUF against its Hugging Face original."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gate_inputs import write_gguf

from schemas.errors import InputError
from schemas.files import write_jsonl
from student.export import untrained, verify
from student.export.conversations import CONVERSATIONS
from student.models import base


@pytest.fixture(scope="module")
def original() -> Path:
    """The embedded student as a directory, with the template of its training."""
    return base.prepare(base.load("smollm2-135m"))


@pytest.fixture(scope="module")
def read(original: Path) -> tuple[Any, int]:
    """Its renderer and context, read once: a tokenizer takes a second."""
    return verify._original(original, with_images=False)


@pytest.fixture(scope="module")
def exported() -> Path:
    return untrained.gguf(base.load("smollm2-135m"), "Q8_0")


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    command_line = [sys.executable, "-m", "flows.cli", "verify", *map(str, arguments)]
    return subprocess.run(command_line, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def like_the_file(original: Path, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The original with the template that is in the file."""
    from student.models import gguf_file

    directory = tmp_path_factory.mktemp("original")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(original / name, directory)
    template = gguf_file.read(exported).value("tokenizer.chat_template")
    (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    return directory


@pytest.mark.slow
def test_a_faithful_export_passes_and_one_with_another_template_does_not(
    exported: Path, like_the_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "verdict.json"
    process = command(exported, "--against", like_the_file, "--json", out)
    assert process.returncode == 0, process.stdout + process.stderr
    report = json.loads(out.read_text())
    assert report["passed"] and report["gguf"] == str(exported)
    passed = {check["name"]: check["passed"] for check in report["checks"]}
    assert passed.pop("tool_round_trip") in (None, True)  # an untrained model may call no tool
    assert passed.pop("weights") is None  # the original here has a tokenizer alone
    assert passed == dict.fromkeys(
        ("template", "stop_token", "rendering", "token_ids", "prompt_tokens", "ends_turns"), True
    )

    changed = tmp_path / "changed"
    shutil.copytree(like_the_file, changed)
    file = changed / "chat_template.jinja"
    file.write_text(file.read_text().replace("<|im_start|>", "<|im_start|> "))
    process = command(exported, "--against", changed, "--json", out)
    assert process.returncode == 3
    failed = {c["name"] for c in json.loads(out.read_text())["checks"] if c["passed"] is False}
    assert failed == {"template", "rendering", "prompt_tokens"}
    assert process.stderr.splitlines()[-1].startswith(
        f"stillhouse: {exported}: differs from {changed}: "
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("gguf", "not a GGUF file"),
        ("gone", "no such file, expected a GGUF"),
        ("directory", "no such directory, expected one in Hugging Face's form"),
        ("tokenizer", "tokenizer.json: not JSON"),
        ("mmproj", "model_type: found llama, expected one of qwen2_5_vl, qwen3_vl with --mmproj"),
    ],
)
def test_an_input_that_cannot_be_compared_is_reported_in_one_line(
    spoil: str, message: str, original: Path, tmp_path: Path
) -> None:
    gguf, directory = tmp_path / "a.gguf", tmp_path / "model"
    write_gguf(gguf) if spoil != "gguf" else gguf.write_bytes(b"PK")
    shutil.copytree(original, directory, ignore=shutil.ignore_patterns("*.safetensors"))
    if spoil == "gone":
        gguf.unlink()
    if spoil == "directory":
        shutil.rmtree(directory)
    if spoil == "tokenizer":
        (directory / "tokenizer.json").write_text("{")
    projector = gguf if spoil == "mmproj" else None
    with pytest.raises(InputError) as raised:
        verify.verify(gguf, directory, projector=projector)
    assert message in str(raised.value) and "\n" not in str(raised.value)


ASKED = {"role": "user", "content": "?"}
ANSWERED = {"role": "assistant", "content": "Yes."}
PICTURE = {"role": "user", "content": [{"type": "text", "text": "?"}, {"type": "image"}]}


def calling(arguments: str) -> dict:
    function = {"name": "look_up", "arguments": arguments}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "a", "type": "function", "function": function}],
    }


LOOK_UP = {"type": "function", "function": {"name": "look_up"}}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"messages": [', "not JSON: "),
        ("[]", "expected one object a line"),
        ({"tools": []}, "messages: found None, expected a list of at least one message"),
        ({"messages": [ASKED]}, "messages: found no assistant message, expected"),
        ({"messages": [ASKED, ANSWERED, ASKED]}, "messages: expected an assistant's turn last"),
        (
            {"messages": [ANSWERED]},
            "messages[0]: found an assistant's turn, expected the message that",
        ),
        (
            {"messages": [{"role": "robot", "content": "?"}, ANSWERED]},
            "messages[0]: role: found 'robot', expected one of system, developer, user",
        ),
        (
            {"messages": [ASKED, {**ANSWERED, "tool_calls": [{}]}]},
            "messages[1]: tool_calls[0].id: ",
        ),
        ({"messages": [ASKED, ANSWERED], "tools": [{}]}, "tools[0]: found {}, expected "),
        (
            {"messages": [ASKED, calling('{"key"')], "tools": [LOOK_UP]},
            "messages[1]: look_up: Expecting",
        ),
        # That there is no such tool hides it from the verdict.
        ({"messages": [ASKED, calling('{"key"')]}, "a call's arguments are not JSON: Expecting"),
        ({"messages": [PICTURE, ANSWERED]}, "messages[0].content[1]: found 'image', expected text"),
    ],
)
def test_a_row_that_no_check_can_use_is_reported_in_one_line(
    row: object,
    message: str,
    original: Path,
    read: tuple[Any, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verify, "_original", lambda *_, **__: read)
    gguf, rows = tmp_path / "a.gguf", tmp_path / "rows.jsonl"
    write_gguf(gguf)
    good = json.dumps({"messages": [ASKED, ANSWERED]})
    rows.write_text(f"{good}\n\n{row if isinstance(row, str) else json.dumps(row)}\n")
    with pytest.raises(InputError) as raised:
        verify.verify(gguf, original, conversations=rows)
    assert str(raised.value).startswith(f"{rows}: line 3: ") and message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_conversation_that_the_template_refuses_is_named(original: Path, tmp_path: Path) -> None:
    gguf, rows, directory = tmp_path / "a.gguf", tmp_path / "rows.jsonl", tmp_path / "model"
    write_gguf(gguf)
    shutil.copytree(original, directory, ignore=shutil.ignore_patterns("*.safetensors"))
    refuses = "{% if messages | length > 2 %}{{ raise_exception('One turn,\nno more') }}{% endif %}"
    (directory / "chat_template.jinja").write_text(refuses)
    write_jsonl(rows, [{"messages": [ASKED, ANSWERED]}, {"messages": [ASKED, ANSWERED] * 2}])
    with pytest.raises(InputError) as raised:
        verify.verify(gguf, directory, conversations=rows)
    assert str(raised.value) == (
        f"{rows}: line 2: messages, tools: expected what the original's template renders:"
        " the student's template: One turn, no more"
    )


@pytest.mark.slow
def test_a_file_without_conversations_is_bad_input(original: Path, tmp_path: Path) -> None:
    gguf, rows = tmp_path / "a.gguf", tmp_path / "rows.jsonl"
    write_gguf(gguf)
    rows.write_text("")
    process = command(gguf, "--against", original, "--traces", rows)
    assert process.returncode == 2
    assert process.stderr == f"stillhouse: {rows}: found no rows, expected conversations\n"
    with pytest.raises(InputError, match="cannot be read: Is a directory$"):
        verify.verify(gguf, original, conversations=tmp_path)


def test_the_embedded_template_renders_every_call_and_result_of_the_conversations(
    read: tuple[Any, int],
) -> None:
    renderer, longest = read
    assert longest == 8192
    for trace, served in zip(
        CONVERSATIONS, verify._read_conversations(None, renderer), strict=True
    ):
        text = renderer.text(served["messages"], served["tools"])
        for message in trace["messages"]:
            assert message["content"].strip() in text
            for called in message.get("tool_calls", []):
                assert called["function"]["name"] in text
