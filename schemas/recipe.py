"""Recipe: every setting that decides how a domain is distilled, in one documented object.

A recipe is a YAML file, loaded by flows/recipe_file.py; the domain is not part of it. The sections, with each
setting's meaning, unit, default and an example, are in schemas/recipe_teacher.py and schemas/recipe_student.py.
schemas/recipe.schema.json is generated from them:

    python -m schemas.recipe
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from schemas.files import dumps, sha256_text, write_json
from schemas.recipe_section import Section, Variant
from schemas.recipe_student import Evaluate, Export, Gate, Publish, Replay, Train
from schemas.recipe_teacher import Filter, Generate, Serve, Tasks

__all__ = [
    "Evaluate",
    "Export",
    "Filter",
    "Gate",
    "Generate",
    "Publish",
    "Recipe",
    "Replay",
    "Section",
    "Serve",
    "Tasks",
    "Train",
    "Variant",
]

SCHEMA = Path(__file__).resolve().parent / "recipe.schema.json"


class Recipe(Section):
    """Every setting that decides how a domain is distilled.

    `name` is the file's name and is not written in the file.
    """

    name: str = Field(description="The recipe file's name without .yaml.")
    teacher: str = Field(
        min_length=1,
        description="The teacher: a name in teacher/models, or the path of a YAML file. Example: kimi-k2.5.",
    )
    student: str = Field(
        min_length=1,
        description="The student: a name in student/models, the path of a YAML file, a local directory in Hugging"
        " Face's format (its name must contain a /), or a model id on the hub. Example: qwen3-32b.",
    )
    tasks: Tasks = Field(default_factory=Tasks, description=Tasks.__doc__)
    serve: Serve = Field(default_factory=Serve, description=Serve.__doc__)
    generate: Generate = Field(default_factory=Generate, description=Generate.__doc__)
    filter: Filter = Field(default_factory=Filter, description=Filter.__doc__)
    train: Train = Field(default_factory=Train, description=Train.__doc__)
    export: Export = Field(default_factory=Export, description=Export.__doc__)
    evaluate: Evaluate = Field(default_factory=Evaluate, description=Evaluate.__doc__)
    gate: Gate = Field(default_factory=Gate, description=Gate.__doc__)
    publish: Publish = Field(default_factory=Publish, description=Publish.__doc__)

    @model_validator(mode="after")
    def _evaluated_variants_are_exported(self) -> "Recipe":
        exported, evaluate = self.export.variants, self.evaluate
        if evaluate.variant not in exported:
            raise ValueError(
                f"evaluate.variant: found '{evaluate.variant}',"
                f" expected one of export.variants ({', '.join(exported)})"
            )
        if evaluate.engine == "vllm" and not self.export.vllm:
            raise ValueError("evaluate.engine: found 'vllm', expected export.vllm: true with it")
        is_vllm = evaluate.engine == "vllm"
        others = [variant for variant in exported if is_vllm or variant != evaluate.variant]
        for number, variant in enumerate(evaluate.variants):
            if variant not in others or variant in evaluate.variants[:number]:
                expected = ", ".join(others) or "none: there is no other"
                raise ValueError(
                    f"evaluate.variants[{number}]: found '{variant}', expected each once of export.variants besides"
                    f" evaluate.variant ({expected})"
                )
        return self

    @model_validator(mode="after")
    def _agreement_can_be_reached(self) -> "Recipe":
        agreement, generate = self.filter.agreement, self.generate
        if agreement and (agreement > generate.attempts or generate.hint == "always"):
            raise ValueError(
                f"filter.agreement: found {agreement}, expected at most generate.attempts ({generate.attempts}),"
                " of which not all are hinted"
            )
        return self

    def digest(self, *fields: str) -> str:
        """sha256 over the named fields, so that a stage depends only on what it reads.

        Args:
            fields: whole sections ("train"), or single settings by their dotted name ("train.max_length").

        Raises:
            KeyError: the recipe has no such field.
        """
        values = self.model_dump(mode="json")
        return sha256_text(dumps({field: _value_at(values, field) for field in fields}))


def _value_at(values: dict[str, Any], field: str) -> Any:
    value: Any = values
    for part in field.split("."):
        if value is None:  # a section that is switched off, such as train.replay
            return None
        if not isinstance(value, dict) or part not in value:
            raise KeyError(f"{field}: the recipe has no such field")
        value = value[part]
    return value


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe file."""
    schema = Recipe.model_json_schema()
    del schema["properties"]["name"]
    schema["required"].remove("name")
    schema["description"] = (
        "A recipe file of stillhouse. Generated by `python -m schemas.recipe`; do not edit."
    )
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields each setting of nested sections by its dotted name, such as train.epochs."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


if __name__ == "__main__":
    write_json(SCHEMA, json_schema())
    print(f"wrote {SCHEMA}")
