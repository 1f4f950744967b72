"""Logins to a registry: basic, by token, expired, refused, and over TLS with a certificate of one's own."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from oci_server import Fault, Gate, OciServer, needs_registry, oci_server
from published_student import make_files, make_manifest, publish_legal

from schemas.errors import InputError, StageError
from student.registry import oci_http
from student.registry.location import RegistryUrl
from student.registry.lookup import list_models
from student.registry.oci_registry import RegistryStore
from student.registry.publish import publish
from student.registry.pull import pull

pytestmark = needs_registry
HASH = "$2b$04$abcdefghijklmnopqrstuuLZYjhNQAOdpbzt4WxWlUHjv1wsyH5DG"  # bcrypt of s3cret
USER, PASSWORD = "STILLHOUSE_REGISTRY_USER", "STILLHOUSE_REGISTRY_PASSWORD"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (USER, PASSWORD, "DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(oci_http, "WAITS_S", ())
    return tmp_path


def log_in(monkeypatch: pytest.MonkeyPatch, user: str, password: str) -> None:
    monkeypatch.setenv(USER, user)
    monkeypatch.setenv(PASSWORD, password)


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[OciServer]:
    """A registry that asks for the login robot:s3cret."""
    file = tmp_path / "htpasswd"
    file.write_text(f"robot:{HASH}\n")
    more = f"auth: {{htpasswd: {{realm: test, path: {file}}}}}"
    with oci_server(tmp_path / "registry", more=more) as running:
        yield running


def test_a_basic_login_pushes_and_pulls(
    closed: OciServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="it asks for a login: run `docker login 127.0.0.1"):
        closed.store().check_writable("legal")
    log_in(monkeypatch, "robot", "wr0ng")
    with pytest.raises(
        InputError, match="the login of STILLHOUSE_REGISTRY_USER was refused"
    ) as raised:
        closed.store().check_writable("legal")
    assert "wr0ng" not in str(raised.value)
    log_in(monkeypatch, "robot", "s3cret")
    closed.store().check_writable("legal")
    publish_legal(closed.store(), tmp_path / "run")
    pull(closed.store(), "legal", tmp_path / "out")
    assert [model.tag for model in list_models(closed.store())] == ["1"]


class TokenGate(Gate):
    """A registry with a token service: a token is good for one scope and for `lifetime` requests."""

    def __init__(self, upstream: str, lifetime: int) -> None:
        super().__init__(upstream)
        self.lifetime, self.refuses = lifetime, False
        self.left: dict[str, int] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.rule = self._check

    def _check(self, method: str, path: str) -> Fault | None:
        authorization = self.requests[-1][2].get("authorization")
        if path.startswith("/token"):
            form = self.last_body.decode() if method == "POST" else urlsplit(path).query
            fields = {name: values[0] for name, values in parse_qs(form).items()}
            scope = fields["scope"]
            self.asked.append((scope, fields.get("refresh_token", authorization)))
            if self.refuses:
                return Fault(401, b"{}")
            token = f"{scope}#{len(self.asked)}"
            self.left[token] = self.lifetime
            return Fault(200, json.dumps({"token": token}).encode())
        token = (authorization or "").removeprefix("Bearer ")
        needed = "push" if method in ("POST", "PUT") else "delete" if method == "DELETE" else "pull"
        if needed in token.partition("#")[0].rpartition(":")[2] and self.left.get(token, 0) > 0:
            self.left[token] -= 1
            return None
        challenge = f'Bearer realm="http://{self.host}/token",service="test",scope="x"'
        return Fault(401, b"{}", {"WWW-Authenticate": challenge})


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[TokenGate]:
    with oci_server(tmp_path / "registry") as running:
        gate = TokenGate(running.host, lifetime=12)
        yield gate
        gate.close()


def test_a_token_that_expires_on_the_way_is_renewed(
    tokens: TokenGate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(monkeypatch, "robot", "s3cret")
    publish_legal(tokens.store(), tmp_path / "run")
    pull(tokens.store(), "legal", tmp_path / "out")
    scopes = {scope for scope, _ in tokens.asked}
    assert {f"repository:team/students/legal:{a}" for a in ("pull", "pull,push")} <= scopes
    assert len(tokens.asked) > 2 * len(scopes)
    assert {authorization for _, authorization in tokens.asked} == {"Basic cm9ib3Q6czNjcmV0"}


def test_a_login_that_expires_in_the_middle_is_one_clear_line_and_leaves_no_version(
    tokens: TokenGate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(monkeypatch, "robot", "s3cret")
    lifetime, tokens.lifetime = tokens.lifetime, 1000
    publish_legal(tokens.store(), tmp_path / "run")
    tokens.lifetime = lifetime

    def expire(done: int, total: int, name: str) -> None:
        tokens.refuses = True

    with pytest.raises(InputError, match="the login of STILLHOUSE_REGISTRY_USER was refused"):
        publish(
            tokens.store(),
            "legal",
            make_files(tmp_path / "new", q8=b"new"),
            make_manifest(),
            gate_passed=True,
            progress=expire,
        )
    tokens.refuses = False
    assert [model.tag for model in list_models(tokens.store(), ["legal"])] == ["1"]


def test_without_a_login_an_anonymous_token_may_read(tokens: TokenGate, tmp_path: Path) -> None:
    tokens.store().repository("legal").tags()
    assert [authorization for _, authorization in tokens.asked] == [None]


def test_an_identity_token_is_exchanged_for_a_token(
    tokens: TokenGate, home: Path, tmp_path: Path
) -> None:
    (home / ".docker").mkdir()
    auths = {tokens.host: {"identitytoken": "1dentity"}}
    (home / ".docker" / "config.json").write_text(json.dumps({"auths": auths}))
    publish_legal(tokens.store(), tmp_path / "run")
    assert {sent for _, sent in tokens.asked} == {"1dentity"}


def test_a_cookie_is_not_sent_back(tokens: TokenGate) -> None:
    cookie = {"Set-Cookie": "sid=1; Path=/"}
    tokens.rule = lambda method, path: Fault(200, b'{"tags": []}', cookie)
    repository = tokens.store().repository("legal")
    repository.tags()
    repository.tags()
    assert len(tokens.requests) == 2 and "cookie" not in tokens.requests[-1][2]


def test_the_login_is_sent_to_no_other_host(
    tokens: TokenGate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registries redirect downloads to a storage service, which must not get the login."""
    log_in(monkeypatch, "robot", "s3cret")
    publish_legal(tokens.store(), tmp_path / "run")
    storage = Gate(tokens.upstream)
    check = tokens.rule

    def redirect(method: str, path: str) -> Fault | None:
        fault = check(method, path)
        if fault is None and "/blobs/sha256:" in path and method == "GET":
            return Fault(307, b"", {"Location": f"http://{storage.host}{path}?signature=5ecret"})
        return fault

    tokens.rule = redirect
    pull(tokens.store(), "legal", tmp_path / "out")
    assert storage.requests and not any("authorization" in h for _, _, h in storage.requests)
    storage.rule = lambda method, path: Fault(410)
    with pytest.raises(StageError, match="replied with 410") as raised:
        pull(tokens.store(), "legal", tmp_path / "again")
    assert "5ecret" not in str(raised.value)
    storage.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_tls_is_verified_by_the_certificates_that_are_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    more = f"  tls: {{certificate: {certificate}, key: {key}}}"
    with oci_server(tmp_path / "registry", more=more) as server:
        url = RegistryUrl("https", server.host, "team")
        with pytest.raises(
            StageError, match="name the certificate of its authority in SSL_CERT_FILE"
        ):
            RegistryStore(url).check_writable("legal")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        publish_legal(RegistryStore(url), tmp_path / "run")
        pull(RegistryStore(url), "legal", tmp_path / "out")
    with oci_server(tmp_path / "plain") as server:
        url = RegistryUrl("https", server.host, "team")
        with pytest.raises(StageError, match=f"without TLS is http://{server.host}/team"):
            RegistryStore(url).check_writable("legal")
