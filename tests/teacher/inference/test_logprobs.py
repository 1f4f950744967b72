"""Log-probabilities of a reply: packed for the journal and read again."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teacher.inference.logprobs import pack, unpack
from teacher.inference.replies import parse

# A reply of llama.cpp's server (b6692), with top_logprobs 2.
LLAMA = [
    {
        "id": 57,
        "token": "I",
        "bytes": [73],
        "logprob": -0.5,
        "top_logprobs": [
            {"id": 57, "token": "I", "bytes": [73], "logprob": -0.5},
            {"id": 504, "token": "The", "bytes": [84, 104, 101], "logprob": -2.25},
        ],
    },
    {"id": 2, "token": "", "bytes": [], "logprob": 0.0, "top_logprobs": []},
]


def test_ids_of_llama_cpp_come_back_with_their_numbers() -> None:
    packed = pack(LLAMA)
    assert packed and (packed["k"], packed["n"], packed["tokens"]) == (2, 2, None)
    assert unpack(packed) == [[(57, -0.5), (57, -0.5), (504, -2.25)], [(2, 0.0)]]


def test_ids_of_vllm_come_back_with_their_numbers() -> None:
    top = [{"token": "token_id:9", "logprob": -0.25}, {"token": "token_id:8", "logprob": -1}]
    packed = pack([{"token": "token_id:8", "logprob": -1, "bytes": None, "top_logprobs": top}])
    assert packed and packed["tokens"] is None
    assert unpack(packed) == [[(8, -1.0), (9, -0.25), (8, -1.0)]]


def test_a_token_that_is_impossible_has_the_lowest_number() -> None:
    packed = pack([{"id": 5, "token": "x", "logprob": None, "top_logprobs": []}])
    assert packed and unpack(packed) == [[(5, -65504.0)]]


def test_an_api_without_ids_has_the_texts() -> None:
    top = [{"token": " b", "logprob": -3}, {"token": "ä", "logprob": -4}]
    packed = pack([{"token": "ä", "logprob": -4, "top_logprobs": top}])
    assert packed and packed["tokens"] == [" b", "ä"]
    assert unpack(packed) == [[("ä", -4.0), (" b", -3.0), ("ä", -4.0)]]


columns = st.tuples(st.integers(0, 2**31 - 1), st.floats(max_value=0, allow_nan=False))
rows = st.lists(columns, min_size=1, max_size=6)


@given(st.lists(rows, min_size=1, max_size=12))
def test_any_rows_come_back_to_three_digits(rows: list[list[tuple[int, float]]]) -> None:
    entries: list[dict[str, Any]] = [
        {
            "id": row[0][0],
            "token": "x",
            "logprob": row[0][1],
            "top_logprobs": [{"id": i, "token": "x", "logprob": n} for i, n in row[1:]],
        }
        for row in rows
    ]
    packed = pack(entries)
    assert packed
    json.dumps(packed, allow_nan=False)
    for row, read in zip(rows, unpack(packed), strict=True):
        assert [token for token, _ in read] == [token for token, _ in row]
        for (_, number), (_, stored) in zip(row, read, strict=True):
            assert math.isclose(stored, max(number, -65504), rel_tol=1e-3, abs_tol=1e-7)


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        "text",
        [None],
        [{"token": "a"}],
        [{"token": "a", "logprob": "high"}],
        [{"token": None, "logprob": -1}],
        [{"token": True, "logprob": -1}],
        [{"token": "a", "logprob": float("nan")}],
        [{"token": "a", "logprob": -(10**400)}],
        [{"token": "token_id:x", "logprob": -1}],
        [{"id": 2**40, "token": "a", "logprob": -1}],
        [{"id": -1, "token": "a", "logprob": -1}],
        [{"token": "a", "logprob": -1, "top_logprobs": 7}],
        [{"token": "a", "logprob": -1, "top_logprobs": [{"id": 1, "token": "b", "logprob": -2}]}],
        [{"token": "a", "logprob": -1, "top_logprobs": [{"token": "b", "logprob": -2}] * 300}],
    ],
)
def test_what_is_no_log_probability_of_a_token_is_left_out(content: Any) -> None:
    assert pack(content) is None


def test_the_journal_gets_them_and_an_answer_without_them_has_none() -> None:
    choice = {"message": {"role": "assistant", "content": "I"}, "finish_reason": "stop"}
    row, _ = parse(
        json.dumps({"choices": [{**choice, "logprobs": {"content": LLAMA}}]}).encode(), 1
    )
    assert unpack(row["logprobs"])[0][0] == (57, -0.5)
    without: list[dict[str, Any]] = [
        {},
        {"logprobs": None},
        {"logprobs": []},
        {"logprobs": {"content": [7]}},
    ]
    for none in without:
        row, _ = parse(json.dumps({"choices": [{**choice, **none}]}).encode(), 1)
        assert "logprobs" not in row and row["message"]["content"] == "I"
