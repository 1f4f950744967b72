"""The legal pack: every task is solvable, none is trivial, train and exam are disjoint, tools are robust."""

import datetime as dt
import random
import re
import sys
from dataclasses import replace
from functools import cache
from typing import Any

import holidays
import hostile
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from schemas.documents import check_document
from schemas.errors import InputError
from schemas.files import dumps
from teacher.domain import Blueprint, load
from teacher.domain import tasks as proven
from teacher.domain.questions import run, used
from teacher.domain.scoring import answer_matches, state_hash
from teacher.scenes.kinds import KINDS, draw
from teacher.scenes.legibility import check

LEGAL = load("legal")
PACKAGE = LEGAL.environment.__module__.rpartition(".")[0]
TEXTUAL, BUSINESS_DAYS, AGREEMENTS = (
    sys.modules[f"{PACKAGE}.{name}"] for name in ("textual", "business_days", "agreements")
)
NAMES = sorted(LEGAL.templates)
ENTITY = re.compile(r"\b[CMAO]-\d+\b|\b[A-Z][a-z]+ [A-Z][a-z]+\b")


def build(split: str, seed: int) -> tuple[str, Blueprint]:
    """One task as the sampler makes it: templates in turn, the world and the wording from the seed."""
    name = NAMES[seed % len(NAMES)]
    blueprint = LEGAL.templates[name](world(split, seed), random.Random(seed))
    if blueprint.program and not blueprint.answer:
        answer = run(blueprint.program, [scene.data for scene in blueprint.pictures])
        blueprint = replace(blueprint, answer=answer)
    return name, blueprint


def shown(blueprint: Blueprint) -> str:
    """The source in words of a task's images."""
    modules = [KINDS[scene.kind]() for scene in blueprint.pictures]
    words = [m.source(s.data) for m, s in zip(modules, blueprint.pictures, strict=True)]
    return "\n".join(words)


def world(split: str, seed: int) -> Any:
    environment = LEGAL.environment()
    environment.reset(seed=seed, split=split)
    return environment


def replay(split: str, seed: int, blueprint: Blueprint) -> tuple[list[Any], str]:
    environment = world(split, seed)
    results = [getattr(environment, tool)(**arguments) for tool, arguments in blueprint.plan]
    return results, state_hash(environment._state())


@cache
def tasks() -> list[tuple[str, int, str, Blueprint, list[Any], str, str]]:
    """(split, seed, template, blueprint, results, state before, state after) of 1,000 + 300 tasks."""
    made = []
    for split, count in (("train", 1000), ("exam", 300)):
        for seed in range(count):
            name, blueprint = build(split, seed)
            results, after = replay(split, seed, blueprint)
            before = state_hash(world(split, seed)._state())
            made.append((split, seed, name, blueprint, results, before, after))
    return made


def passes(blueprint: Blueprint, state: str, after: str, text: str) -> bool:
    answered = blueprint.answer is None or answer_matches(blueprint.answer.as_row(), text)
    return answered and state == after


def test_pack_is_wide_enough() -> None:
    assert len(LEGAL.tools) >= 10
    assert len(LEGAL.templates) >= 8
    calls = {len(one.plan) for _, _, _, one, *_ in tasks() if not one.swarm}
    assert calls == {0, 1, 2, 3, 4, 5}  # none where the request has the text to extract from
    assert max(calls) < LEGAL.spec["budgets"]["steps"]
    used = {tool for _, _, _, blueprint, *_ in tasks() for tool, _ in blueprint.plan}
    assert used == set(LEGAL.tools)


def test_plans_pass_their_own_checks_and_build_the_same_way_twice() -> None:
    for split, seed, _, blueprint, _, _, after in tasks():
        assert passes(blueprint, after, after, blueprint.reply), blueprint
        assert build(split, seed)[1] == blueprint
        assert replay(split, seed, blueprint)[1] == after


def test_lookups_are_one_reading_call() -> None:
    for _, _, name, blueprint, _, before, after in tasks():
        kind = LEGAL.templates[name].kind
        if kind == "lookup":
            assert len(blueprint.plan) == 1 and before == after and blueprint.answer
        elif kind == "workflow":
            assert len(blueprint.plan) > 1 or before != after


def test_doing_nothing_or_repeating_the_request_passes_no_task() -> None:
    for _, _, _, blueprint, _, before, after in tasks():
        for text in ("", "Done.", blueprint.request):
            assert not passes(blueprint, before, after, text), blueprint


EITHER = (
    "twice_amended_term",
    "conflicting_amendments",
    "cap_for_a_breach",
    "later_of_two_calendars",
)


def test_stopping_before_the_last_call_passes_no_task() -> None:
    """The answer and the state come from the whole plan: a part of it does not give them."""
    for split, seed, name, blueprint, _, _, after in tasks():
        # Either of two values may be the one that counts, an exception may not apply, and any part be the highest.
        if name in EITHER or blueprint.swarm:
            continue
        environment = world(split, seed)
        seen = [dumps(getattr(environment, tool)(**a)) for tool, a in blueprint.plan[:-1]]
        state = state_hash(environment._state())
        assert not any(passes(blueprint, state, after, text) for text in seen), blueprint


def test_no_argument_is_magic() -> None:
    """Every id, name, date and amount of a call was in the request, in an image or in an earlier result."""
    for _, _, _, blueprint, results, _, _ in tasks():
        known = f"{blueprint.request} {shown(blueprint)}"
        for (tool, arguments), result in zip(blueprint.plan, results, strict=True):
            for key, value in arguments.items():
                if key in {"topic", "duty", "event", "status"}:  # said in words
                    continue
                if value in {"contents", "recitals", "definitions", "schedule 1", "schedule 2"}:
                    continue  # the tool's description names them
                if (key, value) == ("days", 0):  # moves a day off, as the tool's description says
                    continue
                wanted = str(abs(value)) if isinstance(value, int | float) else value
                assert wanted in known, (tool, key, value, known)
            known += dumps(result)


def test_the_latest_amendment_prevails_over_clause_and_number() -> None:
    later_number_loses = 0
    for split, seed, name, blueprint, results, _, _ in tasks():
        if name != "twice_amended_term":
            continue
        clause, *amendments = results
        assert blueprint.answer is not None
        effective = max(amendments, key=lambda a: a["effective"])
        assert blueprint.answer.value == effective["value"]
        assert len({clause["value"], *(a["value"] for a in amendments)}) == 3, (split, seed)
        assert all(a["effective"] < "2026-03-02" for a in amendments)
        later_number_loses += effective is not max(amendments, key=lambda a: a["amendment_id"])
    assert later_number_loses > 10
    assert "2026-03-02" in LEGAL.spec["system"]


def test_train_and_exam_share_no_entity() -> None:
    seen: dict[str, set[str]] = {"train": set(), "exam": set()}
    for split, seed, _, blueprint, results, _, _ in tasks():
        text = " ".join(
            [blueprint.request, shown(blueprint), dumps(blueprint.plan), dumps(results)]
        )
        seen[split] |= set(re.findall(r"\b[CMAO]-\d+\b", text))
        desk = world(split, seed)
        for matter in desk._matters.values():
            seen[split] |= {matter.client, matter.adverse, matter.lawyer, matter.lawyer.split()[1]}
        for contract in desk._contracts.values():
            seen[split] |= {contract.counterparty, contract.counterparty.split()[0]}
    assert len(seen["train"]) > 2000 and len(seen["exam"]) > 1000
    assert not seen["train"] & seen["exam"]
    # The examples in the tool descriptions do not name existing entities.
    assert not set(ENTITY.findall(dumps(LEGAL.tools))) & (seen["train"] | seen["exam"])


def test_requests_are_distinct_and_short() -> None:
    # The same words about another image are another request.
    requests = [
        blueprint.request + shown(blueprint)
        for split, _, _, blueprint, *_ in tasks()
        if split == "train"
    ]
    assert len(set(requests)) >= 0.95 * len(requests)
    words = [len(one.request.split()) for _, _, _, one, *_ in tasks() if not one.swarm]
    assert max(words) <= 35
    wordings = TEXTUAL.REQUESTS
    assert all(len(set(group)) >= 4 for group in wordings.values())


def visual_tasks() -> list[tuple[str, int, str, Blueprint]]:
    return [
        (split, seed, name, blueprint)
        for split, seed, name, blueprint, *_ in tasks()
        if blueprint.pictures and LEGAL.templates[name].kind != "extract"
    ]


def test_there_are_pages_and_charts_of_few_words() -> None:
    kinds = [t.kind for t in LEGAL.templates.values()]
    assert kinds.count("document") >= 2 and kinds.count("chart") >= 2
    assert len(visual_tasks()) > 200
    for _, _, name, blueprint in visual_tasks():
        assert len(blueprint.pictures) == 1 and blueprint.program
        assert blueprint.pictures[0].kind == LEGAL.templates[name].kind
        assert len(shown(blueprint).split()) < (150 if name == "page_of_clauses" else 60)


def test_what_a_picture_shows_is_neither_asked_nor_known_to_the_desk() -> None:
    """Only the image shows the arguments; without it, the tools cannot be called."""
    for split, seed, name, blueprint in visual_tasks():
        _, arguments = blueprint.plan[0]
        planted = [str(v) for k, v in arguments.items() if k not in ("event", "status")]
        hidden = [value for value in planted if value not in blueprint.request]
        assert hidden and all(value in shown(blueprint) for value in hidden), blueprint
        if name != "chart_busiest_lawyer" and not name.startswith("page_against"):
            # The state of the desk does not contain the figures either.
            figures = [v for v in hidden if not re.fullmatch(r"[CMA]-\d+", v)]
            assert not any(f'"{v}"' in dumps(world(split, seed)._state()) for v in figures)


def test_what_the_program_finds_is_what_the_plan_uses_or_the_answer_says() -> None:
    for _, _, name, blueprint in visual_tasks():
        assert blueprint.program and blueprint.answer
        actual = run(blueprint.program, [scene.data for scene in blueprint.pictures]).value
        used_by_plan = [str(v) for _, arguments in blueprint.plan for v in arguments.values()]
        said = str(actual) in used_by_plan or actual == blueprint.answer.value
        assert said or str(actual).split()[0] in used_by_plan, (name, actual, blueprint)


def test_pictures_are_drawn_right_and_show_what_is_asked() -> None:
    for blueprint in {name: blueprint for _, _, name, blueprint in visual_tasks()}.values():
        image = draw(blueprint.pictures[0])
        assert check(image) == []
        keys = {cell.key for cell in image.cells}
        assert blueprint.program and {key for _, key in used(blueprint.program)} <= keys


@pytest.mark.slow
def test_all_pictures_are_drawn_right() -> None:
    for _, _, _, blueprint in visual_tasks():
        assert check(draw(blueprint.pictures[0])) == [], blueprint


def test_the_page_and_the_record_differ_by_the_answer() -> None:
    for _, _, name, blueprint, results, _, _ in tasks():
        if name == "page_against_record":
            fields = blueprint.pictures[0].data["fields"]
            (said,) = [v for k, v in fields.items() if k != "Contract"]
            on_page = int(re.sub(r"\D", "", said))
            assert blueprint.answer
            assert abs(on_page - results[0]["value"]) == blueprint.answer.value > 0


def test_results_are_small() -> None:
    for _, _, _, blueprint, results, _, _ in tasks():
        for (tool, _), result in zip(blueprint.plan, results, strict=True):
            most = 700 if tool == "read_part" else 160
            assert len(result) <= 5 and len(dumps(result)) <= most, result


def test_the_text_of_a_contract_agrees_with_its_record_and_refers_to_clauses_that_exist() -> None:
    for seed in range(60):
        desk = world("train", seed)
        for contract in desk._contracts.values():
            text = desk._agreement(contract.id)
            words = " ".join([*text.recitals, *text.headings.values(), *text.clauses.values()])
            assert len(words.split()) > 700 and len(text.headings) == 23
            for clause in contract.clauses.values():
                part = desk.read_part(contract.id, clause.number)
                assert f"{clause.value:,}" in part["clauses"][clause.number]
                amended = part.get("amended_by", {}).get(clause.number, [])
                assert amended == clause.amendments
            assert f"law of {contract.governing_law}" in words and contract.counterparty in words
            references = re.findall(r"clause (\d+\.\d)", words)
            assert len(references) == 3
            assert all(number in text.clauses for number in references)


def test_which_amendment_prevails_is_written_in_the_clause_that_the_definition_names() -> None:
    """The answer follows from the results alone, by the rule in words."""
    rules = set()
    for seed in range(300):
        blueprint = LEGAL.templates["conflicting_amendments"](
            world("train", seed), random.Random(seed)
        )
        definitions, clause, *amendments = replay("train", seed, blueprint)[0]
        assert len(amendments) == 2 and "1.1" in definitions["amended_by"]
        (rule,) = clause["clauses"].values()
        first, last = sorted(amendments, key=lambda each: each["effective"])
        winner = first if "takes effect earlier prevails" in rule else last
        winner = next((each for each in amendments if "precedence" in each), winner)
        assert blueprint.answer and blueprint.answer.value == winner["value"]
        rules.add(("earlier" in rule, "precedence" in first, "precedence" in last))
    assert len(rules) == 6


def test_an_exception_raises_the_cap_for_its_own_article_alone() -> None:
    raised = 0
    for seed in range(200):
        blueprint = LEGAL.templates["cap_for_a_breach"](world("exam", seed), random.Random(seed))
        record, _, exception = replay("exam", seed, blueprint)[0]
        (text,) = exception["clauses"].values()
        protected = AGREEMENTS.WORDS["protected"].items()
        breach = [heading for heading, words in protected if words in blueprint.request]
        percent = re.search(r"(\d+) percent", text)
        applies = percent and exception["article"].endswith(breach[0])
        factor = int(percent[1]) if percent and applies else 100
        assert blueprint.answer and blueprint.answer.value * 100 == record["value"] * factor
        raised += factor > 100
    assert 60 < raised < 160


def test_arguments_fit_the_derived_schemas() -> None:
    validators = {}
    for name, described in LEGAL.tools.items():
        schema = described["function"]["parameters"]
        Draft202012Validator.check_schema(schema)
        assert 1 <= len(schema["properties"]) <= 3
        validators[name] = Draft202012Validator(schema)
    for _, _, _, blueprint, *_ in tasks():
        for tool, arguments in blueprint.plan:
            validators[tool].validate(arguments)


SOME_DESK = world("train", 1)
HOSTILE = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["2026-02-30", "2026-13-01", "٢٠٢٦-٠١-٠١", "2099-12-31", "2000-01-01", "\ud800"]
    ),
    st.sampled_from(
        ["C-100", "liability_cap", "England", "closed", "__class__", "{0}", "x" * 5000]
    ),
    st.integers(),
    st.sampled_from([0, -1, 400, -400, 10**400]),
    st.floats(),
    st.none() | st.booleans() | st.lists(st.integers(), max_size=2) | st.just({"a": []}),
)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_hostile_arguments_raise_value_error_only(data: st.DataObject) -> None:
    desk = SOME_DESK
    exists = [*desk._contracts, *desk._matters, *desk._amendments, *desk._performed]
    hostile.call(data, LEGAL, desk, exists, HOSTILE)


@pytest.mark.parametrize(
    ("start", "days", "jurisdiction", "expected"),
    [
        ("2026-03-02", 1, "England", "2026-03-03"),
        ("2026-03-06", 1, "England", "2026-03-09"),  # over a weekend
        ("2026-03-07", 1, "England", "2026-03-09"),  # from a Saturday
        ("2026-03-09", -1, "England", "2026-03-06"),
        ("2026-04-02", 1, "England", "2026-04-07"),  # Good Friday and Easter Monday
        ("2026-04-02", 1, "Ireland", "2026-04-03"),  # Good Friday is a working day
        ("2026-04-02", 2, "France", "2026-04-07"),
        ("2026-04-07", -1, "Germany", "2026-04-02"),
        ("2026-03-16", 1, "Ireland", "2026-03-18"),  # St Patrick's Day
        ("2026-01-30", 1, "Ireland", "2026-02-03"),  # St Brigid's, the first Monday of February
        ("2030-01-31", 1, "Ireland", "2030-02-04"),  # unless 1 February is a Friday
        ("2026-05-13", 1, "France", "2026-05-15"),  # Ascension
        ("2026-05-22", 1, "Germany", "2026-05-26"),  # Whit Monday
        ("2026-05-22", 1, "England", "2026-05-26"),  # the spring bank holiday, the same Monday
        ("2026-07-13", 1, "France", "2026-07-15"),
        ("2026-08-28", 1, "England", "2026-09-01"),
        ("2026-10-23", 1, "Ireland", "2026-10-27"),
        ("2025-10-02", 1, "Germany", "2025-10-06"),  # Unity Day on a Friday
        ("2026-12-24", 1, "England", "2026-12-29"),  # Boxing Day, a Saturday, moves to Monday
        ("2027-12-24", 1, "England", "2027-12-29"),  # both days move
        ("2026-12-24", 1, "Germany", "2026-12-28"),
        ("2026-12-31", 1, "France", "2027-01-04"),
        ("2026-03-02", 10, "Germany", "2026-03-16"),
        ("2026-12-31", 1, "Scotland", "2027-01-05"),  # 2 January, a Saturday, moves to Monday
        (
            "2026-08-03",
            0,
            "Scotland",
            "2026-08-04",
        ),  # the bank holiday of the first Monday of August
        ("2026-04-27", 0, "Netherlands", "2026-04-28"),  # the King's birthday
        ("2026-06-03", 1, "Austria", "2026-06-05"),  # Corpus Christi
        (
            "2026-07-02",
            1,
            "United States",
            "2026-07-06",
        ),  # Independence Day, a Saturday, is the Friday
        (
            "2027-12-30",
            1,
            "United States",
            "2028-01-03",
        ),  # the New Year of a Saturday is in the old year
        ("2026-03-28", 0, "France", "2026-03-30"),  # a Saturday
        ("2026-03-27", 0, "France", "2026-03-27"),  # a business day
        ("2026-06-30", -30, "England", "2026-05-18"),  # six weeks, and the spring bank holiday
    ],
)
def test_business_days(start: str, days: int, jurisdiction: str, expected: str) -> None:
    counted = SOME_DESK.add_business_days(start, days, jurisdiction)
    assert counted == {"date": expected}


@pytest.mark.parametrize(
    ("jurisdiction", "country", "subdivision"),
    [
        ("England", "GB", "ENG"),
        ("Scotland", "GB", "SCT"),
        ("Ireland", "IE", None),
        ("Germany", "DE", None),
        ("France", "FR", None),
        ("Netherlands", "NL", None),
        ("Austria", "AT", None),
        ("United States", "US", None),
    ],
)
def test_public_holidays_are_those_of_the_package_holidays(
    jurisdiction: str, country: str, subdivision: str | None
) -> None:
    """A second opinion for 2023 to 2035, but for the days that were proclaimed once."""
    others = holidays.country_holidays(country, subdiv=subdivision, years=range(2022, 2037))
    for year in range(2023, 2036):
        expected = {day for day in others if day.year == year and day.weekday() < 5}
        if (
            country == "NL"
        ):  # by law as a holiday where periods are concerned; a day off every fifth year alone
            easter = BUSINESS_DAYS._easter(year)
            expected |= {
                d for d in (easter - dt.timedelta(2), dt.date(year, 5, 5)) if d.weekday() < 5
            }
        once = {day for day in expected if day in PROCLAIMED.get(country, ())}
        assert BUSINESS_DAYS.holidays(jurisdiction, year) == expected - once, year


# The Coronation of 2023, and in Scotland the World Cup of 2026.
PROCLAIMED = {"GB": (dt.date(2023, 5, 8), dt.date(2026, 6, 15))}


@pytest.mark.parametrize(
    ("year", "easter"), [(2024, "03-31"), (2025, "04-20"), (2026, "04-05"), (2038, "04-25")]
)
def test_easter(year: int, easter: str) -> None:
    assert BUSINESS_DAYS._easter(year) == dt.date.fromisoformat(f"{year}-{easter}")


def test_time_is_billed_in_tenths_and_counts_twice_when_logged_twice() -> None:
    desk = world("train", 2)
    matter = next(iter(desk._matters))
    desk.log_time(matter, 0.7)
    assert desk.log_time(matter, 1)["total"] == 1.7
    for hours in (0, -1, 0.25, 25, float("nan"), float("inf"), "1", True):
        with pytest.raises(ValueError, match="hours"):
            desk.log_time(matter, hours)


def test_a_conflict_is_the_same_from_either_side() -> None:
    one, other = world("train", 3), world("train", 3)
    first, second = list(one._matters)[:2]
    one.flag_conflict(first, second)
    other.flag_conflict(second, first)
    assert one._state() == other._state() != world("train", 3)._state()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "Legal desk"}, "name"),
        ({"budget": {"steps": 8}}, "budget"),
        ({"budgets": {"steps": 0}}, "budgets.steps"),
        ({"kinds": {"lookups": {"share": 1}}}, "kinds"),
        ({"kinds": {"lookup": {"share": -1}}}, "kinds.lookup.share"),
        ({"languages": "en"}, "languages"),
        ({"exam": {"min_success": 80}}, "exam.min_success"),
    ],
)
def test_a_broken_domain_file_names_the_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=rf"^domain\.yaml: {re.escape(field)}"):
        check_document({**LEGAL.spec, **change}, "domain", "domain.yaml")


def test_a_deadline_that_is_diaried_already_is_not_asked_for() -> None:
    """The due day of this seed's first draw is the matter's deadline."""
    assert proven.build(LEGAL, "moved_deadline", "train", 3792)["plan"]
