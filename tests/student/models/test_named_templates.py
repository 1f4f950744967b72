"""Which chat template of a directory is the student's (student/models/named_templates.py)."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_students import END, SHIPPED, TINY, tiny_tokenizer, trl_template

from schemas.errors import InputError
from student.models import named_templates
from student.models.chat_template import (
    chat_template,
    original_template,
    template_place,
    tools_counter,
)
from student.rendering.renderer import Renderer

DEFAULT, TOOLS, OTHER = "{{ 'default' }}", "{{ 'tools' }}", "{{ 'other' }}"


def write(directory: Path, **files: object) -> None:
    """Writes files by name with __ for a dot: text as it is, other values as {"chat_template": value}."""
    for name, content in files.items():
        path = directory / name.replace("__", ".").replace(
            "additional_", named_templates.ADDITIONAL + "/"
        )
        path.parent.mkdir(exist_ok=True)
        text = content if path.suffix == ".jinja" else json.dumps({"chat_template": content})
        path.write_text(str(text), encoding="utf-8")


def listed(**templates: str) -> list[dict[str, str]]:
    return [{"name": name, "template": text} for name, text in templates.items()]


@pytest.mark.parametrize(
    ("files", "text", "place", "others"),
    [
        ({"tokenizer_config__json": TOOLS}, TOOLS, "tokenizer_config.json", ()),
        ({"chat_template__json": TOOLS}, TOOLS, "chat_template.json", ()),
        ({"processor_config__json": TOOLS}, TOOLS, "processor_config.json", ()),
        (
            {"tokenizer_config__json": listed(default=DEFAULT, rag=OTHER, tool_use=TOOLS)},
            TOOLS,
            "tokenizer_config.json: tool_use",
            ("tokenizer_config.json: default", "tokenizer_config.json: rag"),
        ),
        (
            {"tokenizer_config__json": listed(default=DEFAULT, rag=OTHER)},
            DEFAULT,
            "tokenizer_config.json: default",
            ("tokenizer_config.json: rag",),
        ),
        (
            {"tokenizer_config__json": listed(chatml=OTHER)},
            OTHER,
            "tokenizer_config.json: chatml",
            (),
        ),
        (
            {"chat_template__json": {"default": DEFAULT, "tool_use": TOOLS}},
            TOOLS,
            "chat_template.json: tool_use",
            ("chat_template.json: default",),
        ),
        (
            {"chat_template__jinja": DEFAULT, "additional_tool_use__jinja": TOOLS},
            TOOLS,
            "additional_chat_templates/tool_use.jinja",
            ("chat_template.jinja",),
        ),
        (
            {"chat_template__jinja": DEFAULT, "additional_rag__jinja": OTHER},
            DEFAULT,
            "chat_template.jinja",
            ("additional_chat_templates/rag.jinja",),
        ),
        (
            {"chat_template__jinja": TOOLS, "tokenizer_config__json": DEFAULT},
            TOOLS,
            "chat_template.jinja",
            ("tokenizer_config.json",),
        ),
        (
            {"chat_template__jinja": TOOLS, "tokenizer_config__json": TOOLS},
            TOOLS,
            "chat_template.jinja",
            (),
        ),
        (
            {"chat_template__jinja": "\n", "tokenizer_config__json": TOOLS},
            TOOLS,
            "tokenizer_config.json",
            (),
        ),
    ],
)
def test_one_template_is_the_students_and_those_that_differ_are_named(
    tmp_path, files, text, place, others
):
    write(tmp_path, **files)
    assert named_templates.find(tmp_path) == named_templates.Template(text, place, others)
    assert chat_template({"template": None}, tmp_path) == text


@pytest.mark.parametrize("nothing", [None, "", [], {}, "  \n"])
def test_no_chat_template_is_said_where_there_is_none(tmp_path, nothing):
    write(tmp_path, tokenizer_config__json=nothing)
    assert named_templates.find(tmp_path) is None
    with pytest.raises(InputError, match="no chat template"):
        chat_template({"template": None}, tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"tokenizer_config__json": listed(rag=OTHER, chatml=TOOLS)},
            "rag, .*chatml, expected one",
        ),
        ({"tokenizer_config__json": 7}, "tokenizer_config.json: chat_template: found int"),
        ({"tokenizer_config__json": [{"name": "default"}]}, "found dict of another form"),
        ({"chat_template__json": ["a text"]}, "chat_template.json: chat_template: found list"),
    ],
)
def test_templates_of_which_none_can_be_chosen_are_refused_by_their_place(tmp_path, files, message):
    write(tmp_path, **files)
    with pytest.raises(InputError, match=message) as error:
        named_templates.find(tmp_path)
    assert "no chat template" not in str(error.value)


def test_with_tools_transformers_renders_the_same_template(tmp_path):
    from transformers import AutoTokenizer

    tiny_tokenizer().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["chat_template"] = listed(default=DEFAULT, tool_use=TOOLS)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    for files in ({}, {"chat_template__jinja": OTHER}, {"additional_tool_use__jinja": SHIPPED}):
        write(tmp_path, **files)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        assert chat_template({"template": None}, tmp_path) == tokenizer.get_chat_template(
            tools=[{}]
        )


def test_the_plan_names_the_template_and_what_is_not_used(tmp_path):
    write(tmp_path, chat_template__jinja=DEFAULT, additional_tool_use__jinja=TOOLS)
    (tmp_path / "config.json").write_text("{}")
    student = {"name": "mine", "source": {"path": str(tmp_path)}, "template": None}
    place = "additional_chat_templates/tool_use.jinja (not used: chat_template.jinja)"
    assert template_place(student) == place
    shipped = {**student, "template": "smollm2-tools.jinja"}
    assert template_place(shipped) == "smollm2-tools.jinja of teacher/templates"
    elsewhere = {**student, "source": {"hub": "nobody/nothing-here"}}
    assert template_place(elsewhere) == "its own, not on this machine yet"


def test_the_toolbox_of_a_directory_is_counted_as_its_own_template_renders_it(tmp_path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    template = "{% for tool in tools or [] %}{{ tool.function.name }}{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(template, encoding="utf-8")
    name = "n" * 37
    tool: Any = {"type": "function", "function": {"name": name, "parameters": {"a": "b" * 99}}}
    assert tools_counter({"source": {"path": str(tmp_path)}})([tool]) == 10
    assert tools_counter({"source": {"path": str(tmp_path / "none")}})([tool]) > 40


def test_a_template_that_writes_true_and_none_as_python_does_is_changed_to_json(
    tmp_path: Path,
) -> None:
    text = trl_template("qwen3_5_nothink")
    write(tmp_path, chat_template__jinja=text)
    student = {"template": None, "source": {"path": str(tmp_path)}}
    shipped = Renderer(TINY, chat_template(student, tmp_path), [END])
    assert shipped.bare and shipped.bare.writes_json
    original = Renderer(TINY, original_template(tmp_path), [END])
    assert original.bare and not original.bare.writes_json
    write(tmp_path, config__json={})
    assert template_place(student) == "chat_template.jinja, its booleans and null as JSON"
    write(tmp_path, chat_template__jinja=trl_template("qwen3_6"))
    assert chat_template(student, tmp_path) == trl_template("qwen3_6")
