"""`stillhouse verify`: a GGUF against the directory that it was made from, whoever made it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.errors import InputError
from schemas.files import write_jsonl
from student import base, verify
from student.examples import as_served


@pytest.fixture(scope="module")
def original() -> Path:
    """The embedded student as a directory, with the template that it is trained with."""
    return base.prepare(base.load("smollm2-135m"))


@pytest.fixture(scope="module")
def exported() -> Path:
    return base.gguf(base.load("smollm2-135m"), "Q8_0")


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    asked = [sys.executable, "-m", "flows.cli", "verify", *map(str, arguments)]
    return subprocess.run(asked, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def like_the_file(original: Path, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The original with the template that is in the file."""
    from student.parity import metadata

    directory = tmp_path_factory.mktemp("original")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(original / name, directory)
    template = metadata(exported, "tokenizer.chat_template")
    (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    return directory


@pytest.mark.slow
def test_a_faithful_export_passes_and_one_with_another_template_does_not(
    exported: Path, like_the_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "verdict.json"
    done = command(exported, "--against", like_the_file, "--json", out)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["passed"] and found["gguf"] == str(exported)
    assert {check["name"]: check["passed"] for check in found["checks"]} == {
        "template": True,
        "stop_token": True,
        "rendering": True,
        "token_ids": True,
        "ends_turns": True,
        "tool_round_trip": None,  # untrained, it calls nothing
    }

    changed = tmp_path / "changed"
    shutil.copytree(like_the_file, changed)
    file = changed / "chat_template.jinja"
    file.write_text(file.read_text().replace("<|im_start|>", "<|im_start|> "))
    done = command(exported, "--against", changed, "--json", out)
    assert done.returncode == 3
    failed = {c["name"] for c in json.loads(out.read_text())["checks"] if c["passed"] is False}
    assert failed == {"template", "rendering"}
    assert done.stderr.splitlines()[-1].startswith(f"stillhouse: {exported}: not as {changed}: ")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("gguf", "not a GGUF file"),
        ("gone", "no such file, expected a GGUF"),
        ("directory", "no such directory, expected one in Hugging Face's form"),
        ("tokenizer", "cannot be read"),
        ("mmproj", "model_type: found llama, expected one of qwen2_5_vl, qwen3_vl with --mmproj"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    spoil: str, said: str, original: Path, tmp_path: Path
) -> None:
    gguf, directory = tmp_path / "a.gguf", tmp_path / "model"
    gguf.write_bytes(b"GGUF" if spoil != "gguf" else b"PK")
    shutil.copytree(original, directory, ignore=shutil.ignore_patterns("*.safetensors"))
    if spoil == "gone":
        gguf.unlink()
    if spoil == "directory":
        shutil.rmtree(directory)
    if spoil == "tokenizer":
        (directory / "tokenizer.json").write_text("{")
    projector = gguf if spoil == "mmproj" else None
    with pytest.raises(InputError) as raised:
        verify.verify(gguf, directory, projector)
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_rows_that_are_no_conversations_are_named(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    for row, said in (
        ({"tools": []}, "row 1: expected messages"),
        ({"messages": [{"role": "user", "content": "?"}]}, "expected an assistant's turn last"),
    ):
        write_jsonl(rows, [row])
        with pytest.raises(InputError, match=said):
            verify._traces(rows)
    rows.write_text("")
    with pytest.raises(InputError, match="no rows"):
        verify._traces(rows)


def test_the_conversations_show_every_call_and_result_by_the_embedded_template(
    original: Path,
) -> None:
    renderer, context = verify._original(original, sees=False)
    assert context == 8192
    for trace in verify._traces(None):
        served = as_served(trace, renderer)
        text = renderer.text(served["messages"], served["tools"])
        for message in trace["messages"]:
            assert message["content"].strip() in text
            for called in message.get("tool_calls", []):
                assert called["function"]["name"] in text
