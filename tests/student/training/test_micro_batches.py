"""Splitting the examples of a step into micro-batches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from student.rendering.labels import IGNORED
from student.training.micro_batches import (
    concatenate,
    make_groups,
    pack,
    pack_padded,
    packed_row,
    pad_right,
)

lengths = st.lists(st.integers(1, 60), min_size=1, max_size=30)


@pytest.mark.parametrize("way", [pack, pack_padded])
@given(lengths=lengths, limit=st.integers(1, 100))
def test_each_example_is_in_one_group_and_no_group_is_beyond_the_limit_but_a_single_one(
    way, lengths, limit
):
    groups = way(lengths, limit)
    assert sorted(place for group in groups for place in group) == list(range(len(lengths)))
    for group in groups:
        group_lengths = [lengths[place] for place in group]
        size = sum(group_lengths) if way is pack else max(group_lengths) * len(group_lengths)
        assert size <= limit or len(group) == 1


@given(lengths=lengths, limit=st.integers(1, 100))
def test_packing_wastes_less_than_half(lengths, limit):
    groups = pack(lengths, limit)
    small = [sum(lengths[i] for i in group) for group in groups]
    assert sum(size <= limit // 2 for size in small) <= 1


def example(*tokens: int) -> dict[str, list[int]]:
    return {"input_ids": list(tokens), "labels": list(tokens)}


def test_concatenated_examples_restart_their_positions_and_none_predicts_the_next():
    row = concatenate([example(1, 2, 3), example(4, 5)])
    assert row["input_ids"].tolist() == [[1, 2, 3, 4, 5]]
    assert row["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert row["labels"].tolist() == [[IGNORED, 2, 3, IGNORED, 5]]
    assert row["cu_seq_lens_q"].tolist() == [0, 3, 5]
    assert row["max_length_q"] == 3


def test_padded_examples_are_padded_on_the_right_and_padding_has_no_labels():
    row = pad_right([example(1, 2, 3), example(4, 5)])
    assert row["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert row["labels"].tolist() == [[IGNORED, 2, 3], [IGNORED, 5, IGNORED]]


def test_examples_of_one_length_are_rows_and_their_padding_has_no_labels():
    row = packed_row([example(1, 2, 3), example(4, 5, 6)], multiple=4)
    assert set(row) == {"input_ids", "labels"}
    assert row["input_ids"].shape == (2, 4)
    assert row["labels"].tolist() == [[IGNORED, 2, 3, IGNORED], [IGNORED, 5, 6, IGNORED]]


def test_examples_of_several_lengths_are_laid_end_to_end():
    (group, alone) = make_groups([example(*range(n)) for n in (3, 9, 4)], 8, packed=True)[::-1]
    assert packed_row(group)["input_ids"].shape == (1, 7)
    assert packed_row(alone)["input_ids"].shape == (1, 9)
