"""The cells of images, as question programs name them: their values in a scene's data, and how exactly they are read.

A key is "fields.Payment term", "table.2.1", "series.Sales.3" or "code.12": rows and columns count from 0, lines of code
from 1. An operand names a cell, `{"picture": 0, "key": "table.2.1"}`; picture is the number of the image, from 0.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from teacher.domain.question_values import ProgramError

# How exactly a value can be read off an axis, as a share of the axis: its ticks divide it into five parts or more, and
# a reader who places a mark to a tenth of the distance between two ticks is within a fiftieth of the whole. A share
# of the value, like the 5 % of ChartQA's relaxed accuracy, would be lax for the largest bar and impossible for the
# smallest.
AXIS_SHARE = 0.02

Operand = dict[str, Any]
# The data of each scene of a task, in order.
Scenes = Sequence[dict[str, Any]]


def value(data: dict[str, Any], key: str) -> Any:
    """Returns what a scene's data holds at a cell's key.

    A name may contain dots: the longest name that fits is taken.

    Raises:
        ProgramError: `data` has no such key.
    """
    head, _, rest = key.partition(".")
    part: Any = data.get(head)
    if head in ("code", "output") and isinstance(part, str):
        lines = part.splitlines()
        if rest.isdecimal() and 1 <= int(rest) <= len(lines):
            return lines[int(rest) - 1]
    elif head == "table" and isinstance(part, dict):
        part = part if rest.partition(".")[0] == "columns" else part.get("rows")
        return _descend(part, rest, key)
    elif head == "series" and isinstance(part, dict) and rest in part:
        return rest  # the series' name in the legend
    elif head == "edges" and rest.isdecimal() and isinstance(part, list):
        if int(rest) < len(part):
            edge = part[int(rest)]
            if len(edge) > 2 and edge[2]:
                return edge[2]
            raise ProgramError(f"{key}: the edge has no label")
    elif head == "groups" and isinstance(part, dict) and rest in part:
        return rest
    elif head in data:
        return _descend(part, rest, key)
    raise ProgramError(f"{key}: no such key in the data of the image")


def at(data: dict[str, Any], key: str, picture: int = 0) -> Operand:
    """Returns the operand for the cell `key` of image number `picture`, whose scene's data is `data`.

    If a chart does not write its values, the operand names the cells that lead to the mark ("axis"), and the answer
    gets a tolerance of a fiftieth of the axis.

    Raises:
        ProgramError: `data` has no such key.

    >>> hours = {"variant": "bar", "categories": ["M-101", "M-102"], "series": {"Hours": [12, 41]}, "labels": True}
    >>> at(hours, "series.Hours.1")
    {'picture': 0, 'key': 'series.Hours.1'}
    >>> at({**hours, "labels": False}, "series.Hours.1")
    {'picture': 0, 'key': 'series.Hours.1', 'axis': ['categories.1']}
    """
    value(data, key)
    operand: Operand = {"picture": picture, "key": key}
    if _is_mark(data, key) and not data.get("labels"):
        name, _, index = key.removeprefix("series.").rpartition(".")
        # A chart of one series has no legend.
        legend = [f"series.{name}"] if len(data["series"]) > 1 else []
        operand["axis"] = [f"categories.{index}", *legend]
    return operand


def every(data: dict[str, Any], pattern: str, picture: int = 0) -> list[Operand]:
    """Returns the operands of a whole column, row or series.

    pattern: a key with * for the part that runs: "table.*.2", "series.Sales.*".

    Raises:
        ProgramError: the pattern has no *, or `data` has nothing to run over there.

    >>> page = {"variant": "table", "table": {"columns": ["Item", "Amount"], "rows": [["Paper", 12], ["Ink", 4]]}}
    >>> every(page, "table.*.1")
    [{'picture': 0, 'key': 'table.0.1'}, {'picture': 0, 'key': 'table.1.1'}]
    """
    head, star, tail = pattern.partition("*")
    if not star:
        raise ProgramError(f"{pattern}: expected a * for the part that runs")
    parent = head.rstrip(".")
    if parent == "table":
        parts: Any = data["table"]["rows"]
    elif parent in data:
        parts = data[parent]
    elif parent.startswith("series."):
        parts = data["series"].get(parent.removeprefix("series."))
    else:
        parts = value(data, parent)
    if isinstance(parts, str):
        parts = range(1, len(parts.splitlines()) + 1)
    elif isinstance(parts, list):
        parts = range(len(parts))
    elif not isinstance(parts, dict):
        raise ProgramError(f"{pattern}: nothing in the data of the image runs there")
    return [at(data, f"{head}{part}{tail}", picture) for part in parts]


def tolerance(data: dict[str, Any], key: str) -> float:
    """Returns the largest error, in the chart's units, of a value read from the image; 0 if the value is written.

    A segment of a stacked bar is the distance of two edges, each read with the same error.

    Raises:
        ProgramError: a pie without written values: it has no axis.
    """
    if not _is_mark(data, key) or data.get("labels"):
        return 0.0
    if data["variant"] == "pie":
        raise ProgramError(f"{key}: a pie has no axis to read a value from")
    return resolution(data) * (2 if data["variant"] == "stacked_bar" else 1)


def total_tolerance(cells: list[Operand], scenes: Scenes) -> float:
    """Returns the largest error of the cells' sum or difference, as read: errors add up."""
    return sum(
        tolerance(scenes[cell["picture"]], cell["key"]) for cell in cells if "value" not in cell
    )


def visible_difference(cells: list[Operand], scenes: Scenes) -> Decimal:
    """Returns the smallest difference of the cells' values that a reader can see; 0 if all values are written."""
    threshold = 0.0
    for cell in cells:
        if "value" not in cell and "axis" in cell:
            threshold = max(threshold, resolution(scenes[cell["picture"]]))
    return Decimal(str(threshold))


def resolution(data: dict[str, Any]) -> float:
    """Returns the smallest difference of two values, in the chart's units, that a reader of the image can see."""
    if data["variant"] == "pie":
        return AXIS_SHARE * float(sum(sum(values) for values in data["series"].values()))
    low, high = axis(data)
    return AXIS_SHARE * (high - low)


def axis(data: dict[str, Any]) -> tuple[float, float]:
    """Returns the shortest axis (low, high) that shows a chart's values: bars start at zero, lines need not."""
    series = list(data["series"].values())
    if data["variant"] == "stacked_bar":
        tops = [float(sum(values)) for values in zip(*series, strict=True)]
        return 0.0, max(tops)
    numbers = [float(number) for values in series for number in values]
    if data["variant"] == "line":
        return min(numbers), max(numbers)
    return min(0.0, *numbers), max(0.0, *numbers)


def _is_mark(data: dict[str, Any], key: str) -> bool:
    """Returns whether the key is a value of a chart, rather than the name of a series."""
    series = data.get("series", {})
    return key.startswith("series.") and bool(series) and key.removeprefix("series.") not in series


def _descend(part: Any, rest: str, key: str) -> Any:
    """Returns what `part` holds at the path `rest`; `key` is the whole key, for the error."""
    if not rest:
        return part
    if isinstance(part, list):
        index, _, rest = rest.partition(".")
        if index.isdecimal() and int(index) < len(part):
            return _descend(part[int(index)], rest, key)
    elif isinstance(part, dict):
        for name in sorted(part, key=len, reverse=True):
            if rest == name or rest.startswith(f"{name}."):
                return _descend(part[name], rest[len(name) + 1 :], key)
    raise ProgramError(f"{key}: no such key in the data of the image")
