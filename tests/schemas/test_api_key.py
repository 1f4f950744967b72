"""Which URLs are this machine, and which get a key."""

import pytest

from schemas.api_key import ALLOW_HTTP, key_for, may_have_key
from schemas.api_url import on_this_machine
from schemas.errors import InputError


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://127.1.2.3/v1", True),
        ("http://[::1]:80/v1", True),
        ("http://0.0.0.0:8000/v1", True),
        ("http://localhost:8000/v1", True),
        ("http://api.localhost/v1", True),
        ("http://LOCALHOST/v1", True),
        ("http://localhost.example.com/v1", False),
        ("http://10.0.0.1/v1", False),
        ("http://127.0.0.1.example.com/v1", False),
        ("https://api.example.com/v1", False),
    ],
)
def test_only_loopback_is_this_machine(url: str, here: bool) -> None:
    assert on_this_machine(url) is here


def test_a_key_goes_over_tls_or_stays_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALLOW_HTTP, raising=False)
    monkeypatch.setenv("A_KEY", "sk-secret")
    for url in ("https://api.example.com/v1", "http://127.0.0.1:8000/v1"):
        assert key_for(url, "A_KEY") == "sk-secret"
    for url in ("http://gpu-7:8000/v1", "HTTP://10.0.0.1/v1"):
        with pytest.raises(
            InputError, match=f"found A_KEY set, .*expected https.*{ALLOW_HTTP}=1"
        ) as raised:
            key_for(url, "A_KEY")
        assert "sk-secret" not in str(raised.value)
        assert not may_have_key(url) and key_for(url, "UNSET") is None
        with monkeypatch.context() as patch:
            patch.setenv(ALLOW_HTTP, "1")
            assert key_for(url, "A_KEY") == "sk-secret"
