"""Students described from their own files: a directory, or a model on the hub."""

import json
from pathlib import Path

import pytest
from small_students import random_llama

from schemas.errors import InputError
from student.models import base, introspect
from student.models.chat_template import chat_template
from teacher.models import catalog

pytest_plugins = ["vision_fixtures"]

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "My Llama_v2"
    return directory, random_llama(directory)


@pytest.fixture
def mine(llama, tmp_path):
    import shutil

    return Path(shutil.copytree(llama[0], tmp_path / "mine"))


def test_a_directory_is_a_student_described_by_its_config_tokenizer_and_card(llama, monkeypatch):
    directory, parameters = llama
    monkeypatch.chdir(directory.parent)
    student = base.load("./My Llama_v2")
    assert student == base.load(str(directory)) | {
        "description": student["description"],
        "shape": student["shape"],
    }
    assert student["name"] == "my-llama_v2"
    assert student["source"] == {"path": str(directory)}
    assert student["licence"] == {"id": "apache-2.0"}
    assert (student["context"], student["parameters"]) == (1024, parameters)
    assert student["stop"] == ["<|endoftext|>", "<|im_end|>"]
    assert student["lora_targets"] == "all-linear"
    assert student["shape"] == {
        "model_type": "llama",
        "layers": 2,
        "hidden": 32,
        "intermediate": 64,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 8,
        "vocabulary": student["shape"]["vocabulary"],
        "source": "config.json of ./My Llama_v2",
    }
    assert base.prepare(student) == directory
    shipped = (catalog.TEMPLATES / "smollm2-tools.jinja").read_text(encoding="utf-8")
    assert chat_template(student, directory) == shipped


def test_a_licence_of_ones_own_is_taken_by_its_name_or_from_its_file(mine):
    (mine / "README.md").write_text("---\nlicense: other\nlicense_name: my-licence\n---\n")
    assert base.load(str(mine))["licence"] == {"id": "my-licence"}
    (mine / "README.md").unlink()
    (mine / "LICENSE").write_text("\n   MIT License\n\nCopyright me\n")
    assert base.load(str(mine))["licence"] == {"id": "MIT License"}


CARDS = {
    "byte-order mark": (b"\xef\xbb\xbf---\nlicense: apache-2.0\n---\n# Mine\n", "apache-2.0"),
    "windows": (b"---\r\nlicense: apache-2.0\r\n---\r\n# Mine\r\n", "apache-2.0"),
    "cp1252": (b"---\nlicense: mit\n---\nCaf\xe9\n", "mit"),
    "list": (b"---\nlicense:\n- mit\n- apache-2.0\n---\n", "mit, apache-2.0"),
    "list with other": (
        b"---\nlicense: [mit, other]\nlicense_name: my-licence\n---\n",
        "mit, my-licence",
    ),
    "dashes in a comment": (
        b"---\ntags:\n- a\n# --- end of tags ---\nlicense: mit\n---\nhi\n",
        "mit",
    ),
    "dashes in a value": (
        b"---\nextra_gated_prompt: |\n  Agree.\n  ---\n  Really.\nlicense: llama3.1\n---\n",
        "llama3.1",
    ),
    "a rule in the text": (b"---\nlicense: mit\n---\nOne\n\n---\n\nlicense: gpl\n---\n", "mit"),
    "blank lines before": (b"\n\n---\nlicense: mit\n---\n", "mit"),
}


@pytest.mark.parametrize(("card", "licence"), CARDS.values(), ids=CARDS)
def test_a_card_is_read_as_people_have_it(mine, card, licence):
    (mine / "README.md").write_bytes(card)
    assert base.load(str(mine))["licence"] == {"id": licence}


@pytest.mark.parametrize(
    "card",
    [
        b"# Mine\n\n---\nlicense: mit\n---\n",
        b"---\nlicense: mit\n",
        b"---\nlicense: [mit\n---\n",
        b"---\n- license: mit\n---\n",
        b"",
    ],
    ids=["not at the head", "no end", "no YAML", "no mapping", "empty"],
)
def test_a_card_without_metadata_leaves_the_licence_file(mine, card):
    (mine / "README.md").write_bytes(card)
    (mine / "LICENSE").write_bytes("\ufeffLizenz für Mühlen\r\n".encode())
    assert base.load(str(mine))["licence"] == {"id": "Lizenz für Mühlen"}
    (mine / "LICENSE").write_bytes("Lizenz für Mühlen\r\n".encode("cp1252"))
    assert base.load(str(mine))["licence"] == {"id": "Lizenz für Mühlen"}


def test_a_file_that_transformers_cannot_read_is_named(mine):
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        content = (mine / name).read_bytes()
        (mine / name).write_bytes(b"\xef\xbb\xbf" + content)
        with pytest.raises(InputError, match=f"/{name}: found a byte-order mark, expected none"):
            base.load(str(mine))
        (mine / name).write_bytes(content + b"\xe9")
        with pytest.raises(InputError, match=f"/{name}: line .*: found 0xe9, expected text in UTF"):
            base.load(str(mine))
        (mine / name).write_bytes(b"[]")
        with pytest.raises(InputError, match=f"/{name}: found a JSON value of another form"):
            base.load(str(mine))
        (mine / name).write_bytes(content)
    template = (mine / "chat_template.jinja").read_bytes()
    (mine / "chat_template.jinja").write_bytes(b"\xef\xbb\xbf" + template.replace(b"\n", b"\r\n"))
    assert chat_template(base.load(str(mine)), mine) == template.decode()


def rewrite(path: Path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: (d / "README.md").write_text("# Mine\n"), "no licence: expected `license:`"),
        (lambda d: (d / "model.safetensors").unlink(), "no weights"),
        (lambda d: (d / "config.json").unlink(), "config or tokenizer cannot be read"),
        (lambda d: (d / "chat_template.jinja").unlink(), "no chat template"),
        (lambda d: (d / "chat_template.jinja").write_text(TEMPLATE), "with none of"),
        (
            lambda d: (d / "chat_template.jinja").write_text(
                "{% for m in messages %}{{ m.content + '<|im_end|>' }}{% endfor %}"
            ),
            "knows no tools",
        ),
        (
            lambda d: (d / "chat_template.jinja").write_text(
                (d / "chat_template.jinja")
                .read_text()
                .replace("if add_generation_prompt", "if false")
            ),
            r"begins a reply with '<\|im_start\|>assistant', but adds nothing for add_generation",
        ),
        (
            lambda d: rewrite(d / "config.json", quantization_config={"quant_method": "gptq"}),
            "the weights are quantised",
        ),
        (lambda d: rewrite(d / "config.json", model_type="t5"), "not a causal language model"),
    ],
    ids=[
        *("licence", "weights", "config", "template", "stop", "tools", "no generation prompt"),
        *("quantised", "t5"),
    ],
)
def test_a_directory_that_cannot_be_trained_is_refused_in_one_line(mine, spoil, message):
    spoil(mine)
    with pytest.raises(InputError, match=message) as error:
        base.load(str(mine))
    assert "\n" not in str(error.value)
    assert str(mine) in str(error.value)


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "a/b/c", "~/nowhere"])
def test_a_path_that_is_not_there_is_refused(name):
    with pytest.raises(InputError, match="no such directory"):
        base.load(name)


def test_a_model_of_the_hub_is_pinned_to_the_revision_that_was_described(llama, monkeypatch):
    import shutil

    import huggingface_hub

    revision = llama[0].parent / ("a" * 40)
    shutil.copytree(llama[0], revision, dirs_exist_ok=True)
    requests: list[str] = []

    def snapshot(name, **more):
        requests.append(name)
        return str(revision)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    student = base.load("org/model-7B")
    assert requests == ["org/model-7B"]
    assert (student["name"], student["source"]) == (
        "model-7b",
        {"hub": "org/model-7B", "revision": "a" * 40},
    )
    assert student["licence"] == {"id": "apache-2.0", "url": "https://huggingface.co/org/model-7B"}


# `tower` has the settings in which the 32B model's vision tower differs from transformers' defaults. With them the sum
# is that of the weights on the hub: 66,905,436,672 bytes in 16 bits for Qwen2.5-VL, 66,714,780,128 for Qwen3-VL.
@pytest.mark.parametrize(
    ("name", "tower"),
    [("qwen2.5-vl-32b", {"hidden_size": 1280, "intermediate_size": 3456}), ("qwen3-vl-32b", {})],
)
def test_the_parameters_in_a_description_are_those_of_its_shape_with_its_tower(name, tower):
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    student = base.load(name)
    shape = student["shape"]
    text_config = {
        key: shape[field] for field, key in introspect._SHAPE.items() if field != "model_type"
    }
    tower = tower | {"out_hidden_size": shape["hidden"]}
    config = AutoConfig.for_model(shape["model_type"], text_config=text_config, vision_config=tower)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    assert model.num_parameters() == student["parameters"]
    assert sum(p.numel() for p in model.model.visual.parameters()) == shape["vision"]


@pytest.mark.slow
def test_a_directory_of_a_vision_language_student_describes_itself(smollm_vision, tmp_path):
    directory = tmp_path / "student"
    directory.mkdir()
    for file in smollm_vision[0].iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    (directory / "LICENSE").write_text("Apache-2.0\n")
    student = introspect.describe(str(directory))
    assert base.has_vision(student) and student["lora_targets"] == "all-linear"


def test_a_template_may_add_the_same_for_every_prompt(mine):
    template = mine / "chat_template.jinja"
    always = template.read_text().replace("if add_generation_prompt", "if true")
    template.write_text(always)
    assert chat_template(base.load(str(mine)), mine) == always
