"""The records of the legal desk: their types, the vocabulary of the tools, and invented names and values."""

import datetime as dt
import random
import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from teacher.domain import day_between, quote

Topic = Literal[
    "liability_cap",
    "indemnity_cap",
    "termination_fee",
    "notice_period",
    "payment_term",
    "late_interest",
]
Law = Literal["England", "Ireland", "Germany", "France"]
Jurisdiction = Literal[
    Law, "Scotland", "Netherlands", "Austria", "United States"
]  # federal holidays
Event = Literal["defence", "disclosure", "witness_statement", "appeal", "non_renewal"]
Duty = Literal["insurance_certificate", "audit_report", "royalty_statement", "data_deletion"]
Status = Literal["open", "on_hold", "closed"]

TOPICS = {
    "liability_cap": ("liability cap", "EUR"),
    "indemnity_cap": ("indemnity cap", "EUR"),
    "termination_fee": ("early termination fee", "EUR"),
    "notice_period": ("notice period", "business days"),
    "payment_term": ("payment term", "business days"),
    "late_interest": ("late payment interest", "percent"),
}
AMENDED_TOPICS = ("liability_cap", "indemnity_cap", "notice_period", "payment_term")
LAWS = get_args(Law)  # that govern the firm's contracts
JURISDICTIONS = get_args(Jurisdiction)  # whose holidays are known
EVENTS = get_args(Event)
COURT_EVENTS = tuple(event for event in EVENTS if event != "non_renewal")
DUTIES = get_args(Duty)
STATUSES = get_args(Status)


_ONSETS = (
    "Ard Bel Bren Cal Cor Dar Dun Ell Fen Gar Hal Hol Kel Lan Mar Nor Oss Pell Quil Ros Sel Tav Ul"
    " Ver Wex"
)
_ENDINGS = (
    "by combe dane den fold gate ham ley low mere mond more nard rick stead ton vale wick worth"
)
TRADES = (
    "Analytics Ceramics Dairy Energy Foods Freight Glass Logistics Marine Media Optics Packaging"
    " Paper Pharma Rail Robotics Software Steel Textiles Timber"
)
GIVEN = (
    "Ada Anton Bea Carl Cleo Dora Emil Edith Felix Greta Hugo Ida Ines Jonas Karin Leo Lena Marta"
    " Nils Nora Otto Petra Quinn Rosa Simon Tilda Ugo Vera Willa Yves"
)
STEMS = sorted({onset + ending for onset in _ONSETS.split() for ending in _ENDINGS.split()})


@dataclass
class Clause:
    """A clause as signed. unit: EUR, business days or percent. amendments: their ids."""

    number: str
    value: int
    unit: str
    amendments: list[str]


@dataclass
class Contract:
    """A contract; clauses by topic."""

    id: str
    counterparty: str
    governing_law: str
    expiry: dt.date
    matter: str
    clauses: dict[str, Clause]
    obligations: dict[str, str]  # duty -> obligation id


@dataclass
class Amendment:
    """A new value of a clause, from the day `effective`. prevails: over all others, as it says itself."""

    id: str
    value: int
    unit: str
    effective: dt.date
    prevails: bool = False


@dataclass
class Matter:
    """A matter of a client; retainer and billed in EUR."""

    id: str
    client: str
    adverse: str
    lawyer: str
    status: str
    retainer: int
    billed: int
    deadlines: dict[str, str]  # event -> ISO date
    tenths: int  # logged time, in tenths of an hour


def clause_value(topic: str, rng: random.Random) -> int:
    """A random value of a clause, in the unit of its topic."""
    if topic in ("liability_cap", "indemnity_cap"):
        return rng.randrange(2, 80) * 25_000
    if topic == "termination_fee":
        return rng.randrange(8, 120) * 500
    return rng.randrange(2, 15) if topic == "late_interest" else rng.randrange(2, 19) * 5


def workday(rng: random.Random, first: str, last: str) -> str:
    """A day from `first` to `last`; a weekend is moved to the Friday before it."""
    day = day_between(rng, first, last)
    return (day - dt.timedelta(max(0, day.weekday() - 4))).isoformat()


def in_words(jurisdiction: str) -> str:
    """A jurisdiction in a sentence."""
    return (
        f"the {jurisdiction}" if jurisdiction in ("Netherlands", "United States") else jurisdiction
    )


def to_date(text: Any) -> dt.date:
    """The date of an argument. Raises ValueError for anything but an ISO date from 2000 to 2099."""
    error = ValueError(
        f"date: {quote(text)}: expected a date from 2000 to 2099, such as 2026-04-01"
    )
    if not isinstance(text, str) or not re.fullmatch(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}", text):
        raise error
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise error from None


def old_contract(number: str, stems: list[str], matters: list[str], rng: random.Random) -> Contract:
    """A contract of the archive: unamended, without obligations."""
    clauses = {
        topic: Clause(
            f"{rng.randrange(3, 24)}.{rng.randrange(1, 6)}", clause_value(topic, rng), unit, []
        )
        for topic, (_, unit) in TOPICS.items()
    }
    return Contract(
        id=number,
        counterparty=f"{rng.choice(stems)} {rng.choice(TRADES.split())}",
        governing_law=rng.choice(LAWS),
        expiry=day_between(rng, "2027-01-04", "2029-12-28"),
        matter=rng.choice(matters),
        clauses=clauses,
        obligations={},
    )
