"""A pre-flight as a whole: servers that are no teacher, the arguments of a person, the lines of a terminal."""

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from faithful_teacher import (
    Body,
    Server,
    check_of,
    failed,
    faithful_teacher,
    legal,
    preflight,
    says,
)
from teacher_faults import narrates_after_a_result

from schemas.errors import InputError
from teacher.inference.endpoint import Endpoint
from teacher.preflight import run
from teacher.preflight.target import Limits

# ------------------------------------------------------------------------------------- no server worth the name


def test_a_server_that_is_not_there_is_a_failed_check() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        result = preflight(Endpoint(f"http://127.0.0.1:{port}/v1", "k" * 20, "teacher"), legal())
    assert failed(result) == ["health"] and result["requests"] == 0
    assert "is the server up" in check_of(result, "health")["detail"]


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ((200, b"<html>Sign in</html>"), "usually ends in /v1"),
        ((200, b""), "found nothing"),
        ((200, {"data": None}), "expected a list of models"),
        ((200, [1, 2]), "expected a list of models"),
        ((200, b"[" * 100_000), "expected a list of models"),
        ((500, {"error": "out of memory"}), "status 500"),
        ((401, {"error": "sk-of-this-test is no key"}), "the key was refused"),
        ((500, b"sk-of-this-test"), "found ***"),
        ((0, None), "no answer"),
    ],
)
def test_an_api_that_is_none_is_a_failed_check(
    server: Server, models: tuple[int, Any], words: str
) -> None:
    server.models = models
    result = preflight(server, legal())
    assert failed(result) == ["health"] and server.bodies == []
    assert words in check_of(result, "health")["detail"]


@pytest.mark.parametrize(
    "answer",
    [
        (200, b"<html>"),
        (200, {}),
        (200, {"choices": []}),
        (500, {"error": "engine dead"}),
        (0, None),
    ],
)
def test_a_server_that_gives_no_message_is_a_failed_check(
    server: Server, answer: tuple[int, Any]
) -> None:
    server.answer = lambda body: answer
    result = preflight(server, legal())
    assert failed(result) == ["health"]


@pytest.mark.parametrize(
    "message",
    [
        {"finish_reason": {"a": 1}, "tool_calls": "none"},
        {"tool_calls": "none"},
        {"tool_calls": [None, 3, {"function": "x"}, {"type": "function"}]},
        {"tool_calls": [{"id": 7, "function": {"name": {"a": 1}, "arguments": [1]}}]},
        {"tool_calls": [{"id": "a", "function": {"name": "get_clause", "arguments": '{"a": NaN'}}]},
        {"content": {"text": 5}, "reasoning": ["x"]},
        {"content": [{"type": "text", "text": None}, 4]},
        {"content": "<|tool_calls_section_begin|>" * 500},
        {"content": "!" * 3000},
    ],
)
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_whatever_a_server_says_ends_as_failed_checks(server: Server, message: Body) -> None:
    server.answer = lambda body: says(**{"finish_reason": "tool_calls", **message})
    result = preflight(server, legal())
    assert {"strict_tool_call", "image", "tool_call_f1"} <= set(failed(result))


def test_a_server_that_dies_on_the_way_ends_as_failed_checks(server: Server) -> None:
    server.answer = lambda body: faithful_teacher()(body) if len(server.bodies) < 6 else (0, None)
    result = preflight(server, legal())
    assert check_of(result, "health")["passed"] and len(failed(result)) >= 5
    detail = check_of(result, "tool_call_f1")["detail"]
    assert "no reply to any request" in detail and "see the server's log" in detail


def test_a_preflight_that_was_killed_asks_only_for_the_replies_that_are_missing(
    server: Server, tmp_path: Path
) -> None:
    def check(**served_as: Any) -> Any:
        return preflight(server, legal(), journal=tmp_path / "journal", served_as=served_as)

    whole = check(max_model_len=1)
    asked = len(server.bodies)
    [segment] = (tmp_path / "journal").glob("*.jsonl")
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[:7]) + lines[7][:20])  # as a kill leaves it
    again = check(max_model_len=1)
    assert again["passed"] is whole["passed"] is True
    assert again["requests"] == len(server.bodies) - asked == len(lines) - 7
    asked = len(server.bodies)
    assert check(max_model_len=1)["requests"] == 0 and len(server.bodies) == asked
    # To other settings of the server no reply is known.
    assert check(max_model_len=2)["requests"] == len(lines)


def test_a_request_that_takes_too_long_is_given_up(server: Server) -> None:
    release = threading.Event()

    def slow(body: Body) -> tuple[int, Any]:
        if body.get("tool_choice") == "required":
            release.wait(60)
        return faithful_teacher()(body)

    server.answer = slow
    result = preflight(server, legal(), limits=Limits(timeout_s=3))
    release.set()
    assert "strict_tool_call" in failed(result)
    assert "no reply in 3 s" in check_of(result, "strict_tool_call")["detail"]


# ------------------------------------------------------------------------------------- as a person runs it


def test_run_takes_names_and_the_key_of_the_environment(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLHOUSE_TEACHER_KEY", "sk-from-the-environment")
    result = run.check_url(f"{server.endpoint.url}/", "teacher", "kimi-k2.5", "legal")
    assert result["passed"] and result["url"] == server.endpoint.url


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        (("127.0.0.1:8000", "m", "kimi-k2.5", "legal"), {}),
        (("http://127.0.0.1:1/v1", "m", "kimi-k9", "legal"), {}),
        (("http://127.0.0.1:1/v1", "m", "kimi-k2.5", "illegal"), {}),
        (("http://127.0.0.1:1/v1", "m", "kimi-k2.5", "legal"), {"mode": "dreaming"}),
        (("http://127.0.0.1:1/v1", "m", "kimi-k2.5", "legal"), {"tokenizer": Path("/nowhere")}),
        (
            ("http://127.0.0.1:1/v1", "m", "kimi-k2.5", "legal"),
            {"tokenizer": Path(__file__).parent},
        ),
        (("http://127.0.0.1:1/v1", "m", "kimi-k2.5", "legal"), {"reference_file": Path("/none")}),
    ],
)
def test_bad_arguments_are_bad_input(arguments: tuple[str, ...], more: dict[str, Any]) -> None:
    with pytest.raises(InputError) as raised:
        run.check_url(*arguments, **more)
    assert "\n" not in str(raised.value)


def test_a_result_is_shown_line_by_line_with_its_verdict(server: Server) -> None:
    server.answer = lambda body: narrates_after_a_result(faithful_teacher(), body)
    shown = run.format_lines(preflight(server, legal()))
    assert server.endpoint.url in shown[0] and "kimi-k2.5, thinking" in shown[0]
    assert any(line.split()[:2] == ["ok", "health"] for line in shown)
    assert any(line.split()[:2] == ["FAILED", "tool_round_trip"] for line in shown)
    assert any(line.split()[:2] == ["skipped", "prompt_tokens"] for line in shown)
    assert any("narrated_call" in line for line in shown)
    assert shown[-1].startswith("failed: tool_round_trip")
    assert all(len(line) <= 110 for line in shown[1:])
