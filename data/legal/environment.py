"""The legal desk: contracts and their amendments, matters, deadlines, conflicts, obligations, time.

A world is six contracts and the six matters they are handled under, built from the task's seed.
Everything in it is invented. Names and numbers of train and exam worlds come from disjoint pools,
dealt out so that every digit and every syllable occurs in both: a student meets new entities, not a
new alphabet. requests.yaml holds what people ask; the templates below say what it takes.

Days are counted as a lawyer counts them: the day itself is left out, weekends and the public
holidays of the governing law are skipped. One-off bank holidays are not modelled.
"""

import datetime as dt
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from teacher.domain import (
    Answer,
    Blueprint,
    Environment,
    known,
    one_of,
    quoted,
    same_name,
    template,
)

Topic = Literal[
    "liability_cap",
    "indemnity_cap",
    "termination_fee",
    "notice_period",
    "payment_term",
    "late_interest",
]
Jurisdiction = Literal["England", "Ireland", "Germany", "France"]
Event = Literal["defence", "disclosure", "witness_statement", "appeal", "non_renewal"]
Duty = Literal["insurance_certificate", "audit_report", "royalty_statement", "data_deletion"]
Status = Literal["open", "on_hold", "closed"]
Plan = list[tuple[str, dict[str, Any]]]

TOPICS = {
    "liability_cap": ("liability cap", "EUR"),
    "indemnity_cap": ("indemnity cap", "EUR"),
    "termination_fee": ("early termination fee", "EUR"),
    "notice_period": ("notice period", "business days"),
    "payment_term": ("payment term", "business days"),
    "late_interest": ("late payment interest", "percent"),
}
AMENDED_TOPICS = ("liability_cap", "indemnity_cap", "notice_period", "payment_term")
JURISDICTIONS = get_args(Jurisdiction)
EVENTS = get_args(Event)
COURT_EVENTS = tuple(event for event in EVENTS if event != "non_renewal")
DUTIES = get_args(Duty)
STATUSES = get_args(Status)
MAX_DAYS = 400

# ----------------------------------------------------------------------------------- invented names

_ONSETS = (
    "Ard Bel Bren Cal Cor Dar Dun Ell Fen Gar Hal Hol Kel Lan Mar Nor Oss Pell Quil Ros Sel Tav Ul"
    " Ver Wex"
)
_ENDINGS = (
    "by combe dane den fold gate ham ley low mere mond more nard rick stead ton vale wick worth"
)
_TRADES = (
    "Analytics Ceramics Dairy Energy Foods Freight Glass Logistics Marine Media Optics Packaging"
    " Paper Pharma Rail Robotics Software Steel Textiles Timber"
)
_GIVEN = (
    "Ada Anton Bea Carl Cleo Dora Emil Edith Felix Greta Hugo Ida Ines Jonas Karin Leo Lena Marta"
    " Nils Nora Otto Petra Quinn Rosa Simon Tilda Ugo Vera Willa Yves"
)
_STEMS = sorted({onset + ending for onset in _ONSETS.split() for ending in _ENDINGS.split()})


@cache
def _stems(split: str) -> list[str]:
    return [stem for i, stem in enumerate(_STEMS) if (i % 3 == 0) == (split == "exam")]


@cache
def _numbers(split: str) -> list[int]:
    # 100 is the number of the tools' examples and of nothing else.
    return [number for number in range(101, 1000) if (number % 7 in (2, 5)) == (split == "exam")]


# ------------------------------------------------------------------------------------ business days


def _easter(year: int) -> dt.date:
    """Easter Sunday of the Gregorian calendar (the Meeus/Jones/Butcher rule)."""
    a, (b, c) = year % 19, divmod(year, 100)
    d, e = divmod(b, 4)
    g = (8 * b + 13) // 25
    h = (19 * a + b - d - g + 15) % 30
    i, k = divmod(c, 4)
    m = (a + 11 * h) // 319
    r = (2 * e + 2 * i - k - h + m + 32) % 7
    month = (h - m + r + 90) // 25
    return dt.date(year, month, (h - m + r + month + 19) % 32)


def _monday(year: int, month: int, last: bool = False) -> dt.date:
    """The first or the last Monday of a month."""
    if last:
        end = dt.date(year, month, 31)  # only asked of months of 31 days
        return end - dt.timedelta(end.weekday())
    start = dt.date(year, month, 1)
    return start + dt.timedelta(-start.weekday() % 7)


@cache
def holidays(jurisdiction: str, year: int) -> frozenset[dt.date]:
    """The public holidays of a year that fall on weekdays."""
    easter = _easter(year)
    good_friday, easter_monday = easter - dt.timedelta(2), easter + dt.timedelta(1)
    ascension, whit_monday = easter + dt.timedelta(39), easter + dt.timedelta(50)
    fixed = {dt.date(year, 1, 1), dt.date(year, 12, 25)}
    second = dt.date(year, 12, 26)
    if jurisdiction == "England":
        days = {good_friday, easter_monday, _monday(year, 5)}
        days |= {_monday(year, 5, last=True), _monday(year, 8, last=True)}
        # A bank holiday on a weekend moves to the next weekday that is not one already.
        for day in sorted(fixed | {second}):
            while day.weekday() > 4 or day in days:
                day += dt.timedelta(1)
            days.add(day)
    elif jurisdiction == "Ireland":
        first = dt.date(year, 2, 1)
        brigid = first if first.weekday() == 4 else _monday(year, 2)
        days = fixed | {second, brigid, dt.date(year, 3, 17), easter_monday}
        days |= {_monday(year, 5), _monday(year, 6), _monday(year, 8), _monday(year, 10, last=True)}
    elif jurisdiction == "Germany":
        days = fixed | {second, good_friday, easter_monday, ascension, whit_monday}
        days |= {dt.date(year, 5, 1), dt.date(year, 10, 3)}
    else:  # France
        days = fixed | {easter_monday, ascension, whit_monday}
        days |= {
            dt.date(year, m, d) for m, d in ((5, 1), (5, 8), (7, 14), (8, 15), (11, 1), (11, 11))
        }
    return frozenset(day for day in days if day.weekday() < 5)


def business_days_from(start: dt.date, days: int, jurisdiction: str) -> dt.date:
    """The business day `days` after `start` (before it when negative), not counting `start`."""
    step, day = dt.timedelta(1 if days > 0 else -1), start
    for _ in range(abs(days)):
        day += step
        while day.weekday() > 4 or day in holidays(jurisdiction, day.year):
            day += step
    return day


# ---------------------------------------------------------------------------------------- the world


@dataclass
class Clause:
    number: str
    value: int
    unit: str
    amendments: list[str]


@dataclass
class Contract:
    id: str
    counterparty: str
    governing_law: str
    expiry: dt.date
    matter: str
    clauses: dict[str, Clause]
    obligations: dict[str, str]  # duty -> obligation


@dataclass
class Amendment:
    id: str
    value: int
    unit: str
    effective: dt.date


@dataclass
class Matter:
    id: str
    client: str
    adverse: str
    lawyer: str
    status: str
    retainer: int
    billed: int
    deadlines: dict[str, str]  # event -> ISO date
    tenths: int  # time logged on the desk, in units of six minutes


def _value(topic: str, rng: random.Random) -> int:
    if topic in ("liability_cap", "indemnity_cap"):
        return rng.randrange(2, 80) * 25_000
    if topic == "termination_fee":
        return rng.randrange(8, 120) * 500
    return rng.randrange(2, 15) if topic == "late_interest" else rng.randrange(2, 19) * 5


def _day(rng: random.Random, first: str, last: str) -> dt.date:
    start, end = dt.date.fromisoformat(first), dt.date.fromisoformat(last)
    return start + dt.timedelta(rng.randrange((end - start).days + 1))


def _workday(rng: random.Random, first: str, last: str) -> str:
    day = _day(rng, first, last)
    return (day - dt.timedelta(max(0, day.weekday() - 4))).isoformat()


class LegalDesk(Environment):
    """A law firm's contract desk."""

    def reset(self, **task: Any) -> str | None:
        self._task = task
        split = task["split"]
        rng = random.Random(f"{split}:{task['seed']}")
        stems = rng.sample(_stems(split), 24)
        companies = [f"{stem} {rng.choice(_TRADES.split())}" for stem in stems[:18]]
        lawyers = [f"{rng.choice(_GIVEN.split())} {stem}" for stem in stems[18:]]
        numbers = [rng.sample(_numbers(split), count) for count in (6, 6, 6, 12)]
        contract_ids, matter_ids, amendment_ids, obligation_ids = (
            [f"{letter}-{number}" for number in pool]
            for letter, pool in zip("CMAO", numbers, strict=True)
        )
        self._matters: dict[str, Matter] = {}
        for i, matter in enumerate(matter_ids):
            retainer = rng.randrange(8, 80) * 500
            event, due = rng.choice(COURT_EVENTS), _workday(rng, "2026-05-04", "2027-03-31")
            self._matters[matter] = Matter(
                matter,
                # The newest client is the other side of an older matter: run the check.
                client=companies[6] if i == 5 else companies[i],
                adverse=companies[6 + i],
                lawyer=lawyers[i],
                status="open",
                retainer=retainer,
                billed=rng.randrange(20, retainer // 10 - 20) * 10,
                deadlines={event: due},
                tenths=0,
            )
        self._contracts: dict[str, Contract] = {}
        self._amendments: dict[str, Amendment] = {}
        self._conflicts: set[tuple[str, str]] = set()
        self._performed = dict.fromkeys(obligation_ids, False)
        self._due = {o: _workday(rng, "2026-03-09", "2026-12-31") for o in obligation_ids}
        # Two contracts as signed, two amended once, two twice; one of each in its notice period.
        amended = ["", "", "notice_period", *rng.choices(AMENDED_TOPICS, k=2), "notice_period"]
        for i, contract in enumerate(contract_ids):
            clauses = {}
            article = rng.sample(range(3, 24), len(TOPICS))
            for topic, section in zip(TOPICS, article, strict=True):
                number = f"{section}.{rng.randrange(1, 6)}"
                clauses[topic] = Clause(number, _value(topic, rng), TOPICS[topic][1], [])
            if topic := amended[i]:
                self._amend(
                    clauses[topic], topic, [amendment_ids.pop() for _ in range(1 + i // 4)], rng
                )
            duties = dict(
                zip(rng.sample(DUTIES, 2), obligation_ids[2 * i : 2 * i + 2], strict=True)
            )
            self._contracts[contract] = Contract(
                contract,
                companies[12 + i],
                rng.choice(JURISDICTIONS),
                _day(rng, "2027-01-04", "2029-12-28"),
                matter_ids[i],
                clauses,
                duties,
            )
        return None

    def _amend(self, clause: Clause, topic: str, ids: list[str], rng: random.Random) -> None:
        """All values and dates differ; the order of the numbers is not that of the dates."""
        values: set[int] = {clause.value}
        dates: set[dt.date] = set()
        for amendment in sorted(ids):
            while (value := _value(topic, rng)) in values:
                continue
            while (effective := _day(rng, "2024-01-08", "2026-02-20")) in dates:
                continue
            values.add(value)
            dates.add(effective)
            clause.amendments.append(amendment)
            self._amendments[amendment] = Amendment(amendment, value, clause.unit, effective)

    def _state(self) -> Any:
        return {
            "matters": {
                m.id: {
                    "status": m.status,
                    "deadlines": m.deadlines,
                    "tenths": m.tenths,
                }
                for m in self._matters.values()
            },
            "performed": self._performed,
            "conflicts": sorted(self._conflicts),
        }

    # ------------------------------------------------------------------------------ tools that read

    def find_contract(self, counterparty: str) -> dict:
        """Find the contract with a counterparty.

        Args:
            counterparty: Full name, e.g. Amber Freight
        """
        for contract in self._contracts.values():
            if same_name(contract.counterparty, counterparty):
                return {"contract_id": contract.id, "counterparty": contract.counterparty}
        raise ValueError(
            f"no contract with {quoted(counterparty)}: give the counterparty's full name"
        )

    def get_contract(self, contract_id: str) -> dict:
        """Get a contract's governing law, expiry and matter.

        Args:
            contract_id: e.g. C-100
        """
        contract = known(self._contracts, contract_id, "contract")
        return {
            "counterparty": contract.counterparty,
            "governing_law": contract.governing_law,
            "expiry": contract.expiry.isoformat(),
            "matter_id": contract.matter,
        }

    def get_clause(self, contract_id: str, topic: Topic) -> dict:
        """Get a clause as signed, and what amended it.

        Args:
            contract_id: e.g. C-100
            topic: What the clause is about
        """
        contract = known(self._contracts, contract_id, "contract")
        clause = contract.clauses[one_of(topic, TOPICS, "topic")]
        return {
            "clause": clause.number,
            "value": clause.value,
            "unit": clause.unit,
            "amended_by": clause.amendments,
        }

    def get_amendment(self, amendment_id: str) -> dict:
        """Get an amendment's new value and effective date.

        Args:
            amendment_id: e.g. A-100
        """
        amendment = known(self._amendments, amendment_id, "amendment")
        return {
            "amendment_id": amendment.id,
            "value": amendment.value,
            "unit": amendment.unit,
            "effective": amendment.effective.isoformat(),
        }

    def get_matter(self, matter_id: str) -> dict:
        """Get a matter's client, responsible lawyer and status.

        Args:
            matter_id: e.g. M-100
        """
        matter = known(self._matters, matter_id, "matter")
        return {
            "matter_id": matter.id,
            "client": matter.client,
            "lawyer": matter.lawyer,
            "status": matter.status,
        }

    def get_billing(self, matter_id: str) -> dict:
        """Get a matter's retainer in EUR: paid, billed and unused.

        Args:
            matter_id: e.g. M-100
        """
        matter = known(self._matters, matter_id, "matter")
        return {
            "matter_id": matter.id,
            "retainer": matter.retainer,
            "billed": matter.billed,
            "unused": matter.retainer - matter.billed,
        }

    def get_deadline(self, matter_id: str) -> dict:
        """Get a matter's next deadline.

        Args:
            matter_id: e.g. M-100
        """
        matter = known(self._matters, matter_id, "matter")
        due, event = min((due, event) for event, due in matter.deadlines.items())
        return {"matter_id": matter.id, "event": event, "due": due}

    def get_obligation(self, contract_id: str, duty: Duty) -> dict:
        """Get an obligation under a contract.

        Args:
            contract_id: e.g. C-100
            duty: What is owed
        """
        contract = known(self._contracts, contract_id, "contract")
        obligation = contract.obligations.get(one_of(duty, DUTIES, "duty"))
        if obligation is None:
            owed = ", ".join(contract.obligations)
            raise ValueError(f"contract {contract.id} has no {duty}: its obligations are {owed}")
        return {
            "obligation_id": obligation,
            "due": self._due[obligation],
            "status": "performed" if self._performed[obligation] else "outstanding",
        }

    def check_conflict(self, party: str) -> dict:
        """Search all matters for a party, for the conflicts check.

        Args:
            party: Full name, e.g. Amber Freight
        """
        for role in ("adverse", "client"):
            for matter in self._matters.values():
                if same_name(getattr(matter, role), party):
                    return {"matter_id": matter.id, "role": role, "status": matter.status}
        return {"role": "none"}

    def add_business_days(self, date: str, days: int, jurisdiction: Jurisdiction) -> dict:
        """Count business days from a date, holidays skipped.

        Args:
            date: Start, e.g. 2026-04-01
            days: How many; negative counts back
            jurisdiction: Whose holidays
        """
        start = _date(date)
        one_of(jurisdiction, JURISDICTIONS, "jurisdiction")
        if isinstance(days, bool) or not isinstance(days, int) or not 1 <= abs(days) <= MAX_DAYS:
            raise ValueError(
                f"days: expected a whole number from 1 to {MAX_DAYS}, or negative to count back"
            )
        return {"date": business_days_from(start, days, jurisdiction).isoformat()}

    # ----------------------------------------------------------------------------- tools that write

    def set_deadline(self, matter_id: str, event: Event, date: str) -> dict:
        """Set or move a matter's deadline.

        Args:
            matter_id: e.g. M-100
            event: What is due
            date: e.g. 2026-04-01
        """
        matter = known(self._matters, matter_id, "matter")
        one_of(event, EVENTS, "event")
        matter.deadlines[event] = _date(date).isoformat()
        return {"matter_id": matter.id, "event": event, "due": matter.deadlines[event]}

    def close_obligation(self, obligation_id: str) -> dict:
        """Record that an obligation was performed.

        Args:
            obligation_id: e.g. O-100
        """
        known(self._performed, obligation_id, "obligation")
        self._performed[obligation_id] = True
        return {"obligation_id": obligation_id, "status": "performed"}

    def log_time(self, matter_id: str, hours: float) -> dict:
        """Log billable hours on a matter.

        Args:
            matter_id: e.g. M-100
            hours: In tenths, e.g. 1.5
        """
        matter = known(self._matters, matter_id, "matter")
        if isinstance(hours, bool) or not isinstance(hours, int | float) or not 0 < hours <= 24:
            raise ValueError("hours: expected a number above 0, at most 24")
        tenths = round(hours * 10)
        if abs(hours * 10 - tenths) > 1e-6:
            raise ValueError("hours: expected tenths of an hour, such as 1.5")
        matter.tenths += tenths
        return {"matter_id": matter.id, "logged": hours, "total": matter.tenths / 10}

    def flag_conflict(self, matter_id: str, conflicts_with: str) -> dict:
        """Flag a conflict between two matters.

        Args:
            matter_id: Matter to flag, e.g. M-100
            conflicts_with: The other matter
        """
        matter = known(self._matters, matter_id, "matter")
        other = known(self._matters, conflicts_with, "matter")
        if matter is other:
            raise ValueError(f"conflicts_with: {other.id} cannot conflict with itself")
        # A conflict is mutual: flagged from either side it is the same one.
        self._conflicts.add((min(matter.id, other.id), max(matter.id, other.id)))
        return {"matter_id": matter.id, "conflicts_with": other.id}

    def set_matter_status(self, matter_id: str, status: Status) -> dict:
        """Change a matter's status.

        Args:
            matter_id: e.g. M-100
            status: The new status
        """
        matter = known(self._matters, matter_id, "matter")
        matter.status = one_of(status, STATUSES, "status")
        return {"matter_id": matter.id, "status": matter.status}


def _date(text: Any) -> dt.date:
    wrong = ValueError(
        f"date: {quoted(text)}: expected a date from 2000 to 2099, such as 2026-04-01"
    )
    if not isinstance(text, str) or not re.fullmatch(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}", text):
        raise wrong
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise wrong from None


# --------------------------------------------------------------------------- what people ask: reads


_REQUESTS = yaml.safe_load(Path(__file__).with_name("requests.yaml").read_text(encoding="utf-8"))


def _back(contract: Contract, days: int) -> dict[str, Any]:
    """Counting a notice period back from expiry, under the contract's own law."""
    return {
        "date": contract.expiry.isoformat(),
        "days": -days,
        "jurisdiction": contract.governing_law,
    }


def _last_day(contract: Contract, days: int) -> str:
    return business_days_from(contract.expiry, -days, contract.governing_law).isoformat()


def _say(what: str, rng: random.Random, **facts: Any) -> str:
    return rng.choice(_REQUESTS[what]).format(**facts)


def _a_contract(world: LegalDesk, rng: random.Random) -> Contract:
    return rng.choice(list(world._contracts.values()))


def _a_matter(world: LegalDesk, rng: random.Random) -> Matter:
    return rng.choice(list(world._matters.values()))


def _a_clause(
    world: LegalDesk, rng: random.Random, fits: Callable[[str, Clause], bool]
) -> tuple[Contract, str, Clause]:
    return rng.choice(
        [
            (contract, topic, clause)
            for contract in world._contracts.values()
            for topic, clause in contract.clauses.items()
            if fits(topic, clause)
        ]
    )


def _term(topic: str, value: int) -> tuple[str, Answer]:
    """A clause's value as a sentence says it, and as a check reads it."""
    name, unit = TOPICS[topic]
    if unit == "EUR":
        return f"The {name} is EUR {value}.", Answer("amount", value)
    return f"The {name} is {value} {unit}.", Answer("number", value)


@template(kind="lookup")
def clause_term(world: LegalDesk, rng: random.Random) -> Blueprint:
    contract, topic, clause = _a_clause(world, rng, lambda _, clause: not clause.amendments)
    request = _say("clause_term", rng, term=TOPICS[topic][0], contract=contract.id)
    reply, answer = _term(topic, clause.value)
    return Blueprint(
        request, [("get_clause", {"contract_id": contract.id, "topic": topic})], reply, answer
    )


@template(kind="lookup")
def contract_expiry(world: LegalDesk, rng: random.Random) -> Blueprint:
    contract = _a_contract(world, rng)
    request = _say("contract_expiry", rng, contract=contract.id)
    expiry = contract.expiry.isoformat()
    return Blueprint(
        request,
        [("get_contract", {"contract_id": contract.id})],
        f"Contract {contract.id} expires on {expiry}.",
        Answer("date", expiry),
    )


@template(kind="lookup")
def next_deadline(world: LegalDesk, rng: random.Random) -> Blueprint:
    matter = _a_matter(world, rng)
    request = _say("next_deadline", rng, matter=matter.id)
    event, due = next(iter(matter.deadlines.items()))
    return Blueprint(
        request,
        [("get_deadline", {"matter_id": matter.id})],
        f"The {event.replace('_', ' ')} is due on {due}.",
        Answer("date", due),
    )


@template(kind="lookup")
def unused_retainer(world: LegalDesk, rng: random.Random) -> Blueprint:
    matter = _a_matter(world, rng)
    request = _say("unused_retainer", rng, matter=matter.id)
    unused = matter.retainer - matter.billed
    return Blueprint(
        request,
        [("get_billing", {"matter_id": matter.id})],
        f"The unused retainer on {matter.id} is EUR {unused}.",
        Answer("amount", unused),
    )


@template(kind="lookup")
def responsible_lawyer(world: LegalDesk, rng: random.Random) -> Blueprint:
    matter = _a_matter(world, rng)
    request = _say("responsible_lawyer", rng, matter=matter.id)
    return Blueprint(
        request,
        [("get_matter", {"matter_id": matter.id})],
        f"The responsible lawyer is {matter.lawyer}.",
        Answer("text", matter.lawyer),
    )


@template(kind="lookup")
def adverse_matter(world: LegalDesk, rng: random.Random) -> Blueprint:
    matter = _a_matter(world, rng)
    request = _say("adverse_matter", rng, party=matter.adverse)
    return Blueprint(
        request,
        [("check_conflict", {"party": matter.adverse})],
        f"{matter.adverse} is the adverse party in {matter.id}.",
        Answer("text", matter.id),
    )


# ------------------------------------------------------------------- what people ask: several steps


@template(kind="workflow")
def term_with_counterparty(world: LegalDesk, rng: random.Random) -> Blueprint:
    contract, topic, clause = _a_clause(world, rng, lambda _, clause: not clause.amendments)
    request = _say("term_with_counterparty", rng, term=TOPICS[topic][0], name=contract.counterparty)
    plan: Plan = [
        ("find_contract", {"counterparty": contract.counterparty}),
        ("get_clause", {"contract_id": contract.id, "topic": topic}),
    ]
    return Blueprint(request, plan, *_term(topic, clause.value))


@template(kind="workflow")
def amended_term(world: LegalDesk, rng: random.Random) -> Blueprint:
    contract, topic, clause = _a_clause(world, rng, lambda _, clause: len(clause.amendments) == 1)
    amendment = clause.amendments[0]
    request = _say("amended_term", rng, term=TOPICS[topic][0], contract=contract.id)
    plan: Plan = [
        ("get_clause", {"contract_id": contract.id, "topic": topic}),
        ("get_amendment", {"amendment_id": amendment}),
    ]
    return Blueprint(request, plan, *_term(topic, world._amendments[amendment].value))


@template(kind="workflow")
def twice_amended_term(world: LegalDesk, rng: random.Random) -> Blueprint:
    contract, topic, clause = _a_clause(world, rng, lambda _, clause: len(clause.amendments) == 2)
    request = _say("twice_amended_term", rng, term=TOPICS[topic][0], contract=contract.id)
    latest = max((world._amendments[a] for a in clause.amendments), key=lambda a: a.effective)
    plan: Plan = [("get_clause", {"contract_id": contract.id, "topic": topic})]
    plan += [("get_amendment", {"amendment_id": amendment}) for amendment in clause.amendments]
    return Blueprint(request, plan, *_term(topic, latest.value))


@template(kind="workflow")
def time_on_contract(world: LegalDesk, rng: random.Random) -> Blueprint:
    contract, hours = _a_contract(world, rng), rng.randrange(2, 60) / 10
    request = _say("time_on_contract", rng, hours=hours, contract=contract.id)
    plan: Plan = [
        ("get_contract", {"contract_id": contract.id}),
        ("log_time", {"matter_id": contract.matter, "hours": hours}),
    ]
    return Blueprint(request, plan, f"Logged {hours} hours on {contract.matter}.")


@template(kind="workflow")
def contract_matter_status(world: LegalDesk, rng: random.Random) -> Blueprint:
    contract, status = _a_contract(world, rng), rng.choice(("on_hold", "closed"))
    request = _say(f"contract_matter_{status}", rng, contract=contract.id)
    plan: Plan = [
        ("get_contract", {"contract_id": contract.id}),
        ("set_matter_status", {"matter_id": contract.matter, "status": status}),
    ]
    return Blueprint(request, plan, f"Matter {contract.matter} is now {status.replace('_', ' ')}.")


@template(kind="workflow")
def performed_obligation(world: LegalDesk, rng: random.Random) -> Blueprint:
    contract = _a_contract(world, rng)
    duty, obligation = rng.choice(list(contract.obligations.items()))
    request = _say("performed_obligation", rng, duty=duty.replace("_", " "), contract=contract.id)
    plan: Plan = [
        ("get_obligation", {"contract_id": contract.id, "duty": duty}),
        ("close_obligation", {"obligation_id": obligation}),
    ]
    return Blueprint(request, plan, f"Obligation {obligation} is recorded as performed.")


@template(kind="workflow")
def conflict_at_intake(world: LegalDesk, rng: random.Random) -> Blueprint:
    matters = list(world._matters.values())
    new = matters[5]
    old = next(m for m in matters if m.adverse == new.client)
    request = _say("conflict_at_intake", rng, party=new.client, matter=new.id)
    plan: Plan = [
        ("check_conflict", {"party": new.client}),
        ("flag_conflict", {"matter_id": new.id, "conflicts_with": old.id}),
    ]
    return Blueprint(request, plan, f"Flagged {new.id}: it conflicts with {old.id}.")


@template(kind="workflow")
def payment_due(world: LegalDesk, rng: random.Random) -> Blueprint:
    contract, topic, clause = _a_clause(
        world, rng, lambda topic, clause: topic == "payment_term" and not clause.amendments
    )
    invoice, law = _workday(rng, "2026-01-05", "2026-02-27"), contract.governing_law
    request = _say("payment_due", rng, contract=contract.id, date=invoice, law=law)
    due = business_days_from(dt.date.fromisoformat(invoice), clause.value, law).isoformat()
    plan: Plan = [
        ("get_clause", {"contract_id": contract.id, "topic": topic}),
        ("add_business_days", {"date": invoice, "days": clause.value, "jurisdiction": law}),
    ]
    return Blueprint(request, plan, f"Payment is due on {due}.", Answer("date", due))


@template(kind="workflow")
def extended_deadline(world: LegalDesk, rng: random.Random) -> Blueprint:
    matter, days, law = _a_matter(world, rng), rng.randrange(2, 29), rng.choice(JURISDICTIONS)
    event, old = next(iter(matter.deadlines.items()))
    request = _say("extended_deadline", rng, matter=matter.id, days=days, law=law)
    new = business_days_from(dt.date.fromisoformat(old), days, law).isoformat()
    plan: Plan = [
        ("get_deadline", {"matter_id": matter.id}),
        ("add_business_days", {"date": old, "days": days, "jurisdiction": law}),
        ("set_deadline", {"matter_id": matter.id, "event": event, "date": new}),
    ]
    reply = f"The {event.replace('_', ' ')} deadline is now {new}."
    return Blueprint(request, plan, reply, Answer("date", new))


@template(kind="workflow")
def non_renewal_deadline(world: LegalDesk, rng: random.Random) -> Blueprint:
    contract, topic, clause = _a_clause(
        world, rng, lambda topic, clause: topic == "notice_period" and not clause.amendments
    )
    request = _say("non_renewal_deadline", rng, contract=contract.id)
    last = _last_day(contract, clause.value)
    plan: Plan = [
        ("get_contract", {"contract_id": contract.id}),
        ("get_clause", {"contract_id": contract.id, "topic": topic}),
        ("add_business_days", _back(contract, clause.value)),
        ("set_deadline", {"matter_id": contract.matter, "event": "non_renewal", "date": last}),
    ]
    return Blueprint(request, plan, f"The non-renewal deadline is {last}.", Answer("date", last))


@template(kind="workflow")
def amended_notice_day(world: LegalDesk, rng: random.Random) -> Blueprint:
    contract, topic, clause = _a_clause(
        world, rng, lambda topic, clause: topic == "notice_period" and len(clause.amendments) == 1
    )
    request = _say("amended_notice_day", rng, name=contract.counterparty)
    amendment = world._amendments[clause.amendments[0]]
    last = _last_day(contract, amendment.value)
    plan: Plan = [
        ("find_contract", {"counterparty": contract.counterparty}),
        ("get_contract", {"contract_id": contract.id}),
        ("get_clause", {"contract_id": contract.id, "topic": topic}),
        ("get_amendment", {"amendment_id": amendment.id}),
        ("add_business_days", _back(contract, amendment.value)),
    ]
    return Blueprint(request, plan, f"The last day for notice is {last}.", Answer("date", last))
