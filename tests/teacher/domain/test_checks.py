"""Answers are read as a person reads them, near misses and shotguns are not answers."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.task import Answer
from teacher.domain.scoring import MAX_TEXT, answer_matches, state_hash

STATUS: Answer = {
    "type": "choice",
    "value": "active",
    "options": ["active", "not active", "closed"],
}


def amount(value: float, tolerance: float = 0) -> Answer:
    return {"type": "amount", "value": value, "tolerance": tolerance}


@pytest.mark.parametrize(
    "text",
    [
        "12500",
        "The cap is 12,500.",
        "EUR 12,500.00",
        "It is €12,500, payable at once.",
        "**12,500** euros",
        "(12500)",
        "The cap of C-1042 is 12,500 since 2 March 2026.",
        "Since 2026-03-02 it is 12,500; before, from March 1st, 2020, it was 9,000.",
    ],
)
def test_an_amount_may_be_written_as_people_write_it(text: str) -> None:
    assert answer_matches(amount(12500), text)


@pytest.mark.parametrize(
    "text",
    [
        "12501",
        "125000",
        "1,250",
        "-12,500",
        "12.500",
        "12,500.01",
        "C-12500",
        "12500th",
        "12500.5.1",
        "12,5,00",
        "1,2500",
        "twelve thousand five hundred",
    ],
)
def test_an_amount_that_is_nearly_right_is_wrong(text: str) -> None:
    assert not answer_matches(amount(12500), text)


def test_a_decimal_comma_is_not_read_as_thousands() -> None:
    assert not answer_matches({"type": "number", "value": 5}, "It took 0,5 hours.")
    assert not answer_matches({"type": "number", "value": 125}, "It took 12,5 hours.")


def test_the_year_of_a_date_is_not_a_number() -> None:
    for text in ("On 2026-03-02.", "On 2 March 2026.", "On March 2, 2026."):
        for value in (2026, 3, 2):
            assert not answer_matches({"type": "number", "value": value}, text)


def test_the_tolerance_is_absolute_and_includes_its_bound() -> None:
    assert answer_matches(amount(100, 0.5), "about 100.5")
    assert answer_matches(amount(100, 0.5), "about 99.5")
    assert not answer_matches(amount(100, 0.5), "about 100.51")


def test_zero_and_negative_numbers_are_answers() -> None:
    assert answer_matches({"type": "number", "value": 0}, "There are 0 left.")
    assert answer_matches({"type": "number", "value": -3}, "The balance is -3.")
    assert not answer_matches({"type": "number", "value": 0}, "There are none left.")


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-02",
        "By 2 March 2026.",
        "By 2nd March, 2026.",
        "It is due on Monday, 2 Mar 2026",
        "March 2, 2026",
        "MARCH 2ND 2026",
        "Mar. 2, 2026 at the latest",
        "02 March 2026",
        "the 2nd of March, 2026",
    ],
)
def test_a_date_may_be_spelled_out(text: str) -> None:
    assert answer_matches({"type": "date", "value": "2026-03-02"}, text)


@pytest.mark.parametrize(
    "text",
    ["2026-03-03", "2 March 2025", "2 May 2026", "March 2026", "03/02/2026", "2 Marvel 2026", ""],
)
def test_a_date_that_is_nearly_right_is_wrong(text: str) -> None:
    assert not answer_matches({"type": "date", "value": "2026-03-02"}, text)


@given(date=st.dates(dt.date(1900, 1, 1), dt.date(2100, 1, 1)))
def test_every_date_is_found_in_each_of_its_spellings(date: dt.date) -> None:
    answer: Answer = {"type": "date", "value": date.isoformat()}
    for form in ("%Y-%m-%d", "%d %B %Y", "%d %b %Y", "%B %d, %Y", "%b. %d, %Y"):
        assert answer_matches(answer, f"It is {date.strftime(form)}.")


def test_a_day_that_does_not_exist_is_passed_over() -> None:
    text = "Not 31 June 2026 or 2026-02-30 but 2026-07-01."
    assert answer_matches({"type": "date", "value": "2026-07-01"}, text)


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("It is active.", True),
        ("ACTIVE", True),
        ("It is not active.", False),
        ("It is inactive.", False),
        ("It is closed.", False),
        ("It is active or closed.", False),
        ("active, not active, closed", False),
        ("I do not know.", False),
    ],
)
def test_a_choice_names_its_option_and_no_other(text: str, matches: bool) -> None:
    assert answer_matches(STATUS, text) is matches


def test_a_longer_option_hides_the_shorter_one_inside_it() -> None:
    assert answer_matches({**STATUS, "value": "not active"}, "It is not  active any more.")


def test_text_is_found_whole_whatever_its_case_and_spacing() -> None:
    answer: Answer = {"type": "text", "value": "Ann O'Neil (jr.)"}
    assert answer_matches(answer, "ann o'neil\n(JR.) signed it.")
    assert not answer_matches(answer, "Ann O'Neil signed it.")
    assert not answer_matches({"type": "text", "value": "M-10"}, "It is M-104.")
    assert not answer_matches({"type": "text", "value": "Ann"}, "Annabel signed it.")


def test_a_shotgun_of_values_does_not_pass() -> None:
    assert not answer_matches({"type": "number", "value": 7}, " ".join(map(str, range(10))))
    dates = ", ".join(f"2026-03-0{day}" for day in range(1, 6))
    assert not answer_matches({"type": "date", "value": "2026-03-02"}, dates)
    names = [f"Name{number} Family{number}" for number in range(100)]
    assert not answer_matches({"type": "text", "value": names[3]}, ", ".join(names))


@pytest.mark.parametrize("text", ["", " \n\t", "12500 " + "x" * MAX_TEXT])
def test_an_empty_or_endless_text_answers_nothing(text: str) -> None:
    assert not answer_matches(amount(12500), text)


@given(text=st.text(max_size=200), value=st.integers(-(10**6), 10**6))
def test_no_text_makes_a_check_fail_to_decide(text: str, value: int) -> None:
    answers: list[Answer] = [
        amount(value),
        {"type": "date", "value": "2026-03-02"},
        {"type": "text", "value": "x"},
        STATUS,
    ]
    assert all(answer_matches(answer, text) in (True, False) for answer in answers)


def test_a_very_long_number_is_only_wrong() -> None:
    assert not answer_matches(amount(1), "9" * 500)


def test_equal_states_hash_alike_and_others_do_not() -> None:
    assert state_hash({"a": 1, "b": [1, 2]}) == state_hash({"b": [1, 2], "a": 1})
    assert state_hash({"a": [1, 2]}) != state_hash({"a": [2, 1]})
    assert state_hash({"a": 1}) != state_hash({"a": "1"})


# ------------------------------------------------------------------------------------- pictures

BOX: Answer = {"type": "point", "value": [100, 40, 180, 60]}
NOT_SHOWN: Answer = {"type": "not_shown", "value": None}


@pytest.mark.parametrize(
    "text",
    [
        "It is at (140, 50).",
        "[100, 40]",
        "The button is at x=179, y=59.",
        "x: 140 y: 50",
        "x = 140 and y = 50",
        "At (140.5, 50 px), that is (140.5, 50).",
    ],
)
def test_a_point_in_the_box_is_right(text: str) -> None:
    assert answer_matches(BOX, text)


@pytest.mark.parametrize(
    "text",
    [
        "(180, 50)",
        "(140, 60)",
        "(50, 140)",
        "140, 50",
        "At the top.",
        "(140, 50) or (300, 400)",
        "",
    ],
)
def test_a_point_outside_or_two_points_or_none_is_wrong(text: str) -> None:
    assert not answer_matches(BOX, text)


@pytest.mark.parametrize(
    "text",
    [
        "The page does not show that.",
        "This chart doesn\u2019t include the year 2021.",
        "No payment term is stated on this page.",
        "The payment term is not given.",
        "I cannot find a notice period on the page.",
        "The diagram contains no node called Review.",
        "There is no signature date on this document.",
        "That field is missing from the form.",
        "The screen lists nothing of the kind.",
        "It isn't visible in the screenshot.",
        "Unfortunately the fee can't be read from this page.",
        "The invoice does not mention a discount.",
    ],
)
def test_a_reply_that_says_it_is_not_shown_is_right(text: str) -> None:
    assert answer_matches(NOT_SHOWN, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The page shows 30 days.",
        "30 days.",
        "It is not 30 but 45 days.",
        "No, the cap is given as EUR 500.",
        "The fee is not due in the first year; it is EUR 500.",
        "The contract is not active.",
        "There are three of them on the page.",
        "Nobody signed it.",
        "The two values are not the same.",
    ],
)
def test_a_reply_that_gives_a_value_does_not_say_that_it_is_not_shown(text: str) -> None:
    assert not answer_matches(NOT_SHOWN, text)
