"""An exam has new entities, agents without skill fail it, and tasks vary."""

from pathlib import Path

from faulty_packs import ANSWER, BEFORE_REQUEST, REPLY, counted, load_pack, play_all

from teacher.domain.check import FULL, check
from teacher.domain.check.fairness import check_agents, check_splits
from teacher.domain.check.variety import check_variety, estimate_capacity
from teacher.domain.pack import Domain

NUMBERS = 'range(1001 if split == "train" else 1000, 9999, 2)'
NAMES = "for material in MATERIALS[split]"


def splits(domain: Domain) -> list[tuple[str, str]]:
    found = check_splits(domain, play_all(domain), worlds=100)
    return [(finding.level, finding.line(domain.path)) for finding in found]


def agents(domain: Domain) -> list[str]:
    return [finding.line(domain.path) for finding in check_agents(domain, play_all(domain))]


def variety(domain: Domain, needed: int = 0) -> list[str]:
    episodes = play_all(domain, train=30)
    requests = {
        name: [e.blueprint.request for e in group if e.blueprint and e.job.split == "train"]
        for name, group in episodes.items()
    }
    found = check_variety(domain, episodes, requests, dict.fromkeys(episodes, needed))
    return [finding.line(domain.path) for finding in found]


def test_numbers_of_both_splits_are_an_error_and_divided_ones_are_accepted(tmp_path: Path) -> None:
    ((level, line),) = splits(load_pack(tmp_path / "shared", (NUMBERS, "range(1000, 9999)")))
    assert level == "error" and "S-" in line and "split_numbers" in line
    assert splits(load_pack(tmp_path / "divided")) == []


def test_names_of_both_splits_are_reported_with_the_tool_that_finds_them(tmp_path: Path) -> None:
    ((level, line),) = splits(
        load_pack(tmp_path / "stock", (NAMES, 'for material in MATERIALS["train"]'))
    )
    assert level == "warning" and "find_item" in line and "split_pool" in line


def test_shelves_that_both_splits_share_are_vocabulary(tmp_path: Path) -> None:
    assert not any("shelf" in line for _, line in splits(load_pack(tmp_path / "stock")))


def test_a_request_of_both_splits_is_an_error(tmp_path: Path) -> None:
    asked = 'f"How many of {number} do we have?"', '"How many do we have?"'
    also = 'f"Stock of {number}?"', '"How many do we have?"'
    first = (
        "rng.choice(list(world._items.items()))\n    request",
        "list(world._items.items())[0]\n    request",
    )
    found = splits(load_pack(tmp_path / "stock", asked, also, first))
    assert any(level == "error" and "the same request" in line for level, line in found)


def test_an_agent_that_refuses_must_fail(tmp_path: Path) -> None:
    changes = [
        (REPLY, '        reply="I cannot see that here.",\n'),
        (ANSWER, '        answer=Answer("not_shown"),\n'),
    ]
    (line,) = [
        one for one in agents(load_pack(tmp_path / "stock", *changes)) if "always says" in one
    ]
    assert "count_of_item" in line


def test_an_answer_that_is_always_the_same_is_named_and_yes_or_no_is_accepted(
    tmp_path: Path,
) -> None:
    same = counted("", '"Yes."', 'Answer("choice", "yes", options=("yes", "no"))')
    (line,) = [
        one for one in agents(load_pack(tmp_path / "same", *same)) if "always answers" in one
    ]
    assert "'yes' passes 16 of 16" in line
    either = 'Answer("choice", "yes" if item["count"] > 450 else "no", options=("yes", "no"))'
    varied = counted("", '"Yes." if item[\'count\'] > 450 else "No."', either)
    assert [one for one in agents(load_pack(tmp_path / "varied", *varied)) if "always" in one] == []


def test_one_wording_is_a_warning_and_three_are_accepted(tmp_path: Path) -> None:
    two = (
        '            f"What is the count of {number}?",\n            f"Stock of {number}?",\n',
        "",
    )
    lines = variety(load_pack(tmp_path / "one", two))
    assert any("count_of_item" in line and "1 wording" in line for line in lines)
    assert not any("wording" in line for line in variety(load_pack(tmp_path / "three")))


def test_tools_that_no_solution_calls_are_named_and_others_are_not(tmp_path: Path) -> None:
    lines = variety(load_pack(tmp_path / "stock"))
    assert [line for line in lines if "no solution calls" in line] == lines
    assert len(lines) == 1 and "take_item" in lines[0]


def test_an_argument_that_never_varies_is_named(tmp_path: Path) -> None:
    choice = 'rng.choice([shelf for shelf in SHELVES if shelf != item["shelf"]])'
    lines = variety(load_pack(tmp_path / "stock", (choice, '"A1"')))
    assert any('its argument shelf is "A1" in all' in line for line in lines)


def test_too_few_tasks_for_the_recipe_are_a_warning_and_enough_are_accepted(tmp_path: Path) -> None:
    setup = "    number, item = list(world._items.items())[0]\n"
    few = [(BEFORE_REQUEST, setup + BEFORE_REQUEST), (NUMBERS, "range(1001, 1030, 2)")]
    domain = load_pack(tmp_path / "few", *few)
    assert any("different requests" in line for line in variety(domain, needed=1000))
    assert not any("different requests" in line for line in variety(domain, needed=3))


def test_the_capacity_is_estimated_by_what_repeats() -> None:
    assert estimate_capacity(["a", "b", "c"]) is None
    assert estimate_capacity(["a", "b"] * 20) == 2


def test_every_template_that_fails_is_listed(tmp_path: Path) -> None:
    changes = [
        (
            "def count_of_item(world: StockRoom, rng: random.Random) -> Blueprint:\n",
            "    world.nothing()\n",
        ),
        ("def moved_item(world: StockRoom, rng: random.Random) -> Blueprint:\n", "    1 / 0\n"),
    ]
    domain = load_pack(tmp_path / "stock", *[(head, head + body) for head, body in changes])
    failing = [f for f in check(domain, FULL).findings if f.check == "solvable"]
    assert [finding.template for finding in failing] == ["count_of_item", "moved_item"]
    assert all(finding.seed is not None for finding in failing)
