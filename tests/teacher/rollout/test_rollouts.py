"""Many episodes at once: every task is tried, the failed ones again, and nothing is lost."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import StageError
from schemas.trace import Maker
from teacher.rollout import agent_loop
from teacher.rollout.agent_loop import Settings
from teacher.rollout.scheduler import rollouts

CLIENT: Any = SimpleNamespace(complete=lambda **named: named)
MAKER: Maker = {"model": "m", "revision": "r", "engine": "vllm", "licence": "MIT"}
LOOP = Settings(max_steps=1, max_tokens=1, temperature=0, top_p=1)
Solves = Callable[[str, int], bool]


class Stage:
    """Stands in for episodes: which task passes at which attempt is scripted, how long it takes drawn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> None:
        self.solves: Solves = lambda task, attempt: True
        self.fails_at: str | None = None
        self.begun: list[tuple[str, int, bool]] = []
        self.examples: list[Any] = []
        self.sessions: list[str] = []
        self.flying = self.most = self.cancelled = 0
        self._rng = random.Random(seed)
        self.lasts: Callable[[str], int] = lambda task: self._rng.randrange(1, 6)
        self.calls: Callable[[int], int] = lambda number: 1  # in a task's solution
        monkeypatch.setattr(agent_loop, "run", self._run)

    async def _run(
        self,
        task: dict[str, Any],
        domain: Any,
        complete: Any,
        settings: Settings,
        teacher: Any,
        attempt: int,
        hinted: bool,
        examples: Any,
    ) -> dict[str, Any]:
        name = task["id"]
        self.sessions.append(complete()["session"])
        self.begun.append((name, attempt, hinted))
        self.examples.append(examples)
        self.flying += 1
        self.most = max(self.most, self.flying)
        try:
            for _ in range(self.lasts(name)):
                await asyncio.sleep(0)
            if name == self.fails_at:
                raise StageError("the server is lost")
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.flying -= 1
        passed = self.solves(name, attempt)
        return {
            "id": f"{name}/{attempt}",
            "outcome": {"ended": "answered", "checks": {"answer": passed, "state": True}},
        }

    def play(self, count: int, workers: int = 3, **more: Any) -> list[str]:
        """The ids of the traces, in the order they came."""
        tasks = [{"id": f"t{number}", "plan": [{}] * self.calls(number)} for number in range(count)]

        async def scene() -> list[str]:
            traces = rollouts(tasks, None, CLIENT, LOOP, MAKER, workers=workers, **more)  # type: ignore[arg-type]
            return [rollout.trace["id"] async for rollout in traces]

        return asyncio.run(scene())


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


def test_with_one_attempt_every_task_is_tried_once_whether_it_passes_or_not(stage: Stage) -> None:
    stage.solves = lambda task, attempt: task == "t1"
    assert sorted(stage.play(7)) == [f"t{n}/0" for n in range(7)]


def test_only_the_failed_are_tried_again_until_they_pass(stage: Stage) -> None:
    needs = {"t0": 0, "t1": 1, "t2": 2, "t3": 9}
    stage.solves = lambda task, attempt: attempt >= needs[task]
    traces = stage.play(4, attempts=4)
    expected = ["t0/0", "t1/0", "t1/1", "t2/0", "t2/1", "t2/2", "t3/0", "t3/1", "t3/2", "t3/3"]
    assert sorted(traces) == expected


def test_a_retry_waits_for_no_other_episode(stage: Stage) -> None:
    stage.solves = lambda task, attempt: False
    stage.lasts = lambda task: 500 if task == "t0" else 1
    traces = stage.play(9, workers=4, attempts=3)
    assert traces.index("t8/2") < traces.index("t0/0")


def test_a_worker_begins_its_other_tasks_before_a_retry(stage: Stage) -> None:
    stage.solves = lambda task, attempt: False
    stage.play(30, workers=1, attempts=3)
    rounds = [attempt for _, attempt, _ in stage.begun]
    assert rounds == sorted(rounds)


def test_of_few_tasks_a_worker_begins_the_longest_first(stage: Stage) -> None:
    stage.calls = lambda number: number % 3
    assert stage.play(6, workers=1) == ["t2/0", "t5/0", "t1/0", "t4/0", "t0/0", "t3/0"]


def test_of_many_tasks_a_worker_keeps_neighbours_together(stage: Stage) -> None:
    stage.calls = lambda number: number % 3
    assert stage.play(9, workers=1) == [f"t{number}/0" for number in range(9)]


def test_a_worker_without_tasks_takes_those_of_the_worker_with_the_most_left(stage: Stage) -> None:
    stage.lasts = lambda task: 500 if task == "t0" else 1
    assert stage.play(30, workers=2)[-1] == "t0/0"


def test_when_all_have_passed_no_further_round_is_played(stage: Stage) -> None:
    assert len(stage.play(5, attempts=8)) == 5


def test_no_tasks_give_no_traces(stage: Stage) -> None:
    assert stage.play(0, attempts=2) == []


@pytest.mark.parametrize(
    ("hint", "hinted"),
    [("never", [False] * 3), ("retry", [False, True, True]), ("always", [True] * 3)],
)
def test_hints_are_given_as_the_recipe_says(stage: Stage, hint: str, hinted: list[bool]) -> None:
    stage.solves = lambda task, attempt: False
    stage.play(1, attempts=3, hint=hint)
    assert [given for _, _, given in stage.begun] == hinted


def test_each_attempt_gets_the_examples_of_its_task_and_hint(stage: Stage) -> None:
    stage.solves = lambda task, attempt: False
    stage.play(1, attempts=2, hint="retry", examples=lambda task, hinted: [task["id"], hinted])
    assert stage.examples == [["t0", False], ["t0", True]]


def test_each_attempt_is_a_session_of_its_own(stage: Stage) -> None:
    # A router sends a whole conversation to the server that has read its beginning.
    stage.solves = lambda task, attempt: False
    traces = stage.play(3, attempts=2)
    assert sorted(stage.sessions) == sorted(traces)


def test_one_worker_plays_the_tasks_in_their_order(stage: Stage) -> None:
    stage.solves = lambda task, attempt: False
    assert stage.play(5, workers=1, attempts=2) == [f"t{n}/{a}" for a in range(2) for n in range(5)]


def test_each_worker_begins_on_a_stretch_of_neighbours(stage: Stage) -> None:
    stage.play(9, workers=3)
    assert [name for name, _, _ in stage.begun[:3]] == ["t0", "t3", "t6"]


def test_no_more_episodes_run_than_there_are_workers(stage: Stage) -> None:
    stage.play(40, workers=4)
    assert stage.most == 4


@settings(max_examples=150, deadline=None)
@given(
    count=st.integers(0, 25),
    workers=st.integers(1, 30),
    attempts=st.integers(1, 4),
    seed=st.integers(0, 10**6),
)
def test_no_task_is_lost_or_tried_twice_however_the_work_is_shared(
    count: int, workers: int, attempts: int, seed: int
) -> None:
    rng = random.Random(seed)
    needs = {f"t{number}": rng.randrange(0, 5) for number in range(count)}
    with pytest.MonkeyPatch.context() as patch:
        stage = Stage(patch, seed)
        stage.solves = lambda task, attempt: attempt >= needs[task]
        traces = stage.play(count, workers, attempts=attempts)
    expected = [
        f"{name}/{attempt}"
        for name, need in needs.items()
        for attempt in range(min(attempts, need + 1))
    ]
    assert Counter(traces) == Counter(expected)
    assert stage.most <= workers


@pytest.mark.parametrize("workers", [1, 3, 20])
def test_a_failure_of_a_worker_surfaces_and_the_others_are_given_up(
    stage: Stage, workers: int
) -> None:
    stage.fails_at = "t4"
    with pytest.raises(StageError, match="the server is lost"):
        stage.play(12, workers)
    assert stage.flying == 0


def test_traces_that_ended_before_a_failure_are_not_lost(stage: Stage) -> None:
    stage.fails_at = "t4"
    tasks = [{"id": f"t{number}"} for number in range(12)]
    seen: list[str] = []

    async def scene() -> None:
        async for rollout in rollouts(tasks, None, CLIENT, LOOP, MAKER, workers=1):  # type: ignore[arg-type]
            seen.append(rollout.trace["id"])

    with pytest.raises(StageError):
        asyncio.run(scene())
    assert seen == ["t0/0", "t1/0", "t2/0", "t3/0"]


def test_a_failure_of_the_examples_surfaces(stage: Stage) -> None:
    def broken(task: dict[str, Any], hinted: bool) -> list:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stage.play(5, examples=broken)


def test_a_reader_that_stops_early_leaves_no_episode_running(stage: Stage) -> None:
    tasks = [{"id": f"t{number}", "plan": []} for number in range(30)]

    async def scene() -> None:
        traces: Any = rollouts(tasks, None, CLIENT, LOOP, MAKER, workers=5)  # type: ignore[arg-type]
        await anext(traces)
        await traces.aclose()
        assert stage.flying == 0

    asyncio.run(scene())
    assert len(stage.begun) < 30


def test_a_task_is_attempted_until_as_many_attempts_as_wanted_have_passed(stage: Stage) -> None:
    stage.solves = lambda task, attempt: attempt in {"t0": (0, 1), "t1": (1, 3), "t2": (2,)}[task]
    traces = stage.play(3, attempts=5, wanted=2)
    made = {"t0": 2, "t1": 4, "t2": 5}
    assert sorted(traces) == [f"{task}/{n}" for task, count in made.items() for n in range(count)]


def test_where_every_attempt_is_wanted_only_the_failed_are_hinted(stage: Stage) -> None:
    stage.solves = lambda task, attempt: task == "t0" or attempt == 1
    traces = stage.play(2, attempts=3, hint="retry", wanted=3)
    assert sorted(traces) == [f"t{n}/{attempt}" for n in range(2) for attempt in range(3)]
    assert {(task, attempt) for task, attempt, hinted in stage.begun if hinted} == {("t1", 1)}
