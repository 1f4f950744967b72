"""Business days, counted as lawyers do: without the start, and skipping weekends and public holidays.

One-off bank holidays are not modelled.
"""

import datetime as dt
from collections.abc import Iterable
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


def _moved(days: Iterable[dt.date], taken: set[dt.date]) -> set[dt.date]:
    """The days off where holidays on a weekend move to the next weekday that is not a holiday."""
    moved = set(taken)
    for day in sorted(days):
        while day.weekday() > 4 or day in moved:
            day += dt.timedelta(1)
        moved.add(day)
    return moved


@cache
def holidays(jurisdiction: str, year: int) -> frozenset[dt.date]:
    """The public holidays of a year that fall on weekdays.

    Sources: the Banking and Financial Dealings Act 1971 with the days that are proclaimed each year (England,
    Scotland); the Organisation of Working Time Act 1997, schedule 2 (Ireland); the holidays that all Länder have
    (Germany); Code du travail, L3133-1 (France); Algemene termijnenwet, article 3 (Netherlands); Arbeitsruhegesetz,
    section 7 (Austria); 5 U.S.C. 6103 (United States, federal).
    """
    easter = _easter(year)
    good_friday, easter_monday = easter - dt.timedelta(2), easter + dt.timedelta(1)
    ascension, whit_monday = easter + dt.timedelta(39), easter + dt.timedelta(50)

    def fixed(*days: tuple[int, int]) -> set[dt.date]:
        return {dt.date(year, month, day) for month, day in days}

    new_year, christmas = fixed((1, 1)), fixed((12, 25), (12, 26))
    if jurisdiction == "England":
        days = {good_friday, easter_monday, _monday(year, 5)}
        days |= {_monday(year, 5, last=True), _monday(year, 8, last=True)}
        days = _moved(new_year | christmas, days)
    elif jurisdiction == "Scotland":
        days = {good_friday, _monday(year, 5), _monday(year, 5, last=True), _monday(year, 8)}
        days = _moved(fixed((1, 1), (1, 2), (11, 30)) | christmas, days)
    elif jurisdiction == "Ireland":
        first = dt.date(year, 2, 1)
        brigid = first if first.weekday() == 4 else _monday(year, 2)
        days = new_year | christmas | fixed((3, 17)) | {brigid, easter_monday}
        days |= {_monday(year, 5), _monday(year, 6), _monday(year, 8), _monday(year, 10, last=True)}
    elif jurisdiction == "Germany":
        days = new_year | christmas | {good_friday, easter_monday, ascension, whit_monday}
        days |= fixed((5, 1), (10, 3))
    elif jurisdiction == "Netherlands":
        king = dt.date(year, 4, 27)
        days = new_year | christmas | {good_friday, easter_monday, ascension, whit_monday}
        days |= fixed((5, 5)) | {king - dt.timedelta(king.weekday() == 6)}
    elif jurisdiction == "Austria":
        days = new_year | christmas | {easter_monday, ascension, whit_monday}
        days |= {easter + dt.timedelta(60)}  # Corpus Christi
        days |= fixed((1, 6), (5, 1), (8, 15), (10, 26), (11, 1), (12, 8))
    elif jurisdiction == "United States":
        days = {
            _monday(year, 1) + dt.timedelta(14),
            _monday(year, 2) + dt.timedelta(14),
            _monday(year, 5, last=True),
            _monday(year, 9),
            _monday(year, 10) + dt.timedelta(7),
            dt.date(year, 11, 22) + dt.timedelta((3 - dt.date(year, 11, 22).weekday()) % 7),
        }
        dated = fixed((1, 1), (7, 4), (11, 11), (12, 25)) | {dt.date(year + 1, 1, 1)}
        dated |= fixed((6, 19)) if year > 2020 else set()
        # On a Saturday the day off is the Friday before, on a Sunday the Monday after.
        shift = {5: dt.timedelta(-1), 6: dt.timedelta(1)}
        days |= {day + shift.get(day.weekday(), dt.timedelta(0)) for day in dated}
    elif jurisdiction == "France":
        days = new_year | fixed((12, 25)) | {easter_monday, ascension, whit_monday}
        days |= fixed((5, 1), (5, 8), (7, 14), (8, 15), (11, 1), (11, 11))
    else:
        raise ValueError(f"{jurisdiction}: its holidays are not known")
    return frozenset(day for day in days if day.weekday() < 5 and day.year == year)


def business_days_from(start: dt.date, days: int, jurisdiction: str) -> dt.date:
    """The business day `days` after `start`, or before it for negative `days`; `start` is not counted.

    Of 0 days: `start`, or the next business day if it is none.
    """
    step = dt.timedelta(-1 if days < 0 else 1)

    def open_day(day: dt.date) -> dt.date:
        while day.weekday() > 4 or day in holidays(jurisdiction, day.year):
            day += step
        return day

    day = start if days else open_day(start)
    for _ in range(abs(days)):
        day = open_day(day + step)
    return day
