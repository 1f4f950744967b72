"""What the plan refuses before a teacher is asked."""

from pathlib import Path

import pytest

from flows import recipe_file
from flows.run_context import RunContext
from flows.run_directory import Run
from flows.stages import PIPELINE
from schemas.errors import InputError
from student.models import base
from teacher.domain import pack
from teacher.models import catalog
from teacher.planning import hardware

pytestmark = pytest.mark.usefixtures("packs_are_checked_once")


def planned(directory: Path, *overrides: str) -> dict:
    """The result of the plan of a small run of the legal domain."""
    small = ["tasks.train=2", "tasks.exam=2", "tasks.exam_other=0"]
    recipe, domain = recipe_file.load("local", [*small, *overrides]), pack.load("legal")
    with Run.open(directory / "run", recipe, domain.name, domain.path) as run:
        teacher = catalog.load("smollm2-135m", catalog.TEACHERS, "teacher")
        student = base.load("smollm2-135m")
        context = RunContext(run, recipe, domain, teacher, student, hardware.parse("cpu"))
        plan = PIPELINE["plan"]
        return plan.body(plan.view(context))


def test_a_gate_for_a_part_that_the_exam_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gate.min_parts.new_templates: the exam of legal has no"):
        planned(tmp_path, "gate.min_parts={all_tools: 0.3, new_templates: 0.3}")


@pytest.mark.parametrize(
    ("variable", "setting"),
    [
        ("STILLHOUSE_TEACHER_KEY", "serve.url=http://gpu-7:8000/v1"),
        ("STILLHOUSE_USER_KEY", "generate.user={url: http://gpu-8:8000/v1, model: m}"),
    ],
)
def test_a_key_that_would_be_sent_unencrypted_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, setting: str
) -> None:
    monkeypatch.setenv(variable, "sk-f4ke")
    with pytest.raises(
        InputError, match=f"http://gpu-.:8000/v1: found {variable} set, .*expected https"
    ):
        planned(tmp_path, setting)


def test_a_gate_for_a_part_of_the_exam_is_planned(tmp_path: Path) -> None:
    assert planned(tmp_path, "gate.min_parts={all_tools: 0.3}")["exam"] == 2
