"""JSON Lines that are compressed, written by two at once, or read by row."""

import contextlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InputError
from schemas.files import json_line, open_jsonl, read_jsonl, whole, write_jsonl, write_text
from schemas.row_file import RowFile

ROWS = [{"number": n, "text": "Größe 大 \x85\u2028" * (n % 50)} for n in range(2000)]


def test_compressed_rows_are_the_rows_that_were_written(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl.zst", ROWS)
    assert list(read_jsonl(tmp_path / "a.jsonl.zst")) == ROWS
    write_jsonl(tmp_path / "none.jsonl.zst", [])
    assert list(read_jsonl(tmp_path / "none.jsonl.zst")) == []


@pytest.mark.parametrize("wrong", ["cut", "one byte short", "a byte changed", "more behind it"])
def test_a_damaged_compressed_file_is_named(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "a.jsonl.zst"
    write_jsonl(path, ROWS)
    data = path.read_bytes()
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    damaged = {
        "cut": data[: len(data) // 2],
        "one byte short": data[:-1],
        "more behind it": data + b"x",
    }
    path.write_bytes(damaged.get(wrong, bytes(changed)))
    with pytest.raises(InputError, match="a.jsonl.zst: "):
        list(read_jsonl(path))


def test_rows_that_were_appended_one_by_one_are_read_as_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    with path.open("ab") as file:
        for row in ROWS[:9]:
            file.write(zstandard.compress(json_line(row)))
    assert list(read_jsonl(path)) == ROWS[:9]


def test_what_a_block_that_fails_wrote_is_never_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    with pytest.raises(ZeroDivisionError), open_jsonl(path) as write:
        write({})
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_of_two_writers_of_one_file_neither_publishes_a_half(tmp_path: Path) -> None:
    path, seen = tmp_path / "a.json", set()
    texts = [letter * 200_000 for letter in "abcd"]
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            if path.exists():
                seen.add(path.read_text())

    def write(text: str) -> None:
        for _ in range(20):
            write_text(path, text)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert seen <= set(texts)
    assert list(tmp_path.iterdir()) == [path]


@given(
    st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=9), max_size=2), max_size=9),
    st.sampled_from(["\n", "\r\n", "\n\n", "\n \n"]),
    st.sampled_from(["", "\ufeff"]),
)
def test_rows_by_index_are_those_that_are_read_in_order(
    tmp_path_factory: Any, rows: list[Any], end: str, mark: str
) -> None:
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    path.write_bytes((mark + end.join(map(json.dumps, rows))).encode())
    file: RowFile[Any] = RowFile(path)
    assert len(file) == len(rows) and list(file) == rows == list(read_jsonl(path))
    assert list(file[1:3]) == rows[1:3]
    backwards = range(len(rows) - 1, -1, -1)
    assert list(file.select(backwards)) == rows[::-1]


def test_a_row_that_is_not_json_is_named_by_its_line_however_it_is_reached(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{"a": \n')
    file: RowFile[Any] = RowFile(tmp_path / "a.jsonl")
    assert file[0] == {"a": 1}
    for view, index in ((file, 1), (file[1:], 0), (file.select([1, 0]), 0), (file, -1)):
        with pytest.raises(InputError, match="a.jsonl: line 3: not JSON"):
            view[index]


@pytest.mark.parametrize("is_directory", [False, True])
def test_of_two_writers_of_one_path_each_publishes_a_whole(
    tmp_path: Path, is_directory: bool
) -> None:
    path, seen = tmp_path / "out", set()

    def write(name: str) -> None:
        for _ in range(40):
            with whole(path) as temporary:
                if is_directory:
                    temporary.mkdir()
                for part in "abc":
                    with (temporary / part if is_directory else temporary).open("a") as file:
                        file.write(name)

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write, name) for name in ("1", "2")]
        while not all(writer.done() for writer in writers):
            with contextlib.suppress(FileNotFoundError):
                # A directory may be moved away between two reads; then a part is missing, and none is half.
                parts = [path / part for part in "abc"] if is_directory else [path]
                seen.add("".join(part.read_text() for part in parts[:1]))
    for writer in writers:
        writer.result()
    wholes = {"1", "2"} if is_directory else {"111", "222"}
    assert seen <= wholes
    if is_directory:
        texts = {(path / part).read_text() for part in "abc"}
        assert len(texts) == 1 and texts <= wholes
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
