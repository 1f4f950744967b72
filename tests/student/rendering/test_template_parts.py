"""Prompts of one conversation, whose loops are rendered once, are those of transformers (template_parts.py)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from families import STUDENTS, renderer_of
from jinja2 import TemplateError
from small_students import TINY
from turns import TOOLS, calls, result, says, user

from student.rendering.errors import Unrenderable
from student.rendering.renderer import DATE, Conversation, Renderer, template_message
from student.rendering.template_parts import Parts, compiled
from teacher.models import catalog

SOURCES = sorted((Path.home() / ".cache" / "stillhouse").glob("llama.cpp-*/source"))
FILES = [path for source in SOURCES for path in source.rglob("models/templates/*.jinja")]
TEMPLATES = [*catalog.TEMPLATES.glob("*.jinja"), *{path.name: path for path in FILES}.values()]
CONVERSATIONS: list[list[Any]] = [
    [
        {"role": "system", "content": "Be brief."},
        user("What ends?"),
        calls({"key": True, "b": 1}, reasoning_content="I look."),
        result("a lease"),
        calls({"key": 1.0}, {"key": None}, content="Two more."),
        *(result("one", 0), result("two", 1)),
        says("It ends in May.", reasoning_content="Done."),
        *(user("And why?"), says("Because."), user("Sure?"), says("Because.")),
    ],
    [*(user("a"), says("b"), says("b")), *(user("a"), says("b"))],
]


def prompts(template: str, messages: list[Any], tools: list[Any]) -> Iterator[str]:
    """Each beginning of a conversation, as transformers renders it."""
    tokenizer: Any = TINY
    for count in range(1, len(messages) + 1):
        for asks in (True, False):
            try:
                yield tokenizer.apply_chat_template(
                    [template_message(message) for message in messages[:count]],
                    tools=tools or None,
                    chat_template=template,
                    add_generation_prompt=asks,
                    tokenize=False,
                    **DATE,
                )
            except (TemplateError, TypeError) as error:
                yield f"the student's template: {error}"


def parts(template: str, messages: list[Any], tools: list[Any]) -> Iterator[str]:
    conversation = Conversation(Renderer(TINY, template, []), messages, tools, as_text=False)
    for count in range(1, len(messages) + 1):
        for asks in (True, False):
            try:
                yield conversation.text(count, asks)
            except Unrenderable as error:
                yield str(error)


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)
@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_the_prompts_of_a_conversation_are_those_of_transformers(
    file: Path, messages: list[Any]
) -> None:
    template = file.read_text()
    for tools in (TOOLS, []):
        assert list(parts(template, messages, tools)) == list(prompts(template, messages, tools))


@pytest.mark.parametrize(
    "body",
    [
        "{{ loop.last }}{{ messages[-1].content }}",
        "{{ messages[loop.index0 - 2].content }}{{ messages[loop.index].content }}",
        "{{ messages[loop.index0 + loop.index0].content }}",
        "{{ loop.nextitem.content }}{{ loop.length }}{{ loop.changed(m.role) }}",
        "{% if loop.first %}{% set x = 1 %}{% endif %}{{ x }}{{ y }}",
        "{% set ns.n = ns.n + 1 %}{{ ns.n }}",
        "{{ ns.n }}{% for c in m.content %}{{ loop.index }}{{ c }}{{ loop.last }}{% endfor %}",
        "{% if loop.index > 2 %}{% break %}{% endif %}{{ m.content }}",
        "{{ named(m) }}{{ counted(m) }}",
        "{{ messages | length }}{{ messages | map(attribute='role') | join }}",
    ],
)
@pytest.mark.parametrize("over", ["messages", "messages[1:]", "messages[::-1]", "others"])
def test_a_loop_is_never_taken_for_a_shorter_one_that_reads_otherwise(body: str, over: str) -> None:
    template = (
        "{% set ns = namespace(n=messages | length) %}{% set y = messages | length %}"
        "{% macro named(m) %}{{ m.role }}{% endmacro %}"
        "{% macro counted(m) %}{{ y }}{% endmacro %}"
        "{% set others = messages %}"
        f"{{% for m in {over} %}}[{body}]{{% endfor %}}{{% if add_generation_prompt %}}>{{% endif %}}"
    )
    for messages in CONVERSATIONS:
        assert list(parts(template, messages, [])) == list(prompts(template, messages, []))


class _Counting(dict[str, Any]):
    """A message or tool that counts how often it is read."""

    reads = 0

    def __getitem__(self, name: str) -> Any:
        self.reads += 1
        return super().__getitem__(name)


@pytest.mark.parametrize(
    "name",
    # The vocabularies of the others take a second each to load.
    [
        name if name == "smollm2-135m" else pytest.param(name, marks=pytest.mark.slow)
        for name in STUDENTS
    ],
)
def test_a_students_template_reads_the_tools_once(name: str) -> None:
    renderer, _ = renderer_of(name)
    first: list[int] = []
    tools = [_Counting(tool) for tool in TOOLS]
    written: dict[Any, str] = {}
    for _ in range(3):
        variables = {
            **renderer.tokenizer.special_tokens_map,
            **Parts([], tools, written).variables(),
        }
        compiled(renderer.template).render(messages=[user("?")], tools=tools, **variables)
        reads = [tool.reads for tool in tools]
        first = first or reads
    assert reads == first


def test_a_message_is_read_once_for_all_later_prompts() -> None:
    messages = [_Counting(user(f"message {number}")) for number in range(9)]
    variables = Parts(messages, None, {}).variables()
    template = compiled("{% for m in messages %}{{ m.content }}{{ loop.last }}{% endfor %}")
    for count in range(1, 10):
        template.render(messages=messages[:count], **variables)
    assert [message.reads for message in messages] == [2] * 8 + [1]
