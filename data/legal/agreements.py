"""The full text of a contract: recitals, definitions, numbered clauses that refer to each other, and schedules.

agreement.yaml has the wording. A text agrees with the contract's record, is made when first read, and is read part by
part, since the whole has about 1,000 words.
"""

import datetime as dt
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from teacher.domain import day_between, quote

from .records import JURISDICTIONS, Amendment, Contract, in_words

WORDS = yaml.safe_load(Path(__file__).with_name("agreement.yaml").read_text(encoding="utf-8"))
ARTICLES = 23  # the highest of a record's clauses is 23.5


@dataclass
class Agreement:
    """The text of a contract, and the facts in it that the record lacks.

    headings: of the articles, by number. clauses: by number. schedules: title, then the rows by name. amended: the
        amendments of a clause, by its number.
    fee, fee_amendments: the Base Fee as signed, and what amended it. precedence: the clause on conflicts of amendments;
        earlier_prevails: what it says.
    place: whose public holidays are no Banking Days.
    delay: the clause on delay, and its percentage of the Base Fee a week.
    exception: the clause to which the limit of liability is subject, its article, and the percentage of the limit that
        applies to a breach of that article.
    terms: the value of an article's own term, by heading.
    """

    recitals: list[str]
    headings: dict[int, str] = field(default_factory=dict)
    clauses: dict[str, str] = field(default_factory=dict)
    schedules: dict[str, dict[str, Any]] = field(default_factory=dict)
    amended: dict[str, list[str]] = field(default_factory=dict)
    signed: str = ""
    fee: int = 0
    fee_amendments: list[Amendment] = field(default_factory=list)
    earlier_prevails: bool = False
    precedence: str = ""
    place: str = ""
    delay: tuple[str, int] = ("", 0)
    exception: tuple[str, str, int] = ("", "", 100)
    terms: dict[str, int] = field(default_factory=dict)

    def fee_in_force(self) -> int:
        """The Base Fee as the amendments and the clause on their precedence leave it."""
        if not self.fee_amendments:
            return self.fee
        for amendment in self.fee_amendments:
            if amendment.prevails:
                return amendment.value
        ordered = sorted(self.fee_amendments, key=lambda amendment: amendment.effective)
        return ordered[0 if self.earlier_prevails else -1].value

    def part(self, name: str) -> dict[str, Any]:
        """Returns a part by its name, or raises ValueError."""
        wanted = " ".join(name.casefold().split()) if isinstance(name, str) else ""
        wanted = wanted.removeprefix("clause ").removeprefix("article ")
        schedules = {f"schedule {title.split()[0]}": title for title in self.schedules}
        if wanted == "contents":
            articles = [f"{number} {heading}" for number, heading in self.headings.items()]
            return {"articles": articles, "schedules": list(self.schedules)}
        if wanted == "recitals":
            return {"recitals": self.recitals}
        if wanted in schedules:
            title = schedules[wanted]
            return {"schedule": title, "rows": self.schedules[title]}
        wanted = "1" if wanted == "definitions" else wanted
        numbers = [n for n in self.clauses if wanted in (n, n.split(".")[0])]
        if not numbers:
            raise ValueError(
                f"part: {quote(name)}: expected contents, recitals, definitions, {', '.join(schedules)},"
                f" or an article or clause such as 2 or 2.1, up to {ARTICLES}"
            )
        article = int(wanted.split(".")[0])
        amended = {n: self.amended[n] for n in numbers if n in self.amended}
        return {
            "article": f"{article} {self.headings[article]}",
            "clauses": {n: self.clauses[n] for n in numbers},
            **({"amended_by": amended} if amended else {}),
        }


def write_agreement(
    contract: Contract, customer: str, amendments: list[str], earlier: bool, rng: random.Random
) -> Agreement:
    """Returns the text of a contract.

    customer: our client. amendments: the numbers of those of the Base Fee, at most two. earlier: whether, of two that
    conflict, the earlier prevails.
    """
    signed = day_between(rng, "2021-01-04", "2023-11-30")
    chosen = signed - dt.timedelta(rng.randrange(20, 120))
    names = {
        "customer": customer,
        "supplier": contract.counterparty,
        "subject": rng.choice(WORDS["subjects"]),
        "chosen": chosen.isoformat(),
        "signed": signed.isoformat(),
    }
    text = Agreement([line.format(**names) for line in WORDS["recitals"]])
    text.signed, text.earlier_prevails = signed.isoformat(), earlier
    text.fee = rng.randrange(20, 400) * 1_000
    text.place = rng.choice(JURISDICTIONS)
    text.fee_amendments = _amend(text.fee, amendments, rng)
    text.headings = _number_articles(contract, rng)
    articles = {heading: number for number, heading in text.headings.items()}

    # The clauses that matter, by number; the others are filled up.
    matter: dict[str, str] = {}

    def write(heading: str, wording: str, **values: Any) -> str:
        number = f"{articles[heading]}.{rng.randrange(1, 4)}"
        matter[number] = wording.format(**values)
        return number

    write("Governing law", WORDS["law"], law=contract.governing_law)
    rule = WORDS["precedence"]["earlier" if earlier else "later"]
    text.precedence = write("Order of precedence", rule)
    percent = rng.randrange(2, 11)
    text.delay = (write("Delay", WORDS["delay"], percent=percent), percent)
    cap = contract.clauses["liability_cap"].number
    protected = rng.choice(sorted(WORDS["protected"]))
    percent = rng.choice((100, 150, 200, 250, 300))
    wording = WORDS["exempt" if percent == 100 else "exception"]
    text.exception = (write(protected, wording, cap=cap, percent=percent), protected, percent)
    for heading, (wording, low, high, _) in WORDS["terms"].items():
        text.terms[heading] = rng.randrange(low, high)
        write(heading, wording, n=text.terms[heading])
    for topic, clause in contract.clauses.items():
        matter[clause.number] = WORDS["topics"][topic][1].format(
            value=f"{clause.value:,}", exception=text.exception[0]
        )
        if clause.amendments:
            text.amended[clause.number] = clause.amendments
    for number, definition in enumerate(WORDS["definitions"], 1):
        matter[f"1.{number}"] = definition.format(
            fee=f"{text.fee:,}", precedence=text.precedence, place=in_words(text.place)
        )
    if amendments:
        text.amended["1.1"] = amendments
    text.clauses = _fill_up(text.headings, matter, rng)
    rates, dates = WORDS["schedules"]
    daily = rng.sample(range(40, 190), len(rates[1]))
    text.schedules[rates[0]] = {
        f"{role}, EUR a day": rate * 5 for role, rate in zip(rates[1], daily, strict=True)
    }
    days = sorted(day_between(rng, "2026-04-01", "2026-12-18") for _ in dates[1])
    text.schedules[dates[0]] = {
        name: day.isoformat() for name, day in zip(dates[1], days, strict=True)
    }
    return text


def _number_articles(contract: Contract, rng: random.Random) -> dict[int, str]:
    """The headings of all articles: those of the record's clauses have their numbers there, the others are random."""
    headings = {1: "Definitions"}
    for topic, clause in contract.clauses.items():
        headings.setdefault(int(clause.number.split(".")[0]), WORDS["topics"][topic][0])
    free = [number for number in range(2, ARTICLES + 1) if number not in headings]
    needed = ["Delay", "Governing law", "Order of precedence", *WORDS["protected"], *WORDS["terms"]]
    others = [heading for heading in WORDS["plain"] if heading not in needed]
    chosen = [*needed, *others][: len(free)]
    rng.shuffle(chosen)
    headings |= dict(zip(free, chosen, strict=False))
    return dict(sorted(headings.items()))


def _fill_up(
    headings: dict[int, str], matter: dict[str, str], rng: random.Random
) -> dict[str, str]:
    """All clauses by number: those that matter, and before them in their articles, standard wording."""
    clauses = {}
    for article in headings:
        places = [number.split(".") for number in matter]
        last = max([int(place) for first, place in places if first == str(article)], default=2)
        fillers = iter(rng.sample(WORDS["fillers"], len(WORDS["fillers"])))
        for number in (f"{article}.{place}" for place in range(1, last + 1)):
            clauses[number] = matter.get(number) or next(fillers)
    return clauses


def _amend(fee: int, numbers: list[str], rng: random.Random) -> list[Amendment]:
    """Amendments of the Base Fee with distinct values and dates; one of two may say that it prevails."""
    values = [value * 1_000 for value in rng.sample(range(20, 400), 3) if value * 1_000 != fee]
    first = day_between(rng, "2024-01-08", "2024-12-20")
    days = [first, first + dt.timedelta(rng.randrange(30, 400))]
    rng.shuffle(days)
    amendments = [
        Amendment(number, value, "EUR", day)
        for number, value, day in zip(numbers, values, days, strict=False)
    ]
    if len(amendments) == 2 and rng.random() < 0.4:
        rng.choice(amendments).prevails = True
    return amendments
