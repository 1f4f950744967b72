"""Errors in one line."""

import pytest

from schemas.error_text import last_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "no output"),
        (" \n\n", "no output"),
        ("one\ntwo\n\n", "two"),
        ("one\nerror: first\nError: second\ntwo", "Error: second"),
        ("x" * 1000, "x" * 300),
    ],
)
def test_the_last_error_of_a_log_is_reported_else_its_last_line(text: str, line: str) -> None:
    assert last_line(text) == line
