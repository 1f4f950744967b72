"""Answers, arguments and replies follow from what a solution sees."""

from pathlib import Path

import pytest
from faulty_packs import FIND, counted, load_pack, play_all, write_pack

from teacher.domain.check.evidence import Evidence
from teacher.domain.check.proof import check_proof
from teacher.domain.pack import Domain, load

SHELVES = "f\"Move the {item['name']} to shelf {shelf}.\"", "f\"Move the {item['name']} away.\""
OTHERS = [
    (
        "f\"The {item['name']} goes to {shelf}, please.\"",
        "f\"The {item['name']} must go, please.\"",
    ),
    ("f\"Put our {item['name']} on {shelf}.\"", "f\"Put our {item['name']} away.\""),
]


def lines(domain: Domain, level: str = "error") -> list[str]:
    return [
        finding.line(domain.path)
        for name, episodes in play_all(domain).items()
        for finding in check_proof(domain, name, episodes)
        if finding.level == level
    ]


@pytest.mark.parametrize(
    ("setup", "reply", "answer"),
    [
        ("", '"There are 7."', 'Answer("number", 7)'),
        ("", "f\"There are {item['count'] + 1}.\"", 'Answer("number", item["count"] + 1)'),
        ("    n = rng.randrange(5, 900)\n", 'f"There are {n}."', 'Answer("number", n)'),
        (
            "    n = rng.choice([i['count'] for i in world._items.values() if i is not item])\n",
            'f"There are {n}."',
            'Answer("amount", n)',
        ),
        ("", '"It is Bob."', 'Answer("text", "Bob")'),
        ("", '"On 2027-03-04."', 'Answer("date", "2027-03-04")'),
        (
            "    c = rng.choice(('yes', 'no'))\n",
            'f"{c}."',
            'Answer("choice", c, options=("yes", "no"))',
        ),
    ],
)
def test_an_answer_that_no_result_leads_to_is_an_error_though_its_reply_agrees(
    tmp_path: Path, setup: str, reply: str, answer: str
) -> None:
    (line,) = lines(load_pack(tmp_path / "stock", *counted(setup, reply, answer)))
    assert line.startswith("environment.py: count_of_item: seed ") and ": its answer" in line


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("f\"It is a {item['name']}.\"", 'Answer("text", item["name"])'),
        ("f\"Twelve fewer: {item['count']} of them.\"", 'Answer("number", item["count"])'),
        (
            "f\"{'yes' if item['count'] > 400 else 'no'}\"",
            'Answer("choice", "yes" if item["count"] > 400 else "no", options=("yes", "no"))',
        ),
    ],
)
def test_an_answer_that_a_result_states_or_decides_is_accepted(
    tmp_path: Path, reply: str, answer: str
) -> None:
    domain = load_pack(tmp_path / "stock", *counted("", reply, answer))
    assert [line for line in lines(domain) if "its answer" in line] == []


SWARM = """\
import random

from teacher.domain import Answer, Blueprint, Part, Swarm, template

from .environment import StockRoom


@template(kind="swarm")
def low_numbers(world: StockRoom, rng: random.Random) -> Blueprint:
    chosen = rng.sample(list(world._items.items()), 8)
    parts = [
        Part(
            item["name"],
            f"Which number has the {item['name']}?",
            [("find_item", {"name": item["name"]})],
            f"It is {number}.",
            Answer("text", number),
        )
        for number, item in chosen
    ]
    swarm = Swarm("clerk", "You look up items.", parts)
    names = ", ".join(item["name"] for _, item in chosen)
    count = sum(number < "S-5" for number, _ in chosen) + EXTRA
    request = f"How many of these have a low number, one below S-5000: {names}?"
    return Blueprint(request, swarm.plan, f"{count} do.", Answer("number", count), swarm=swarm)
"""


@pytest.mark.parametrize(("extra", "errors"), [(0, 0), (9, 1)])
def test_a_swarm_may_count_what_its_sub_agents_find_but_not_more_than_that(
    tmp_path: Path, extra: int, errors: int
) -> None:
    share = "  workflow: {share: 0.5}\n", "  workflow: {share: 0.5}\n  swarm: {share: 0}\n"
    path = write_pack(tmp_path / "stock", share, file="domain.yaml")
    (path / "swarm.py").write_text(SWARM.replace("EXTRA", str(extra)))
    found = [line for line in lines(load(str(path))) if "low_numbers" in line]
    assert len(found) == errors and all(": its answer" in line for line in found), found


def test_an_answer_is_followed_over_the_intermediate_values_of_its_reply(tmp_path: Path) -> None:
    asked = (
        'f"Stock of {number}?"',
        'f"Stock of {number}, with 19 percent and 250 more, in dozens?"',
    )
    more = ('f"How many of {number} do we have?"', asked[1])
    also = ('f"What is the count of {number}?"', asked[1])
    setup = "    with_tax = round(item['count'] * 1.19, 2)\n    total = with_tax + 250\n"
    setup += "    dozens = round(total / 12, 2)\n"
    reply = 'f"{with_tax}, with 250 more {total}, so {dozens} dozen."'
    changes = counted(setup, reply, 'Answer("number", dozens)')
    domain = load_pack(tmp_path / "stock", *changes, asked, more, also)
    assert [line for line in lines(domain) if "its answer" in line] == []


def test_an_identifier_that_nothing_states_is_an_error_and_one_of_a_result_is_accepted(
    tmp_path: Path,
) -> None:
    (line,) = lines(load_pack(tmp_path / "conjured", (FIND, "")))
    assert "moved_item: move_item: seed 0" in line and "item='S-" in line
    assert lines(load_pack(tmp_path / "found")) == []


def test_a_value_that_the_request_does_not_state_is_an_error(tmp_path: Path) -> None:
    (line,) = lines(load_pack(tmp_path / "stock", SHELVES, *OTHERS))
    assert "shelf='" in line and "state the value in the request" in line


def test_another_number_than_the_request_asks_for_is_an_error(tmp_path: Path) -> None:
    asked = [
        (old, "f\"Take five of {item['name']}.\"") for old in (SHELVES[0], *(o for o, _ in OTHERS))
    ]
    moved = (
        '("move_item", {"item": number, "shelf": shelf})',
        '("take_item", {"item": number, "count": 3})',
    )
    done = ("is on shelf {shelf} now.", "was taken.")
    (line,) = lines(load_pack(tmp_path / "three", *asked, moved, done))
    assert "take_item" in line and "count='3'" in line
    right = (moved[0], moved[1].replace("3", "5"))
    assert lines(load_pack(tmp_path / "five", *asked, right, done)) == []


def test_a_reply_that_states_another_value_than_the_write_is_an_error(tmp_path: Path) -> None:
    change = ("is on shelf {shelf} now.", "is on shelf {rng.choice(SHELVES)} now.")
    (line,) = lines(load_pack(tmp_path / "stock", change))
    assert "moved_item" in line and "its reply states" in line


def test_steps_that_are_too_few_are_named_with_the_number(tmp_path: Path) -> None:
    domain = load_pack(tmp_path / "few", ("steps: 6", "steps: 2"), file="domain.yaml")
    (line,) = lines(domain)
    assert "moved_item" in line and "set budgets.steps in domain.yaml to 3" in line
    assert lines(load_pack(tmp_path / "enough", ("steps: 6", "steps: 3"), file="domain.yaml")) == []


def evidence(*results: object, request: str = "") -> Evidence:
    seen = Evidence()
    seen.add_request(request)
    for result in results:
        seen.add(result)
    return seen


@pytest.mark.parametrize(
    ("results", "request_text", "value"),
    [
        ([{"unit": 12.5}, {"count": 30}], "", 375),
        ([{"price": 480}], "less 15 percent", 408),
        ([[{"team": "a", "n": 4}, {"team": "b", "n": 9}, {"team": "a", "n": 11}]], "", 15),
        ([[5, 8, 14]], "", 9),
        ([{"x": "open", "y": "closed", "z": "open"}], "", 2),
        ([{"from": "2026-03-02", "to": "2026-04-11"}], "", 40),
        ([{"net": 1200}, {"fee": 35}], "for three months", 3705),
        ([{"rate": "EUR 1,250.00"}], "", 1250),
    ],
)
def test_numbers_that_a_person_would_compute_are_computed(
    results: list[object], request_text: str, value: float
) -> None:
    seen = evidence(*results, request=request_text)
    assert seen.has_number(value) or seen.computes(value)


def test_dates_that_a_person_would_compute_are_computed() -> None:
    seen = evidence({"due": "2026-03-02"}, {"days": 10}, {"months": 3})
    assert seen.computes_date("2026-03-12") and seen.computes_date("2026-06-02")
    assert seen.computes_date("2026-03-16"), "ten working days"
    assert not seen.computes_date("2026-05-23")


def test_numbers_that_nothing_leads_to_are_not_computed() -> None:
    seen = evidence({"id": "S-1042", "count": 353, "shelf": "B4"}, request="Stock of S-1042?")
    assert not any(seen.has_number(n) or seen.computes(n) for n in (354, 1042, 77, 700))
