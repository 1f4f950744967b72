import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from flows import recipe_file
from schemas import recipe
from schemas.errors import InputError
from student.models import base
from teacher.models import catalog

SMALL = "teacher: a\nstudent: b\n"


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def error_of(name: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        recipe_file.load(name, list(overrides))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "path", sorted(recipe_file.RECIPES.glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_recipe_loads_follows_the_schema_and_begins_with_its_launch_command(path: Path):
    loaded = recipe_file.load(path.stem)
    assert loaded.name == path.stem
    jsonschema.validate(yaml.safe_load(path.read_text()), recipe.json_schema())
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(line.strip("# ").startswith(("make ", "stillhouse ")) for line in head)


@pytest.mark.parametrize(
    "path", sorted(recipe_file.RECIPES.glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_recipe_names_an_existing_teacher_and_student_and_stays_within_their_limits(
    path: Path,
):
    loaded = recipe_file.load(path.stem)
    teacher = catalog.load(loaded.teacher, catalog.TEACHERS, "teacher")
    student = base.load(loaded.student)
    mode = teacher.get("modes", {}).get(loaded.generate.mode or teacher.get("mode"), {})
    assert mode.get("max_tokens", 0) <= loaded.generate.max_tokens <= teacher["context"]
    assert loaded.filter.max_tokens <= loaded.train.max_length <= student["context"]


def test_the_json_schema_is_current():
    assert json.loads(recipe.SCHEMA.read_text()) == recipe.json_schema(), (
        "run `python -m schemas.recipe`"
    )


def test_every_setting_has_a_description_with_an_example():
    sections: list[type[recipe.Section]] = [recipe.Recipe]
    for section in sections:
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"
            if isinstance(field.annotation, type) and issubclass(field.annotation, recipe.Section):
                sections.append(field.annotation)
            elif name != "name":
                assert "Example:" in field.description, f"{section.__name__}.{name}"
    assert len(sections) > 5


def test_the_examples_in_the_descriptions_are_valid():
    for section_name, section_field in recipe.Recipe.model_fields.items():
        section = section_field.annotation
        if not (isinstance(section, type) and issubclass(section, recipe.Section)):
            continue
        for name, field in section.model_fields.items():
            example = (field.description or "").split("Example:")[1].strip().rstrip(".")
            if (section_name, name) == ("evaluate", "variant"):
                continue  # one of export.variants, which another example may not hold
            # generate.hint as agreement needs it: some attempts without a hint.
            recipe_file.load("local", ["generate.hint=retry", f"{section_name}.{name}={example}"])


def test_a_file_with_teacher_and_student_takes_the_rest_from_the_defaults(tmp_path):
    loaded = recipe_file.load(written(tmp_path, SMALL))
    assert (loaded.name, loaded.teacher, loaded.train) == ("mine", "a", recipe.Train())


def test_a_loaded_recipe_cannot_be_changed():
    loaded = recipe_file.load("local")
    with pytest.raises(ValidationError):
        loaded.train.epochs = 7  # type: ignore[misc]


def test_set_overrides_the_file_and_reads_numbers_lists_and_null():
    loaded = recipe_file.load(
        "local",
        [
            "train.learning_rate=1e-5",
            "export.variants=[Q8_0, Q6_K]",
            "tasks.mix={lookup: 1}",
            "filter.per_template=null",
            "generate.constrain=no",
            "publish.tag=1.10",
        ],
    )
    assert loaded.train.learning_rate == 1e-5
    assert loaded.export.variants == ("Q8_0", "Q6_K")
    assert loaded.tasks.mix == {"lookup": 1}
    assert loaded.filter.per_template is None
    assert loaded.generate.constrain is False
    assert loaded.publish.tag == "1.10"


@pytest.mark.parametrize(
    "text",
    [
        "./Model #2",
        "#2",
        "a: b",
        "*x",
        "&x",
        "!x",
        "@x",
        "`x",
        "- x",
        "%x",
        "| x",
        "? x",
        "{a",
        "[a",
        "yes",
        "on",
        "true",
        "1e3",
        "0x10",
        "1_000",
        "2026-03-01",
        "12:30:45",
        "null",
        "~",
        "it's",
        "'a' and 'b'",
        "C:\\models\\x",
        "\u00e9 #\U0001f642",
    ],
)
def test_a_text_of_set_is_what_the_user_wrote(text):
    assert recipe_file.load("local", [f"student={text}"]).student == text
    with_replay = recipe_file.load("local", [f"train.replay.path={text}"])
    assert with_replay.train.replay and with_replay.train.replay.path == text


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("student='./Model #2'", "./Model #2"),
        ('student="a\\tb #"', "a\tb #"),
        ("student=  ./model  ", "./model"),
        ("student=a=b", "a=b"),
        ("serve.url=null", None),
        ("serve.url=", None),
        ("serve.arguments=[--model-name, 'a #b', c #d]", ("--model-name", "a #b", "c #d")),
        ("serve.arguments=[]", ()),
        ("tasks.mix={a #1: 1}", {"a #1": 1}),
        ("tasks.mix.lookup=0.4", 0.4),
        ("tasks.mix=null", None),
        ("generate.constrain=off", False),
        ("generate.constrain=Yes", True),
        ("generate.temperature=1e0", 1.0),
        ("generate.temperature=.5", 0.5),
        ("generate.max_tokens=1_000", 1000),
        ("publish.tag='3a'", "3a"),
        ("train.replay={path: ./a #b.jsonl, ratio: 0.1}", "./a #b.jsonl"),
    ],
)
def test_a_value_of_set_has_the_type_of_its_field(override, value):
    loaded: Any = recipe_file.load("local", [override])
    path = override.partition("=")[0].split(".")
    for part in path:
        loaded = loaded[part] if isinstance(loaded, dict) else getattr(loaded, part)
    if path[-1] == "replay":
        loaded = loaded.path
    assert loaded == value


def test_a_digest_changes_with_its_sections_and_only_with_them():
    one, other = recipe_file.load("local"), recipe_file.load("local", ["train.epochs=9"])
    assert one.digest("train") != other.digest("train")
    assert one.digest("tasks", "teacher") == other.digest("tasks", "teacher")


def test_a_digest_of_a_dotted_field_changes_with_that_setting_alone():
    one, other = recipe_file.load("local"), recipe_file.load("local", ["train.epochs=9"])
    assert one.digest("train.epochs") != other.digest("train.epochs")
    assert one.digest("train.max_length") == other.digest("train.max_length")
    assert one.digest("train.replay.path") == other.digest("train.replay.path")
    with pytest.raises(KeyError, match=r"train\.epoch: the recipe has no such field"):
        one.digest("train.epoch")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "teacher: a\nstudent: b\ngenerat: {}\n",
            ["generat: unknown field", "did you mean generate?"],
        ),
        (
            SMALL + "generate: {atempts: 3}\n",
            ["generate.atempts: unknown field", "did you mean generate.attempts?"],
        ),
        (
            SMALL + "train: {epochs: three}\n",
            ["train.epochs: found 'three', expected a valid number"],
        ),
        (SMALL + "train: {epochs: .inf}\n", ["train.epochs: found inf"]),
        (SMALL + "train: 3\n", ["train: found 3, expected a section"]),
        (
            SMALL + "generate: {hint: maybe}\n",
            ["generate.hint: found 'maybe'", "'never', 'retry' or 'always'"],
        ),
        (SMALL + "export: {variants: [Q8_0, Q1]}\n", ["export.variants[1]: found 'Q1'"]),
        (
            SMALL + "evaluate: {variant: Q6_K}\n",
            ["evaluate.variant: found 'Q6_K'", "export.variants"],
        ),
        (
            SMALL + "evaluate: {variants: [Q4_K_M, Q8_0]}\n",
            ["evaluate.variants[1]: found 'Q8_0'", "besides evaluate.variant (Q4_K_M)"],
        ),
        (
            SMALL + "evaluate: {variants: [Q4_K_M, Q4_K_M]}\n",
            ["evaluate.variants[1]: found 'Q4_K_M'", "each once"],
        ),
        (
            SMALL + "evaluate: {engine: vllm}\nexport: {vllm: false}\n",
            ["evaluate.engine: found 'vllm'", "expected export.vllm: true"],
        ),
        (SMALL + "tasks: {mix: {lookup: 0}}\n", ["tasks.mix: found", "not all 0"]),
        (SMALL + "train: {epochs: 0, rank: 0}\n", ["train.rank: found 0", "(and 1 more)"]),
        (
            SMALL + "train: {patience: 2, holdout: 0}\n",
            ["train.patience: needs held-out tasks", "train.holdout above 0"],
        ),
        (
            SMALL + "train: {replay: {path: a.jsonl, share: 0.1}}\n",
            ["train.replay.share: unknown field", "expected one of path, ratio, licence"],
        ),
        (SMALL + "train: {replay: {path: a.jsonl, ratio: 1}}\n", ["train.replay.ratio: found 1"]),
        (SMALL + "train: {replay: {ratio: 0.1}}\n", ["train.replay.path: missing"]),
        (SMALL + "name: other\n", ["name: found one, expected none"]),
        ("teacher: a\n", ["student: missing"]),
        ("teacher: a\nstudent: [b\ntrain: {}\n", ["line 3: not YAML"]),
        (SMALL + "teacher: b\n", ["not YAML: the key 'teacher' is given twice"]),
        ("- a\n", ["top level: found a list"]),
        ("", ["top level: found nothing"]),
        ("teacher: !!python/object:os.system x\n", ["line 1: not YAML"]),
    ],
)
def test_a_bad_recipe_is_one_line_with_file_field_found_and_expected(tmp_path, text, parts):
    path = written(tmp_path, text)
    message = error_of(path)
    assert message.startswith(f"{path}: ")
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("generate.atempts=3", "did you mean generate.attempts?"),
        ("generate.attempts=x", "generate.attempts: found 'x', expected a valid integer"),
        ("generate.attempts=[1", "generate.attempts: found '[1', expected a valid integer"),
        ("generate.attempts=1e3", "generate.attempts: found '1e3', expected a valid integer"),
        ("generate.attempts=3 #x", "generate.attempts: found '3 #x', expected a valid integer"),
        ("generate.constrain=maybe", "generate.constrain: found 'maybe', expected a valid boolean"),
        ("export.variants=[Q8_0", "expected a YAML value"),
        ("tasks.mix={a: *x}", "expected a YAML value"),
        ("student=", "student: found '', expected a text of at least 1 character"),
        ("name=x", "a recipe's name is its file's name"),
        ("generate.attempts", "expected FIELD=VALUE"),
        ("teacher.name=x", "teacher: found a value, expected a section"),
        ("nothing.at.all=1", "nothing: unknown field"),
        ("publish.tag=a/b", "publish.tag: found 'a/b', expected a text that matches"),
        ("publish.tag=3", "publish.tag: found '3', expected a name that the store does not assign"),
    ],
)
def test_an_error_in_set_names_the_command_line(override, part):
    message = error_of("local", override)
    assert message.startswith(f"--set {override}: ")
    assert part in message


def test_an_unknown_recipe_suggests_the_nearest(tmp_path):
    message = error_of("locl")
    assert "did you mean local?" in message
    assert "no such recipe file" in error_of(str(tmp_path / "none.yaml"))
