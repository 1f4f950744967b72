"""A run whose teacher is an API: what the traces and the manifest say of it, what is asked once, when it is checked."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from http_server import Handler, HttpServer

from flows import recipe_file
from flows.generation.shards import DIRECTORY, read_traces
from flows.run_context import RunContext, prepare
from flows.stages import PIPELINE
from flows.stages.publish import _teacher
from schemas.dedup import request_of
from schemas.documents import check_document
from schemas.errors import GateError, InputError
from schemas.files import read_json, read_jsonl

pytestmark = pytest.mark.usefixtures("packs_are_checked_once")


class Api(HttpServer):
    """An API with one answer for every conversation; counts the conversations that it was sent."""

    def __init__(self) -> None:
        self.asked = 0
        self.models = [{"id": "gpt-5-mini", "owned_by": "someone"}, {"id": "gpt-5"}]
        outer = self

        class Replies(Handler):
            def do_GET(self) -> None:
                self.reply(*((200, outer.models) if self.path == "/v1/models" else (404, {})))

            def do_POST(self) -> None:
                outer.asked += 1
                body = self.body()
                model, content = body["model"], "I do not know."
                if "rewrite" in body["messages"][0]["content"]:
                    content = f"Sorry to bother you: {body['messages'][1]['content']}"
                message = {"role": "assistant", "content": content}
                choice = {"index": 0, "finish_reason": "stop", "message": message}
                self.reply(200, {"model": f"{model}-2026-08-07", "choices": [choice]})

            def version_string(self) -> str:
                return "gateway"

        super().__init__(Replies)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setenv("STILLHOUSE_TEACHER_KEY", "sk-of-this-test")
    monkeypatch.delenv("STILLHOUSE_STORE", raising=False)
    with contextlib.closing(Api()) as running:
        yield running


@contextlib.contextmanager
def planned(api: Api, tmp_path: Path, *settings: str) -> Iterator[RunContext]:
    recipe = recipe_file.load(
        "api-teacher",
        [
            f"serve.url={api.url}",
            "serve.model=gpt-5-mini",
            "tasks.train=3",
            "tasks.exam=1",
            "generate.preflight=false",
            f"publish.store={tmp_path / 'store'}",
            *settings,
        ],
    )
    with prepare("legal", recipe, tmp_path / "run") as context:
        PIPELINE["plan"].run(context)
        yield context


def generated(api: Api, tmp_path: Path, *settings: str) -> list[dict[str, Any]]:
    with planned(api, tmp_path, *settings) as context:
        PIPELINE["generate"].run(context)
        return cast(Any, [*read_traces(context.directory)])


def test_traces_name_the_api_its_model_and_what_it_says_of_itself(api: Api, tmp_path: Path) -> None:
    traces = generated(api, tmp_path)
    host = api.url.removeprefix("http://").removesuffix("/v1")
    said = {"server": "gateway", "owned_by": "someone"}
    for trace in traces:
        check_document(trace, "trace", Path("traces"))
        assert trace["teacher"] == {
            "model": "gpt-5-mini",
            "revision": None,
            "engine": "openai",
            "licence": "unknown",
            "served": {"host": host, "model": "gpt-5-mini", "described_as": "openai", **said},
        }
        assert {(call["host"], call["model"]) for call in trace["calls"]} == {
            (host, "gpt-5-mini-2026-08-07")
        }
    teacher = _teacher({"name": "openai", "licence": {"id": "unknown"}}, traces)  # type: ignore[arg-type]
    assert (teacher["name"], teacher["source"]) == ("gpt-5-mini", f"API at {host}")
    assert teacher["served"][0]["replied"] == ["gpt-5-mini-2026-08-07"]
    assert "sk-of-this-test" not in json.dumps([*read_traces(tmp_path / "run")])


def test_a_reply_is_not_asked_again_because_the_api_says_something_else_of_itself(
    api: Api, tmp_path: Path
) -> None:
    before, asked = generated(api, tmp_path), api.asked
    assert asked == sum(len(trace["calls"]) for trace in before) > 0
    api.models[0]["owned_by"] = "someone else"
    shutil.rmtree(tmp_path / "run" / "traces")
    after = generated(api, tmp_path)
    assert api.asked == asked
    assert {trace["teacher"]["served"]["owned_by"] for trace in after} == {"someone else"}
    assert [trace["calls"] for trace in after] == [trace["calls"] for trace in before]


def test_another_model_of_the_api_is_asked(api: Api, tmp_path: Path) -> None:
    asked = len(generated(api, tmp_path)) and api.asked
    traces = generated(api, tmp_path, "serve.model=gpt-5")
    assert api.asked == 2 * asked
    assert {trace["teacher"]["model"] for trace in traces} == {"gpt-5"}


def test_a_name_that_the_api_does_not_list_ends_the_run_before_anything_is_asked(
    api: Api, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="lists gpt-5-mini, gpt-5, expected gpt-6") as raised:
        generated(api, tmp_path, "serve.model=gpt-6")
    assert raised.value.exit_code == 2 and api.asked == 0


@pytest.mark.parametrize("constrain", ["false", "true"])
def test_a_preflight_that_is_set_is_made_with_and_without_constrained_decoding(
    api: Api, tmp_path: Path, constrain: str
) -> None:
    settings = ("generate.preflight=true", f"generate.constrain={constrain}")
    with pytest.raises(GateError, match="fails strict_tool_call"):
        generated(api, tmp_path, *settings)
    verdict = read_json(tmp_path / "run" / "preflight.json")
    check_document(verdict, "fidelity", Path("preflight.json"))
    skipped = {check["name"] for check in verdict["checks"] if check["passed"] is None}
    assert ("tool_call_f1" in skipped) is (constrain == "true")
    assert not any("vLLM" in check["detail"] for check in verdict["checks"])


def test_no_preflight_is_made_where_none_is_set(api: Api, tmp_path: Path) -> None:
    generated(api, tmp_path)
    assert not (tmp_path / "run" / "preflight.json").exists()


def test_a_name_in_an_api_is_refused_where_the_run_serves_the_teacher_itself(
    api: Api, tmp_path: Path
) -> None:
    own = ("teacher=smollm2-135m", "serve.url=null")
    with (
        pytest.raises(InputError, match="serve.model: found gpt-5-mini, expected null"),
        planned(api, tmp_path, *own),
    ):
        pass


@pytest.mark.parametrize("url", ["http://me:secret@h/v1", "http://h/v1?key=secret"])
def test_a_secret_in_the_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InputError, match="--set serve.url: serve.url: found") as raised:
        recipe_file.load("api-teacher", [f"serve.url={url}"])
    assert "secret" not in str(raised.value)


def test_requests_are_reworded_once_and_every_attempt_starts_from_them(
    api: Api, tmp_path: Path
) -> None:
    settings = (
        "tasks.rewrite=1",
        "tasks.train=6",
        "tasks.mix={lookup: 1, workflow: 0, extract: 0}",
    )
    with planned(api, tmp_path, *settings) as context:
        PIPELINE["generate"].run(context)
        asked = api.asked
        for task in read_jsonl(context.path("tasks", "train.jsonl")):
            assert not task["request"].startswith("Sorry")
        traces = list(read_traces(context.directory))
        # The second attempt at a task, too, and after a new start the replies come from the journal.
        context.run.forget("generate")
        shutil.rmtree(context.path(DIRECTORY))
        PIPELINE["generate"].run(context)
        assert api.asked == asked
        assert list(read_traces(context.directory)) == traces
        receipt = context.run.receipt("generate")
    assert receipt is not None
    counts = receipt["result"]["rewritten"]
    assert counts["asked"] == 6
    assert counts["taken"] + sum(counts["rejected"].values()) == 6
    by_task: dict[str, set[str]] = {}
    for trace in traces:
        text = request_of(trace["messages"])
        by_task.setdefault(trace["task"]["id"], set()).add(text)
    assert all(len(texts) == 1 for texts in by_task.values())
    reworded = [texts for texts in by_task.values() if min(texts).startswith("Sorry")]
    assert len(reworded) == counts["taken"] > 0
    assert receipt["result"]["requests"] == 0
    assert receipt["result"]["replayed"] == asked
