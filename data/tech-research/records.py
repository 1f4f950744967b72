"""The records of the research desk: their types and the vocabulary of the tools."""

import random
from dataclasses import dataclass, field
from typing import Literal, get_args

from teacher.domain import day_between
from teacher.scenes import Scene

Metric = Literal["throughput", "latency", "power", "accuracy", "memory", "startup"]
Level = Literal["watch", "trial", "adopt", "avoid"]
Finding = Literal["confirmed", "disputed"]
Status = Literal["draft", "published", "withdrawn"]

METRICS = get_args(Metric)
LEVELS = get_args(Level)
FINDINGS = get_args(Finding)
STATUSES = get_args(Status)


@dataclass
class Product:
    """A product. price: in EUR. level: on the watch list, or None."""

    id: str
    name: str
    vendor: str
    released: str
    price: int
    level: str | None = None


@dataclass
class Vendor:
    """A vendor. contact: one of its people."""

    id: str
    name: str
    people: list[str]  # the head comes first
    contact: str


@dataclass
class Report:
    """A report; figures: the ids of its chart and its diagram."""

    id: str
    title: str
    analyst: str
    published: str
    metric: str | None  # None for a market report
    status: str
    figures: list[str] = field(default_factory=list)
    pages: list[Scene] = field(default_factory=list)
    product: str = ""  # id of the product whose diagram, or whose vendor's diagram, it has
    samples: dict[str, str] = field(default_factory=dict)  # product -> sample number


@dataclass
class Figure:
    """A chart or a diagram of a report."""

    id: str
    report: str
    scene: Scene
    marks: dict[str, str] = field(default_factory=dict)  # product -> key of the cell with its score


def old_report(number: str, subjects: list[str], analysts: list[str], rng: random.Random) -> Report:
    """An older paper, without figures."""
    return Report(
        number,
        f"{rng.choice(subjects)}, an earlier paper",
        rng.choice(analysts),
        day_between(rng, "2024-01-08", "2025-08-29").isoformat(),
        None,
        rng.choice(STATUSES),
    )
