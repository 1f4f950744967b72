"""OpenAI's own dialect sends what is meant; a teacher's description says which dialect and modes it has."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.errors import InputError
from teacher.dialects.base import (
    FAMILIES,
    Detection,
    Dialect,
    calls_of,
    for_teacher,
    json_text,
    plain_text,
)
from teacher.dialects.kimi import Kimi
from teacher.models import catalog

MODES: dict[str, Any] = {
    "thinking": {
        "sampling": {"temperature": 1.0, "top_p": 0.95},
        "body": {
            "vllm": {"chat_template_kwargs": {"thinking": True}},
            "moonshot": {"thinking": {"type": "enabled"}},
        },
    },
    "plain": {"sampling": {"temperature": 0.5, "top_p": 0.9}},
}
MESSAGES = [{"role": "user", "content": "Hello."}]
TOOLS: list[dict[str, Any]] = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


def test_what_is_meant_is_what_is_sent() -> None:
    parameters = {"temperature": 0.2, "tool_choice": "required"}
    sent = Dialect().adapt_request(MESSAGES, TOOLS, parameters)
    assert sent[0] is MESSAGES and sent[1] is TOOLS and sent[2] is parameters


def test_what_comes_back_is_taken_and_nothing_is_asked_twice() -> None:
    message = {"content": "<|tool_call_begin|>", "anything": 1}
    reading = Dialect().parse_reply(message, "stop", ["f"])
    assert reading.message is message and reading.detected == [] and reading.failure is None
    assert Dialect().retry_parameters(Detection("raw_markers", "", "required"), {}) is None


def test_a_mode_brings_its_sampling_and_its_body() -> None:
    _, _, sent = Dialect(MODES).adapt_request(MESSAGES, TOOLS, {"max_tokens": 9}, "thinking")
    assert sent == {
        "max_tokens": 9,
        "temperature": 1.0,
        "top_p": 0.95,
        "extra_body": {"chat_template_kwargs": {"thinking": True}},
    }
    assert Dialect(MODES).adapt_request([], [], {}, "plain")[2] == {
        "temperature": 0.5,
        "top_p": 0.9,
    }


def test_what_the_caller_gives_goes_before_the_mode() -> None:
    given = {"temperature": 0.1, "extra_body": {"logit_bias": [], "chat_template_kwargs": {}}}
    before = {**given, "extra_body": dict(given["extra_body"])}  # type: ignore[call-overload]
    _, _, sent = Dialect(MODES).adapt_request(MESSAGES, TOOLS, given, "thinking")
    assert sent == {**given, "top_p": 0.95} and given == before


def test_an_unknown_mode_names_those_there_are() -> None:
    with pytest.raises(InputError, match="'fast'.* thinking, plain"):
        catalog.sampling({"name": "mine", "modes": MODES}, "fast")
    with pytest.raises(
        InputError, match="found 'thinking', expected null: this teacher has no modes"
    ):
        catalog.sampling({"name": "mine"}, "thinking")


@pytest.mark.parametrize(
    ("url", "api"),
    [
        (None, "vllm"),
        ("http://127.0.0.1:8000/v1", "vllm"),
        ("https://api.moonshot.ai/v1", "moonshot"),
        ("https://api.moonshot.cn/v1", "moonshot"),
        ("https://moonshot.ai.example.com/v1", "vllm"),
        ("https://notmoonshot.ai/v1", "vllm"),
    ],
)
def test_the_host_of_the_api_decides_the_form_of_the_body(url: str | None, api: str) -> None:
    dialect = for_teacher({"family": "kimi", "modes": MODES}, url)
    assert isinstance(dialect, Kimi) and dialect.api == api
    assert dialect.mode_body("thinking") == MODES["thinking"]["body"][api]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_a_dialect_and_another_is_refused(family: str, tmp_path: Path) -> None:
    assert isinstance(for_teacher({"family": family}), Dialect)
    path = tmp_path / "mine.yaml"
    known = yaml.safe_load((catalog.TEACHERS / "smollm2-135m.yaml").read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({**known, "family": "catalog"}), encoding="utf-8")
    with pytest.raises(
        InputError, match=f"mine.yaml: family: found 'catalog', expected .*{family}"
    ):
        catalog.load(str(path), catalog.TEACHERS, "teacher")


def test_a_teacher_without_a_family_speaks_openais_dialect() -> None:
    assert type(for_teacher({"name": "smollm2-135m"})) is Dialect


@pytest.mark.parametrize(
    "calls",
    [None, "text", 7, {}, [None], ["text"], [{}], [{"function": None}], [{"function": {}}]]
    + [[{"type": "custom", "function": {"name": "f"}}], [{"function": "f"}]],
)
def test_what_is_no_call_of_a_function_is_left_out(calls: Any) -> None:
    assert calls_of({"tool_calls": calls}) == []


def test_a_call_without_a_type_is_a_call() -> None:
    call = {"id": None, "function": {"name": "f"}}
    assert calls_of({"tool_calls": [None, call]}) == [call]


def test_text_and_arguments_are_read_whatever_their_form() -> None:
    assert plain_text([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]) == "a\nb"
    odd_ones: list[Any] = [None, 7, {}, [7], [{"type": "text"}], [{"type": "text", "text": 7}]]
    for odd in odd_ones:
        assert plain_text(odd) == ""
    assert json_text('{"a": 1}') == '{"a": 1}' and json_text({"a": "ß"}) == '{"a": "ß"}'
    assert json_text(None) == json_text("") == json_text({}) == "{}"
    no_objects: list[Any] = [[], 0, False]
    assert [json_text(one) for one in no_objects] == ["[]", "0", "false"]
