"""Functions that packs import: pools that keep train and exam apart, and checks of the arguments of tools."""

import datetime as dt
import random
from collections.abc import Collection
from functools import cache
from typing import Any


def split_pool(pool: list[Any], split: str) -> list[Any]:
    """Returns the part of a pool that belongs to a split: every third entry is the exam's, so the splits share none."""
    return [entry for i, entry in enumerate(pool) if (i % 3 == 0) == (split == "exam")]


@cache
def split_numbers(split: str, first: int = 100) -> list[int]:
    """Returns a split's numbers with as many digits as `first`, which is reserved for examples in the tools' docs."""
    numbers = range(first + 1, first * 10)
    return [number for number in numbers if (number % 7 in (2, 5)) == (split == "exam")]


def day_between(rng: random.Random, first: str, last: str) -> dt.date:
    """Returns a random day from `first` to `last`, two ISO dates, both included."""
    start, end = dt.date.fromisoformat(first), dt.date.fromisoformat(last)
    return start + dt.timedelta(rng.randrange((end - start).days + 1))


def quote(value: Any) -> str:
    """Returns a value as the error of a tool quotes it: its repr, cut to 39 characters if it is longer than 40."""
    text = repr(value)
    return text if len(text) <= 40 else text[:36] + "..."


def is_same_name(name: str, requested: Any) -> bool:
    """Returns whether a model's argument is this name, whatever its case and spacing."""
    return isinstance(requested, str) and name.casefold() == " ".join(requested.split()).casefold()


def get_entry(table: dict[str, Any], key: Any, what: str, example: str = "") -> Any:
    """Returns the entry of a table that a model names by its key.

    what: the kind of entry, such as "contract", for the error. example: a key, if keys are not like C-100.

    Raises:
        ValueError: there is no such entry; the message shows the form of a key.
    """
    if not isinstance(key, str) or key not in table:
        form = example or f"{what[0].upper()}-100"
        expected = f"one such as {form}" if example else f"one's number, such as {form}"
        raise ValueError(f"no {what} {quote(key)}: expected {expected}")
    return table[key]


def require_one_of(value: Any, allowed: Collection[str], what: str) -> str:
    """Returns the value if it is one of those allowed.

    Raises:
        ValueError: it is not; the message lists the allowed values.
    """
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{what}: {quote(value)}: expected one of {', '.join(allowed)}")
    return value
