"""Extraction tasks of the packs: schemas are files, planted values are valid, and what is absent is null."""

import asyncio
import json
from typing import Any, cast

import pytest
from scripted_model import LOOP, MAKER, Model, solution

from schemas.filter import FilterSettings, check_trace
from teacher.domain import Domain, load
from teacher.domain.tasks import build
from teacher.rollout import agent_loop

PACKS = ("legal", "code-review", "tech-research")


def templates(pack: Domain) -> list[str]:
    return [name for name, template in pack.templates.items() if template.kind == "extract"]


def values(value: Any) -> list[Any]:
    """All values inside a JSON value, objects and lists among them."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value, *(each for part in inner for each in values(part))]


@pytest.mark.parametrize("name", PACKS)
def test_a_packs_schemas_are_files_and_each_has_a_template(name: str) -> None:
    pack = load(name)
    files = {file.stem: file for file in (pack.path / "schemas").glob("*.json")}
    assert sorted(files) == sorted(templates(pack))
    words = ""
    answers = []
    for template, file in files.items():
        schema = json.loads(file.read_text())
        words += file.read_text()
        for seed in range(6):
            task = build(pack, template, "train", seed)
            answer = cast(dict[str, Any], task["checks"]["answer"])
            assert answer["schema"] == schema
            assert json.dumps(schema) in task["request"]
            answers.append(answer["value"])
    # Nested lists of objects, and values that are absent.
    assert '"null"' in words and '"array"' in words
    every = [each for answer in answers for each in values(answer)]
    assert None in every and any(
        isinstance(v, list) and v and isinstance(v[0], dict) for v in every
    )


@pytest.mark.parametrize("name", PACKS)
def test_a_wrong_field_is_rejected_by_its_pointer(name: str) -> None:
    pack = load(name)
    template = next(
        each for each in templates(pack) if "pictures" not in build(pack, each, "train", 1)
    )
    task = build(pack, template, "train", 1)

    def verdict(reply: str) -> Any:
        model = Model([*solution(task)[:-1], reply])
        trace = asyncio.run(agent_loop.run(task, pack, model.complete, LOOP, MAKER))
        return check_trace(trace, FilterSettings())

    assert verdict(task["reply"])["kept"]
    value = json.loads(task["reply"])
    field = next(key for key, each in value.items() if isinstance(each, str))
    wrong = verdict(json.dumps({**value, field: "other"}))
    assert wrong["reason"] == "wrong_answer" and wrong["detail"].startswith(f"/{field}: ")
    assert verdict(f"Here it is: {task['reply']}")["detail"].startswith("the text is not JSON")
