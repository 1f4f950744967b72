"""Estimates how many distinct tasks the templates of a pack can make, from a few hundred blueprints each.

Blueprints are made, and neither drawn nor proven. Of n blueprints from D equally likely ones about n(n-1)/2D pairs are
equal, so the pairs tell D; their number's standard error is its root, so 64 pairs give D to 13 percent. Where some
tasks are likelier than others, D is too small. A kind that may have too few tasks is counted instead (`_count`).

In: a pack and how many tasks a run asks for. Out: a capacity for each template, and InputError if a kind cannot make
its share.
"""

import datetime as dt
import json
import math
from collections import Counter
from collections.abc import Collection, Hashable
from dataclasses import dataclass

from schemas.errors import InputError
from teacher.domain.blueprint import Template
from teacher.domain.pack import Domain
from teacher.domain.seeds import first_seed
from teacher.domain.shares import count_by_template
from teacher.domain.tasks import TRIES
from teacher.domain.worlds import make_blueprint

# Equal pairs after which an estimate is good enough.
_PAIRS = 64
# Fewer give a lower bound only.
_FEW_PAIRS = 16
# Blueprints for a template that must make k tasks, in roots of k. Without an equal pair among the first, D is above k
# with a probability of 99.9 percent; among all, D = 2k still gives 36 pairs.
_LEAST, _MOST = 4, 12
# A kind of which more tasks would have to be counted is judged by the estimate, since counting takes about three
# blueprints a task.
_COUNTED = 30_000


@dataclass(frozen=True)
class Capacity:
    """How many distinct tasks a template can make, and how many the run asks it for.

    exactness: "estimated" from equal pairs, "at least" if there were few, or "counted".
    error: the estimate's relative standard error.
    """

    template: str
    kind: str
    needed: int
    tasks: int
    exactness: str
    error: float = 0.0

    def text(self) -> str:
        """Returns the capacity in words, such as "last_notice_day 3,100" or "clause_term over 2,000"."""
        digits = max(0, len(str(self.tasks)) - 2)
        rounded = self.tasks if self.exactness == "counted" else round(self.tasks, -digits)
        return f"{self.template} {'over ' if self.exactness == 'at least' else ''}{rounded:,}"


def capacities(
    domain: Domain,
    count: int,
    *,
    seed: int,
    mix: dict[str, float] | None = None,
    pixels: bool = True,
    templates: Collection[str] | None = None,
    date: dt.date | None = None,
) -> list[Capacity]:
    """Returns the capacity of each template that may make some of `count` training tasks; arguments as of `sample`.

    Raises:
        InputError: the templates of a kind have too few tasks together; it names the one that runs out.
    """
    needed = count_by_template(domain, count, mix=mix, pixels=pixels, templates=templates)
    plain, wide = first_seed("train", seed, date=date)
    by_kind: dict[str, dict[str, int]] = {}
    for name, number in needed.items():
        by_kind.setdefault(domain.templates[name].kind, {})[name] = number
    estimates: list[Capacity] = []
    for kind, group in by_kind.items():
        wanted = sum(group.values())
        if not wanted:
            continue
        of_kind = [_estimate(domain, name, k, plain, wide) for name, k in group.items()]
        missing = wanted - _total(of_kind)
        if missing > 0:
            # The others make up for it: how many more can they make?
            of_kind = [
                _estimate(domain, each.template, group[each.template], plain, wide, spare=missing)
                if each.exactness == "at least"
                else each
                for each in of_kind
            ]
        if all(each.exactness == "estimated" for each in of_kind):
            low = sum(each.tasks * (1 - 2 * each.error) for each in of_kind)
            if 0.6 * low < wanted and _total(of_kind) <= _COUNTED:
                of_kind = _count(domain, of_kind, plain, wide)
            _require(domain, kind, wanted, of_kind)
        estimates += of_kind
    return estimates


def _total(estimates: list[Capacity]) -> int:
    return sum(each.tasks for each in estimates)


def _require(domain: Domain, kind: str, wanted: int, estimates: list[Capacity]) -> None:
    """Raises InputError if the templates of a kind have fewer tasks than are wanted of it."""
    if wanted <= _total(estimates):
        return
    short = min(estimates, key=lambda each: each.tasks / max(1, each.needed))
    about = "" if all(each.exactness == "counted" for each in estimates) else "about "
    raise InputError(
        f"{domain.templates[short.template].file}: {short.template}: has {about}{short.tasks:,} distinct tasks and"
        f" tasks.train asks it for {short.needed:,}: all templates of {kind} together have {about}{_total(estimates):,}"
        f" of {wanted:,}; expected more names, numbers or wordings in the pack, or a smaller tasks.train or share in"
        " tasks.mix"
    )


def _estimate(
    domain: Domain, name: str, needed: int, plain: int, wide: int | None, *, spare: int = 0
) -> Capacity:
    """Returns a template's capacity: that of its plain seeds, and if it is needed, that of the wide ones."""
    template, wanted = domain.templates[name], max(1, needed + spare)
    draws = _Draws(domain, template, wanted)
    first, error = draws.read(plain)
    if error is None:
        return Capacity(name, template.kind, needed, first, "at least")
    if wide is None or first * (1 - 2 * error) > 2 * wanted:
        return Capacity(name, template.kind, needed, first, "estimated", error)
    second, wide_error = draws.read(wide)
    if draws.is_one_pool():
        return Capacity(name, template.kind, needed, first, "estimated", error)
    exactness = "at least" if wide_error is None else "estimated"
    return Capacity(name, template.kind, needed, first + second, exactness, wide_error or 0.0)


class _Draws:
    """Blueprints of a template: the first of each range of seeds, until their equal pairs tell how many exist."""

    def __init__(self, domain: Domain, template: Template, wanted: int) -> None:
        self._domain, self._template, self._wanted = domain, template, wanted
        self._ranges: list[Counter[Hashable]] = []

    def read(self, first: int) -> tuple[int, float | None]:
        """Returns how many tasks a range of seeds has, and the relative error; None if there are at least so many."""
        counts: Counter[Hashable] = Counter()
        self._ranges.append(counts)
        root = math.isqrt(self._wanted) + 2
        pairs = 0
        for drawn in range(1, _MOST * root + 1):
            key = _key(self._domain, self._template, first + drawn - 1)
            pairs += counts[key]
            counts[key] += 1
            if pairs >= _PAIRS or (drawn >= _LEAST * root and not pairs):
                break
        if pairs < _FEW_PAIRS:
            most = pairs + 3 * math.sqrt(pairs + 1)  # how many there may have been by chance
            least = 0 if pairs else self._wanted
            return round(max(least, len(counts), drawn * (drawn - 1) / 2 / most)), None
        return round(max(len(counts), drawn * (drawn - 1) / 2 / pairs)), pairs**-0.5

    def is_one_pool(self) -> bool:
        """Whether both ranges give the same tasks: as many pairs are equal across them as within them."""
        one, other = self._ranges
        across = sum(number * other[key] for key, number in one.items())
        within = sum(number * (number - 1) // 2 for number in one.values())
        expected = within * 2 * other.total() / one.total()
        return across > 0.25 * expected


def _key(domain: Domain, template: Template, seed: int) -> Hashable:
    """What makes a task another one: its request, and what its images show."""
    _, blueprint = make_blueprint(domain.environment, template, split="train", seed=seed)
    shown = (json.dumps([s.kind, s.data], sort_keys=True, default=str) for s in blueprint.pictures)
    return hash((blueprint.request, *shown))


def _count(
    domain: Domain, estimates: list[Capacity], plain: int, wide: int | None
) -> list[Capacity]:
    """Returns the capacities counted as `sample` finds them: until so many seeds give nothing new."""
    counted = []
    for each in estimates:
        template, seen = domain.templates[each.template], set[Hashable]()
        for first in (plain, *([] if wide is None else [wide])):
            without = 0
            for seed in range(first, first + 10 * _COUNTED):
                key = _key(domain, template, seed)
                without = without + 1 if key in seen else 0
                seen.add(key)
                if without == TRIES:
                    break
        counted.append(Capacity(each.template, each.kind, each.needed, len(seen), "counted"))
    return counted


def capacity_lines(estimates: list[Capacity]) -> list[str]:
    """Returns the lines of a plan about the templates that have fewer tasks than the run asks them for.

    The other templates of their kind make up for it: `capacities` raises where they cannot.
    """
    lines = [
        f"{each.text()} of {each.needed:,} tasks; other templates of {each.kind} make up for it"
        for each in estimates
        if each.tasks < each.needed
    ]
    errors = [each.error for each in estimates if each.tasks < each.needed and each.error]
    if errors:
        lines.append(f"estimated from repeated ones, with an error of up to {max(errors):.0%}")
    return lines
