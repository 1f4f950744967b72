"""The login for a registry: from the environment, else where `docker login` and `podman login` keep it.

Order: STILLHOUSE_REGISTRY_USER and STILLHOUSE_REGISTRY_PASSWORD; then, in docker's config.json (DOCKER_CONFIG names its
directory), REGISTRY_AUTH_FILE and containers/auth.json, a credential helper of the host, the host's entry, the default
credential store. A password is never part of a message.
"""

import base64
import binascii
import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.errors import InputError
from schemas.files import read_json

USER, PASSWORD = "STILLHOUSE_REGISTRY_USER", "STILLHOUSE_REGISTRY_PASSWORD"

# Docker Hub's key in docker's config.
_DOCKER_HUB = {"docker.io": "index.docker.io", "registry-1.docker.io": "index.docker.io"}
_HELPER = re.compile(r"[A-Za-z0-9._-]+")
_HELPER_SECONDS = 60
# The user name with which helpers say that the secret is an identity token (docker-credential-helpers).
_TOKEN_USER = "<token>"


@dataclass(frozen=True)
class Credentials:
    """A login. source: where it was found, for messages. token: an identity token, instead of user and password."""

    source: str
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    def basic(self) -> str:
        """Returns the value of the header for basic authentication."""
        text = f"{self.user}:{self.password}".encode()
        return "Basic " + base64.b64encode(text).decode()


def find(host: str, namespace: str = "") -> Credentials | None:
    """Returns the login for a host (with its port), or None where there is none.

    namespace: of the store; podman keeps logins of a namespace too, as host/namespace.

    Raises:
        InputError: a config file is broken, or a credential helper failed.
    """
    user, password = os.environ.get(USER, ""), os.environ.get(PASSWORD, "")
    if user and password:
        return Credentials(USER, user, password)
    if user or password:
        missing = PASSWORD if user else USER
        raise InputError(f"{missing}: not set, expected it beside {USER if user else PASSWORD}")
    for path in _config_files():
        if credentials := _from_config(path, _DOCKER_HUB.get(host, host), namespace):
            return credentials
    return None


def _config_files() -> Iterator[Path]:
    home = Path(os.environ.get("HOME") or Path.home())
    docker = os.environ.get("DOCKER_CONFIG")
    candidates = [Path(docker) / "config.json" if docker else home / ".docker" / "config.json"]
    if named := os.environ.get("REGISTRY_AUTH_FILE"):
        candidates.append(Path(named))
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        candidates.append(Path(runtime) / "containers" / "auth.json")
    candidates.append(home / ".config" / "containers" / "auth.json")
    yield from (path for path in candidates if path.is_file())


def _from_config(path: Path, host: str, namespace: str) -> Credentials | None:
    config = read_json(path)
    if not isinstance(config, dict):
        raise InputError(f"{path}: found no JSON object, expected docker's config.json")
    keys = [f"{host}/{namespace}", host] if namespace else [host]
    helpers = _table(config, "credHelpers", path)
    for key in keys:
        if key in helpers:
            return _from_helper(path, str(helpers[key]), key)
    entries = {_host_of(key): value for key, value in _table(config, "auths", path).items()}
    for key in keys:
        if credentials := _from_entry(path, key, entries.get(key)):
            return credentials
    if store := config.get("credsStore"):
        # docker asks its store for Docker Hub by the URL.
        name = "https://index.docker.io/v1/" if host == "index.docker.io" else host
        return _from_helper(path, str(store), name)
    return None


def _table(config: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    table = config.get(key) or {}
    if not isinstance(table, dict):
        raise InputError(f"{path}: {key}: expected an object")
    return table


def _host_of(key: str) -> str:
    """Returns the host, with podman's namespace, of a key of `auths`, which may be a URL such as https://host/v1/."""
    without_scheme = key.partition("://")[2] or key
    return re.sub(r"/v[12]/?$", "", without_scheme).strip("/")


def _from_entry(path: Path, host: str, entry: Any) -> Credentials | None:
    if not isinstance(entry, dict):
        return None
    if token := entry.get("identitytoken"):
        return Credentials(str(path), token=str(token))
    if not (auth := entry.get("auth")):
        user, password = entry.get("username"), entry.get("password")
        return Credentials(str(path), str(user), str(password)) if user and password else None
    try:
        login = base64.b64decode(str(auth), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        login = ""
    if ":" not in login:
        raise InputError(
            f"{path}: auths.{host}.auth: expected USER:PASSWORD in base64: run `docker login {host}`"
        )
    name, _, secret = login.partition(":")
    return Credentials(str(path), name, secret.rstrip("\0"))


def _from_helper(path: Path, helper: str, host: str) -> Credentials | None:
    """Asks docker-credential-HELPER. None where it has no login for the host."""
    program = f"docker-credential-{helper}"
    if not _HELPER.fullmatch(helper):
        raise InputError(f"{path}: found the credential helper {helper!r}, expected a plain name")
    try:
        done = subprocess.run(
            [program, "get"],
            input=host,
            capture_output=True,
            text=True,
            timeout=_HELPER_SECONDS,
        )
    except FileNotFoundError:
        raise InputError(
            f"{path}: names the credential helper {program}: not found on PATH"
        ) from None
    except subprocess.TimeoutExpired:
        raise InputError(f"{program}: gave no login for {host} in {_HELPER_SECONDS} s") from None
    if done.returncode != 0:
        if "credentials not found" in (done.stdout + done.stderr).lower():
            return None
        raise InputError(f"{program}: failed for {host} with exit code {done.returncode}")
    try:
        reply = json.loads(done.stdout)
        user, secret = str(reply["Username"]), str(reply["Secret"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{program}: expected JSON with Username and Secret") from None
    if user == _TOKEN_USER:
        return Credentials(program, token=secret)
    return Credentials(program, user, secret)
