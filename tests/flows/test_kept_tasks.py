"""A plan that is made again keeps the run's tasks where nothing that they depend on has changed."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows import recipe_file
from flows.run_context import RunContext, prepare
from flows.stages import PIPELINE, kept_tasks
from schemas.files import read_json
from teacher.domain import pack, tasks

pytestmark = pytest.mark.usefixtures("packs_are_checked_once")

PACK = str(Path(__file__).parents[1] / "data" / "stock_room")
FEW = ["tasks.train=8", "tasks.exam=4"]


def planned(run: Path, *settings: str) -> tuple[bytes, bytes, Any]:
    """The tasks and the plan of a run, made with these settings."""
    recipe = recipe_file.load("local", [*FEW, *settings])
    with prepare(PACK, recipe, run) as context:
        PIPELINE["plan"].run(context)
        train, exam = (context.path("tasks", f"{name}.jsonl") for name in ("train", "exam"))
        return train.read_bytes(), exam.read_bytes(), read_json(context.path("plan.json"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("kept") / "run"
    planned(run)
    return run


@pytest.fixture
def context(run: Path) -> Iterator[RunContext]:
    with prepare(PACK, recipe_file.load("local", FEW), run) as context:
        yield context


def test_another_setting_of_training_plans_anew_with_the_tasks_that_are_there(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (
        "train.epochs=7",
        "train.rank=8",
        "generate.attempts=3",
        "evaluate.variants=[Q4_K_M]",
    )
    new = planned(tmp_path / "new", *settings)
    with monkeypatch.context() as patch:
        patch.setattr(tasks, "sample", lambda *_, **__: pytest.fail("tasks were made again"))
        assert planned(run, *settings) == new


@pytest.mark.parametrize(
    "setting",
    ["tasks.seed=2", "tasks.train=9", "tasks.kinds={recovery: 0.5}", "generate.toolbox=offered"],
)
def test_another_setting_of_the_tasks_makes_them_again(context: RunContext, setting: str) -> None:
    assert kept_tasks.load(context) is not None
    changed = replace(context, recipe=recipe_file.load("local", [*FEW, setting]))
    assert kept_tasks.load(changed) is None


def test_a_preview_and_another_pack_make_their_own_tasks(
    context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kept_tasks.load(replace(context, sampled=4)) is None
    monkeypatch.setitem(context.run.domain, "sha256", "another")
    assert kept_tasks.load(context) is None


def test_a_change_in_another_pack_makes_the_tasks_and_their_prompts_again(
    context: RunContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(pack.PACKS, tmp_path / "data"))
    monkeypatch.setattr(pack, "PACKS", copy)
    before = {name: stage.digests(context) for name, stage in PIPELINE.items()}
    assert kept_tasks.load(context) is not None
    with (copy / "legal" / "environment.py").open("a") as file:
        file.write("\n")
    assert kept_tasks.load(context) is None
    repeated = [name for name, stage in PIPELINE.items() if stage.digests(context) != before[name]]
    assert repeated == ["plan", "generate", "evaluate"]


def test_a_changed_or_missing_file_or_image_makes_the_tasks_again(context: RunContext) -> None:
    made = kept_tasks.load(context)
    assert made is not None
    exam = context.path("tasks", "exam.jsonl")
    content = exam.read_bytes()
    exam.write_bytes(content.replace(b"S-", b"T-"))
    assert kept_tasks.load(context) is None
    exam.unlink()
    assert kept_tasks.load(context) is None
    exam.write_bytes(content)
    assert kept_tasks.load(context) == made
    first = {**made.train[0], "pictures": [{"sha256": "a1" * 32}]}
    kept_tasks.store(context, replace(made, train=[first, *made.train[1:]]))  # type: ignore[list-item]
    assert kept_tasks.load(context) is None
    kept_tasks.store(context, made)
    assert kept_tasks.load(context) == made
