"""No secret of a run is in what it prints or writes, nor in the process list while it works."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from http_server import Handler, HttpServer
from oci_server import needs_registry, oci_server
from published_student import publish_legal

from student.registry.oci_layout import DirectoryStore

pytestmark = [pytest.mark.slow, needs_registry]

ROOT = Path(__file__).resolve().parents[2]
HASH = "$2b$04$abcdefghijklmnopqrstuuLZYjhNQAOdpbzt4WxWlUHjv1wsyH5DG"  # bcrypt of s3cret
SECRETS = {
    "STILLHOUSE_TEACHER_KEY": "sk-teacher-f4ke",
    "STILLHOUSE_REGISTRY_PASSWORD": "s3cret",
    "STILLHOUSE_SIGNING_PASSWORD": "signing-f4ke",
    "MLFLOW_TRACKING_PASSWORD": "mlflow-f4ke",
    "OPENAI_API_KEY": "sk-openai-f4ke",
    "HF_TOKEN": "hf_f4ke",
}
# Keys that a run makes for its own servers, where it needs one (test_process.py has their test).
MADE = ("LLAMA_API_KEY", "VLLM_API_KEY")


class Echoing(Handler):
    """A teacher that refuses its first request with a message that holds the key, and answers the others."""

    refused = False

    def do_GET(self) -> None:
        self.reply(200, [{"id": "m"}])

    def do_POST(self) -> None:
        self.body()
        if not Echoing.refused:
            Echoing.refused = True
            self.reply(500, {"error": {"message": f"bad: {self.headers['Authorization']}"}})
            return
        message = {"role": "assistant", "content": "I do not know."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self.reply(200, {"choices": [choice]})


class Watch(threading.Thread):
    """Collects the command lines of a process and its descendants, and the keys that were made for some of them."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root = psutil.Process(pid)
        self.commands: set[str] = set()
        self.keys: set[str] = set()
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.05):
            try:
                processes = [self._root, *self._root.children(recursive=True)]
            except psutil.Error:
                return
            for process in processes:
                try:
                    self.commands.add("\0".join(process.cmdline()))
                    environment = process.environ()
                except psutil.Error:
                    continue
                self.keys |= {environment[name] for name in MADE if name in environment}


@pytest.fixture
def teacher() -> Iterator[str]:
    Echoing.refused = False
    server = HttpServer(Echoing)
    yield server.url
    server.close()


def test_secrets_are_in_no_output_no_file_and_no_command_line(teacher: str, tmp_path: Path) -> None:
    work, home = tmp_path / "work", tmp_path / "home"
    work.mkdir()
    home.mkdir()
    publish_legal(DirectoryStore(work / "store"), tmp_path / "files")
    key = tmp_path / "sign.key"
    password = SECRETS["STILLHOUSE_SIGNING_PASSWORD"]
    make = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subprocess.run([*make, "-aes256", "-pass", f"pass:{password}", "-out", str(key)], check=True)
    (tmp_path / "htpasswd").write_text(f"robot:{HASH}\n")
    environment = {
        **{name: value for name, value in os.environ.items() if name != "STILLHOUSE_STORE"},
        **SECRETS,
        "STILLHOUSE_REGISTRY_USER": "robot",
        "STILLHOUSE_SIGNING_KEY": str(key),
        "PYTHONPATH": str(ROOT),
        "DOCKER_CONFIG": str(home),
    }
    settings = [f"serve.url={teacher}", "serve.model=m", "student=smollm2-135m"]
    settings += ["tasks.train=6", "tasks.exam=1", "generate.attempts=1", "generate.preflight=false"]
    settings += ["tasks.mix={lookup: 1, workflow: 0, screen: 0}"]
    distill = [
        "distill",
        "code-review",
        "--recipe",
        "api-teacher",
        "--run",
        "run",
        "--until",
        "generate",
    ]
    for setting in settings:
        distill += ["--set", setting]
    printed, commands, made = "", set(), set()
    more = f"auth: {{htpasswd: {{realm: test, path: {tmp_path / 'htpasswd'}}}}}"
    with oci_server(tmp_path / "registry", more=more) as registry:
        to = str(registry.url())
        for arguments, codes in (
            (["--log-json", "--debug", *distill], {0}),
            (["push", "legal", "--from", "store", "--to", to], {0}),
            (["--debug", "push", "legal:7", "--from", "store", "--to", to], {2}),
        ):
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", *arguments],
                cwd=work,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            watch = Watch(process.pid)
            watch.start()
            output = process.communicate(timeout=900)[0]
            watch.ended.set()
            watch.join()
            assert process.returncode in codes, output
            printed += output
            commands |= watch.commands
            made |= watch.keys
    assert Echoing.refused and any("uvicorn" in command for command in commands)  # Prefect's server
    secrets = {**SECRETS, **{f"made {number}": value for number, value in enumerate(sorted(made))}}
    leaks = [
        f"{name} in {where}"
        for name, secret in secrets.items()
        for where, text in (("the output", printed), ("a command line", "\n".join(commands)))
        if secret in text
    ]
    files = [path for path in (*work.rglob("*"), *home.rglob("*")) if path.is_file()]
    assert any(path.match("run/journal/*.jsonl") for path in files)
    for path in files:
        content = path.read_bytes()
        leaks += [
            f"{name} in {path}" for name, secret in secrets.items() if secret.encode() in content
        ]
    assert not leaks
