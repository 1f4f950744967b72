"""What the base URL of an API may be, where it leads, and what of it may be written down."""

import ipaddress
from urllib.parse import urlsplit


def problem(url: str) -> str | None:
    """Why a URL is no base URL of an API, without quoting it, because it may hold a password; None if it is one."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # `port` raises for a port that is no number
    except ValueError:
        host, parts = None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host:
        return "expected the address of an API, such as http://127.0.0.1:8000/v1"
    if parts.username is not None or parts.password is not None:
        return "found a user name or password in the URL, expected none: put the API's key into STILLHOUSE_TEACHER_KEY"
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        return (
            "found ? or # in the URL, expected a base URL without them, such as https://api.example.com/v1: put the"
            " API's key into STILLHOUSE_TEACHER_KEY"
        )
    return None


def host(url: str) -> str:
    """The host of a URL and its port if the URL names one. It has no user name, password, path or query."""
    parts = urlsplit(url)
    name = parts.hostname or ""
    name = f"[{name}]" if ":" in name else name
    return f"{name}:{parts.port}" if parts.port else name


def on_this_machine(url: str) -> bool:
    """Whether a URL leads to this machine: no proxy of the environment is used for it, and a key may be sent to it."""
    name = urlsplit(url).hostname or ""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    # 0.0.0.0 and :: reach this machine when they are connected to.
    return address.is_loopback or address.is_unspecified


def without_secrets(url: str) -> str:
    """A URL without its user name, password, query and fragment, for a message."""
    return url.partition("?")[0].partition("#")[0].rpartition("@")[2]
