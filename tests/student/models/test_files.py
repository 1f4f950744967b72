"""The files that make up a student (student/models/files.py)."""

import fnmatch
import json

import pytest

from schemas.errors import InputError, StageError
from student.models import base, files

HUB = {"name": "mine", "source": {"hub": "org/mine", "revision": "a" * 40}}
SMALL = [
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("chat_template.jinja", "additional_chat_templates/tool_use.jinja", "LICENSE", "README.md"),
]
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
OTHER = [
    *("consolidated.safetensors", "consolidated.00.pth", "original/tokenizer.model"),
    *("original/params.json", "original/consolidated.00.pth", "onnx/model.onnx", "model.pt"),
    *("flax_model.msgpack", "tf_model.h5", "pytorch_model.bin", "pytorch_model.bin.index.json"),
    *(
        "onnx/config.json",
        "adapter/model.safetensors",
        "notes (final).json",
        "model.fp16.safetensors",
    ),
]


def index(*names: str) -> str:
    return json.dumps({"weight_map": {f"tensor{i}": name for i, name in enumerate(names)}})


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that delivers what its patterns match, as huggingface_hub matches it. Returns what it holds."""
    import huggingface_hub

    held: dict[str, str] = dict.fromkeys([*SMALL, *OTHER], "{}")

    def snapshot(name, *, revision, allow_patterns):
        assert (name, revision) == ("org/mine", "a" * 40)
        for file, text in held.items():
            if any(fnmatch.fnmatch(file, pattern) for pattern in allow_patterns):
                (tmp_path / file).parent.mkdir(exist_ok=True)
                (tmp_path / file).write_text(text)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return held


@pytest.mark.parametrize("shards", [["model.safetensors"], SHARDS, ["part a.safetensors"]])
def test_the_hub_is_asked_for_the_students_files_and_no_others(hub, tmp_path, shards):
    hub.update(dict.fromkeys(shards, "weights"))
    if shards != ["model.safetensors"]:
        hub[files.INDEX] = index(*shards)
    directory = base.prepare(HUB, lambda _: None)
    fetched = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert fetched == {*SMALL, *shards, *({files.INDEX} & hub.keys())}
    assert [path.name for path in files.weights(directory)] == shards


def test_a_model_of_the_hub_without_safetensors_is_refused(hub):
    with pytest.raises(StageError, match=r"org/mine: no weights on the hub, expected model.safet"):
        base.prepare(HUB, lambda _: None)


def test_a_single_file_goes_before_an_index_as_in_transformers(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "consolidated.safetensors").write_bytes(b"")
    (tmp_path / files.INDEX).write_text(index(*SHARDS))
    assert files.weights(tmp_path) == [tmp_path / "model.safetensors"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (index(*SHARDS), f"names {SHARDS[1]}, expected this file beside it"),
        (index("../model.safetensors"), "found '../model.safetensors', expected the name"),
        (index("original/model.safetensors"), "expected the name of a safetensors file"),
        (index("pytorch_model.bin"), "expected the name of a safetensors file"),
        ('{"weight_map": {"a": 7}}', "weight_map: found 7"),
        ('{"weight_map": {}}', "weight_map: found none"),
        ("[]", "weight_map: found none"),
        ("{", "not JSON"),
    ],
)
def test_an_index_that_names_what_is_not_there_is_refused(tmp_path, content, message):
    (tmp_path / SHARDS[0]).write_bytes(b"")
    (tmp_path / files.INDEX).write_text(content)
    with pytest.raises(InputError, match=message):
        files.weights(tmp_path)


def test_other_weights_are_no_weights_of_the_student(tmp_path):
    (tmp_path / "consolidated.safetensors").write_bytes(b"")
    assert files.weights(tmp_path) == []
