"""A faithful teacher on this machine, and a client that does not wait long for one that fails."""

import contextlib
from collections.abc import Iterator

import pytest
from faithful_teacher import Server, faithful_teacher

from schemas.task import Task
from teacher.domain.pack import Domain
from teacher.inference import client
from teacher.preflight import checks, run


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


_built: dict[tuple[int, int], tuple[Domain, list[Task]]] = {}


@pytest.fixture(autouse=True)
def tasks_are_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the tasks of the round trips for the next pre-flight with the same pack: they take half of its time."""
    build = checks._two_step_tasks

    def build_once(domain: Domain, seed: int) -> list[Task]:
        key = id(domain), seed
        if key not in _built:
            _built[key] = domain, build(domain, seed)  # the pack too, so that its id is no other's
        return _built[key][1]

    monkeypatch.setattr(checks, "_two_step_tasks", build_once)
