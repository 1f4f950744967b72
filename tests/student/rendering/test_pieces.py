"""Token ids piece by piece are those of the whole text, for the vocabularies of all students."""

import functools
from typing import Any

import pytest
from families import STUDENTS, renderer_of
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from student.rendering.pieces import Pieces

# The tokenizers of the others take a second each to load.
NAMES = [
    name if name == "smollm2-135m" else pytest.param(name, marks=pytest.mark.slow)
    for name in STUDENTS
]


@functools.cache
def tokenizer_of(name: str) -> Any:
    return renderer_of(name)[0].tokenizer


WORDS = st.one_of(
    st.text(max_size=6),
    st.sampled_from([" ", "\n", "\n\n", "  x", "<", "<|", "|>", "é", "e\u0301", "\u0301", "12345"]),
    st.integers(0, 10**6),  # one of the added tokens
)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(parts=st.lists(WORDS, max_size=12))
def test_the_ids_of_pieces_are_those_of_the_whole_text(name: str, parts: list[str | int]) -> None:
    tokenizer = tokenizer_of(name)
    added = sorted(token.content for token in tokenizer.added_tokens_decoder.values())
    text = "".join(added[p % len(added)] if isinstance(p, int) else p for p in parts)
    pieces = Pieces(tokenizer)
    expected = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert pieces.ids(text) == expected == pieces.ids(text)
    assert pieces.is_possible


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(texts=st.lists(WORDS.map(str), max_size=12), enough=st.integers(0, 40))
def test_a_length_is_exact_where_it_may_be_more_than_enough(
    name: str, texts: list[str], enough: int
) -> None:
    tokenizer = tokenizer_of(name)
    exact = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    pieces = Pieces(tokenizer)
    pieces.ids("".join(texts[:1]))  # some are known
    length = pieces.length(texts, enough)
    assert length == exact if exact > enough else exact <= length <= max(enough, exact)


@pytest.mark.parametrize(
    ("normalizer", "pre_tokenizer"),
    [
        (normalizers.Prepend("_"), None),
        (normalizers.Sequence([normalizers.NFC(), normalizers.Strip()]), None),
        (None, pre_tokenizers.Metaspace(prepend_scheme="first")),
        (None, pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(add_prefix_space=True)])),
    ],
)
def test_a_tokenizer_that_marks_the_beginning_of_a_text_reads_it_whole(
    normalizer: Any, pre_tokenizer: Any
) -> None:
    letters = {letter: number for number, letter in enumerate("_▁Ġab")}
    backend = Tokenizer(models.BPE(letters, []))
    backend.normalizer, backend.pre_tokenizer = normalizer, pre_tokenizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")
    pieces = Pieces(tokenizer)
    assert not pieces.is_possible
    text = "ab<|end|>ba"
    assert pieces.ids(text) == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert pieces.length([text, text], 100) == 2 * len(pieces.ids(text))
