"""What an API says of itself, as the traces record it."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from http_server import Handler, HttpServer

from teacher.inference.api import describe_served
from teacher.inference.endpoint import Endpoint
from teacher.inference.launch import connect

TEACHER: dict[str, Any] = {"name": "mine", "engine": "openai", "source": {"url": "http://x/v1"}}


class Api(HttpServer):
    """An API with an answer for each path; any other path is 404."""

    def __init__(self) -> None:
        self.pages: dict[str, Any] = {}
        self.program = "uvicorn"
        outer = self

        class Replies(Handler):
            def do_GET(self) -> None:
                page = outer.pages.get(self.path)
                self.reply(404 if page is None else 200, page or {})

            def version_string(self) -> str:
                return outer.program

        super().__init__(Replies)


@pytest.fixture
def api() -> Iterator[Api]:
    with contextlib.closing(Api()) as running:
        yield running


def served(api: Api) -> tuple[str, dict[str, Any]]:
    endpoint: Endpoint = connect(TEACHER, api.url)
    assert endpoint.served is not None
    assert endpoint.served["host"] == api.url.removeprefix("http://").removesuffix("/v1")
    said = {k: v for k, v in endpoint.served.items() if k not in ("host", "described_as")}
    return endpoint.engine, said


def test_vllm_is_recorded_with_its_version_and_what_it_loaded(api: Api) -> None:
    entry = {"id": "teacher", "owned_by": "vllm", "root": "moonshotai/Kimi-K2.5"}
    api.pages = {"/v1/models": {"data": [entry]}, "/version": {"version": "0.32.0"}}
    said = {"model": "teacher", "server": "vLLM 0.32.0", "owned_by": "vllm"}
    assert served(api) == ("vllm", {**said, "weights": "moonshotai/Kimi-K2.5"})


def test_llama_cpp_is_recorded_with_its_build_and_the_name_of_its_file(api: Api) -> None:
    api.program = "llama.cpp"
    api.pages = {
        "/v1/models": {"data": [{"id": "small", "owned_by": "llamacpp"}]},
        "/props": {"build_info": "b9000-abc", "model_path": "/home/someone/models/small.gguf"},
    }
    said = {"model": "small", "server": "llama.cpp b9000-abc", "owned_by": "llamacpp"}
    assert served(api) == ("llama.cpp", {**said, "weights": "small.gguf"})


def test_an_api_that_says_little_is_recorded_with_its_header(api: Api) -> None:
    api.program = "cloudflare"
    api.pages = {"/v1/models": {"data": [{"id": "gpt-5-mini", "owned_by": "system"}]}}
    said = {"model": "gpt-5-mini", "server": "cloudflare", "owned_by": "system"}
    assert served(api) == ("openai", said)
    endpoint = connect(TEACHER, api.url)
    assert endpoint.served is not None
    assert describe_served(endpoint.served).endswith(" (cloudflare, owned by system)")


def test_hostile_texts_of_a_server_are_cut_and_never_hold_the_key(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLHOUSE_TEACHER_KEY", "sk-secret-of-this-test")
    entry = {"id": "m", "owned_by": "sk-secret-of-this-test\n\x1b[31m" + "x" * 10_000}
    api.pages = {
        "/v1/models": {"data": [entry]},
        "/version": {"version": {"not": "a text"}},
        "/props": b"<html>Sign in</html>",
        "/api/version": [1, 2],
    }
    engine, said = served(api)
    assert engine == "openai" and set(said) == {"model", "server", "owned_by"}
    assert said["owned_by"].startswith("*** [31mx") and len(said["owned_by"]) == 120


@pytest.mark.parametrize("key", ["EMPTY", "id", "x"])
def test_a_placeholder_for_a_key_is_left_in_names(
    api: Api, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("STILLHOUSE_TEACHER_KEY", key)
    api.pages = {"/v1/models": {"data": [{"id": f"model-{key}", "owned_by": key}]}}
    _, said = served(api)
    assert (said["model"], said["owned_by"]) == (f"model-{key}", key)
