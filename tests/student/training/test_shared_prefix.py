"""Examples that begin alike, as a prefix tree."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from student.rendering.labels import IGNORED
from student.training import shared_prefix
from student.training.micro_batches import make_groups, packed_row
from student.training.shared_prefix import (
    PrefixSampler,
    make_pieces,
    pack_by_prefix,
    saves_tokens,
    tree_row,
)


@pytest.fixture(autouse=True)
def _share_short_beginnings(monkeypatch):
    monkeypatch.setattr(shared_prefix, "_SHORTEST", 2)


def example(tokens: list[int], labelled: int) -> dict[str, list[int]]:
    """An example whose labels begin at `labelled`."""
    masked = min(labelled, len(tokens))
    return {"input_ids": tokens, "labels": [IGNORED] * masked + tokens[masked:]}


examples = st.lists(
    st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.integers(0, 12)).map(
        lambda drawn: example(*drawn)
    ),
    min_size=1,
    max_size=8,
)


@given(examples)
def test_the_pieces_from_the_root_to_each_leaf_are_the_examples(drawn):
    pieces = make_pieces(drawn)
    inner = {ancestor for piece in pieces for ancestor in piece.ancestors}
    paths = []
    for index, piece in enumerate(pieces):
        if index in inner:
            assert set(piece.labels) == {IGNORED}
            continue
        path = [pieces[i] for i in (*piece.ancestors, index)]
        assert [p.first for p in path] == [
            0,
            *itertools.accumulate(len(p.input_ids) for p in path[:-1]),
        ]
        paths.append(([t for p in path for t in p.input_ids], [x for p in path for x in p.labels]))
    expected = [(e["input_ids"], [IGNORED, *e["labels"][1:]]) for e in drawn]
    assert sorted(paths) == sorted(expected)


@given(examples)
def test_no_token_beyond_the_prediction_of_the_first_label_is_shared(drawn):
    for piece in make_pieces(drawn):
        if set(piece.labels) - {IGNORED}:
            assert piece.labels[0] == IGNORED


@given(examples, st.integers(1, 40))
def test_groups_by_prefix_hold_each_example_once(drawn, limit):
    groups = pack_by_prefix(drawn, limit)
    if groups is not None:
        assert sorted(i for group in groups for i in group) == list(range(len(drawn)))


def test_a_row_attends_to_the_shared_tokens_and_its_own():
    row = tree_row(make_pieces([example([7, 8, 9, 1, 2], 4), example([7, 8, 9, 3, 4, 5], 4)]))
    assert row["input_ids"].tolist() == [[7, 8, 9, 1, 2, 3, 4, 5]]
    assert row["position_ids"].tolist() == [[0, 1, 2, 3, 4, 3, 4, 5]]
    assert row["labels"].tolist() == [[*[IGNORED] * 4, 2, IGNORED, 4, 5]]
    assert row["cu_seq_lens_q"].tolist() == [0, 3, 5, 8]
    assert row["key_index"].tolist() == [0, 1, 2, *range(5), 0, 1, 2, 5, 6, 7]
    assert row["cu_seq_lens_k"].tolist() == [0, 3, 8, 14]


def test_examples_that_share_little_are_packed_by_length():
    apart = [example([n, *range(9)], 5) for n in range(3)]
    assert pack_by_prefix(apart, 100) is None
    assert not saves_tokens(make_pieces(apart), apart)
    assert "key_index" not in packed_row(make_groups(apart, 100, packed=True)[0])


def test_a_group_holds_more_examples_where_they_share_tokens():
    alike = [example([*range(50), n], 50) for n in range(6)]
    (group,) = make_groups(alike, 64, packed=True)
    assert packed_row(group)["input_ids"].shape[1] <= 64


@given(examples, st.integers(1, 5), st.integers(0, 3))
def test_each_epoch_has_every_example_once(drawn, batch, epoch):
    sampler = PrefixSampler(drawn, batch, seed=0)
    sampler.set_epoch(epoch)
    assert sorted(sampler) == list(range(len(drawn))) == sorted(sampler)


def test_a_step_has_examples_that_begin_alike_and_every_epoch_another_order():
    beginnings = [[n, *range(20)] for n in (100, 200)]
    alike = [example([*beginnings[n % 2], n], 21) for n in range(16)]
    other = [example([n, n], 1) for n in range(300, 304)]
    sampler = PrefixSampler(alike + other, 4, seed=0)
    orders = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        steps = [orders[-1][i : i + 4] for i in range(0, 20, 4)]
        kinds = [{i % 2 if i < 16 else "other" for i in step} for step in steps]
        assert all(len(kind) == 1 for kind in kinds)
    assert orders[0] != orders[1]


def test_a_beginning_of_few_examples_does_not_fill_a_step():
    alike = [example([7, *range(20), n], 21) for n in range(4)]
    other = [example([n, n, n], 1) for n in range(100, 120)]
    assert PrefixSampler(alike + other, 4, seed=0).families == []


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.integers(1, 6))
def test_the_examples_of_a_trace_are_neighbours_unless_a_step_ends_between_them(sizes, batch):
    rows: list[Any] = []
    traces: list[list[int]] = []
    for number, size in enumerate(sizes):
        traces.append(list(range(len(rows), len(rows) + size)))
        for turn in range(size):
            rows.append(example([number, turn, 9], 2) | {"continues": turn > 0})
    order = list(PrefixSampler(rows, batch, seed=0))
    assert sorted(order) == list(range(len(rows)))
    steps = [order[i : i + batch] for i in range(0, len(order), batch)]
    for trace in traces:
        parts = [part for step in steps if (part := [i for i in step if i in trace])]
        for step in steps:
            places = [place for place, index in enumerate(step) if index in trace]
            if places:
                assert places == list(range(places[0], places[-1] + 1))
        # It is cut where a step ends, so at most once more than its examples fill steps.
        assert len(parts) <= (len(trace) - 1) // batch + 2


def test_a_trace_whose_turns_repeat_its_history_is_computed_less_than_twice():
    """As Qwen3 without reasoning: a reply begins with an empty block, which later prompts omit."""
    history = [*range(100, 200)]
    rows: list[Any] = []
    for turn in range(8):
        reply = [*range(1000 * turn + 1000, 1000 * turn + 1040)]
        rows.append(example([*history, 7, 8, *reply], len(history) + 2) | {"continues": turn > 0})
        history += [*reply, *range(1000 * turn + 1500, 1000 * turn + 1560)]
    separate = sum(len(row["input_ids"]) for row in rows)
    (group,) = make_groups(rows, 2000, packed=True)
    computed = packed_row(group)["input_ids"].shape[1]
    assert separate > 4 * len(history) and computed < 1.5 * len(history)
