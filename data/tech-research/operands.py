"""What a question can be about in a picture's data: a chart's marks, a diagram's arrows, a page's rows; as operands."""

import random
from collections.abc import Callable
from typing import Any

from teacher.domain.questions import at, every
from teacher.scenes import Scene

Program = dict[str, Any]


def marks(data: dict[str, Any]) -> dict[str, str]:
    """Every mark of a chart: its key, and how a person would call it."""
    named = {}
    for name, values in data["series"].items():
        for i in range(len(values)):
            category = data["categories"][i]
            if data["variant"] in ("bar", "pie"):
                said = category
            elif data["variant"] == "grouped_bar":
                said = f"{category} in {name}"
            else:
                said = f"{name} in {category}"
            named[f"series.{name}.{i}"] = said
    return named


def ends_of(data: dict[str, Any]) -> tuple[list[dict], list[dict]]:
    """The boxes that each arrow of a diagram leaves, and those that it reaches, as operands."""
    starts = [at(data, f"nodes.{start}") for start, _, _ in data["edges"]]
    return starts, [at(data, f"nodes.{end}") for _, end, _ in data["edges"]]


def reached(data: dict[str, Any], fits: Callable[[int], bool], rng: random.Random) -> str:
    """A box that as many arrows reach as `fits` says."""
    into = [end for _, end, _ in data["edges"]]
    return rng.choice([node for node in data["nodes"] if fits(into.count(node))])


def source_of(data: dict[str, Any], node: str) -> Program:
    """The program that finds where the one arrow comes from that reaches a box."""
    starts, ends = ends_of(data)
    cell = at(data, f"nodes.{node}")
    return {"op": "cross_reference", "cell": cell, "among": ends, "values": starts}


def rows_of(page: Scene, column: int, picture: int = 0) -> list[dict]:
    return every(page.data, f"table.*.{column}", picture)


def row_of(page: Scene, word: str) -> int:
    return next(i for i, row in enumerate(page.data["table"]["rows"]) if word in row)


def column_of(page: Scene, number: int = 1) -> str:
    """A column's heading as a person would say it, without its unit."""
    return page.data["table"]["columns"][number].partition(" (")[0].lower()
