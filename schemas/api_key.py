"""The keys of APIs, from the environment. None is sent unencrypted to another machine unless that is allowed."""

import os
from urllib.parse import urlsplit

from schemas.api_url import on_this_machine
from schemas.errors import InputError

ALLOW_HTTP = "STILLHOUSE_KEYS_OVER_HTTP"


def may_have_key(url: str) -> bool:
    """Whether a key may be sent to a URL: over TLS, to this machine, or where ALLOW_HTTP is 1."""
    is_private = urlsplit(url).scheme == "https" or on_this_machine(url)
    return is_private or os.environ.get(ALLOW_HTTP) == "1"


def key_for(url: str, variable: str) -> str | None:
    """Returns the key that a variable of the environment holds for a URL; None if it is not set.

    Raises:
        InputError: it is set, and would be sent unencrypted to another machine.
    """
    key = os.environ.get(variable)
    if key and not may_have_key(url):
        raise InputError(
            f"{url}: found {variable} set, which would be sent there unencrypted, expected https; on a network that"
            f" you trust, {ALLOW_HTTP}=1 allows it"
        )
    return key or None
