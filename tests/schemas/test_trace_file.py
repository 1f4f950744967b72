"""`stillhouse validate`: any file of chat traces, a verdict for every line."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.errors import InputError
from schemas.trace_file import judge_file

TAU_BENCH = Path(__file__).parents[3] / "shared" / "peers" / "tau-bench" / "airline_traces.jsonl"

TOOLS = [{"type": "function", "function": {"name": "get_contract"}}]
CALL = {"id": "a", "type": "function", "function": {"name": "get_contract", "arguments": "{}"}}
GOOD = {
    "id": "good",
    "messages": [
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "a", "content": "{}"},
        {"role": "assistant", "content": "In May."},
    ],
    "tools": TOOLS,
    "reward": 1.0,
}
UNKNOWN = {**GOOD, "id": "unknown", "tools": []}


def write(path, *lines):
    path.write_bytes(
        b"\n".join(x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines)
    )
    return path


def test_the_report_has_the_documented_fields(tmp_path):
    report = judge_file(write(tmp_path / "x.jsonl", GOOD, UNKNOWN, {**UNKNOWN, "id": 7}))
    rejected = {
        "kept": False,
        "reason": "unknown_tool",
        "detail": "get_contract: no such tool, no tools were offered",
        "message_index": 1,
    }
    assert report == {
        "rows": 3,
        "kept": 1,
        "rejected": {"unknown_tool": 2},
        "verdicts": [
            {"id": "good", "kept": True, "reason": None, "detail": None, "message_index": None},
            {"id": "unknown", **rejected},
            {"id": 7, **rejected},
        ],
    }


VISUAL = {
    "messages": [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is due?"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "image"}]},
        {"role": "assistant", "content": "EUR 500."},
    ],
    "tools": TOOLS,
}


def test_rows_with_image_parts_are_judged_and_each_part_needs_its_image(tmp_path):
    hashes = ["a1" * 32, "b2" * 32]
    right = [
        VISUAL,
        {**VISUAL, "images": hashes},
        {**VISUAL, "images": [{"bytes": "", "path": None}] * 2},
    ]
    placeholders = {**GOOD, "images": ["page.png"]}
    wrong = [
        {**VISUAL, "images": hashes[:1]},
        {**VISUAL, "images": []},
        {**VISUAL, "images": "page.png"},
    ]
    report = judge_file(write(tmp_path / "x.jsonl", *right, placeholders, *wrong))
    assert [verdict["reason"] for verdict in report["verdicts"]] == [None] * 4 + [
        "malformed_trace"
    ] * 3
    assert report["verdicts"][4]["detail"] == (
        "images: found 1, expected a list of one for each of 2 image parts"
    )


HOSTILE = {
    "torn": b'{"id": "x", "messages": [{"role": "us',
    "words": b"hello",
    "not UTF-8": b'{"messages": "\xff\xfe"}',
    "NUL": b"\x00\x00",
    "NaN": b'{"messages": NaN}',
    "key twice": b'{"messages": [], "messages": []}',
    "half a surrogate pair": b'{"id": "\\ud800", "messages": []}',
    "digits": b'{"id": ' + b"9" * 10_000 + b"}",
    "nesting": b"[" * 200_000,
    "array": b"[]",
    "null": b"null",
    "string": b'"messages"',
    "no messages": b'{"id": "x"}',
    "empty": b"{}",
}


@pytest.mark.parametrize("line", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_line_is_a_malformed_trace_and_its_neighbours_are_judged(tmp_path, line):
    report = judge_file(write(tmp_path / "x.jsonl", GOOD, line, GOOD))
    assert [verdict["kept"] for verdict in report["verdicts"]] == [True, False, True]
    assert report["rejected"] == {"malformed_trace": 1}
    json.dumps(report, ensure_ascii=False).encode()


@pytest.mark.parametrize("row_id", [None, True, 1.5, [], {}])
def test_a_row_without_a_usable_id_is_named_by_its_line(tmp_path, row_id):
    blank, row = b"  ", {**GOOD, "id": row_id}
    report = judge_file(write(tmp_path / "x.jsonl", GOOD, blank, row, b"{"))
    assert [verdict["id"] for verdict in report["verdicts"]] == ["good", "line-3", "line-4"]


def test_blank_lines_windows_line_ends_and_a_byte_order_mark_are_not_rows(tmp_path):
    path = tmp_path / "x.jsonl"
    good = json.dumps(GOOD).encode()
    path.write_bytes(b"\xef\xbb\xbf" + good + b"\r\n\r\n \n" + good + b"\n\n")
    assert judge_file(path) | {"verdicts": []} == {
        "rows": 2,
        "kept": 2,
        "rejected": {},
        "verdicts": [],
    }
    assert judge_file(write(tmp_path / "empty.jsonl"))["rows"] == 0


def test_kept_rows_are_written_byte_for_byte(tmp_path):
    odd = b' {"messages":[{"role":"assistant","content":"\\u00e9 \xc3\xa9"}] , "x":1e2}'
    path, kept = write(tmp_path / "x.jsonl", GOOD, b"torn", odd, UNKNOWN), tmp_path / "kept.jsonl"
    judge_file(path, kept)
    assert kept.read_bytes() == json.dumps(GOOD).encode() + b"\n" + odd + b"\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept.jsonl", "x.jsonl"]


def test_kept_rows_may_replace_the_file_they_come_from(tmp_path):
    path = write(tmp_path / "x.jsonl", GOOD, b"torn")
    assert judge_file(path, path)["rows"] == 2
    assert judge_file(path)["verdicts"][0]["id"] == "good"


def test_a_file_that_cannot_be_read_or_replaced_is_one_line(tmp_path):
    with pytest.raises(InputError, match="no such file$"):
        judge_file(tmp_path / "missing.jsonl", tmp_path / "kept.jsonl")
    with pytest.raises(InputError, match="cannot be read: Is a directory$"):
        judge_file(tmp_path)
    path = write(tmp_path / "x.jsonl", GOOD)
    with pytest.raises(InputError, match="found a directory, expected the name of a file"):
        judge_file(path, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["x.jsonl"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
rows = st.fixed_dictionaries({"messages": json_values, "tools": json_values})
lines = st.lists(
    st.binary() | (json_values | rows | st.just(GOOD)).map(lambda v: json.dumps(v).encode()),
    max_size=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(lines)
def test_every_row_is_accounted_for_whatever_the_file(tmp_path, lines):
    report = judge_file(write(tmp_path / "x.jsonl", *lines), tmp_path / "kept.jsonl")
    assert report["rows"] == report["kept"] + sum(report["rejected"].values())
    assert report["rows"] == len(report["verdicts"])
    kept = judge_file(tmp_path / "kept.jsonl")
    assert kept["rows"] == kept["kept"] == report["kept"]


@pytest.mark.skipif(not TAU_BENCH.is_file(), reason=f"the tau-bench traces are not at {TAU_BENCH}")
def test_every_real_airline_trace_is_kept(tmp_path):
    report = judge_file(TAU_BENCH, tmp_path / "kept.jsonl")
    assert (report["rows"], report["kept"], report["rejected"]) == (80, 80, {})
    assert (tmp_path / "kept.jsonl").read_bytes() == TAU_BENCH.read_bytes()
