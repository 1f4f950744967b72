"""Divides a number of tasks among the templates of a pack, by the shares of their kinds."""

import functools
from collections.abc import Collection

from schemas.documents import HERE
from schemas.errors import InputError
from schemas.files import read_json
from teacher.domain.pack import Domain


def count_by_template(
    domain: Domain,
    count: int,
    *,
    mix: dict[str, float] | None = None,
    pixels: bool = True,
    templates: Collection[str] | None = None,
) -> dict[str, int]:
    """Returns how many of `count` tasks each template makes; arguments as of `sample`."""
    shares = template_shares(domain, mix, pixels=pixels, templates=templates)
    return divide_by_kind(domain, shares, count)


def template_shares(
    domain: Domain,
    mix: dict[str, float] | None = None,
    *,
    pixels: bool = True,
    templates: Collection[str] | None = None,
) -> dict[str, float]:
    """Returns the share of each template: its kind's, divided evenly, unless the mix names the template."""
    kinds = {kind: entry["share"] for kind, entry in domain.spec["kinds"].items()}
    mix = dict(mix or {})
    # A recipe may name kinds that only some packs have.
    unknown = set(mix) - _all_kinds() - set(domain.templates)
    if unknown:
        raise InputError(
            f"tasks.mix.{min(unknown)}: expected a kind or a template of the domain {domain.name}"
        )
    shares = {}
    for kind, share in kinds.items():
        names = [
            name
            for name, template in domain.templates.items()
            if template.kind == kind and (templates is None or name in templates)
        ]
        for name in names:
            shares[name] = mix.get(name, mix.get(kind, share) / len(names))
    if not pixels:
        shares = {n: s for n, s in shares.items() if not domain.templates[n].needs_pixels}
    if sum(shares.values()) <= 0:
        raise InputError("tasks.mix: expected at least one share above 0")
    return shares


@functools.cache
def _all_kinds() -> frozenset[str]:
    """The kinds that any pack may have."""
    schema = read_json(HERE / "domain.schema.json")
    return frozenset(schema["properties"]["kinds"]["propertyNames"]["enum"])


def divide_by_kind(domain: Domain, shares: dict[str, float], count: int) -> dict[str, int]:
    """Returns how many of `count` tasks each template makes. First the kinds get their share, then their templates.

    Divided over templates alone, many small remainders would favour a kind with many templates.
    """
    by_kind: dict[str, dict[str, float]] = {}
    for name, share in shares.items():
        if share:
            by_kind.setdefault(domain.templates[name].kind, {})[name] = share
    kinds = _divide({kind: sum(group.values()) for kind, group in by_kind.items()}, count)
    counts = dict.fromkeys(shares, 0)
    for kind, group in by_kind.items():
        counts |= _divide(group, kinds[kind])
    return counts


def _divide(shares: dict[str, float], count: int) -> dict[str, int]:
    """Returns `count` divided in the proportion of the shares (largest remainder)."""
    total = sum(shares.values())
    exact = {name: count * share / total for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(shares, key=lambda name: exact[name] - counts[name], reverse=True)
    for name in by_remainder[: count - sum(counts.values())]:
        counts[name] += 1
    return counts
