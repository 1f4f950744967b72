"""Functions that packs import: pools that keep train and exam apart, and checks of the arguments of tools."""

import datetime as dt
import random
from collections.abc import Collection, Sequence
from functools import cache
from typing import Any


def split_pool(pool: list[Any], split: str) -> list[Any]:
    """Returns the part of a pool that belongs to a split: every third entry is the exam's, so the splits share none.

    The entries must be distinct, and their order the same in every process: a list or a tuple, not a set.

    >>> split_pool(["Ada", "Ben", "Cleo", "Dan"], "exam")
    ['Ada', 'Dan']
    >>> split_pool(["Ada", "Ben", "Cleo", "Dan"], "train")
    ['Ben', 'Cleo']
    """
    return [entry for i, entry in enumerate(pool) if (i % 3 == 0) == (split == "exam")]


@cache
def split_numbers(split: str, first: int = 100) -> list[int]:
    """Returns a split's numbers with as many digits as `first`, which is reserved for examples in the tools' docs.

    first: 100 gives 101 to 999, 1000 gives 1001 to 9999. Two in seven of the numbers are the exam's.

    >>> split_numbers("train")[:4], split_numbers("exam")[:4]
    ([101, 102, 104, 105], [103, 107, 110, 114])
    >>> rng = random.Random("train:7")
    >>> [f"C-{number}" for number in rng.sample(split_numbers("train"), 3)]
    ['C-610', 'C-952', 'C-147']
    """
    numbers = range(first + 1, first * 10)
    return [number for number in numbers if (number % 7 in (2, 5)) == (split == "exam")]


def day_between(rng: random.Random, first: str, last: str) -> dt.date:
    """Returns a random day from `first` to `last`, two ISO dates, both included.

    >>> day_between(random.Random("train:7"), "2026-03-01", "2026-03-31").isoformat()
    '2026-03-12'
    """
    start, end = dt.date.fromisoformat(first), dt.date.fromisoformat(last)
    return start + dt.timedelta(rng.randrange((end - start).days + 1))


def join_names(names: Sequence[str]) -> str:
    """Returns two or more names as a sentence lists them.

    >>> join_names(["C-104", "C-105", "C-107"])
    'C-104, C-105 and C-107'
    """
    return f"{', '.join(names[:-1])} and {names[-1]}"


def quote(value: Any) -> str:
    """Returns a value as the error of a tool quotes it: its repr, cut to 39 characters if it is longer than 40.

    >>> quote("C-1042")
    "'C-1042'"
    >>> quote("Please open the contract of Aldgate Foods")
    "'Please open the contract of Aldgate..."
    """
    text = repr(value)
    return text if len(text) <= 40 else text[:36] + "..."


def is_same_name(name: str, requested: Any) -> bool:
    """Returns whether a model's argument is this name, whatever its case and spacing.

    >>> is_same_name("Aldgate Foods", " aldgate  FOODS")
    True
    >>> is_same_name("Aldgate Foods", "Aldgate")
    False
    """
    return isinstance(requested, str) and name.casefold() == " ".join(requested.split()).casefold()


def get_entry(table: dict[str, Any], key: Any, what: str, example: str = "") -> Any:
    """Returns the entry of a table that a model names by its key.

    what: the kind of entry, such as "contract", for the error.
    example: a key, if keys are not like C-100.

    Raises:
        ValueError: there is no such entry; the message shows the form of a key.

    >>> contracts = {"C-102": {"client": "Aldgate Foods"}}
    >>> get_entry(contracts, "C-102", "contract")
    {'client': 'Aldgate Foods'}
    >>> get_entry(contracts, "102", "contract")
    Traceback (most recent call last):
    ValueError: no contract '102': expected one's number, such as C-100
    >>> get_entry({"brass hinge": 12}, "hinge", "item", example="oak dowel")
    Traceback (most recent call last):
    ValueError: no item 'hinge': expected one such as oak dowel
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

    >>> require_one_of("open", ("open", "on_hold", "closed"), "status")
    'open'
    >>> require_one_of("done", ("open", "on_hold", "closed"), "status")
    Traceback (most recent call last):
    ValueError: status: 'done': expected one of open, on_hold, closed
    """
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{what}: {quote(value)}: expected one of {', '.join(allowed)}")
    return value
