"""Files as people have them: byte-order marks, line ends of Windows, other encodings, broken JSON and YAML."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InputError
from schemas.files import read_json, read_jsonl, read_text
from schemas.yaml_text import read_yaml

BOM = b"\xef\xbb\xbf"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "theirs.txt"


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_byte_order_mark_and_line_ends_of_windows_are_not_part_of_the_text(file):
    windows = BOM + "Größe: 大\r\nzwei\r\n".encode()
    assert read_text(written(file, windows)) == "Größe: 大\nzwei\n"
    assert read_yaml(written(file, BOM + b"a: |\r\n  x\r\n  y\r\nb: 2\r\n")) == {
        "a": "x\ny\n",
        "b": 2,
    }
    assert read_json(written(file, BOM + b'{"a":\r\n1}\r\n')) == {"a": 1}
    rows = BOM + b'{"a": 1}\r\n\r\n{"a": "x\xc2\x85y\xe2\x80\xa8z"}\r\n \n'
    # U+0085 and U+2028 end no line of JSON Lines.
    assert list(read_jsonl(written(file, rows))) == [{"a": 1}, {"a": "x\x85y\u2028z"}]


READERS = (read_text, read_yaml, read_json, lambda path: list(read_jsonl(path)))


@pytest.mark.parametrize("read", READERS, ids=["text", "yaml", "json", "jsonl"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": 1}\n{"a": "Caf\xe9"}\n', "line 2, byte 11: found 0xe9, expected text in UTF-8"),
        (BOM + b'{"a": "\x93"}', "line 1, byte 8: found 0x93, expected text in UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "line 1, byte 1: found UTF-16, expected text in UTF-8"),
    ],
)
def test_a_file_that_is_not_utf8_is_named_with_line_and_byte(file, read, content, words):
    with pytest.raises(InputError) as error:
        read(written(file, content))
    assert str(error.value).startswith(f"{file}: {words}")


@pytest.mark.parametrize("read", READERS[:3], ids=["text", "yaml", "json"])
def test_a_pointer_of_git_lfs_is_named_as_such(file, read):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
    with pytest.raises(InputError, match="theirs.txt: found a pointer of Git LFS, .*git lfs pull"):
        read(written(file, pointer))
    near_miss = b'"version https://git-lfs.github.com/spec/v1"'
    assert "git-lfs" in read(written(file, near_miss))


@pytest.mark.parametrize("read", READERS, ids=["text", "yaml", "json", "jsonl"])
def test_a_missing_file_and_a_directory_are_named(tmp_path, read):
    for path, words in ((tmp_path / "none", "no such file"), (tmp_path, "cannot be read: Is a")):
        with pytest.raises(InputError) as error:
            read(path)
        assert str(error.value).startswith(f"{path}: {words}")


def test_prose_in_another_encoding_is_read_as_windows_1252(file):
    assert read_text(written(file, "Café – “1”\r\n".encode("cp1252")), prose=True) == "Café – “1”\n"
    assert read_text(written(file, b"\x81 is no character"), prose=True) == "\ufffd is no character"
    with pytest.raises(InputError, match="found UTF-16"):
        read_text(written(file, "Café".encode("utf-16")), prose=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: not YAML: the key 'a' is given twice"),
        ("a: 1\n---\nb: 2\n", "line 2: not YAML: but found another document"),
        ("a:\n\t- b\n", "line 2: not YAML: found character"),
        ("day: 2026-13-45\n", "not YAML: month must be in 1..12"),
        ("a: \0\n", "not YAML: unacceptable character"),
        ("[" * 2000, "not YAML: maximum recursion depth"),
        (f"a: {'1' * 5000}\n", "not YAML: Exceeds the limit"),
    ],
    ids=["twice", "two documents", "tab", "date", "nul", "deep", "digits"],
)
def test_yaml_that_cannot_be_read_is_one_line_that_names_the_file(file, content, words):
    with pytest.raises(InputError) as error:
        read_yaml(written(file, content.encode()))
    assert str(error.value).startswith(f"{file}: {words}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ['{"a": 1', "[" * 100_000, "1" * 5000, ""])
def test_json_that_cannot_be_read_names_the_file(file, content):
    with pytest.raises(InputError, match="theirs.txt: not JSON: "):
        read_json(written(file, content.encode()))


@given(st.lists(st.dictionaries(st.text(max_size=3), st.text()), max_size=5), st.booleans())
def test_rows_are_read_as_they_were_written_on_any_system(tmp_path_factory, rows, windows):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    end = "\r\n" if windows else "\n"
    text = "".join(json.dumps(row, ensure_ascii=False) + end for row in rows)
    content = text.encode("utf-8-sig" if windows else "utf-8")
    assert list(read_jsonl(written(path, content))) == rows
