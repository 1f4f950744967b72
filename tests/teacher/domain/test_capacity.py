"""How many distinct tasks a pack has, the wide seeds that add to them, and what is refused before it is sampled."""

import datetime as dt
from pathlib import Path

import pytest

from schemas.errors import InputError
from teacher.domain.capacity import capacities, capacity_lines
from teacher.domain.pack import Domain, load
from teacher.domain.seeds import first_seed, is_wide
from teacher.domain.tasks import sample

STOCK_ROOM = Path(__file__).parents[2] / "data" / "stock_room"
# A pack whose templates have 12 and 300 tasks, and no larger pools for wide seeds.
SMALL = '''
import random
from teacher.domain import Answer, Blueprint, Environment, template

class Desk(Environment):
    """A desk."""

    def reset(self, **task):
        self._rooms = {f"R-{number}": number * 7 % 31 + 40 for number in range(100, 400)}

    def _state(self):
        return {}

    def get_seats(self, room: str) -> int:
        """Get the seats of a room.

        Args:
            room: e.g. R-1
        """
        return self._rooms[room]

def ask(room, world):
    seats = world._rooms[room]
    return Blueprint(f"How many seats has {room}?", [("get_seats", {"room": room})], f"{seats} seats.",
                     Answer("number", seats))

@template(kind="lookup")
def few(world, rng):
    room = f"R-{rng.randrange(100, 112)}"
    blueprint = ask(room, world)
    return Blueprint(f"Seats of {room}, please?", blueprint.plan, blueprint.reply, blueprint.answer)

@template(kind="lookup")
def many(world, rng):
    return ask(f"R-{rng.randrange(100, 400)}", world)
'''
YAML = """
name: rooms
title: Rooms
description: Seats of rooms.
licence: Apache-2.0
system: You know the rooms.
personas: [a guest]
kinds: {lookup: {share: 1.0}}
languages: [en]
budgets: {steps: 3}
"""


@pytest.fixture
def rooms(tmp_path: Path) -> Domain:
    (tmp_path / "rooms").mkdir()
    (tmp_path / "rooms" / "domain.yaml").write_text(YAML)
    (tmp_path / "rooms" / "environment.py").write_text(SMALL)
    return load(str(tmp_path / "rooms"))


def test_a_kind_with_few_tasks_is_counted_exactly(rooms: Domain) -> None:
    found = {each.template: each for each in capacities(rooms, 250, seed=0)}
    assert (found["few"].tasks, found["few"].exactness) == (12, "counted")
    # The last few of 300 rooms may not come up among so many seeds; sampling ends there, too.
    assert 270 <= found["many"].tasks <= 300
    assert len(sample(rooms, "train", 250, seed=0)) == 250


def test_too_many_tasks_are_refused_with_the_template_that_runs_out(rooms: Domain) -> None:
    with pytest.raises(
        InputError,
        match=r"environment.py: few: has 12 distinct tasks and tasks.train asks it for 200",
    ):
        capacities(rooms, 400, seed=0)


def test_a_run_that_asks_for_few_tasks_needs_few_blueprints(rooms: Domain) -> None:
    found = {each.template: each for each in capacities(rooms, 10, seed=0)}
    assert found["many"].text().startswith("many over ")


def test_a_plan_names_only_the_templates_that_have_too_few_tasks(rooms: Domain) -> None:
    assert capacity_lines(capacities(rooms, 10, seed=0)) == []
    [line] = capacity_lines(capacities(rooms, 250, seed=0))
    assert line == "few 12 of 125 tasks; other templates of lookup make up for it"


@pytest.mark.slow
def test_a_pack_that_ignores_wide_seeds_is_not_counted_twice() -> None:
    pack = load(str(STOCK_ROOM))
    narrow = sum(each.tasks for each in capacities(pack, 6000, seed=0))
    assert narrow < 60_000
    with pytest.raises(InputError, match="distinct tasks and tasks.train asks it for"):
        capacities(pack, 200_000, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["legal", "code-review", "tech-research"])
def test_a_pack_has_200_000_distinct_tasks(name: str) -> None:
    found = capacities(load(name), 200_000, seed=0)
    assert sum(each.needed for each in found) == 200_000


def test_a_template_without_new_requests_goes_on_with_wide_seeds() -> None:
    legal = load("legal")
    plain, wide = first_seed("train", 0)
    assert wide is not None and not is_wide("train", plain) and is_wide("train", wide)
    narrow_ids = {matter for seed in range(200) for matter in _matters(legal, seed)}
    wide_ids = {matter for seed in range(wide, wide + 200) for matter in _matters(legal, seed)}
    assert {len(matter) for matter in narrow_ids} == {len("M-100")}
    assert {len(matter) for matter in wide_ids} == {len("M-10000")}
    assert len(wide_ids) > 1100  # of 1,200 drawn from 64,000


def _matters(domain: Domain, seed: int) -> list[str]:
    world = domain.environment()
    world.reset(split="train", seed=seed)
    return list(world._matters)  # type: ignore[attr-defined]


def test_two_days_share_no_seed_and_the_exam_stays(rooms: Domain) -> None:
    first, second = dt.date(2026, 11, 30), dt.date(2026, 12, 7)
    one = sample(rooms, "train", 20, seed=0, date=first)
    other = sample(rooms, "train", 20, seed=0, date=second)
    assert not {task["seed"] for task in one} & {task["seed"] for task in other}
    assert all(is_wide("train", task["seed"]) for task in one)
    assert first_seed("exam", 3, part=2, date=first) == first_seed("exam", 3, part=2)
    assert sample(rooms, "train", 20, seed=0, date=first) == one


def test_seeds_of_examples_and_exams_are_never_wide() -> None:
    assert not any(is_wide("train", 400_000_000 + seed) for seed in (0, 500_000, 74_999_999))
    assert not any(is_wide("exam", 500_000_000 + seed) for seed in (0, 500_000, 900_000))
