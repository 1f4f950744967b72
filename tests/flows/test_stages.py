"""What makes a stage run again: each setting, model and file that it reads, and nothing else. No stage body runs."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flows import recipe_file
from flows.run_context import RunContext
from flows.run_directory import STAGES, Run
from flows.stages import PIPELINE
from flows.stages import model_digest as digests
from flows.stages.model_digest import model_digest
from flows.stages.stage import Stage, UndeclaredRead, limited
from schemas.recipe import Recipe, Section
from student.models import base
from teacher.domain import pack
from teacher.models import catalog
from teacher.planning import hardware

OUTPUTS = {
    "plan": ("tasks/train.jsonl", "tasks/exam.jsonl", "plan.json"),
    "generate": ("traces/00000.jsonl.zst",),
    "filter": ("filter/kept.jsonl", "filter/rejected.jsonl", "filter/ledger.json"),
    "train": ("train/adapter/adapter.safetensors", "train/log.jsonl", "train/examples.json"),
    "export": ("export/gguf/legal-Q8_0.gguf",),
    "evaluate": ("evaluate/base.jsonl", "evaluate/student.jsonl", "evaluate/scorecard.json"),
    "publish": ("publish/README.md",),
}
FIELDS = [
    f"{section}.{name}"
    for section, field in Recipe.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    for name in field.annotation.model_fields
]
# Values of all kinds: of each field the first that is valid and differs is taken.
VALUES: list[Any] = [
    *(True, False, 1, 2, 3, 4, 8, 17, 300, 0.25, 0.5, 1.5),
    *("x", "http://127.0.0.1:1/v1", "source", "never", "instant", "fp8", "Q4_K_M", "full", "split"),
    *(
        "linear",
        "float32",
        "few",
        "2026-11-30",
        "dask",
        "teacher",
        "offered",
        "latest",
        "teacher",
        "vllm",
        ["Q8_0", "F16"],
        ["Q4_K_M"],
        ["--x"],
        {"lookup": 1.0},
        {"drift": 0.5},
        {"missing": 0.5},
        None,
    ),
]


def changed(recipe: Recipe, field: str) -> Recipe:
    """The recipe with another valid value of a field."""
    section, name = field.split(".")
    values = recipe.model_dump(mode="json")
    before = values[section][name]
    for value in VALUES:
        values[section][name] = value
        try:
            other = Recipe.model_validate(values)
        except ValidationError:
            continue
        if other.model_dump(mode="json")[section][name] != before:
            return other
    raise AssertionError(f"{field}: VALUES has no other valid value")


def reads(stage: Stage, field: str) -> bool:
    return not {field, f"{field}?", field.split(".")[0]}.isdisjoint(stage.reads)


@pytest.fixture
def context(tmp_path: Path) -> Iterator[RunContext]:
    """A run whose stages are all done, by their receipts."""
    with finished_run(tmp_path) as context:
        yield context


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunContext]:
    """The same, for tests that write nothing."""
    with finished_run(tmp_path_factory.mktemp("stages")) as context:
        yield context


@pytest.fixture(autouse=True)
def no_store_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STILLHOUSE_STORE", raising=False)


@contextmanager
def finished_run(directory: Path) -> Iterator[RunContext]:
    replay = directory / "chat.jsonl"
    replay.write_text("{}\n")
    overrides = [
        f"train.replay={{path: {replay}, ratio: 0.1}}",
        "generate.hint=retry",  # agreement needs attempts without a hint
        "filter.agreement=2",
        f"publish.store={directory / 'store'}",
    ]
    recipe, domain = recipe_file.load("local", overrides), pack.load("legal")
    with (
        pytest.MonkeyPatch.context() as patch,
        Run.open(directory / "run", recipe, domain.name, domain.path) as run,
    ):
        patch.delenv("STILLHOUSE_STORE", raising=False)
        context = RunContext(
            run,
            recipe,
            domain,
            catalog.load("smollm2-135m", catalog.TEACHERS, "teacher"),
            base.load("smollm2-135m"),
            hardware.parse("8xH200"),
        )
        do_all(context)
        yield context


def do_all(context: RunContext) -> None:
    """Writes an output and a receipt for each stage."""
    for name in STAGES:
        outputs = [context.path(output) for output in OUTPUTS[name]]
        for output in outputs:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(name)
        with context.run.stage(name, PIPELINE[name].inputs(context), outputs) as result:
            result.update(name="legal", tag="1")


def repeated(context: RunContext) -> list[str]:
    """The stages that would run again, each if those before it wrote what they had written."""
    return [
        name
        for name, stage in PIPELINE.items()
        if not context.run.is_current(name, stage.inputs(context))
    ]


def test_the_pipeline_has_each_stage_in_order(context: RunContext) -> None:
    assert tuple(PIPELINE) == STAGES
    assert repeated(context) == []


# ------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("field", FIELDS)
def test_a_changed_setting_repeats_the_stages_that_declare_it_and_no_other(
    untouched: RunContext, field: str
) -> None:
    other = replace(untouched, recipe=changed(untouched.recipe, field))
    assert repeated(other) == [name for name, stage in PIPELINE.items() if reads(stage, field)]


@pytest.mark.parametrize(
    ("field", "stages"),
    [
        ("train.max_length", ["plan", "filter", "train", "export", "evaluate"]),
        ("train.images", ["plan", "filter", "train", "export", "evaluate"]),
        ("train.epochs", ["plan", "train"]),
        ("serve.url", ["plan"]),
        ("serve.replicas", ["plan"]),
        ("generate.temperature", ["plan", "generate"]),
        ("filter.per_task", ["generate", "filter"]),
        ("export.variants", ["export"]),
        ("gate.min_gain", ["evaluate"]),
        ("publish.tag", ["publish"]),
    ],
)
def test_a_setting_repeats_what_it_should(
    untouched: RunContext, field: str, stages: list[str]
) -> None:
    assert repeated(replace(untouched, recipe=changed(untouched.recipe, field))) == stages


def test_of_agreement_the_teacher_needs_to_know_only_whether_it_is_set(context: RunContext) -> None:
    def with_agreement(agreement: int | None) -> RunContext:
        values = context.recipe.model_dump(mode="json")
        values["filter"]["agreement"], values["generate"]["attempts"] = agreement, 3
        return replace(context, recipe=Recipe.model_validate(values))

    do_all(context := with_agreement(2))
    assert repeated(with_agreement(3)) == ["filter"]
    assert repeated(with_agreement(None)) == ["plan", "generate", "filter"]


def test_the_names_of_recipe_and_models_alone_repeat_nothing(untouched: RunContext) -> None:
    renamed = {"name": "other", "teacher": "./mine.yaml", "student": "./mine.yaml"}
    assert repeated(replace(untouched, recipe=untouched.recipe.model_copy(update=renamed))) == []


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_that_reads_an_undeclared_setting_is_a_bug(context: RunContext, name: str) -> None:
    undeclared = [
        field
        for field in FIELDS
        if not reads(PIPELINE[name], field)
        and not {field, field.split(".")[0]} & {*PIPELINE[name].also_reads}
    ]
    assert undeclared or name == "publish"
    for field in undeclared:
        section, setting = field.split(".")

        def body(view: RunContext, section: str = section, setting: str = setting) -> Any:
            return getattr(getattr(view.recipe, section), setting)

        stage = replace(PIPELINE[name], body=body, holds=lambda view: False)
        with pytest.raises(UndeclaredRead, match=f"^the stage {name} reads {section}"):
            stage.run(context)


def test_a_stage_reads_what_it_declares(context: RunContext) -> None:
    for stage in PIPELINE.values():
        view = stage.view(context)
        for read in (*stage.reads, *stage.also_reads):
            field = read.removesuffix("?")
            assert view.recipe.digest(field) == context.recipe.digest(field)
        assert stage.inputs(view) == stage.inputs(context)


def test_a_limited_recipe_still_copies(context: RunContext) -> None:
    recipe = limited(context.recipe, ["train.dtype", "train.bits"])
    copy = recipe.train.model_copy(update={"dtype": "float32"})
    assert (copy.dtype, copy.bits) == ("float32", 4)
    with pytest.raises(AttributeError):
        _ = copy.rank
    assert context.recipe.train.rank == 32


# ------------------------------------------------------------------------------------- models


@pytest.mark.parametrize(("stage", "model"), [("generate", "student"), ("filter", "teacher")])
def test_a_stage_that_reads_an_undeclared_model_is_a_bug(
    context: RunContext, stage: str, model: str
) -> None:
    view = PIPELINE[stage].view(context)
    uses: list[Callable[[Any], Any]] = [
        *(lambda m: m["name"], lambda m: m.get("shape"), lambda m: "images" in m),
        *(dict, list, len, bool, lambda m: m == {}, lambda m: m != {}),
        *(lambda m: m.copy(), lambda m: m.setdefault("name", "x"), lambda m: {**m}),
        *(lambda m: m | {}, lambda m: {} | m, lambda m: m.items()),
    ]
    for use in uses:
        with pytest.raises(UndeclaredRead, match=f"the stage {stage} reads {model}"):
            use(getattr(view, model))
    with pytest.raises(TypeError):
        json.dumps(getattr(view, model))


def test_an_edited_description_repeats_the_stages_that_use_the_model(context: RunContext) -> None:
    teacher, student = {**context.teacher, "context": 9}, {**context.student, "context": 9}
    assert repeated(replace(context, teacher=teacher)) == ["plan", "generate", "publish"]
    others = ["plan", "filter", "train", "export", "evaluate", "publish"]
    assert repeated(replace(context, student=student)) == others


def test_an_edited_template_repeats_the_stages_that_use_the_model(
    context: RunContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = tmp_path / "templates" / context.student["template"]
    template.parent.mkdir()
    template.write_bytes((catalog.TEMPLATES / template.name).read_bytes())
    monkeypatch.setattr(catalog, "TEMPLATES", template.parent)
    assert repeated(context) == []
    template.write_text(template.read_text() + "{# edited #}")
    assert repeated(context) == list(STAGES)  # here both models are rendered by it
    own = replace(context, teacher={**context.teacher, "template": None})
    do_all(own)
    template.write_text(template.read_text() + "{# again #}")
    assert {"filter", "train"} <= set(repeated(own))
    assert "generate" not in repeated(own)


@pytest.fixture
def local(context: RunContext, tmp_path: Path) -> RunContext:
    """The run with a student in a directory of the user's own."""
    directory = tmp_path / "my-model"
    directory.mkdir()
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"):
        (directory / name).write_text(name)
    student = {**context.student, "source": {"path": str(directory)}, "template": None}
    local = replace(context, student=student)
    do_all(local)
    return local


@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors", "new.json"],
)
def test_a_changed_file_of_a_local_student_repeats_the_stages_that_use_it(
    local: RunContext, name: str
) -> None:
    (Path(local.student["source"]["path"]) / name).write_text("edited")
    assert repeated(local) == ["plan", "filter", "train", "export", "evaluate", "publish"]


def test_small_files_of_a_local_model_count_by_content_and_large_ones_by_size_and_time(
    local: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = Path(local.student["source"]["path"]) / "model.safetensors"
    os.utime(weights, ns=(1, 1))
    assert repeated(local) == []
    (weights.parent / ".cache").mkdir()
    (weights.parent / ".cache" / "lock").write_text("")
    assert repeated(local) == []
    monkeypatch.setattr(digests, "_HASHED_BYTES", 12)
    before = model_digest(local.student)
    weights.write_text("MODEL.safetensors")
    os.utime(weights, ns=(1, 1))
    assert model_digest(local.student) == before
    os.utime(weights, ns=(2, 2))
    assert model_digest(local.student) != before


def test_a_local_file_counts_and_a_missing_one_is_no_error(tmp_path: Path) -> None:
    weights = tmp_path / "w.gguf"
    model = {"name": "m", "source": {"path": str(weights)}}
    missing = model_digest(model)
    weights.write_text("a")
    first = model_digest(model)
    weights.write_text("b")
    assert len({missing, first, model_digest(model)}) == 3


# ------------------------------------------------------------------------------------- other inputs


def test_each_output_of_an_earlier_stage_that_is_read_repeats_the_later_one(
    context: RunContext,
) -> None:
    followers = {
        "tasks/exam.jsonl": {"filter", "evaluate"},
        "tasks/train.jsonl": {"generate"},
        "plan.json": set(),
        "traces/00000.jsonl.zst": {"filter"},
        "filter/kept.jsonl": {"train", "export", "publish"},
        "filter/ledger.json": {"train", "publish"},
        "train/adapter/adapter.safetensors": {"export"},
        "train/log.jsonl": set(),
        "train/examples.json": {"publish"},
        "export/gguf/legal-Q8_0.gguf": {"evaluate", "publish"},
        "evaluate/scorecard.json": {"publish"},
    }
    for output, stages in followers.items():
        do_all(context)
        [writer] = [name for name, outputs in OUTPUTS.items() if output in outputs]
        context.path(output).write_text("another")
        paths = [context.path(path) for path in OUTPUTS[writer]]
        with context.run.stage(writer, PIPELINE[writer].inputs(context), paths):
            pass
        assert set(repeated(context)) == stages, output


def test_an_edited_replay_file_repeats_training(context: RunContext) -> None:
    replay = context.recipe.train.replay
    assert replay
    Path(replay.path).write_text("{}\n{}\n")
    assert repeated(context) == ["train"]


def test_other_hardware_repeats_the_plan_alone(context: RunContext) -> None:
    assert repeated(replace(context, hardware=hardware.parse("cpu-768GB"))) == ["plan"]


def test_another_store_repeats_publish_alone(
    context: RunContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLHOUSE_STORE", str(tmp_path / "other"))
    assert repeated(context) == ["publish"]


def test_a_student_that_is_gone_from_the_store_is_published_again(context: RunContext) -> None:
    assert not PIPELINE["publish"].is_current(context)
