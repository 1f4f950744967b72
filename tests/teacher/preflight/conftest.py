"""A faithful teacher on this machine, and a client that does not wait long for one that fails."""

import contextlib
from collections.abc import Iterator

import pytest
from faithful_teacher import Server, faithful_teacher

from teacher.inference import client
from teacher.preflight import run


@pytest.fixture
def server() -> Iterator[Server]:
    with contextlib.closing(Server(faithful_teacher())) as running:
        yield running


@pytest.fixture(autouse=True)
def waits_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_FIRST_WAIT", 0.005)
    monkeypatch.setattr(client, "_LONGEST_WAIT", 0.01)
    monkeypatch.setattr(run, "_PATIENCE", 0.5)
    for name in ("STILLHOUSE_TEACHER_KEY", "MOONSHOT_API_KEY"):
        monkeypatch.delenv(name, raising=False)
