"""What a person writes to name a store or a student in it: locations, names and tags. All of them are checked here.

A location is a directory, oci://host/namespace (a registry, over TLS), or http://127.0.0.1:5000/namespace for a
registry of this machine. A reference is NAME or NAME:TAG.
"""

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from schemas.errors import InputError

VARIABLE = "STILLHOUSE_STORE"

# As the distribution spec of OCI has them, so that whatever is in a directory can be pushed to a registry.
_NAME = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?"
)
_EXPECTED = "expected a directory, oci://HOST/NAMESPACE, or http://127.0.0.1:PORT/NAMESPACE"


@dataclass(frozen=True)
class RegistryUrl:
    """A namespace of a registry. scheme: https or http. namespace: without slashes at its ends, perhaps empty."""

    scheme: str
    host: str
    namespace: str

    def __str__(self) -> str:
        start = "oci" if self.scheme == "https" else "http"
        return "/".join(part for part in (f"{start}://{self.host}", self.namespace) if part)

    def repository(self, name: str) -> str:
        """Returns the repository of a student in the registry's own terms."""
        return f"{self.namespace}/{name}" if self.namespace else name


def location(setting: str = "store") -> Path | RegistryUrl:
    """Returns where the store is: STILLHOUSE_STORE where that is set, else `setting` (a recipe's publish.store).

    Raises:
        InputError: neither a directory nor the URL of a registry.
    """
    if from_environment := os.environ.get(VARIABLE):
        return parse_location(from_environment, VARIABLE)
    return parse_location(setting, "publish.store")


def parse_location(text: str, source: str) -> Path | RegistryUrl:
    """Returns the directory or the registry that `text` names. source: names the setting in messages."""
    if not text:
        raise InputError(f"{source}: found nothing, {_EXPECTED}")
    if "://" not in text:
        return Path(text)
    try:
        url = urlsplit(text)
        has_login = url.username is not None or url.password is not None
    except ValueError:
        raise InputError(f"{source}: found a URL that cannot be read, {_EXPECTED}") from None
    if has_login:
        # The login is not repeated here: this line may end up in a log.
        raise InputError(
            f"{source}: found a login in the URL, expected none: use `docker login` or"
            " STILLHOUSE_REGISTRY_USER and STILLHOUSE_REGISTRY_PASSWORD"
        )
    namespace = url.path.strip("/")
    if url.scheme not in ("oci", "http") or url.query or url.fragment:
        raise InputError(f"{source}: found {text!r}, {_EXPECTED}")
    if not _HOST.fullmatch(url.netloc):
        raise InputError(f"{source}: found {text!r}: {url.netloc!r} is no host, {_EXPECTED}")
    if namespace and not all(_NAME.fullmatch(part) for part in namespace.split("/")):
        raise InputError(
            f"{source}: found {text!r}: expected a namespace of lower-case letters, digits and single . _ -"
        )
    if url.scheme == "http" and not is_loopback(url.hostname or ""):
        raise InputError(
            f"{source}: found {text!r}: expected oci://{url.netloc}/{namespace}: only a registry of this machine is"
            " reached without TLS"
        )
    return RegistryUrl("https" if url.scheme == "oci" else "http", url.netloc, namespace)


def is_loopback(host: str) -> bool:
    """Whether a host, without its port, is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_name(name: str) -> None:
    """Raises InputError where registries would not accept the name."""
    if not _NAME.fullmatch(name) or len(name) > 128:
        raise InputError(
            f"{name!r}: expected a name of lower-case letters, digits and single . _ -"
        )


def is_name(name: str) -> bool:
    """Whether registries accept the name of a student."""
    return _NAME.fullmatch(name) is not None


def is_tag(tag: str) -> bool:
    """Whether registries accept the tag."""
    return _TAG.fullmatch(tag) is not None


def split_reference(reference: str) -> tuple[str, str]:
    """Returns name and tag of NAME[:TAG]; the tag is empty where the reference has none.

    Raises:
        InputError: name or tag are not what registries accept.
    """
    name, colon, tag = reference.partition(":")
    check_name(name)
    if colon and not is_tag(tag):
        raise InputError(
            f"{reference!r}: found the tag {tag!r}, expected letters, digits and . _ -, at most 128"
        )
    return name, tag
