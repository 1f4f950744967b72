"""Questions about images as small programs over the data of the scenes that the images were drawn from.

A program is JSON and part of its task. Running it gives the answer, so every answer is computed. Its operands are
cells, `{"picture": 0, "key": "table.2.1"}`, or literals, `{"value": 12500}` (a value from a record). C is an operand:

    {"op": "lookup",          "cell": C}                             the value of the cell
    {"op": "count",           "cells": [C..], "where"?}              the number of cells
    {"op": "sum",             "cells": [C..], "where"?}              the sum of the cells
    {"op": "difference",      "cells": [C, C]}                       the distance of two numbers, or days between dates
    {"op": "argmax"|"argmin", "cells": [C..], "names": [C..], "where"?}   the name that goes with the extreme value
    {"op": "trend",           "cells": [C..]}                        rising, falling or mixed, in the cells' order
    {"op": "cross_reference", "cell": C, "among": [C..], "values": [C..]}   the value beside the one cell of `among`
                                                                     that equals `cell`
    {"op": "consistency",     "cells": [C, C], "tell"?}              yes if both are equal, else no; with "tell"
                                                                     (0, 1), the value of that cell instead of no
    {"op": "point",           "cell": C}                             the box of the cell in the image

`where` keeps the cells whose value, or the value at the same index of `where`'s own `cells`, meets a condition:
{"cells"?: [C..], "is": "=" | "!=" | "<" | "<=" | ">" | ">=" | "contains", "value": X}. `at` and `every` make operands.

A program raises ProgramError if a careful reader of the image could not decide the question: equal extremes, a value
that occurs twice, values of a chart without written values that are too close to be told apart.
"""

import operator
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from teacher.domain.blueprint import Answer
from teacher.domain.question_cells import (
    AXIS_SHARE,
    Operand,
    at,
    axis,
    every,
    resolution,
    tolerance,
    value,
)
from teacher.domain.question_values import (
    YES_NO,
    ProgramError,
    parse_date,
    require_number,
    require_number_or_date,
    to_answer,
    to_comparable,
    to_number,
)

TREND = ("rising", "falling", "mixed")

_CONDITIONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
# The data of each scene of a task, in order.
Scenes = Sequence[dict[str, Any]]


def run_program(program: dict[str, Any], scenes: Scenes, pictures: Sequence[Any] = ()) -> Answer:
    """Returns the program's answer, computed from the scenes' data alone.

    Args:
        program: as this module's docstring describes.
        scenes: the data of each scene (`Scene.data`), in the task's order.
        pictures: the drawn images; only `point` uses them, for the box.

    Raises:
        ProgramError: names the operation and what was expected.
    """
    op = program.get("op")
    if op not in _OPERATIONS:
        raise ProgramError(f"op: {op!r}: expected one of {', '.join(_OPERATIONS)}")
    try:
        if op == "point":
            return _point(program, scenes, pictures)
        return _OPERATIONS[op](program, scenes)
    except ProgramError as error:
        raise ProgramError(f"{op}: {error}") from None
    except KeyError as error:
        raise ProgramError(f"{op}: {error}: the program does not give it") from None


def used_cells(program: dict[str, Any]) -> list[tuple[int, str]]:
    """Returns the cells (image, key) that a reader needs for the answer, each once, in the order of the program.

    A value read off an axis has no cell of its own: the category and the series that lead to it stand for it.
    """
    where = program.get("where", {})
    operands = [program[name] for name in ("cell",) if name in program]
    for name in ("cells", "names", "among", "values"):
        operands += program.get(name, [])
    operands += where.get("cells", [])
    cells: dict[tuple[int, str], None] = {}
    for operand in operands:
        if "value" in operand:
            continue
        for key in operand.get("axis", [operand["key"]]):
            cells[operand["picture"], key] = None
    return list(cells)


# ------------------------------------------------------------------------------------ the operations


def _lookup(program: dict[str, Any], scenes: Scenes) -> Answer:
    cell = program["cell"]
    return to_answer(_read(cell, scenes), _total_tolerance([cell], scenes))


def _count(program: dict[str, Any], scenes: Scenes) -> Answer:
    return Answer("number", len(_select(program, scenes)))


def _sum(program: dict[str, Any], scenes: Scenes) -> Answer:
    cells = _select(program, scenes)
    if not cells:
        raise ProgramError("where: no cell meets it, there is nothing to add up")
    total = sum((_read_number(cell, scenes) for cell in cells), Decimal(0))
    return Answer("number", to_number(total), _total_tolerance(cells, scenes))


def _difference(program: dict[str, Any], scenes: Scenes) -> Answer:
    first, second = _pair(program)
    dates = parse_date(_read(first, scenes)), parse_date(_read(second, scenes))
    if dates[0] and dates[1]:
        return Answer("number", abs((dates[0] - dates[1]).days))
    distance = abs(_read_number(first, scenes) - _read_number(second, scenes))
    return Answer("number", to_number(distance), _total_tolerance([first, second], scenes))


def _extreme(program: dict[str, Any], scenes: Scenes) -> Answer:
    cells, names = program["cells"], program["names"]
    if len(cells) != len(names):
        raise ProgramError(
            f"names: found {len(names)}, expected one for each of {len(cells)} cells"
        )
    selected = _select(program, scenes)
    if len(selected) < 2:
        raise ProgramError(f"cells: found {len(selected)} to compare, expected two or more")
    values: dict[int, Any] = {
        id(cell): require_number_or_date(_read(cell, scenes), _name(cell)) for cell in selected
    }
    if len({type(each) for each in values.values()}) > 1:
        raise ProgramError("cells: some are numbers and some dates")
    order = sorted(selected, key=lambda cell: values[id(cell)], reverse=program["op"] == "argmax")
    best, second = order[:2]
    a, b = values[id(best)], values[id(second)]
    threshold = _visible_difference([best, second], scenes)
    if a == b or (threshold and abs(a - b) <= threshold):
        raise ProgramError(f"cells: {best['key']} and {second['key']} cannot be told apart")
    return to_answer(_read(names[cells.index(best)], scenes))


def _trend(program: dict[str, Any], scenes: Scenes) -> Answer:
    cells = program["cells"]
    if len(cells) < 2:
        raise ProgramError(f"cells: found {len(cells)}, expected two or more")
    steps = []
    for before, after in zip(cells, cells[1:], strict=False):
        step = _read_number(after, scenes) - _read_number(before, scenes)
        threshold = _visible_difference([before, after], scenes)
        if threshold and abs(step) <= threshold:
            raise ProgramError(f"cells: {before['key']} and {after['key']} cannot be told apart")
        steps.append(step)
    if any(steps) and min(steps) >= 0:
        return Answer("choice", "rising", options=TREND)
    if any(steps) and max(steps) <= 0:
        return Answer("choice", "falling", options=TREND)
    return Answer("choice", "mixed", options=TREND)


def _cross_reference(program: dict[str, Any], scenes: Scenes) -> Answer:
    target = to_comparable(_read(program["cell"], scenes))
    among, values = program["among"], program["values"]
    if len(among) != len(values):
        raise ProgramError(f"values: found {len(values)}, expected one for each of {len(among)}")
    places = [i for i, cell in enumerate(among) if to_comparable(_read(cell, scenes)) == target]
    if len(places) != 1:
        raise ProgramError(f"among: holds {target!r} {len(places)} times, expected once")
    cell = values[places[0]]
    return to_answer(_read(cell, scenes), _total_tolerance([cell], scenes))


def _consistency(program: dict[str, Any], scenes: Scenes) -> Answer:
    first, second = _pair(program)
    if _total_tolerance([first, second], scenes):
        raise ProgramError("cells: a value read off an axis is never exactly another's")
    values = _read(first, scenes), _read(second, scenes)
    is_same = to_comparable(values[0]) == to_comparable(values[1])
    if "tell" in program and not is_same:
        chosen = values[1 if program["tell"] else 0]
        if to_comparable(chosen) in YES_NO:
            raise ProgramError(f"tell: {chosen!r} cannot be told apart from a word on both cells")
        return to_answer(chosen)
    return Answer("choice", "yes" if is_same else "no", options=YES_NO)


def _point(program: dict[str, Any], scenes: Scenes, images: Sequence[Any]) -> Answer:
    cell = program["cell"]
    _read(cell, scenes)
    if not images:
        raise ProgramError("only the drawn images have the boxes of cells")
    boxes = [c.box for c in images[cell["picture"]].cells if c.key == cell["key"]]
    if len(boxes) != 1:
        raise ProgramError(f"{cell['key']}: drawn {len(boxes)} times, expected once")
    return Answer("point", list(boxes[0]))


_OPERATIONS: dict[str, Callable[..., Answer]] = {
    "lookup": _lookup,
    "count": _count,
    "difference": _difference,
    "argmax": _extreme,
    "argmin": _extreme,
    "sum": _sum,
    "trend": _trend,
    "cross_reference": _cross_reference,
    "consistency": _consistency,
    "point": _point,
}


# ---------------------------------------------------------------------------------- operands


def _name(operand: Operand) -> str:
    return operand.get("key", "value")


def _read(operand: Operand, scenes: Scenes) -> Any:
    """Returns the value of an operand. Raises ProgramError if it names no single value, or its axis is wrong."""
    if "value" in operand:
        return operand["value"]
    number = operand["picture"]
    if not 0 <= number < len(scenes):
        raise ProgramError(f"image {number}: the task has {len(scenes)}")
    content = value(scenes[number], operand["key"])
    if at(scenes[number], operand["key"], number) != operand:
        raise ProgramError(f"{operand['key']}: axis: does not match how this chart shows the value")
    if content is None or isinstance(content, (dict, list)):
        raise ProgramError(f"{operand['key']}: expected one value, found {type(content).__name__}")
    return content


def _read_number(operand: Operand, scenes: Scenes) -> Decimal:
    return require_number(_read(operand, scenes), _name(operand))


def _pair(program: dict[str, Any]) -> tuple[Operand, Operand]:
    if len(program["cells"]) != 2:
        raise ProgramError(f"cells: found {len(program['cells'])}, expected two")
    return program["cells"][0], program["cells"][1]


def _select(program: dict[str, Any], scenes: Scenes) -> list[Operand]:
    """Returns the cells that meet the program's `where`, or all of them if it has none."""
    cells, where = program["cells"], program.get("where")
    # Also without a condition, because reading checks the cells.
    values = [_read(cell, scenes) for cell in cells]
    if where is None:
        return list(cells)
    beside = where.get("cells", cells)
    if len(beside) != len(cells):
        raise ProgramError(f"where: {len(beside)} cells, expected one for each of {len(cells)}")
    if where["is"] not in (*_CONDITIONS, "contains"):
        raise ProgramError(
            f"where: is: {where['is']!r}: expected contains or one of {', '.join(_CONDITIONS)}"
        )
    if "cells" in where:
        values = [_read(cell, scenes) for cell in beside]
    return [
        cell
        for cell, neighbour, content in zip(cells, beside, values, strict=True)
        if _meets(where, neighbour, content, scenes)
    ]


def _meets(where: dict[str, Any], cell: Operand, content: Any, scenes: Scenes) -> bool:
    """Returns whether a cell's content meets a condition. Raises ProgramError if a reader could not decide it."""
    if where["is"] == "contains":
        return str(where["value"]).casefold() in str(content).casefold()
    a, b = to_comparable(content), to_comparable(where["value"])
    if type(a) is not type(b):
        raise ProgramError(f"where: {content!r} cannot be compared with {where['value']!r}")
    threshold = Decimal(str(_total_tolerance([cell], scenes)))
    if threshold and abs(a - b) <= threshold:
        raise ProgramError(f"where: {cell['key']} cannot be told from {where['value']!r}")
    return _CONDITIONS[where["is"]](a, b)


def _total_tolerance(cells: list[Operand], scenes: Scenes) -> float:
    """Returns the largest error of the cells' sum or difference, as read: errors add up."""
    return sum(
        tolerance(scenes[cell["picture"]], cell["key"]) for cell in cells if "value" not in cell
    )


def _visible_difference(cells: list[Operand], scenes: Scenes) -> Decimal:
    """Returns the smallest difference of the cells' values that a reader can see; 0 if all values are written."""
    threshold = 0.0
    for cell in cells:
        if "value" not in cell and "axis" in cell:
            threshold = max(threshold, resolution(scenes[cell["picture"]]))
    return Decimal(str(threshold))


run = run_program  # old name
used = used_cells  # old name

__all__ = [
    "AXIS_SHARE",
    "Operand",
    "ProgramError",
    "Scenes",
    "TREND",
    "YES_NO",
    "at",
    "axis",
    "every",
    "run",
    "run_program",
    "tolerance",
    "used",
    "used_cells",
    "value",
]
