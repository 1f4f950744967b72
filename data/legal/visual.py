"""The task templates of the legal desk with images: amendments, court letters and time sheets, and charts of hours.

The tools must be called with values that only the image shows; the request does not contain them. Pages are short, so
that their source in words is short, too.
"""

import random
from typing import Any

from teacher.domain import Answer, Blueprint, at, every, template
from teacher.scenes import Scene

from .environment import LegalDesk
from .records import COURT_EVENTS, workday
from .textual import a_clause, a_contract, phrase

_DAYS = {"notice_period": "Notice period", "payment_term": "Payment term"}
_CAPS = {"liability_cap": "Liability cap", "indemnity_cap": "Indemnity cap"}
_STAMPS = ("EXECUTED", "RECEIVED", "COPY", "FILED", None, None)


def _soon(rng: random.Random) -> str:
    """A working day from March to November 2026."""
    return workday(rng, "2026-03-09", "2026-11-03")


def _page(
    variant: str, title: str, fields: dict[str, str], rng: random.Random, **more: Any
) -> Scene:
    """A page with fields, often stamped or scanned."""
    data = {"variant": variant, "title": title, "fields": fields, **more}
    if stamp := rng.choice(_STAMPS):
        data["stamp"] = stamp
    data["scan"] = rng.random() < 0.6
    return Scene("document", data, rng.randrange(1 << 31))


def _hours_chart(world: LegalDesk, rng: random.Random) -> Scene:
    """A bar chart of the hours of three or four matters, which differ by at least one hour."""
    matters = rng.sample(list(world._matters), rng.choice((3, 3, 4)))
    hours: list[float] = []
    while len(hours) < len(matters):
        new = rng.randrange(12, 240) / 10
        if all(abs(new - old) >= 1 for old in hours):
            hours.append(new)
    data = {
        "variant": "bar",
        "title": rng.choice(("Hours by matter", "Unbilled hours", "Time this week")),
        "x_label": "Matter",
        "y_label": "Hours",
        "categories": matters,
        "series": {"Hours": hours},
        "labels": True,
    }
    return Scene("chart", data, rng.randrange(1 << 31))


# -------------------------------------------------------------------------------------------- pages


@template(kind="document")
def page_term_end(world: LegalDesk, rng: random.Random) -> Blueprint:
    """The page shows contract, term and first day; the desk knows the governing law."""
    contract = a_contract(world, rng)
    topic, days, start = rng.choice(sorted(_DAYS)), rng.randrange(2, 19) * 5, _soon(rng)
    fields = {"Contract": contract.id, _DAYS[topic]: f"{days} business days", "Effective": start}
    signed = [{"name": world._matters[contract.matter].lawyer}]
    page = _page("amendment", "Amendment", fields, rng, signatures=signed)
    counted = {"date": start, "days": days, "jurisdiction": contract.governing_law}
    end = world.add_business_days(**counted)["date"]
    return Blueprint(
        phrase("page_term_end", rng, term=_DAYS[topic].lower()),
        [("get_contract", {"contract_id": contract.id}), ("add_business_days", counted)],
        f"It ends on {end}.",
        Answer("date", end),
        [page],
        {"op": "lookup", "cell": at(page.data, f"fields.{_DAYS[topic]}")},
    )


_CLAUSES = {
    "Payment": "Invoices are paid within period {} of the table above, counted from their date.",
    "Complaints": "The Customer reports defects within period {} of delivery, and describes them.",
    "Claims": "A claim is made within period {} of the day on which its ground became known.",
    "Replies": "A party answers a notice of the other within period {} of its receipt.",
}
_OTHER_CLAUSES = {
    "Set-off": "Neither party sets off a claim that is disputed, unless a court has found it to be due.",
    "Partial delivery": "The Customer accepts a delivery in part, if the rest follows without undue delay.",
    "Form": "Changes of this agreement are in writing, and so is a waiver of this clause.",
}


@template(kind="document")
def page_of_clauses(world: LegalDesk, rng: random.Random) -> Blueprint:
    """A page of seven clauses and a table of periods: the clause on payment refers to one of them."""
    contract, invoice = a_contract(world, rng), workday(rng, "2026-01-05", "2026-02-27")
    periods = [days * 5 for days in rng.sample(range(1, 19), len(_CLAUSES))]
    letters = rng.sample("ABCD", len(_CLAUSES))
    texts = [
        (name, text.format(x)) for (name, text), x in zip(_CLAUSES.items(), letters, strict=True)
    ]
    texts += _OTHER_CLAUSES.items()
    rng.shuffle(texts)
    first = rng.randrange(3, 15)
    paragraphs = [
        {"heading": f"{number}. {name}", "text": text}
        for number, (name, text) in enumerate(texts, first)
    ]
    fields = {f"Period {x}": f"{d} business days" for x, d in zip("ABCD", periods, strict=True)}
    pages = {"page": rng.randrange(2, 6), "pages": rng.randrange(6, 12)}
    title = "Terms of delivery"
    page = _page("contract", title, fields, rng, number=contract.id, paragraphs=paragraphs, **pages)
    letter = letters[list(_CLAUSES).index("Payment")]
    counted = {
        "date": invoice,
        "days": periods["ABCD".index(letter)],
        "jurisdiction": contract.governing_law,
    }
    due = world.add_business_days(**counted)["date"]
    return Blueprint(
        phrase("page_of_clauses", rng, date=invoice),
        [("get_contract", {"contract_id": contract.id}), ("add_business_days", counted)],
        f"It is due on {due}.",
        Answer("date", due),
        [page],
        {"op": "lookup", "cell": at(page.data, f"fields.Period {letter}")},
    )


@template(kind="document")
def page_against_record(world: LegalDesk, rng: random.Random) -> Blueprint:
    """The page shows another value than the desk's record of the same amendment."""
    contract, topic, clause = a_clause(world, rng, lambda _, clause: bool(clause.amendments))
    record = world._amendments[rng.choice(clause.amendments)]
    caps = topic in _CAPS
    gap = rng.randrange(1, 9) * (25_000 if caps else 5)
    value = record.value + (gap if record.value <= gap or rng.random() < 0.5 else -gap)
    label = {**_DAYS, **_CAPS}[topic]
    text = f"EUR {value:,}" if caps else f"{value} business days"
    fields = {"Contract": contract.id, label: text}
    page = _page("amendment", "Amendment", fields, rng, number=record.id)
    amount = f"EUR {gap}" if caps else f"{gap} business days"
    return Blueprint(
        phrase("page_against_record", rng, term=label.lower()),
        [("get_amendment", {"amendment_id": record.id})],
        f"They differ by {amount}.",
        None,
        [page],
        {"op": "difference", "cells": [at(page.data, f"fields.{label}"), {"value": record.value}]},
    )


@template(kind="document")
def page_new_deadline(world: LegalDesk, rng: random.Random) -> Blueprint:
    """A court's letter shows matter, event and date."""
    matter, event, due = rng.choice(list(world._matters)), rng.choice(COURT_EVENTS), _soon(rng)
    while any(due in m.deadlines.values() for m in world._matters.values()):
        due = _soon(rng)  # a date on the desk could be guessed without the page
    label = event.replace("_", " ").capitalize()
    page = _page("letter", "Order of the court", {"Matter": matter, label: due}, rng)
    return Blueprint(
        phrase("page_new_deadline", rng),
        [("set_deadline", {"matter_id": matter, "event": event, "date": due})],
        f"The {event.replace('_', ' ')} deadline of {matter} is now {due}.",
        Answer("date", due),
        [page],
        {"op": "lookup", "cell": at(page.data, f"fields.{label}")},
    )


@template(kind="document")
def page_time_sheet(world: LegalDesk, rng: random.Random) -> Blueprint:
    """The row of the named lawyer in a time sheet is logged."""
    matters = rng.sample(list(world._matters.values()), 3)
    rows = [[m.lawyer, m.id, str(rng.randrange(2, 60) / 10)] for m in matters]
    number = rng.randrange(3)
    lawyer, matter, hours = rows[number]
    sheet = {"columns": ["Lawyer", "Matter", "Hours"], "rows": rows}
    data = {"variant": "table", "title": "Time sheet", "table": sheet, "scan": rng.random() < 0.6}
    return Blueprint(
        phrase("page_time_sheet", rng, lawyer=lawyer),
        [("log_time", {"matter_id": matter, "hours": float(hours)})],
        f"Logged {hours} hours on {matter}.",
        Answer("number", float(hours)),
        [Scene("document", data, rng.randrange(1 << 31))],
        {"op": "lookup", "cell": at(data, f"table.{number}.2")},
    )


# ------------------------------------------------------------------------------------------- charts


@template(kind="chart")
def chart_busiest_lawyer(world: LegalDesk, rng: random.Random) -> Blueprint:
    """The chart shows the matter with the most hours; the desk knows its lawyer."""
    chart = _hours_chart(world, rng)
    names, hours = chart.data["categories"], chart.data["series"]["Hours"]
    matter = names[hours.index(max(hours))]
    lawyer = world._matters[matter].lawyer
    return Blueprint(
        phrase("chart_busiest_lawyer", rng),
        [("get_matter", {"matter_id": matter})],
        f"The responsible lawyer is {lawyer}.",
        Answer("text", lawyer),
        [chart],
        {
            "op": "argmax",
            "cells": every(chart.data, "series.Hours.*"),
            "names": every(chart.data, "categories.*"),
        },
    )


@template(kind="chart")
def chart_log_hours(world: LegalDesk, rng: random.Random) -> Blueprint:
    """The hours that a bar shows are logged."""
    chart = _hours_chart(world, rng)
    number = rng.randrange(len(chart.data["categories"]))
    matter, hours = chart.data["categories"][number], chart.data["series"]["Hours"][number]
    return Blueprint(
        phrase("chart_log_hours", rng, matter=matter),
        [("log_time", {"matter_id": matter, "hours": hours})],
        f"Logged {hours} hours on {matter}.",
        Answer("number", hours),
        [chart],
        {"op": "lookup", "cell": at(chart.data, f"series.Hours.{number}")},
    )


@template(kind="chart")
def chart_idle_matter(world: LegalDesk, rng: random.Random) -> Blueprint:
    """The matter with the fewest hours is put on hold."""
    chart = _hours_chart(world, rng)
    names, hours = chart.data["categories"], chart.data["series"]["Hours"]
    matter = names[hours.index(min(hours))]
    return Blueprint(
        phrase("chart_idle_matter", rng),
        [("set_matter_status", {"matter_id": matter, "status": "on_hold"})],
        f"Matter {matter} is now on hold.",
        Answer("text", matter),
        [chart],
        {
            "op": "argmin",
            "cells": every(chart.data, "series.Hours.*"),
            "names": every(chart.data, "categories.*"),
        },
    )
