"""A row of the embedding for each token (student/models/vocabulary.py)."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_students import random_llama, tiny_tokenizer

from schemas.errors import InputError
from student.models import base, files
from student.models.vocabulary import check_vocabulary

TOKENIZER = tiny_tokenizer()
SIZE = len(TOKENIZER)


def config(rows: int) -> SimpleNamespace:
    text = SimpleNamespace(vocab_size=rows)
    return SimpleNamespace(get_text_config=lambda: text)


@pytest.mark.parametrize("rows", [SIZE, SIZE + 1, 64 * (SIZE // 64 + 1)])
def test_rows_for_all_tokens_and_padding_beyond_them_are_fine(tmp_path, rows):
    save_file(
        {"model.embed_tokens.weight": np.zeros((rows, 2)), "lm_head.weight": np.zeros((rows, 2))},
        tmp_path / "model.safetensors",
    )
    check_vocabulary("mine", tmp_path, config(rows), TOKENIZER)


def test_a_token_without_a_row_is_refused_with_both_numbers_and_its_name(tmp_path):
    with pytest.raises(InputError) as error:
        check_vocabulary("mine", tmp_path, config(SIZE - 1), TOKENIZER)
    assert f"{SIZE:,} tokens with ids up to {SIZE - 1:,}" in str(error.value)
    assert f"{SIZE - 1:,} rows" in str(error.value)
    last = next(token for token, number in TOKENIZER.get_vocab().items() if number == SIZE - 1)
    assert f"none for {last!r} ({SIZE - 1}): remove" in str(error.value)


def test_ids_count_and_not_the_number_of_tokens(tmp_path):
    class WithGap:
        def get_vocab(self):
            return {"a": 0, "b": 1, "<pad>": 9}

    check_vocabulary("mine", tmp_path, config(10), WithGap())
    with pytest.raises(InputError, match=r"3 tokens with ids up to 9, .* 4 rows"):
        check_vocabulary("mine", tmp_path, config(4), WithGap())


@pytest.mark.parametrize(
    "tensor",
    [
        "model.embed_tokens.weight",
        "model.language_model.embed_tokens.weight",
        "transformer.wte.weight",
        "lm_head.weight",
    ],
)
def test_a_config_with_other_rows_than_the_weights_is_refused_with_both(tmp_path, tensor):
    name = "model-00001-of-00001.safetensors"
    save_file({tensor: np.zeros((SIZE + 64, 2)), "norm.weight": np.zeros(2)}, tmp_path / name)
    (tmp_path / files.INDEX).write_text(json.dumps({"weight_map": {tensor: name}}))
    # Another copy of the weights beside them is not read.
    save_file({tensor: np.zeros((5, 2))}, tmp_path / "consolidated.safetensors")
    message = rf"mine: config.json: vocab_size: found {SIZE}, expected {SIZE + 64}, the rows of {tensor} in {name}"
    with pytest.raises(InputError, match=message):
        check_vocabulary("mine", tmp_path, config(SIZE), TOKENIZER)


def test_weights_that_are_no_safetensors_are_refused(tmp_path):
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match=r"model\.safetensors: not safetensors: .*fetch the file"):
        check_vocabulary("mine", tmp_path, config(SIZE), TOKENIZER)


def test_a_student_with_an_added_token_is_refused_when_it_is_loaded(tmp_path):
    from transformers import AutoTokenizer

    directory = tmp_path / "mine"
    random_llama(directory)
    base.load(str(directory))
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(directory)
    with pytest.raises(InputError, match=r"found none for '<extra>'"):
        base.load(str(directory))
