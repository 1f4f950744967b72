"""The files that make up a student (student/models/files.py)."""

import fnmatch
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from schemas.errors import InputError, StageError
from student.models import base, files

HUB = {"name": "mine", "source": {"hub": "org/mine", "revision": "a" * 40}}
SMALL = [
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("chat_template.jinja", "additional_chat_templates/tool_use.jinja", "LICENSE", "README.md"),
]
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
OTHER = [
    *("consolidated.safetensors", "consolidated.00.pth", "original/tokenizer.model"),
    *("original/params.json", "original/consolidated.00.pth", "onnx/model.onnx", "model.pt"),
    *("flax_model.msgpack", "tf_model.h5", "pytorch_model.bin", "pytorch_model.bin.index.json"),
    *(
        "onnx/config.json",
        "adapter/model.safetensors",
        "notes (final).json",
        "model.fp16.safetensors",
    ),
]


def index(*names: str) -> str:
    return json.dumps({"weight_map": {f"tensor{i}": name for i, name in enumerate(names)}})


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that delivers what its patterns match, as huggingface_hub matches it. Returns what it holds."""
    import huggingface_hub

    held: dict[str, str] = dict.fromkeys([*SMALL, *OTHER], "{}")

    def snapshot(name, *, revision, allow_patterns):
        assert (name, revision) == ("org/mine", "a" * 40)
        for file, text in held.items():
            if any(fnmatch.fnmatch(file, pattern) for pattern in allow_patterns):
                (tmp_path / file).parent.mkdir(exist_ok=True)
                (tmp_path / file).write_text(text)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return held


@pytest.mark.parametrize("shards", [["model.safetensors"], SHARDS, ["part a.safetensors"]])
def test_the_hub_is_asked_for_the_students_files_and_no_others(hub, tmp_path, shards):
    hub.update(dict.fromkeys(shards, "weights"))
    if shards != ["model.safetensors"]:
        hub[files.INDEX] = index(*shards)
    directory = base.prepare(HUB, lambda _: None)
    fetched = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert fetched == {*SMALL, *shards, *({files.INDEX} & hub.keys())}
    assert [path.name for path in files.weights(directory)] == shards


def test_a_model_of_the_hub_without_safetensors_is_refused(hub):
    with pytest.raises(StageError, match=r"org/mine: no weights on the hub, expected model.safet"):
        base.prepare(HUB, lambda _: None)


def test_a_single_file_goes_before_an_index_as_in_transformers(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "consolidated.safetensors").write_bytes(b"")
    (tmp_path / files.INDEX).write_text(index(*SHARDS))
    assert files.weights(tmp_path) == [tmp_path / "model.safetensors"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (index(*SHARDS), f"names {SHARDS[1]}, expected this file beside it"),
        (index("../model.safetensors"), "found '../model.safetensors', expected the name"),
        (index("original/model.safetensors"), "expected the name of a safetensors file"),
        (index("pytorch_model.bin"), "expected the name of a safetensors file"),
        ('{"weight_map": {"a": 7}}', "weight_map: found 7"),
        ('{"weight_map": {}}', "weight_map: found none"),
        ("[]", "weight_map: found none"),
        ("{", "not JSON"),
    ],
)
def test_an_index_that_names_what_is_not_there_is_refused(tmp_path, content, message):
    (tmp_path / SHARDS[0]).write_bytes(b"")
    (tmp_path / files.INDEX).write_text(content)
    with pytest.raises(InputError, match=message):
        files.weights(tmp_path)


def test_other_weights_are_no_weights_of_the_student(tmp_path):
    (tmp_path / "consolidated.safetensors").write_bytes(b"")
    assert files.weights(tmp_path) == []


# ------------------------------------------------------------------------------------- a hub that does not provide it


class Hub(ThreadingHTTPServer):
    """Answers as the hub does for the model org/mine.

    held: its files. refusal: a status and an X-Error-Code for each request of a file, as of a gated model.
    missing: the X-Error-Code of a request for the model itself.
    """

    held: dict[str, bytes]
    refusal: tuple[int, str] | None = None
    missing: str | None = None


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        if self.path.startswith("/api/"):
            if self.server.missing:
                return self.reply(404, b"{}", self.server.missing)
            files = [{"rfilename": name, "path": name, "type": "file"} for name in self.server.held]
            if "/tree/" in self.path:
                rows = [{**file, "size": 2, "oid": "b" * 40} for file in files]
                return self.reply(200, json.dumps(rows).encode())
            model = {"id": "org/mine", "sha": "a" * 40, "siblings": files}
            return self.reply(200, json.dumps(model).encode())
        if self.server.refusal:
            return self.reply(self.server.refusal[0], b"{}", self.server.refusal[1])
        content = self.server.held.get(self.path.split("/resolve/")[1].split("/", 1)[1])
        if content is None:
            return self.reply(404, b"", "EntryNotFound")
        self.reply(200, content)

    do_HEAD = do_GET

    def reply(self, status: int, body: bytes, code: str | None = None) -> None:
        self.send_response(status)
        headers = {"Content-Length": len(body), "X-Repo-Commit": "a" * 40, "ETag": '"b"'}
        for name, value in {**headers, **({"X-Error-Code": code} if code else {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def real_client(monkeypatch, tmp_path):
    """The hub's own client, which asks a server of this machine and has an empty cache."""
    from huggingface_hub import constants

    hub = Hub(("127.0.0.1", 0), Answers)
    hub.held = dict.fromkeys(SMALL, b"{}")
    threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{hub.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield hub
    hub.shutdown()
    hub.server_close()


@pytest.mark.parametrize(
    ("refusal", "missing", "message"),
    [
        ((403, "GatedRepo"), None, "org/mine: .*accept its licence at http.*/org/mine and set HF_"),
        (
            None,
            "RepoNotFound",
            "org/mine: not on the hub, or private: correct the name, or set HF_",
        ),
        (None, "RevisionNotFound", "org/mine: source.revision: the hub has no 'aaaa"),
    ],
)
@pytest.mark.parametrize("ask", ["tokenizer", "weights", "all"])
def test_what_the_hub_refuses_is_told_with_what_to_do(
    real_client, tmp_path, refusal, missing, message, ask
):
    real_client.refusal, real_client.missing = refusal, missing
    if ask == "weights" and missing:  # the answer to a request of a file
        real_client.refusal = (404, missing)
    with pytest.raises(StageError, match=message) as raised:
        if ask == "tokenizer":
            base.tokenizer_directory(HUB, download=True)
        elif ask == "weights":
            files.check_weights(HUB, tmp_path)
        else:
            base.prepare(HUB, lambda _: None)
    assert "\n" not in str(raised.value)
    assert base.tokenizer_directory(HUB, download=False) is None


@pytest.mark.parametrize("offline", [True, False])
def test_a_hub_that_cannot_be_reached_is_told_with_what_to_do(
    real_client, monkeypatch, tmp_path, offline
):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # retries
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    reason = "HF_HUB_OFFLINE is set: unset it" if offline else "connect this machine to the hub"
    for ask in (
        lambda: base.tokenizer_directory(HUB, download=True),
        lambda: files.check_weights(HUB, tmp_path),
    ):
        with pytest.raises(StageError, match=f"org/mine: cannot .*{reason}, or run `hf download"):
            ask()


@pytest.mark.parametrize("shards", [["model.safetensors"], SHARDS])
def test_weights_on_the_hub_or_on_this_machine_are_within_reach(real_client, tmp_path, shards):
    directory = tmp_path / "snapshot"
    directory.mkdir()
    if shards == SHARDS:
        (directory / files.INDEX).write_text(index(*shards))
    real_client.held.update(dict.fromkeys(shards, b"{}"))
    files.check_weights(HUB, directory)
    real_client.held.clear()
    with pytest.raises(StageError, match=f"org/mine: no {shards[0]} on the hub, expected the weig"):
        files.check_weights(HUB, directory)
    for shard in shards:
        (directory / shard).write_text("weights")
    real_client.refusal = (500, "")
    files.check_weights(HUB, directory)
    local = {"name": "mine", "source": {"path": str(directory)}}
    files.check_weights(local, directory)
    (directory / shards[-1]).unlink()
    with pytest.raises(
        InputError, match=f"mine: .*snapshot: no {shards[-1]}, expected the weights"
    ):
        files.check_weights(local, directory)
