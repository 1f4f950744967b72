"""Entries of the user's cache are made once."""

import threading
from pathlib import Path

import pytest

from schemas.cache import cache_directory, make_once
from schemas.errors import StageError


def test_the_cache_directory_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "stillhouse"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == Path.home() / ".cache" / "stillhouse"


def test_of_many_that_need_an_entry_one_makes_it_and_no_lock_remains(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "entry"
    makers: list[int] = []
    seen: list[str] = []

    def use(number: int) -> None:
        with make_once(path) as missing:
            if missing:
                makers.append(number)
                unfinished = path.with_name("unfinished")
                unfinished.write_text("made")
                unfinished.rename(path)
        seen.append(path.read_text())

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(makers) == 1
    assert seen == ["made"] * 8
    assert list(path.parent.iterdir()) == [path]


def test_an_entry_whose_maker_failed_is_made_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "entry"
    with pytest.raises(ValueError), make_once(path) as missing:
        assert missing
        raise ValueError
    with make_once(path) as missing:
        assert missing


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StageError, match="entry: cannot be written"),
        make_once(tmp_path / "file" / "entry"),
    ):
        pass
