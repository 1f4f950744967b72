"""Task templates about calendars: deadlines that fall on a day off, and two jurisdictions with other holidays."""

import datetime as dt
import random

from teacher.domain import Answer, Blueprint, Solution, day_between, template

from .business_days import business_days_from, holidays
from .environment import LegalDesk
from .records import COURT_EVENTS, JURISDICTIONS, in_words, workday
from .textual import a_matter, phrase


def _a_day(rng: random.Random, law: str) -> dt.date:
    """A day from April 2026 to March 2027: mostly a public holiday or a day of a weekend."""
    if rng.random() < 0.5:
        days = [*holidays(law, 2026), *holidays(law, 2027)]
        return rng.choice(sorted(day for day in days if "2026-04" <= day.isoformat() < "2027-04"))
    day = day_between(rng, "2026-04-01", "2027-03-31")
    return day - dt.timedelta(day.weekday() - rng.choice((5, 6))) if rng.random() < 0.6 else day


@template(kind="lookup")
def moved_payment(world: LegalDesk, rng: random.Random) -> Blueprint:
    """A payment that falls on a day off is due on the next business day."""
    law = rng.choice(JURISDICTIONS)
    while (day := _a_day(rng, law)) == (due := business_days_from(day, 0, law)):
        continue  # the request has the date of a business day
    contract = rng.choice(list(world._contracts))
    request = phrase("moved_payment", rng, contract=contract, date=day, law=in_words(law))
    return Blueprint(
        request,
        [("add_business_days", {"date": day, "days": 0, "jurisdiction": law})],
        f"It is paid on {due}.",
        Answer("date", due),
    )


@template(kind="workflow")
def moved_deadline(world: LegalDesk, rng: random.Random) -> Blueprint:
    """A deadline of the court that may fall on a day off is diaried."""
    matter, event, law = a_matter(world, rng), rng.choice(COURT_EVENTS), rng.choice(JURISDICTIONS)
    while True:
        day = _a_day(rng, law)
        due = business_days_from(day, 0, law)
        if due.isoformat() != matter.deadlines.get(event):
            break  # a deadline that is diaried already needs no call
    request = phrase(
        "moved_deadline",
        rng,
        matter=matter.id,
        event=event.replace("_", " "),
        date=day,
        law=in_words(law),
    )
    solution: Solution = [
        ("add_business_days", {"date": day, "days": 0, "jurisdiction": law}),
        ("set_deadline", {"matter_id": matter.id, "event": event, "date": due}),
    ]
    return Blueprint(request, solution, f"The {event.replace('_', ' ')} is due on {due}.")


@template(kind="workflow")
def later_of_two_calendars(world: LegalDesk, rng: random.Random) -> Blueprint:
    """A period that has to have passed in two jurisdictions, across days off of one of them."""
    contract = rng.choice(list(world._contracts))
    while True:
        start, days = workday(rng, "2026-03-09", "2027-02-26"), rng.randrange(3, 26)
        laws = rng.sample(JURISDICTIONS, 2)
        ends = [business_days_from(dt.date.fromisoformat(start), days, law) for law in laws]
        if ends[0] != ends[1]:
            break
    first, second = map(in_words, laws)
    request = phrase(
        "later_of_two_calendars",
        rng,
        contract=contract,
        days=days,
        date=start,
        first=first,
        second=second,
    )
    solution: Solution = [
        ("add_business_days", {"date": start, "days": days, "jurisdiction": law}) for law in laws
    ]
    return Blueprint(request, solution, f"The later day is {max(ends)}.", Answer("date", max(ends)))
