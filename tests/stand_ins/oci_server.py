"""A real OCI registry on this machine (Debian's docker-registry), and a gate before it that plays faults."""

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from http_server import Handler, HttpServer

from student.registry.location import RegistryUrl
from student.registry.oci_registry import RegistryStore
from student.registry.open_store import open_store
from teacher.inference.process import free_port

PROGRAM = shutil.which("docker-registry")
needs_registry = pytest.mark.skipif(
    PROGRAM is None,
    reason="docker-registry is not installed (Debian: apt-get install docker-registry)",
)
_CONFIG = """
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: {directory}, maxthreads: 25}}
  delete: {{enabled: {deletes}}}
http:
  addr: 127.0.0.1:{port}
  secret: {secret}
{more}
"""


@dataclass
class OciServer:
    """A running registry. directory: its files; namespace: of the store in it."""

    host: str
    directory: Path
    namespace: str = "team/students"

    def url(self) -> RegistryUrl:
        return RegistryUrl("http", self.host, self.namespace)

    def store(self) -> RegistryStore:
        store = open_store(self.url())
        assert isinstance(store, RegistryStore)
        return store

    def blobs(self) -> dict[str, Path]:
        """Returns the file of each blob, by its sha256."""
        pattern = "docker/registry/v2/blobs/sha256/*/*/data"
        return {path.parent.name: path for path in self.directory.glob(pattern)}


@contextmanager
def oci_server(where: Path, *, deletes: bool = True, more: str = "") -> Iterator[OciServer]:
    """Runs a registry for the time of the block. more: further lines of its config."""
    assert PROGRAM
    where.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = where / "config.yml"
    config.write_text(
        _CONFIG.format(
            directory=where / "files",
            port=port,
            secret=secrets.token_hex(8),
            deletes=str(deletes).lower(),
            more=more,
        )
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("REGISTRY_", "OTEL_"))}
    log = (where / "log").open("wb")
    process = subprocess.Popen(
        [PROGRAM, "serve", str(config)], stdout=log, stderr=log, env=environment
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((where / "log").read_text()[-300:])
            try:
                httpx.get(f"http://127.0.0.1:{port}/v2/", trust_env=False)
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield OciServer(f"127.0.0.1:{port}", where / "files")
    finally:
        process.kill()
        process.wait()
        log.close()


@dataclass
class Fault:
    """What happens to a request. body: sent instead of the reply; status: with it; cut: bytes after which it breaks."""

    status: int = 0
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


Rule = Callable[[str, str], Fault | None]


class Gate:
    """Passes requests on to a registry, except those that its rule (of method and path) makes fail."""

    def __init__(self, upstream: str, namespace: str = "team/students") -> None:
        self.upstream, self.namespace = upstream, namespace
        self.rule: Rule = lambda method, path: None
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.last_body = b""
        gate = self
        client = self._client = httpx.Client(trust_env=False)

        class Passing(Handler):
            wbufsize = 1 << 20  # headers and body in one packet

            def _pass(self) -> None:
                headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
                sent = {name.lower(): value for name, value in self.headers.items()}
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                gate.requests.append((self.command, self.path, sent))
                gate.last_body = content
                fault = gate.rule(self.command, self.path)
                if fault is not None and fault.cut is None:
                    self.send_response(fault.status)
                    for name, value in fault.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(fault.body)))
                    self.end_headers()
                    self.wfile.write(fault.body)
                    return
                if fault is not None and self.command == "PUT":
                    self.close_connection = True  # broken off before the registry has it
                    return
                url = f"http://{gate.upstream}{self.path}"
                reply = client.request(self.command, url, content=content, headers=headers)
                self.send_response(reply.status_code)
                for name, value in reply.headers.items():
                    if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value.replace(gate.upstream, gate.host))
                self.end_headers()
                if self.command == "HEAD":
                    return
                body = reply.content
                if fault is not None and fault.cut is not None:
                    self.wfile.write(body[: fault.cut])
                    self.close_connection = True
                    return
                self.wfile.write(body)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _pass

        self._server = HttpServer(Passing)
        self.host = self._server.url.removeprefix("http://").removesuffix("/v1")

    def store(self) -> RegistryStore:
        return RegistryStore(RegistryUrl("http", self.host, self.namespace))

    def close(self) -> None:
        self._server.close()
        self._client.close()
