"""What a model has seen by a point of an episode, and whether a value follows from it.

A value is known if it occurs in what was seen, in any form that `teacher.domain.scoring` reads. A number or a date may
also be computed: a count of a list's entries, a total or mean of a column (also by group), two or three numbers with
+ - * / and percentages, a date some days, weeks, months, years or working days from another. The search is bounded; it
proves that a value can be had, not that it must be so.
"""

import calendar
import datetime as dt
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from teacher.domain.scoring import _DAY_MONTH, _ISO, _MONTH_DAY, _NUMBER, _dates_in

_NUMBER_WORDS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
    "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15,
    "sixteen": 16, "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30,
    "forty": 40, "fifty": 50, "sixty": 60, "hundred": 100, "thousand": 1000, "half": 0.5, "twice": 2,
    "double": 2, "pair": 2, "couple": 2, "triple": 3, "quarter": 0.25, "dozen": 12, "week": 7,
    "fortnight": 14, "tomorrow": 1, "yesterday": 1,
}  # fmt: skip
# They name a number and are seldom computed with.
_ORDINALS = {"first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "both": 2, "last": -1}
# Of units: days of a week, hours of a day, minutes, months, percent, grams of a kilogram, and so on.
_UNITS = (7, 12, 24, 30, 52, 60, 100, 365, 1000)
# Numbers that are combined in threes, and those combined in pairs.
_TRIPLES, _PAIRS = 10, 80
# Nobody adds up longer columns without a tool.
_MOST_SUMMED, _MOST_GROUPS = 200, 2000
_DIGITS_IN_TOKEN = re.compile(r"\d+(?:\.\d+)?")


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the values inside a JSON value, each with its path; indices of lists are *."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item, f"{path}[*]")
    else:
        yield path, value


def numbers_in(text: str) -> list[float]:
    """The numbers of a text as the scoring reads them: no digits of dates or identifiers."""
    without = _ISO.sub(" ", _DAY_MONTH.sub(" ", _MONTH_DAY.sub(" ", text)))
    return [float(match.replace(",", "")) for match in _NUMBER.findall(without)]


def words_of(text: str) -> list[str]:
    """A text's words in lower case; - _ / and punctuation separate."""
    return re.findall(r"[^\W_]+", text.casefold())


class Evidence:
    """Everything seen so far: texts, numbers, dates, and the lists that could be counted and added up."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._words: set[str] = set()
        self.numbers: dict[float, None] = {}
        self._loose: set[float] = set()
        self.dates: set[str] = set()
        self._totals: set[float] = set()
        self._longest = 0

    def copy(self) -> "Evidence":
        """What was seen so far, to add more to."""
        twin = Evidence()
        twin._texts, twin._words = list(self._texts), set(self._words)
        twin.numbers, twin._loose = dict(self.numbers), set(self._loose)
        twin.dates, twin._totals = set(self.dates), set(self._totals)
        twin._longest = self._longest
        return twin

    def add_text(self, text: str) -> None:
        """Adds a message."""
        self._texts.append(" ".join(text.casefold().split()))
        words = words_of(text)
        self._words.update(words)
        self.dates |= _dates_in(text)
        self.numbers.update(dict.fromkeys(numbers_in(text)))
        # "2nd", "5kg", "S-12": too loose to compute with, enough to have named a number.
        self._loose |= {float(digits) for digits in _DIGITS_IN_TOKEN.findall(text)}
        self._loose |= {float(_ORDINALS[word]) for word in words if word in _ORDINALS}

    def add_request(self, text: str) -> None:
        """Adds what a person wrote, where numbers may be words."""
        self.add_text(text)
        words = {float(_NUMBER_WORDS[w]) for w in words_of(text) if w in _NUMBER_WORDS}
        self.numbers.update(dict.fromkeys(sorted(words)))

    def add(self, value: Any) -> None:
        """Adds a result or the data of an image."""
        for _, leaf in leaves(value):
            if isinstance(leaf, bool):
                self.add_text("true yes" if leaf else "false no")
            elif isinstance(leaf, int | float):
                self.numbers[float(leaf)] = None
                self._words.add(str(leaf))
                self._texts.append(str(leaf))
            elif isinstance(leaf, str):
                self.add_text(leaf)
        self._add_tables(value)

    def _add_tables(self, value: Any) -> None:
        if isinstance(value, dict):
            for key in value:
                self.add_text(str(key))
        if isinstance(value, list | dict):
            items = list(value.values()) if isinstance(value, dict) else list(value)
            self._longest = max(self._longest, len(items))
            self._add_columns(items)
            for item in items:
                self._add_tables(item)

    def _add_columns(self, items: list[Any]) -> None:
        """Adds totals, means and medians of the numbers in a list or a table, whole, cumulative and by group."""
        rows = [item if isinstance(item, dict | list) else [item] for item in items]
        columns: dict[Any, list[tuple[int, float]]] = defaultdict(list)
        groups: dict[Any, set[int]] = defaultdict(set)
        for index, row in enumerate(rows):
            for key, cell in row.items() if isinstance(row, dict) else enumerate(row):
                if isinstance(cell, str) and len(found := numbers_in(cell)) == 1:
                    columns[key].append((index, found[0]))
                if isinstance(cell, int | float) and not isinstance(cell, bool):
                    columns[key].append((index, float(cell)))
                if isinstance(cell, str | bool):
                    groups[key, cell].add(index)
        for column in columns.values():
            self._add_totals([number for _, number in column])
            if len(rows) <= 100 and len(columns) * len(groups) <= _MOST_GROUPS:
                for members in groups.values():
                    inside = [number for index, number in column if index in members]
                    self._add_totals(inside)
                    self._add_totals([number for index, number in column if index not in members])

    def _add_totals(self, numbers: list[float]) -> None:
        if not 2 <= len(numbers) <= _MOST_SUMMED:
            return
        ordered = sorted(numbers)
        self._totals |= set(itertools.accumulate(numbers))
        self._totals |= set(itertools.accumulate(ordered)) | set(
            itertools.accumulate(ordered[::-1])
        )
        self._totals.add(math.fsum(numbers) / len(numbers))
        middle = len(ordered) // 2
        self._totals.add((ordered[middle] + ordered[-middle - 1]) / 2)

    # ------------------------------------------------------------------------------ what is known

    def has_text(self, text: str) -> bool:
        """Whether a text occurs in what was seen, or each of its words does."""
        return self.missing_words(text) == []

    def missing_words(self, text: str) -> list[str]:
        """The words of a text that were not seen. Endings are forgiven: closed for close."""
        plain = " ".join(text.casefold().split())
        if any(plain in seen for seen in self._texts):
            return []
        return [word for word in words_of(text) if not self._has_word(word)]

    def _has_word(self, word: str) -> bool:
        if word in self._words:
            return True
        if any(character.isdigit() for character in word):
            return word.isdigit() and float(word) in self.numbers
        if word in _NUMBER_WORDS and float(_NUMBER_WORDS[word]) in self.numbers:
            return True
        stem = word[: max(4, len(word) - 3)]
        return len(word) > 4 and any(seen.startswith(stem) for seen in self._words)

    def has_number(self, value: float, tolerance: float = 0) -> bool:
        """Whether a number was seen, whatever its sign or as a share of 100."""
        near = max(tolerance, 1e-9 * max(1.0, abs(value)))
        forms = (value, -value, value * 100, value / 100)
        return any(abs(form - seen) <= near for seen in self.numbers for form in forms[:2]) or any(
            abs(form - seen) <= near for seen in self.numbers for form in forms[2:]
        )

    def names_number(self, value: float) -> bool:
        """Whether a number was seen inside a word, such as 2nd or page-2."""
        return self.has_number(value) or abs(value) in self._loose

    def computes(self, value: float, tolerance: float = 0) -> bool:
        """Whether a number is a count, a total, or two or three numbers combined."""
        if value == int(value) and 0 <= value <= self._longest:
            return True
        near = _near(value, tolerance)
        exact = max(tolerance, 1e-6 * max(1.0, abs(value)))
        if any(abs(value - total) <= near for total in self._totals):
            return True
        for first, second in itertools.combinations(sorted(self.dates), 2):
            days = (dt.date.fromisoformat(second) - dt.date.fromisoformat(first)).days
            if abs(value) in _spans(days):
                return True
        # Numbers that were seen come first, so that a bound cuts totals.
        base = list(dict.fromkeys([*self.numbers, *self._totals]))[:_PAIRS]
        pairs: list[float] = []
        for a, b in itertools.combinations_with_replacement(base, 2):
            for result, is_exact in _combine(a, b):
                if abs(value - result) <= (exact if is_exact else near):
                    return True
        for a, unit in itertools.product(base, _UNITS):
            if abs(value - a * unit) <= exact or abs(value - a / unit) <= near:
                return True
        few = list(self.numbers)[:_TRIPLES]
        for a, b in itertools.combinations(few, 2):
            pairs += [result for result, _ in _combine(a, b)]
        for a, b in itertools.product(pairs, few):
            for result, is_exact in _combine(a, b):
                if abs(value - result) <= (exact if is_exact else near):
                    return True
        return False

    def computes_date(self, value: str) -> bool:
        """Whether an ISO date is some days, weeks, months, years or working days from one that was seen."""
        try:
            target = dt.date.fromisoformat(value)
        except ValueError:
            return False
        counts = {int(n) for n in self.numbers if n == int(n) and abs(n) < 4000} | {1}
        for seen in self.dates:
            start = dt.date.fromisoformat(seen)
            days = abs((target - start).days)
            months = abs((target.year - start.year) * 12 + target.month - start.month)
            last = calendar.monthrange(target.year, target.month)[1]
            same_day = target.day in (start.day, last, 1)
            if days in counts or (days % 7 == 0 and days // 7 in counts):
                return True
            if same_day and (months in counts or months / 12 in counts or months == 0):
                return True
            # Working days: weekends skipped, and up to one day in eight a holiday.
            if any(days - 3 - count // 2 <= count <= days for count in counts if count > 0):
                weekdays = _weekdays_between(start, target)
                if any(weekdays - 1 - count // 8 <= count <= weekdays for count in counts):
                    return True
        return False


def _near(value: float, tolerance: float) -> float:
    """How far off a quotient may be: half a unit of the value's last decimal, or one for a whole number."""
    decimals = len(f"{value:.6f}".rstrip("0").partition(".")[2])
    rounding = 1.0 - 1e-9 if decimals == 0 else 0.500001 * 10**-decimals
    return max(tolerance, rounding if decimals < 4 else 1e-6 * max(1.0, abs(value)))


def _combine(a: float, b: float) -> Iterator[tuple[float, bool]]:
    """Yields what two numbers make, and whether it is exact (no quotient that is rounded)."""
    yield a + b, True
    yield a - b, True
    yield b - a, True
    yield a * b, True
    for one, other in ((a, b), (b, a)):
        yield one * other / 100, False
        yield one * (1 + other / 100), False
        yield one * (1 - other / 100), False
        if other:
            yield one / other, False
            yield 100 * one / other, False
            yield 100 * (one - other) / other, False


def _spans(days: int) -> Iterable[float]:
    return {days, days + 1, days - 1, days // 7, days // 30, days // 365, round(days / 30.44)}


def _weekdays_between(one: dt.date, other: dt.date) -> int:
    first, last = sorted((one, other))
    weeks, rest = divmod((last - first).days, 7)
    return weeks * 5 + sum((first + dt.timedelta(day + 1)).weekday() < 5 for day in range(rest))
