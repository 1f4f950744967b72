"""Business days, counted as lawyers do: without the start, and skipping weekends and public holidays.

One-off bank holidays are not modelled.
"""

import datetime as dt
from functools import cache


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
        end = dt.date(year, month, 31)  # callers pass only months with 31 days
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
        # A bank holiday on a weekend moves to the next weekday that is not a holiday.
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
    """The business day `days` after `start`, or before it for negative `days`; `start` is not counted."""
    step, day = dt.timedelta(1 if days > 0 else -1), start
    for _ in range(abs(days)):
        day += step
        while day.weekday() > 4 or day in holidays(jurisdiction, day.year):
            day += step
    return day
