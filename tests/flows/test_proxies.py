"""A run on a machine with proxies in its environment: nothing on this machine is asked through one."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_server import Handler, HttpServer

from flows.generation.shards import read_traces
from teacher.inference.endpoint import keep_this_machine_off_proxies

ROOT = Path(__file__).resolve().parents[2]
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


class Proxy(HttpServer):
    """A proxy that answers every request with a page; counts them."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        outer = self

        class Replies(Handler):
            def _refuse(self) -> None:
                outer.asked.append(self.path)
                self.reply(502, b"<html>Bad gateway</html>")

            do_GET = do_POST = do_CONNECT = do_PATCH = _refuse

        super().__init__(Replies)


class Api(HttpServer):
    """An API with one answer."""

    def __init__(self) -> None:
        class Replies(Handler):
            def do_GET(self) -> None:
                listed = {"data": [{"id": "m"}]}
                self.reply(*((200, listed) if self.path == "/v1/models" else (404, {})))

            def do_POST(self) -> None:
                message = {"role": "assistant", "content": "I do not know."}
                choice = {"index": 0, "finish_reason": "stop", "message": message}
                self.body()
                self.reply(200, {"model": "m", "choices": [choice]})

        super().__init__(Replies)


@pytest.fixture
def api() -> Iterator[Api]:
    with contextlib.closing(Api()) as running:
        yield running


def run_command(proxy: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k.lower() != "no_proxy"}
    environment |= dict.fromkeys(PROXIES, proxy) | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow  # Prefect's server starts
@pytest.mark.parametrize("proxy", ["dead", "socks", "page"])
def test_a_run_reaches_prefect_and_its_api_on_this_machine(
    api: Api, tmp_path: Path, proxy: str
) -> None:
    with contextlib.closing(Proxy()) as page:
        url = {
            "dead": "http://127.0.0.1:9",
            "socks": "socks5://127.0.0.1:9",
            "page": page.url.removesuffix("/v1"),
        }[proxy]
        sizes = ["--set", "tasks.train=2", "--set", "tasks.exam=1"]
        sizes += ["--set", "generate.preflight=false", "--set", f"serve.url={api.url}"]
        words = ["distill", "legal", "--recipe", "api-teacher", *sizes, "--until", "generate"]
        done = run_command(url, *words, "--run", "run", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert page.asked == []
    traces = [*read_traces(tmp_path / "run")]
    assert {trace["outcome"]["ended"] for trace in traces} == {"answered"}


@pytest.mark.slow
def test_check_teacher_asks_an_api_on_this_machine_directly(api: Api, tmp_path: Path) -> None:
    with contextlib.closing(Proxy()) as page:
        proxy = page.url.removesuffix("/v1")
        done = run_command(
            proxy,
            *("check-teacher", api.url.replace("127.0.0.1", "localhost"), "--model", "m"),
            *("--teacher", "openai"),
            cwd=tmp_path,
        )
        assert page.asked == []
    assert done.returncode == 3 and "ok      health" in done.stdout


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "127.0.0.1,localhost,::1"),
        ("", "127.0.0.1,localhost,::1"),
        ("10.0.0.0/8, localhost", "10.0.0.0/8,localhost,127.0.0.1,::1"),
        ("*", "*"),
    ],
)
def test_what_a_person_put_into_no_proxy_stays(
    before: str | None, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "x")  # monkeypatch restores both at the end
    monkeypatch.setenv("NO_PROXY", "x")
    for name in ("no_proxy", "NO_PROXY"):
        if before is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, before)
    keep_this_machine_off_proxies()
    keep_this_machine_off_proxies()
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == after
