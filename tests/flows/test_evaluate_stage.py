"""The stage evaluate: who is evaluated on what, in how much context, and what its scorecard has."""

import importlib
from pathlib import Path
from typing import Any

import pytest

import student.evaluate
from flows import recipe_file
from flows.run_context import RunContext
from flows.run_directory import Run
from flows.stages import PIPELINE
from schemas.files import read_json, read_jsonl, write_json, write_jsonl
from student.evaluate import Candidate
from student.models import base
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


@pytest.fixture
def evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A finished stage: the base passes one task of the headline, the student all but that one and all other parts."""
    seen: dict[str, Any] = {}

    async def run_exam(candidate: Candidate, tasks: list[Any], **more: Any) -> list[Any]:
        seen[candidate.name] = {"tasks": tasks, **more}
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
    recipe, domain = recipe_file.load("local", overrides), pack.load("legal")
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
        seen["scorecard"] = read_json(context.path("evaluate", "scorecard.json"))
        seen["rows"] = {
            file.stem: len(list(read_jsonl(file)))
            for file in context.path("evaluate").glob("*.jsonl")
        }
    return seen


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
