"""The stage publish with gate.against: what becomes `latest`, and what is said of a student that does not."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from published_student import blob_of, make_files, make_manifest, make_scorecard

from flows import recipe_file
from flows.run_context import RunContext
from flows.run_directory import Run
from flows.stages import PIPELINE
from flows.summary import log_summary
from schemas.files import read_json, write_json
from student.models import base
from student.registry import publish as registry
from student.registry.card_exam import exam_section
from student.registry.lookup import find_version, list_models, resolve
from student.registry.oci_layout import DirectoryStore
from teacher.domain import pack
from teacher.models import catalog
from teacher.planning import hardware

TASKS = [f"legal-exam-{number}" for number in range(40)]
Publisher = Callable[..., SimpleNamespace]


def collect(context: RunContext, card: dict[str, Any], to: Path) -> Any:
    """Files of a small student instead of an export's; the scorecard and the card's section about it are real."""
    files = make_files(to / "files", context.directory.name.encode())
    write_json(to / "files" / "scorecard.json", card)
    write_json(to / "scorecard.json", card)
    (to / "files" / "README.md").write_text(exam_section(card, pixels=False))
    return files, make_manifest()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DirectoryStore:
    monkeypatch.delenv("STILLHOUSE_STORE", raising=False)
    monkeypatch.setattr(importlib.import_module("flows.stages.publish"), "_collect", collect)
    return DirectoryStore(tmp_path / "store")


@pytest.fixture
def publish(tmp_path: Path, store: DirectoryStore) -> Publisher:
    """Runs the stage for the run NAME, whose student passed some tasks of the exam. again: its evaluate/latest.json."""

    def run(
        name: str, passed: list[str], *, exam: str = "b", again: dict[str, Any] | None = None
    ) -> SimpleNamespace:
        settings = ["gate.against=latest", f"publish.store={store.directory}"]
        recipe, domain = recipe_file.load("local", settings), pack.load("legal")
        models = (
            catalog.load("smollm2-135m", catalog.TEACHERS, "teacher"),
            base.load("smollm2-135m"),
        )
        card = make_scorecard("0" * 64)
        card["exam"]["sha256"] = exam * 64
        card["models"]["student"] |= {"tasks": 40, "passed": len(passed), "passed_tasks": passed}
        with Run.open(tmp_path / name, recipe, domain.name, domain.path) as opened:
            context = RunContext(opened, recipe, domain, *models, hardware.parse("cpu"))
            write_json(context.path("evaluate", "scorecard.json"), card)
            if again is not None:
                write_json(context.path("evaluate", "latest.json"), again)
            result = PIPELINE["publish"].body(context)
        written = read_json(tmp_path / name / "publish" / "published.json")
        assert written == result
        return SimpleNamespace(context=context, result=result, directory=tmp_path / name)

    return run


def test_a_worse_student_is_stored_and_latest_stays_at_the_last_good_one(
    publish: Publisher, store: DirectoryStore, capfd: pytest.CaptureFixture[str]
) -> None:
    first, worse, better = (
        publish(name, passed)
        for name, passed in (("1", TASKS[:20]), ("2", TASKS[:12]), ("3", TASKS[:24]))
    )
    assert [run.result["tag"] for run in (first, worse, better)] == ["1", "2", "3"]
    assert resolve(store, "legal").tag == "3"
    assert [model.gate_passed for model in list_models(store)] == [True, False, True]
    assert "held_back" not in first.result and "held_back" not in better.result
    assert worse.result["held_back"].startswith("worse than legal:1: of 40 tasks 0 were passed by")
    card = (worse.directory / "publish" / "files" / "README.md").read_text()
    assert "Release: held back: worse than legal:1" in card
    published = find_version(store, "legal:3")
    assert published and published.scorecard
    assert published.scorecard["release"]["against"] == "legal:1"  # not the one held back
    capfd.readouterr()
    log_summary(worse.context, {"stages": {}, "report": "report.html", "published": worse.result})
    printed = capfd.readouterr().err
    assert "legal:latest stays as it is: legal:2 is worse than legal:1" in printed
    assert "promote legal:2 latest" in printed and "make pull DOMAIN=legal:2\n" in printed


def test_a_student_of_another_exam_is_compared_if_latest_was_evaluated_again(
    publish: Publisher, store: DirectoryStore
) -> None:
    publish("1", TASKS[:20])
    assert "another exam" in publish("2", TASKS, exam="c").result["held_back"]
    assert resolve(store, "legal").tag == "1"
    score = make_scorecard("0" * 64)["models"]["student"]
    score |= {"tasks": 40, "passed": 5, "passed_tasks": TASKS[:5]}
    again = {"digest": resolve(store, "legal").digest, "score": score}
    third = publish("3", TASKS[:6], exam="c", again=again)
    assert "held_back" not in third.result and resolve(store, "legal").tag == "3"
    card = (third.directory / "publish" / "files" / "README.md").read_text()
    assert "legal:1" in card and "which was evaluated again on this exam" in card


def test_a_broken_latest_does_not_keep_a_student_from_being_stored(
    publish: Publisher, store: DirectoryStore
) -> None:
    publish("1", TASKS[:20])
    blob_of(store, "scorecard.json").write_text("{")
    assert "not compared with latest" in publish("2", TASKS).result["held_back"]
    assert resolve(store, "legal:2").manifest["tag"] == "2"


@pytest.mark.parametrize("passed", [TASKS[:20], TASKS[:2]])
def test_a_student_that_is_published_again_is_the_same_version_with_the_same_verdict(
    publish: Publisher, store: DirectoryStore, passed: list[str]
) -> None:
    publish("1", TASKS[:20])
    first = publish("2", passed).result
    assert publish("2", passed).result == first
    publish("3", TASKS)  # latest has moved on
    assert publish("2", passed).result == first
    assert resolve(store, "legal").tag == "3" and len(list_models(store)) == 3


def test_a_student_is_compared_again_if_latest_is_moved_meanwhile(
    publish: Publisher, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    publish("1", TASKS[:10])
    add_files = registry._add_files
    moved: list[bool] = []

    def overtaken(*arguments: Any) -> Any:
        if not moved:
            moved.append(True)
            publish("2", TASKS[:30])
        return add_files(*arguments)

    monkeypatch.setattr(registry, "_add_files", overtaken)
    third = publish("3", TASKS[:12]).result
    assert third["tag"] == "3" and third["held_back"].startswith("worse than legal:2")
    assert resolve(store, "legal").tag == "2"
