"""The stage evaluate: who is evaluated on what, in how much context, and what its scorecard has."""

import hashlib
import importlib
from pathlib import Path
from typing import Any

import pytest
from published_student import Q8, make_manifest, publish_legal

import student.evaluate
from flows import recipe_file
from flows.run_context import RunContext
from flows.run_directory import Run
from flows.stages import PIPELINE
from schemas.files import read_json, read_jsonl, write_json, write_jsonl
from student.evaluate import Candidate
from student.models import base
from student.registry.artifact import PublishFile
from student.registry.oci_layout import DirectoryStore
from student.registry.publish import publish
from teacher.domain import exam, pack
from teacher.models import catalog
from teacher.planning import hardware
from teacher.scenes.images import ImageStore

PARTS = {"all_tools": 4, "as_trained": 2, "new_templates": 2}


def trace_of(task: Any, *, is_passed: bool) -> dict[str, Any]:
    """The trace of an episode with one answer, right or wrong, and an unasked write where the answer is wrong."""
    outcome = {
        "ended": "answered",
        "checks": {"answer": is_passed, "state": True},
        "unasked_writes": [] if is_passed else [3],
    }
    message = {"role": "assistant", "content": "In 2027."}
    return {
        "task": {"id": task["id"]},
        "tools": [],
        "messages": [message],
        "calls": [{"seconds": 1.0}],
        "outcome": outcome,
    }


def run_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, further: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A finished stage: the base passes one task of the headline, the student all but that one and all other parts.

    further: overrides of the recipe.
    """
    seen: dict[str, Any] = {}

    def run_exam(candidate: Candidate, tasks: list[Any], **more: Any) -> list[Any]:
        seen[candidate.name] = {"tasks": tasks, "candidate": candidate, **more}
        if candidate.file.is_file():
            seen[candidate.name]["bytes"] = candidate.file.read_bytes()
        first = min(task["id"] for task in tasks if task["part"] == "all_tools")
        is_base = candidate.name == "base"
        return [trace_of(task, is_passed=(task["id"] == first) == is_base) for task in tasks]

    monkeypatch.setattr(student.evaluate, "run_exam", run_exam)
    files = [
        Candidate("base", Path("b.gguf"), "0" * 64),
        Candidate("student", Path("s.gguf"), "1" * 64),
        Candidate("Q4_K_M", Path("q4.gguf"), "2" * 64),
    ]
    stage_module = importlib.import_module("flows.stages.evaluate")
    monkeypatch.setattr(stage_module, "_candidates", lambda context: files)
    overrides = ["tasks.exam=4", "tasks.exam_other=2", "train.max_length=1100"]
    overrides += ["evaluate.variants=[Q4_K_M]", "export.variants=[Q8_0,Q4_K_M,F16]"]
    recipe = recipe_file.load("local", [*overrides, *further])
    domain = pack.load("legal")
    held_out = exam.held_out_templates(domain, recipe.tasks)
    store = ImageStore(tmp_path / "images")
    rows = exam.sample_exam(domain, recipe.tasks, held_out, pixels=False, image_store=store)
    seen["exam"] = [row for row in rows if row["part"] in PARTS]
    with Run.open(tmp_path / "run", recipe, domain.name, domain.path) as run:
        teacher = catalog.load("smollm2-135m", catalog.TEACHERS, "teacher")
        models = teacher, base.load("smollm2-135m")
        context = RunContext(run, recipe, domain, *models, hardware.parse("cpu"))
        write_jsonl(context.path("tasks", "exam.jsonl"), seen["exam"])
        for variant in recipe.export.variants:
            file = context.path("export", "gguf", context.gguf_name(variant))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(variant)
        drift = {"kl": 0.05, "same_top": 0.94, "positions": 96}
        measured = [{"name": "logits", "passed": True, "detail": "KL 0.05", "drift": drift}]
        old = [{"name": "logits", "passed": True, "detail": "of an older export"}]
        write_jsonl(context.path("evaluate", "Q6_K.jsonl"), [])  # of an earlier recipe
        write_json(
            context.path("export", "gate.json"),
            {"16 bits": measured, "Q8_0": measured, "Q4_K_M": measured, "F16": old},
        )
        stage = PIPELINE["evaluate"]
        seen["result"] = stage.body(stage.view(context))
        seen["holds"] = stage.holds(stage.view(context))
        seen["scorecard"] = read_json(context.path("evaluate", "scorecard.json"))
        known = context.path("evaluate", "latest.json")
        seen["known"] = read_json(known) if known.is_file() else None
        seen["left"] = [path.name for path in context.path("evaluate").iterdir() if path.is_dir()]
        seen["rows"] = {
            file.stem: len(list(read_jsonl(file)))
            for file in context.path("evaluate").glob("*.jsonl")
        }
    return seen


@pytest.fixture
def evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return run_stage(tmp_path, monkeypatch)


def test_the_base_is_evaluated_on_the_headline_and_the_student_on_all_parts(
    evaluated: dict[str, Any],
) -> None:
    assert {task["part"] for task in evaluated["base"]["tasks"]} == {"all_tools"}
    assert evaluated["student"]["tasks"] == evaluated["exam"]
    assert evaluated["rows"] == {"base": 4, "student": 8, "Q4_K_M": 4}
    models = evaluated["scorecard"]["models"]
    assert list(models["base"]["parts"]) == ["all_tools"]
    assert {name: part["tasks"] for name, part in models["student"]["parts"].items()} == PARTS


def test_the_scorecard_compares_both_on_the_headline_and_counts_unasked_writes(
    evaluated: dict[str, Any],
) -> None:
    scorecard = evaluated["scorecard"]
    assert scorecard["exam"]["tasks"] == 8
    assert scorecard["comparison"] == {
        "both": 0,
        "student_only": 3,
        "base_only": 1,
        "neither": 0,
        "p": 0.625,
    }
    parts = scorecard["models"]["student"]["parts"]
    assert parts["all_tools"]["unasked_write"] == {"tasks": 1, "calls": 1}
    assert parts["as_trained"]["unasked_write"] == {"tasks": 0, "calls": 0}
    assert (evaluated["result"]["base"], evaluated["result"]["student"]) == (1, 3)


def test_a_further_variant_is_evaluated_on_the_headline_and_each_file_has_its_drift(
    evaluated: dict[str, Any],
) -> None:
    assert {task["part"] for task in evaluated["Q4_K_M"]["tasks"]} == {"all_tools"}
    assert evaluated["rows"]["Q4_K_M"] == 4
    variants = evaluated["scorecard"]["variants"]
    drift = {"kl": 0.05, "same_top": 0.94, "positions": 96}
    assert variants["Q4_K_M"]["headline"]["passed"] == 3 and variants["Q4_K_M"]["drift"] == drift
    assert "headline" not in variants["Q8_0"] and variants["Q8_0"]["drift"] == drift
    assert variants["F16"].keys() == {"file", "sha256"}
    assert evaluated["scorecard"]["models"].keys() == {"base", "student"}


def test_a_conversation_may_be_as_long_as_those_of_training_and_a_reply_longer(
    evaluated: dict[str, Any],
) -> None:
    assert evaluated["student"]["context"] == 1280  # 1100 and a reply of 80 tokens, in steps of 256


def test_latest_is_evaluated_again_where_it_was_published_with_another_exam(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    digest = publish_legal(DirectoryStore(store), tmp_path / "before").digest
    further = ("gate.against=latest", f"publish.store={store}")
    evaluated = run_stage(tmp_path, monkeypatch, further)
    latest = evaluated["latest"]
    assert {task["part"] for task in latest["tasks"]} == {"all_tools"}
    assert latest["bytes"] == Q8
    assert latest["candidate"].digest == hashlib.sha256(Q8).hexdigest()
    assert latest["grounding"] == "source"
    known = evaluated["known"]
    assert (known["digest"], known["score"]["passed"]) == (digest, 3)
    assert len(known["score"]["passed_tasks"]) == 3
    assert evaluated["holds"] and evaluated["left"] == []
    assert evaluated["rows"]["latest"] == 4
    assert evaluated["scorecard"]["models"].keys() == {"base", "student"}
    # Without the rule it is not asked for.
    assert "latest" not in run_stage(tmp_path / "other", monkeypatch, further[1:])


def test_of_latest_without_the_evaluated_file_the_reason_is_kept_and_the_exam_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, file = tmp_path / "store", tmp_path / "model.gguf"
    file.write_bytes(b"weights")
    files = [PublishFile(file, file.name, "Q8_0", "weight")]
    publish(DirectoryStore(store), "legal", files, make_manifest(), gate_passed=True)
    evaluated = run_stage(tmp_path, monkeypatch, ("gate.against=latest", f"publish.store={store}"))
    assert "latest" not in evaluated and evaluated["result"]["student"] == 3
    assert (
        evaluated["known"]["reason"] == "legal:1 has no scorecard, which names the file to evaluate"
    )
    assert evaluated["holds"]
