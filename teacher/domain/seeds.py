"""Which seeds the tasks of a run have.

Train and exam tasks have seeds from disjoint ranges, and so have two recipe seeds, two dates and two parts of an exam.
Worked examples (flows/generation/episodes.py) and images for swapped tasks (unanswerable.py) have ranges of their own
between 400,000,000 and 500,000,000.
"""

import datetime as dt

from schemas.task import Split

FIRST_SEED: dict[Split, int] = {"train": 0, "exam": 500_000_000}
_SEEDS_A_RECIPE = 1_000_000
# Seeds of a recipe that each part of the exam has for itself.
_SEEDS_A_PART = 200_000
# The first wide seed among the training seeds of a recipe: beyond all that its plain seeds use.
_FIRST_WIDE = 500_000
# The training seeds of the first day of the calendar; later days follow, a million for each.
_FIRST_DATED = 1_000_000_000


def first_seed(
    split: Split, seed: int, *, part: int = 0, date: dt.date | None = None
) -> tuple[int, int | None]:
    """Returns the first plain seed and the first wide seed of the tasks of a run; None if all or none are wide.

    Args:
        seed: the recipe's.
        part: of the exam, 0 to 4.
        date: the day whose training seeds are taken; the exam's do not depend on it.
    """
    if split == "train" and date is not None:
        return _FIRST_DATED + (date.toordinal() * 400 + seed) * _SEEDS_A_RECIPE, None
    first = FIRST_SEED[split] + seed * _SEEDS_A_RECIPE + part * _SEEDS_A_PART
    return first, first + _FIRST_WIDE if split == "train" else None


def is_wide(split: str, seed: int) -> bool:
    """Returns whether a world draws names and numbers from larger pools, so that a pack has enough tasks.

    Such seeds are taken by training once a template has no new request left, and always where the recipe names a date.
    A pack decides which of its pools are larger then; all that other seeds give stays the same.

    >>> is_wide("train", 7), is_wide("train", 500_007), is_wide("exam", 500_500_007)
    (False, True, False)
    """
    if split != "train":
        return False
    if seed >= _FIRST_DATED:
        return True
    # Worked examples and swapped images come from 400,000,000 up and are never wide.
    return seed < 400_000_000 and seed % _SEEDS_A_RECIPE >= _FIRST_WIDE
