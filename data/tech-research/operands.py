"""Operands and programs of questions: the marks of a chart, the arrows of a diagram, the rows of a page."""

import random
from collections.abc import Callable
from typing import Any

from teacher.domain import at, every
from teacher.scenes import Scene

Program = dict[str, Any]


def lookup(data: dict[str, Any], key: str) -> Program:
    """The program that reads one cell."""
    return {"op": "lookup", "cell": at(data, key)}


def cross_reference(cell: dict, among: list[dict], values: list[dict]) -> Program:
    """The program that finds a cell's value in `among` and returns the value beside it."""
    return {"op": "cross_reference", "cell": cell, "among": among, "values": values}


def count_where(cells: list[dict], compared: list[dict], relation: str, value: Any) -> Program:
    """The program that counts the cells whose partner in `compared` has the relation to a value."""
    where = {"cells": compared, "is": relation, "value": value}
    return {"op": "count", "cells": cells, "where": where}


def extreme(op: str, cells: list[dict], names: list[dict]) -> Program:
    """The program that returns the name of the greatest (argmax) or least (argmin) cell."""
    return {"op": op, "cells": cells, "names": names}


def marks(data: dict[str, Any]) -> dict[str, str]:
    """The marks of a chart: their keys, and how a person refers to them."""
    phrases = {}
    for name, values in data["series"].items():
        for i in range(len(values)):
            category = data["categories"][i]
            if data["variant"] in ("bar", "pie"):
                phrase = category
            elif data["variant"] == "grouped_bar":
                phrase = f"{category} in {name}"
            else:
                phrase = f"{name} in {category}"
            phrases[f"series.{name}.{i}"] = phrase
    return phrases


def ends_of(data: dict[str, Any]) -> tuple[list[dict], list[dict]]:
    """The start nodes and the end nodes of a diagram's arrows, as operands."""
    starts = [at(data, f"nodes.{start}") for start, _, _ in data["edges"]]
    return starts, [at(data, f"nodes.{end}") for _, end, _ in data["edges"]]


def reached(data: dict[str, Any], fits: Callable[[int], bool], rng: random.Random) -> str:
    """A random node whose number of incoming arrows satisfies `fits`."""
    into = [end for _, end, _ in data["edges"]]
    return rng.choice([node for node in data["nodes"] if fits(into.count(node))])


def source_of(data: dict[str, Any], node: str) -> Program:
    """The program that finds the start of the only arrow to a node."""
    starts, ends = ends_of(data)
    return cross_reference(at(data, f"nodes.{node}"), ends, starts)


def rows_of(page: Scene, column: int, image: int = 0) -> list[dict]:
    """The cells of a table's column, as operands. image: index of the page among the task's images."""
    return every(page.data, f"table.*.{column}", image)


def row_of(page: Scene, word: str) -> int:
    """The index of the table row that contains a word."""
    return next(i for i, row in enumerate(page.data["table"]["rows"]) if word in row)


def column_of(page: Scene, number: int = 1) -> str:
    """A column's heading in lower case, without its unit."""
    return page.data["table"]["columns"][number].partition(" (")[0].lower()
