"""Lookup: what a store holds, what a reference names, and what is missing or broken."""

from pathlib import Path

import pytest
from published_student import publish_legal

from schemas.errors import InputError
from schemas.tags import is_version
from student.registry.location import location, parse_location
from student.registry.lookup import list_models, resolve
from student.registry.oci_layout import DirectoryStore
from student.registry.upkeep import keep, remove, rollback


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store")


def test_a_store_that_does_not_exist_is_empty(store: DirectoryStore) -> None:
    assert list_models(store) == []
    with pytest.raises(
        InputError, match="legal: no such model in .*: nothing was published there yet"
    ):
        resolve(store, "legal")


def test_an_unknown_name_or_version_names_what_exists(
    store: DirectoryStore, tmp_path: Path
) -> None:
    publish_legal(store, tmp_path / "run")
    publish_legal(store, tmp_path / "run", name="medical")
    with pytest.raises(InputError, match="tax: no such model in .*: it holds legal, medical"):
        resolve(store, "tax")
    with pytest.raises(
        InputError, match="legal:7: no such version in .*: it holds legal:1, legal:latest"
    ):
        resolve(store, "legal:7")


def test_a_broken_version_is_one_clear_line_and_no_obstacle(
    store: DirectoryStore, tmp_path: Path
) -> None:
    broken = publish_legal(store, tmp_path / "run")
    store.repository("legal").blob_path(broken.digest).write_text("{}")
    publish_legal(store, tmp_path / "run", q8=b"two")
    lines: list[str] = []
    assert [model.tag for model in list_models(store, report=lines.append)] == ["2"]
    (line,) = lines
    assert "legal:1: corrupted" in line and "\n" not in line
    with pytest.raises(InputError, match="legal:1: corrupted"):
        resolve(store, "legal:1")
    # Published again, it is a new version; rolled back, it is passed over; removed, it is gone.
    assert publish_legal(store, tmp_path / "run").tag == "3"
    assert rollback(store, "legal") == (3, 2)
    assert remove(store, "legal:1", lines.append) == [1]
    assert [model.tag for model in list_models(store)] == ["3", "2"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("store", "store"),
        ("oci://registry.example/team/students", "oci://registry.example/team/students"),
        ("oci://registry.example:8443/team/", "oci://registry.example:8443/team"),
        ("oci://registry.example", "oci://registry.example"),
        ("http://127.0.0.1:5000/students", "http://127.0.0.1:5000/students"),
        ("http://localhost:5000", "http://localhost:5000"),
        ("http://[::1]:5000/a", "http://[::1]:5000/a"),
    ],
)
def test_a_location_is_a_directory_or_a_registry(text: str, expected: str) -> None:
    assert str(parse_location(text, "--to")) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http://registry.example/a", "expected oci://registry.example/a: only a registry of this"),
        ("http://127.0.0.1.evil.example/a", "only a registry of this machine"),
        ("https://registry.example/a", "expected a directory, oci://"),
        ("oci://registry.example/a?x=1", "expected a directory, oci://"),
        ("oci://registry.example/Team", "namespace of lower-case"),
        ("oci://registry.example/a/../b", "namespace of lower-case"),
        ("", "found nothing, expected a directory"),
        ("oci:///a", "is no host"),
        ("oci://a b/c", "is no host"),
        ("oci://[::1/c", "cannot be read"),
    ],
)
def test_a_location_that_is_neither_is_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        parse_location(text, "--to")
    assert str(raised.value).startswith("--to: ") and "\n" not in str(raised.value)


def test_a_login_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(InputError, match="found a login in the URL") as raised:
        parse_location("oci://someone:s3cret@registry.example/a", "--to")
    assert "s3cret" not in str(raised.value) and "someone" not in str(raised.value)


def test_the_environment_takes_precedence_over_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STILLHOUSE_STORE", raising=False)
    assert (location(), location("elsewhere")) == (Path("store"), Path("elsewhere"))
    monkeypatch.setenv("STILLHOUSE_STORE", "oci://registry.example/students")
    assert str(location("elsewhere")) == "oci://registry.example/students"
    monkeypatch.setenv("STILLHOUSE_STORE", "ftp://registry.example/students")
    with pytest.raises(InputError, match="STILLHOUSE_STORE: found 'ftp://"):
        location("elsewhere")


@pytest.mark.parametrize("reference", ["../legal", "legal:a/b", "legal:", "Legal", "legal:-x", ""])
def test_a_reference_that_no_registry_accepts_is_refused(
    store: DirectoryStore, reference: str
) -> None:
    with pytest.raises(InputError, match="expected"):
        resolve(store, reference)


def test_a_number_that_the_store_did_not_write_is_no_version(
    store: DirectoryStore, tmp_path: Path
) -> None:
    publish_legal(store, tmp_path / "run")
    repository = store.repository("legal")
    first = repository.find("1")
    assert first
    repository.set_tags({"007": first, "9" * 40: first})
    assert [model.tag for model in list_models(store)] == ["1"]
    assert publish_legal(store, tmp_path / "run", q8=b"two").tag == "2"
    assert keep(store, "legal", 1, print) == [1]


@pytest.mark.parametrize("text", ["0", "01", "\N{ARABIC-INDIC DIGIT THREE}", "9" * 5000, "3\n", ""])
def test_what_is_no_number_of_a_version(text: str) -> None:
    assert not is_version(text)
    assert is_version("3") and is_version("120")
