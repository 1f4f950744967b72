"""The login for a registry: where it is looked for, in which order, and what is wrong with what is found."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import InputError
from student.registry.credentials import Credentials, find


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "STILLHOUSE_REGISTRY_USER",
        "STILLHOUSE_REGISTRY_PASSWORD",
        "DOCKER_CONFIG",
        "REGISTRY_AUTH_FILE",
        "XDG_RUNTIME_DIR",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def docker(home: Path, config: Any) -> Path:
    path = home / ".docker" / "config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    return path


def helper(home: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    path = home / "bin" / "docker-credential-test"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\nread host\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")


def login(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_nothing_is_found_where_there_is_no_login(home: Path) -> None:
    assert find("registry.example") is None
    docker(home, {"auths": {"other.example": login("a", "b")}})
    assert find("registry.example") is None


@pytest.mark.parametrize(
    "key",
    [
        "registry.example:5000",
        "https://registry.example:5000",
        "https://registry.example:5000/v2/",
        "http://registry.example:5000/v1/",
    ],
)
def test_docker_s_config_is_read_by_host_whatever_its_key_looks_like(home: Path, key: str) -> None:
    path = docker(home, {"auths": {key: login("a", "p:w")}})
    assert find("registry.example:5000") == Credentials(str(path), "a", "p:w")
    assert find("registry.example") is None


def test_docker_hub_has_a_key_of_its_own(home: Path) -> None:
    docker(home, {"auths": {"https://index.docker.io/v1/": login("a", "b")}})
    found = find("docker.io", "team")
    assert found and (found.user, found.password) == ("a", "b")


def test_the_environment_comes_first_and_needs_both(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker(home, {"auths": {"registry.example": login("a", "b")}})
    monkeypatch.setenv("STILLHOUSE_REGISTRY_USER", "robot")
    with pytest.raises(InputError, match="STILLHOUSE_REGISTRY_PASSWORD: not set"):
        find("registry.example")
    monkeypatch.setenv("STILLHOUSE_REGISTRY_PASSWORD", "s3cret")
    found = find("registry.example")
    assert found and (found.user, found.password) == ("robot", "s3cret")
    assert "s3cret" not in repr(found)


def test_podman_s_login_of_a_namespace_is_used_for_it_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home / "auth.json"
    auths = {"registry.example/team": login("team", "1"), "registry.example": login("all", "2")}
    path.write_text(json.dumps({"auths": auths}))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(path))
    users = [found.user for n in ("team", "other") if (found := find("registry.example", n))]
    assert users == ["team", "all"]


def test_a_helper_of_the_host_comes_before_the_store_and_may_give_a_token(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(
        home,
        monkeypatch,
        'case $host in token.*) user="<token>";; none.*) echo "credentials not found in native keychain"; exit 1;;'
        ' *) user="user of $host";; esac; echo "{\\"Username\\": \\"$user\\", \\"Secret\\": \\"s\\"}"',
    )
    docker(home, {"credsStore": "test", "credHelpers": {"token.example": "test"}, "auths": {}})
    found = find("registry.example")
    assert found and (found.user, found.token) == ("user of registry.example", "")
    found = find("token.example")
    assert found and (found.user, found.token) == ("", "s")
    assert find("none.example") is None


def test_an_identity_token_of_docker_is_one(home: Path) -> None:
    docker(home, {"auths": {"registry.example": {"auth": "PHRva2VuPjo=", "identitytoken": "t"}}})
    found = find("registry.example")
    assert found and found.token == "t"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 3", "docker-credential-test: failed for registry.example with exit code 3"),
        ("echo S3CRET", "expected JSON with Username and Secret"),
        ('echo "{\\"Username\\": \\"S3CRET\\"}"', "expected JSON with Username and Secret"),
    ],
)
def test_a_helper_that_fails_is_one_clear_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    helper(home, monkeypatch, script)
    docker(home, {"credsStore": "test"})
    with pytest.raises(InputError, match=message) as raised:
        find("registry.example")
    assert "S3CRET" not in str(raised.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "config.json: not JSON"),
        ("[]", "found no JSON object"),
        ({"auths": []}, None),
        ({"auths": [1]}, "auths: expected an object"),
        ({"auths": {"registry.example": {"auth": "S3CRET"}}}, "expected USER:PASSWORD in base64"),
        ({"auths": {"registry.example": {"auth": "YQ=="}}}, "expected USER:PASSWORD in base64"),
        ({"credsStore": "../../bin/sh"}, "expected a plain name"),
        ({"credHelpers": {"registry.example": "absent"}}, "docker-credential-absent: not found"),
    ],
)
def test_a_broken_config_is_one_clear_line(home: Path, config: Any, message: str | None) -> None:
    docker(home, config)
    if message is None:
        assert find("registry.example") is None
        return
    with pytest.raises(InputError, match=message) as raised:
        find("registry.example")
    assert "S3CRET" not in str(raised.value) and "\n" not in str(raised.value)
