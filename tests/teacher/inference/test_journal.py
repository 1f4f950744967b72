"""Replies on disk: what a request is remembered by, and what a crash may take."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import StageError
from teacher.inference.journal import Journal, key

REQUEST: dict[str, Any] = {
    "model": "m",
    "revision": "r",
    "messages": [{"role": "user", "content": "How many?"}],
    "tools": [{"type": "function", "function": {"name": "count", "parameters": {}}}],
    "sample": 0,
    "max_tokens": 80,
    "temperature": 0.2,
    "top_p": 0.95,
}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "journal")
    yield opened
    opened.close()


def line(name: str, reply: Any) -> str:
    return json.dumps({"key": name, "reply": reply}) + "\n"


def segment(tmp_path: Path, text: str | bytes, name: str = "0.jsonl") -> Path:
    path = tmp_path / "journal" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


# ------------------------------------------------------------------------------------- replies


def test_a_reply_is_given_back_as_it_was_put(journal: Journal, tmp_path: Path) -> None:
    reply = {"message": {"content": 'ü – 漢字 "\n\u2028 🙂'}, "seconds": 0.25, "usage": {}}
    journal.put("a", reply)
    assert journal.get("a") == reply
    assert Journal(tmp_path / "journal").get("a") == reply


def test_a_request_that_was_never_answered_is_none(journal: Journal) -> None:
    assert journal.get("a") is None
    assert len(journal) == 0


def test_a_reply_can_be_read_by_another_before_the_writer_closes(
    journal: Journal, tmp_path: Path
) -> None:
    for number in range(5):
        journal.put(str(number), {"n": number})
        assert Journal(tmp_path / "journal").get(str(number)) == {"n": number}


def test_a_journal_that_writes_nothing_leaves_no_file(tmp_path: Path) -> None:
    Journal(tmp_path / "journal").close()
    assert list((tmp_path / "journal").iterdir()) == []


def test_two_writers_have_a_segment_each_and_the_next_reader_sees_both(tmp_path: Path) -> None:
    one, two = Journal(tmp_path / "journal"), Journal(tmp_path / "journal")
    for number in range(20):
        (one, two)[number % 2].put(str(number), {"n": number})
    assert len(list((tmp_path / "journal").glob("*.jsonl"))) == 2
    assert one.get("1") is None  # what a writer beside it puts counts at the next start
    both = Journal(tmp_path / "journal")
    assert [both.get(str(number)) for number in range(20)] == [{"n": n} for n in range(20)]


def test_a_reply_that_two_segments_hold_is_the_older_one(tmp_path: Path) -> None:
    segment(tmp_path, line("a", "new"), "2.jsonl")
    segment(tmp_path, line("a", "old"), "1.jsonl")
    assert Journal(tmp_path / "journal").get("a") == "old"


# ------------------------------------------------------------------------------------- crashes


def test_a_torn_last_line_is_dropped_and_the_rest_kept(tmp_path: Path) -> None:
    whole = line("a", {"n": 1}) + line("b", {"n": 2})
    for length in range(1, len(line("c", {"n": 3}))):
        segment(tmp_path, whole + line("c", {"n": 3})[:length])
        loaded = Journal(tmp_path / "journal")
        assert (len(loaded), loaded.get("a"), loaded.get("b")) == (2, {"n": 1}, {"n": 2})
        assert loaded.get("c") is None


def test_a_line_torn_inside_a_character_is_dropped(tmp_path: Path) -> None:
    text = json.dumps({"key": "b", "reply": "ü"}, ensure_ascii=False).encode()
    segment(tmp_path, line("a", 1).encode() + text[: text.index(b"\xc3") + 1])
    assert len(Journal(tmp_path / "journal")) == 1


def test_a_torn_line_that_another_wrote_on_costs_only_that_line(tmp_path: Path) -> None:
    segment(tmp_path, line("a", 1) + line("b", 2)[:9] + line("c", 3) + line("d", 4))
    loaded = Journal(tmp_path / "journal")
    assert len(loaded) == 2
    assert (loaded.get("a"), loaded.get("d")) == (1, 4)


@pytest.mark.parametrize(
    "junk", ["\n", "[]\n", "null\n", "7\n", '{"reply": 1}\n', '{"key": []}\n', "\0\0\n", "\xff\n"]
)
def test_a_line_that_is_no_reply_is_passed_over(tmp_path: Path, junk: str) -> None:
    segment(tmp_path, (line("a", 1) + junk + line("b", 2)).encode("latin-1"))
    loaded = Journal(tmp_path / "journal")
    assert (loaded.get("a"), loaded.get("b"), len(loaded)) == (1, 2, 2)


def test_a_journal_with_a_torn_segment_takes_the_reply_again(tmp_path: Path) -> None:
    torn = segment(tmp_path, line("a", 1)[:-4])
    journal = Journal(tmp_path / "journal")
    assert journal.get("a") is None
    journal.put("a", {"n": 1})
    journal.close()
    assert Journal(tmp_path / "journal").get("a") == {"n": 1}
    assert torn.read_text() == line("a", 1)[:-4]  # a segment is its own writer's


def test_replies_survive_a_killed_writer(tmp_path: Path) -> None:
    writes = (
        "import sys; from pathlib import Path; from teacher.inference.journal import Journal\n"
        "journal, number = Journal(Path(sys.argv[1])), 0\n"
        "while True:\n"
        "    journal.put(str(number), {'n': number, 'text': 'x' * 5000})\n"
        "    print(number, flush=True)\n"
        "    number += 1\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", writes, str(tmp_path / "journal")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    ) as process:
        assert process.stdout
        returned = [int(process.stdout.readline()) for _ in range(200)]
        process.send_signal(signal.SIGKILL)
        returned += [int(text) for text in process.stdout.read().splitlines()]
    loaded = Journal(tmp_path / "journal")
    # Whatever put returned for is there; of the one it was killed in, all or nothing.
    assert len(loaded) - len(returned) in (0, 1)
    assert all(loaded.get(str(n)) == {"n": n, "text": "x" * 5000} for n in returned)


def test_a_full_disk_is_named_and_costs_no_other_reply(tmp_path: Path) -> None:
    """The kernel cuts the write at the largest size of a file, as it does on a full disk."""
    writes = (
        "import resource, sys; from pathlib import Path; from schemas.errors import StageError\n"
        "from teacher.inference.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "journal.put('a', {'n': 1})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    journal.put('b', {'text': 'x' * 500})\n"
        "except StageError as error:\n"
        "    print(error)\n"
        "assert journal.get('b') is None\n"
        "unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)\n"
        "journal.put('c', {'n': 3})\n"
        "assert journal.get('c') == {'n': 3}\n"
        "journal.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", writes, str(tmp_path / "journal")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert done.returncode == 0, done.stderr
    assert "a reply cannot be written: File too large: make room" in done.stdout
    assert done.stdout.startswith(str(tmp_path / "journal"))
    [torn] = (tmp_path / "journal").glob("*.jsonl")
    assert torn.read_bytes().count(b"\n") == 3  # the first reply, the torn line, the last reply
    loaded = Journal(tmp_path / "journal")
    assert (loaded.get("a"), loaded.get("b"), loaded.get("c")) == ({"n": 1}, None, {"n": 3})


# ------------------------------------------------------------------------------------- keys

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


def reordered(value: Any) -> Any:
    """The same JSON value with the keys of every object in the opposite order."""
    if isinstance(value, dict):
        return {k: reordered(v) for k, v in reversed(value.items())}
    return [reordered(v) for v in value] if isinstance(value, list) else value


@given(field=st.sampled_from(sorted(REQUEST)), value=JSON)
def test_any_other_value_of_any_field_is_another_request(field: str, value: Any) -> None:
    same = json.dumps(value, sort_keys=True) == json.dumps(REQUEST[field], sort_keys=True)
    assert (key({**REQUEST, field: value}) == key(REQUEST)) is same


@given(messages=st.lists(JSON, max_size=4), tools=st.lists(JSON, max_size=4))
def test_the_order_of_an_objects_keys_is_no_other_request(messages: Any, tools: Any) -> None:
    request = {**REQUEST, "messages": messages, "tools": tools}
    assert key(request) == key(reordered(request))


def test_a_full_disk_of_temporary_files_is_named_and_no_reply_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect_to_a_small_disk(*arguments: Any, **named: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **named)
        connection.execute("PRAGMA max_page_count = 8")
        return connection

    connect = sqlite3.connect
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", connect_to_a_small_disk)
        journal = Journal(tmp_path)
        with pytest.raises(StageError, match="index of its replies cannot be written: .*TMPDIR"):
            for number in range(5000):
                journal.put(f"{number:064}", {"n": number})
        journal.close()
        # A reply that is left out of the index would be requested, and paid for, again.
        with pytest.raises(StageError, match="index of its replies cannot be written"):
            Journal(tmp_path)
    loaded = Journal(tmp_path)
    assert len(loaded) == number + 1
    assert loaded.get(f"{number:064}") == {"n": number}


@given(messages=st.lists(JSON, min_size=2, max_size=4, unique_by=repr))
def test_the_order_of_messages_is_another_request(messages: list[Any]) -> None:
    assert key({**REQUEST, "messages": messages}) != key({**REQUEST, "messages": messages[::-1]})


@pytest.mark.parametrize(
    "change",
    [
        {"model": "m2"},
        {"revision": "r2"},
        {"messages": [{"role": "user", "content": "How many? "}]},
        {"messages": [{"role": "system", "content": "How many?"}]},
        {"tools": []},
        {"sample": 1},
        {"temperature": 0.3},
        {"top_p": 1},
        {"max_tokens": 81},
        {"tool_choice": "required"},
        {"extra_body": {"chat_template_kwargs": {"thinking": False}}},
    ],
)
def test_what_may_change_a_reply_changes_the_key(change: dict[str, Any]) -> None:
    assert key({**REQUEST, **change}) != key(REQUEST)


def test_a_key_is_the_same_in_every_process() -> None:
    code = f"from teacher.inference.journal import key; print(key({reordered(REQUEST)!r}))"
    printed = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[3]),
            "PYTHONHASHSEED": "7",
        },
    )
    assert printed.stdout.strip() == key(REQUEST)
