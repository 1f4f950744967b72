"""A served teacher: which API, which key, which name, and a server that runs until it is told to stop."""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_vllm import SMOLLM, gone, install
from http_server import Handler, HttpServer

from schemas.errors import InputError, StageError
from schemas.recipe import Serve
from teacher.inference import launch
from teacher.inference.endpoint import Endpoint
from teacher.inference.launch import connect, open_teacher

ROOT = Path(__file__).parents[3]
STAND_INS = ROOT / "tests" / "stand_ins"
KIMI: dict[str, Any] = {
    "name": "kimi-k2.5",
    "engine": "openai",
    "key": "MOONSHOT_API_KEY",
    "source": {"url": "https://api.moonshot.example/v1"},
    "context": 262144,
}


class Api(HttpServer):
    """An API that lists models; keeps the keys that it was shown."""

    def __init__(self) -> None:
        self.models: Any = {"object": "list", "data": [{"id": "only-one", "object": "model"}]}
        self.status = 200
        self.keys: list[str | None] = []
        outer = self

        class Replies(Handler):
            def do_GET(self) -> None:
                outer.keys.append(self.headers["Authorization"])
                self.reply(outer.status if self.path == "/v1/models" else 404, outer.models)

        super().__init__(Replies)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    for name in ("STILLHOUSE_TEACHER_KEY", "MOONSHOT_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with contextlib.closing(Api()) as made:
        yield made


def opened(teacher: dict[str, Any], url: str | None, tmp_path: Path) -> Endpoint:
    with open_teacher(
        teacher, Serve(url=url), log=tmp_path / "log", concurrency=4, report=print
    ) as endpoint:
        return endpoint


# ------------------------------------------------------------------------------------- an API


def test_an_api_is_taken_as_it_is_and_asked_for_its_model(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    endpoint = opened(SMOLLM, api.url + "/", tmp_path)  # although the teacher is one for vLLM
    assert (endpoint.url, endpoint.model, endpoint.restart) == (api.url, "only-one", None)
    teacher = {**KIMI, "source": {"url": api.url}}
    assert opened(teacher, None, tmp_path).url == api.url


def test_the_name_is_the_teachers_where_it_has_one_for_the_api(api: Api) -> None:
    named = {**KIMI, "served_name": "kimi-k2-5-turbo"}
    api.models["data"] = [{"id": "a"}, {"id": "kimi-k2-5-turbo"}]
    assert connect(named, api.url).model == "kimi-k2-5-turbo"
    assert connect(named, api.url, "a").model == "a"


def test_a_name_that_the_api_does_not_list_is_an_error_that_lists_its_names(api: Api) -> None:
    api.models["data"] = [{"id": "gpt-5"}, {"id": "llama3:latest"}]
    with pytest.raises(
        InputError, match="lists gpt-5, llama3:latest, expected gtp-5 .serve.model.: set"
    ):
        connect(KIMI, api.url, "gtp-5")
    with pytest.raises(InputError, match="expected turbo .the `served_name` of kimi-k2.5.: set"):
        connect({**KIMI, "served_name": "turbo"}, api.url)
    assert connect(KIMI, api.url, "llama3").model == "llama3"  # as Ollama serves it
    assert connect(KIMI, api.url, "gtp-5", must_list=False).model == "gtp-5"
    api.models = [{"id": "gpt-5"}, {"id": "b"}]  # Together's list has no "data"
    assert connect(KIMI, api.url, "gpt-5").model == "gpt-5"


def test_of_hundreds_of_names_those_most_like_the_expected_one_are_listed(api: Api) -> None:
    api.models["data"] = [{"id": f"other-{n}"} for n in range(300)] + [{"id": "gpt-5-mini"}]
    with pytest.raises(InputError, match="lists 301 models, such as gpt-5-mini, other-"):
        connect(KIMI, api.url, "gpt-5-mni")


@pytest.mark.parametrize(
    "url", ["http://me:secret@127.0.0.1/v1", "http://127.0.0.1/v1?key=secret", "http://h/v1#secret"]
)
def test_a_url_with_a_secret_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InputError, match="STILLHOUSE_TEACHER_KEY") as raised:
        connect(KIMI, url)
    assert "secret" not in str(raised.value)


def test_of_several_models_the_teachers_name_decides(api: Api) -> None:
    api.models["data"] = [{"id": "a"}, {"id": "kimi-k2.5"}]
    assert connect(KIMI, api.url).model == "kimi-k2.5"
    api.models["data"] = [{"id": "a"}, {"id": "moonshotai/Kimi-K2.5"}]
    by_hub = {**KIMI, "source": {"hub": "moonshotai/Kimi-K2.5"}}
    assert connect(by_hub, api.url).model == "moonshotai/Kimi-K2.5"
    with pytest.raises(
        InputError, match="serves a, moonshotai/Kimi-K2.5, expected kimi-k2.5: set serve.model"
    ):
        connect(KIMI, api.url)
    api.models["data"] = []
    with pytest.raises(InputError, match="serves no model"):
        connect(KIMI, api.url)


def test_an_api_without_a_list_is_asked_for_the_teachers_name(api: Api) -> None:
    api.status = 404
    assert connect(KIMI, api.url).model == "kimi-k2.5"


@pytest.mark.parametrize("models", [[], {"data": 3}, {"data": [{"name": "x"}]}, "<html>"])
def test_an_answer_that_is_no_list_of_models_is_named(api: Api, models: Any) -> None:
    api.models = models
    with pytest.raises((StageError, InputError), match=r"models: expected a list|serves no model"):
        connect(KIMI, api.url)


def test_nothing_at_the_address_is_a_failure(api: Api) -> None:
    with pytest.raises(StageError, match="http://127.0.0.1:9/v1: cannot be reached"):
        connect(KIMI, "http://127.0.0.1:9/v1")


# ------------------------------------------------------------------------------------- its key


def test_the_key_comes_from_the_environment_and_stillhouses_own_variable_wins(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert connect(KIMI, api.url).key == "EMPTY"
    monkeypatch.setenv("MOONSHOT_API_KEY", "sk-of-moonshot")
    assert connect(KIMI, api.url).key == "sk-of-moonshot"
    monkeypatch.setenv("STILLHOUSE_TEACHER_KEY", "sk-mine")
    assert connect(KIMI, api.url).key == "sk-mine"
    assert list(dict.fromkeys(api.keys)) == [
        "Bearer EMPTY",
        "Bearer sk-of-moonshot",
        "Bearer sk-mine",
    ]


def test_a_refused_key_is_named_by_its_variable_and_not_shown(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOONSHOT_API_KEY", "sk-of-moonshot")
    api.status = 401
    with pytest.raises(
        InputError, match="expected it in STILLHOUSE_TEACHER_KEY or MOONSHOT_API_KEY"
    ) as raised:
        connect(KIMI, api.url)
    assert "sk-of" not in str(raised.value)


def test_a_hosted_api_needs_its_key_and_the_key_goes_over_no_open_line(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="MOONSHOT_API_KEY: is not set, expected the key of https"):
        connect(KIMI, KIMI["source"]["url"])
    monkeypatch.setenv("MOONSHOT_API_KEY", "sk-of-moonshot")

    def key(url: str) -> str:
        return connect({**KIMI, "served_name": "k"}, url, must_list=False).key

    assert key("http://gpu-7:8000/v1") == "EMPTY"
    assert key("https://api.moonshot.example/v1") == "sk-of-moonshot"
    monkeypatch.setenv("STILLHOUSE_TEACHER_KEY", "sk-mine")
    with pytest.raises(InputError, match="STILLHOUSE_TEACHER_KEY set, .* unencrypted"):
        key("http://gpu-7:8000/v1")


# ------------------------------------------------------------------------------------- a server of one's own

RUN = """\
import sys
from pathlib import Path
from fake_vllm import SMOLLM
from schemas.recipe import Serve
from teacher.inference import launch
launch._CHECK_SECONDS = 0.1
weights, log = sys.argv[1:]
teacher = {**SMOLLM, "source": {"path": weights}}
report = lambda text: print(text, flush=True)
launch.run_forever(teacher, Serve(), log=Path(log), concurrency=4, report=report)
"""


@pytest.mark.parametrize("chosen", ["", "a key of one's own"])
def test_a_server_runs_until_it_is_told_to_stop_and_comes_back_when_it_dies(
    tmp_path: Path, chosen: str
) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    install(python)
    state, log = tmp_path / "state.jsonl", tmp_path / "logs" / "serve.log"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(STAND_INS), str(ROOT)]),
        "STILLHOUSE_VLLM": str(python),
        "STILLHOUSE_TEACHER_KEY": chosen,
        "FAKE_STATE": str(state),
    }
    running = subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path), str(log)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert running.stdout

    def starts() -> list[dict[str, Any]]:
        return [json.loads(line) for line in state.read_text().splitlines()]

    try:
        line = next(line for line in running.stdout if "is served at" in line)
        assert line.startswith("smollm2-135m is served at http://127.0.0.1:") and str(log) in line
        key = starts()[0]["environment"]["VLLM_API_KEY"]
        assert key not in line
        if chosen:
            assert key == chosen and "STILLHOUSE_TEACHER_KEY" in line
        else:
            file = log.parent / "teacher.key"
            assert file.read_text().strip() == key and stat.S_IMODE(file.stat().st_mode) == 0o600
        psutil.Process(starts()[0]["pid"]).kill()
        wait_until(lambda: len(starts()) == 2)
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0
        assert all(gone(start["pid"]) for start in starts())
    finally:
        running.kill()
        running.wait()


def test_a_server_that_other_processes_use_is_restarted_and_one_given_up_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "_CHECK_SECONDS", 0.01)
    checks: list[int] = []
    reports: list[str] = []

    def restart() -> None:
        checks.append(1)
        if len(checks) == 3:
            raise StageError("llama-server died 4 times")

    with launch.keep_alive(Endpoint("http://127.0.0.1:1/v1", "k", "m", restart), reports.append):
        wait_until(lambda: bool(reports))
    assert reports == ["llama-server died 4 times"] and len(checks) == 3
    with launch.keep_alive(Endpoint("http://127.0.0.1:1/v1", "k", "m"), reports.append):
        pass  # an API of others has no restart


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_api_of_others_is_not_served(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="kimi-k2.5: is already served at https"):
        launch.run_forever(KIMI, Serve(), log=tmp_path / "log", concurrency=1, report=print)
