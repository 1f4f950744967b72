"""A student's starting weights (student/models/base.py) and chat template (student/models/chat_template.py)."""

import json
from pathlib import Path

import pytest

from schemas.errors import InputError
from student.export import untrained
from student.models import base
from student.models.chat_template import chat_template
from teacher.models import catalog

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.fixture
def local(tmp_path):
    """A student whose weights are a directory of the user's."""
    directory = tmp_path / "weights"
    directory.mkdir()
    return {"name": "mine", "source": {"path": str(directory)}}, directory


# ------------------------------------------------------------------------------------- without weights


def test_a_local_directory_is_used_unchanged(local):
    student, directory = local
    assert base.prepare(student) == directory
    assert list(directory.iterdir()) == []


def test_an_unknown_student_is_refused_with_the_known_ones_named():
    with pytest.raises(InputError, match=r"smollm3: no such student: .*smollm2-135m"):
        base.load("smollm3")


def test_the_students_own_template_goes_before_the_one_of_its_weights(local):
    student, directory = local
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    assert chat_template(student, directory) == TEMPLATE
    student["template"] = "smollm2-tools.jinja"
    shipped = (catalog.TEMPLATES / "smollm2-tools.jinja").read_text(encoding="utf-8")
    assert chat_template(student, directory) == shipped


@pytest.mark.parametrize("own", [TEMPLATE, None])
def test_a_template_in_the_tokenizers_settings_is_used_and_a_missing_one_is_an_error(local, own):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    student, directory = local
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE())).save_pretrained(directory)
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": own}))
    if own:
        assert chat_template(student, directory) == own
    else:
        with pytest.raises(InputError, match="no chat template: name one in the student's file"):
            chat_template(student, directory)


@pytest.mark.parametrize("named", ["qwen2", None])
def test_a_gguf_whose_pre_tokenizer_is_not_known_is_refused(named):
    student = {"name": "mine", "pre_tokenizer": named}
    with pytest.raises(InputError, match=f"mine: pre_tokenizer: found {named!r}.*smollm"):
        base._pre_tokenizer(student)


def test_other_weights_in_the_same_directory_are_other_weights(local):
    student, directory = local
    (directory / "model.safetensors").write_bytes(b"weights")
    before = untrained._state(student)
    assert before == untrained._state(student)
    with (directory / "model.safetensors").open("ab") as file:
        file.write(b" ")
    assert untrained._state(student) != before
    assert untrained._state({"name": "x", "source": {"hub": "org/x"}}) == ""


# ------------------------------------------------------------------------------------- the embedded student


@pytest.fixture(scope="module")
def student():
    return base.load("smollm2-135m")


@pytest.fixture(scope="module")
def directory(student):
    return base.prepare(student)


@pytest.fixture(scope="module")
def tokenizer(directory):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module")
def reconverted(student) -> Path:
    return untrained.gguf(student, "Q8_0")


@pytest.mark.slow
def test_the_saved_tokenizer_ends_a_turn_by_the_end_of_turn_and_not_by_its_start(
    student, directory, tokenizer
):
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<|im_end|>", 2)
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((directory / name).read_text())
        assert (settings["eos_token_id"], settings["pad_token_id"]) == (2, 2)
    assert student["stop"] == [tokenizer.eos_token]


@pytest.mark.slow
def test_the_saved_tokenizer_splits_digits_one_by_one_and_loses_nothing(tokenizer):
    assert tokenizer.tokenize("1234567.89") == list("1234567.89")
    assert tokenizer.tokenize("a1b22") == ["a", "1", "b", "2", "2"]
    text = "  EUR 12.5\r\n\tnaïve 日本 🙂 don't <|im_end|>"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids) == text


@pytest.mark.slow
def test_the_saved_weights_are_16_bits_and_no_longer_say_they_are_quantised(directory):
    from safetensors import safe_open

    config = json.loads((directory / "config.json").read_text())
    assert "quantization_config" not in config
    with safe_open(directory / "model.safetensors", framework="pt") as file:
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert kinds == {"BF16"}


@pytest.mark.slow
def test_the_saved_template_is_the_one_that_ships(student, directory):
    shipped = (catalog.TEMPLATES / "smollm2-tools.jinja").read_text(encoding="utf-8")
    assert (directory / "chat_template.jinja").read_text(encoding="utf-8") == shipped
    assert chat_template(student, directory) == shipped


@pytest.mark.slow
def test_reconverted_to_gguf_it_names_the_tokenizer_that_it_had(student, reconverted):
    from gguf import GGUFReader

    file = GGUFReader(reconverted)
    original, converted = (
        {
            key: gguf.fields[f"tokenizer.ggml.{key}"].contents()
            for key in ("model", "tokens", "merges")
        }
        for gguf in (GGUFReader(catalog.fetch(student)), file)
    )
    assert converted == original
    assert converted["model"] == "gpt2"
    assert len(converted["merges"]) == 48_900
    for key, value in {"pre": "smollm", "eos_token_id": 2, "padding_token_id": 2}.items():
        assert file.fields[f"tokenizer.ggml.{key}"].contents() == value


@pytest.mark.slow
def test_what_was_prepared_and_converted_once_is_taken_from_the_cache(
    student, directory, reconverted
):
    def silent(text: str) -> None:
        raise AssertionError(f"worked again: {text}")

    assert base.prepare(student, silent) == directory
    assert untrained.gguf(student, "Q8_0", silent) == reconverted
    assert not list(reconverted.parent.glob(f"{reconverted.stem}*-full.gguf"))
    assert not list(reconverted.parent.glob(f".{reconverted.stem}*.partial"))
