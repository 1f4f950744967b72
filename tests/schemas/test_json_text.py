"""Strict JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.json_text import parse_json


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=9))
def test_strict_json_reads_what_json_writes(value):
    assert parse_json(json.dumps(value, ensure_ascii=False)) == value


def test_json_nested_beyond_pythons_limit_is_an_error():
    text = "[" * 100_000 + "]" * 100_000
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(text)
