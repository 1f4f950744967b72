"""Questions about images as small programs over the data of the scenes that the images were drawn from.

A program is JSON and part of its task. Running it gives the answer, so every answer is computed. It names an operation
("op") and its operands. An operand is a cell, `{"picture": 0, "key": "table.2.1"}`, which `at` and `every` make, or a
literal, `{"value": 12500}`, such as a value from a record. Below, C is an operand.

The examples of the operations use the data of these two scenes:

    >>> invoice = {
    ...     "variant": "invoice",
    ...     "title": "Invoice I-77",
    ...     "fields": {"Contract": "C-104", "Issued": "2026-03-02", "Due": "1 April 2026"},
    ...     "table": {
    ...         "columns": ["Item", "Amount", "Status"],
    ...         "rows": [["Paper", "120", "paid"], ["Ink", "45.50", "open"], ["Glue", "300", "open"]],
    ...     },
    ... }
    >>> hours = {
    ...     "variant": "bar",
    ...     "title": "Hours by matter",
    ...     "categories": ["M-101", "M-102", "M-103"],
    ...     "series": {"Hours": [12, 30.5, 41]},
    ...     "labels": True,
    ... }

Count, sum, argmax and argmin take a condition. `where` keeps the cells whose value, or the value at the same index of
`where`'s own `cells`, meets it: `{"cells"?: [C..], "is": OPERATOR, "value": X}`, with the operators `=`, `!=`, `<`,
`<=`, `>`, `>=` and `contains`.

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
    Scenes,
    at,
    axis,
    every,
    tolerance,
    total_tolerance,
    value,
    visible_difference,
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


def run_program(program: dict[str, Any], scenes: Scenes, pictures: Sequence[Any] = ()) -> Answer:
    """Returns the program's answer, computed from the scenes' data alone.

    Args:
        program: an operation and its operands.
        scenes: the data of each scene (`Scene.data`), in the task's order.
        pictures: the drawn images; only `point` uses them, for the box.

    Raises:
        ProgramError: names the operation and what was expected, or why a reader of the image could not decide.

    >>> run_program({"op": "sum", "cells": every(invoice, "table.*.1")}, [invoice]).as_row()
    {'type': 'number', 'value': 465.5}
    >>> run_program({"op": "sum", "cells": every(invoice, "table.*.0")}, [invoice])
    Traceback (most recent call last):
    teacher.domain.question_values.ProgramError: sum: table.0.0: 'Paper': expected a number
    """
    op = program.get("op")
    if op not in OPERATIONS:
        raise ProgramError(f"op: {op!r}: expected one of {', '.join(OPERATIONS)}")
    try:
        if op == "point":
            return _point(program, scenes, pictures)
        return OPERATIONS[op](program, scenes)
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
    """Returns the value of a cell. Program: `{"op": "lookup", "cell": C}`.

    >>> run_program({"op": "lookup", "cell": at(invoice, "fields.Due")}, [invoice]).as_row()
    {'type': 'date', 'value': '2026-04-01'}
    """
    cell = program["cell"]
    return to_answer(_read(cell, scenes), total_tolerance([cell], scenes))


def _count(program: dict[str, Any], scenes: Scenes) -> Answer:
    """Returns the number of cells. Program: `{"op": "count", "cells": [C..], "where"?}`.

    >>> program = {"op": "count", "cells": every(invoice, "table.*.2"), "where": {"is": "=", "value": "open"}}
    >>> run_program(program, [invoice]).value
    2
    """
    return Answer("number", len(_select(program, scenes)))


def _sum(program: dict[str, Any], scenes: Scenes) -> Answer:
    """Returns the sum of the cells. Program: `{"op": "sum", "cells": [C..], "where"?}`.

    >>> unpaid = {"cells": every(invoice, "table.*.2"), "is": "!=", "value": "paid"}
    >>> program = {"op": "sum", "cells": every(invoice, "table.*.1"), "where": unpaid}
    >>> run_program(program, [invoice]).value
    345.5
    """
    cells = _select(program, scenes)
    if not cells:
        raise ProgramError("where: no cell meets it, there is nothing to add up")
    total = sum((_read_number(cell, scenes) for cell in cells), Decimal(0))
    return Answer("number", to_number(total), total_tolerance(cells, scenes))


def _difference(program: dict[str, Any], scenes: Scenes) -> Answer:
    """Returns the distance of two numbers or dates (in days). Program: `{"op": "difference", "cells": [C, C]}`.

    >>> dates = [at(invoice, "fields.Issued"), at(invoice, "fields.Due")]
    >>> run_program({"op": "difference", "cells": dates}, [invoice]).value
    30
    """
    first, second = _pair(program)
    dates = parse_date(_read(first, scenes)), parse_date(_read(second, scenes))
    if dates[0] and dates[1]:
        return Answer("number", abs((dates[0] - dates[1]).days))
    distance = abs(_read_number(first, scenes) - _read_number(second, scenes))
    return Answer("number", to_number(distance), total_tolerance([first, second], scenes))


def _extreme(program: dict[str, Any], scenes: Scenes) -> Answer:
    """Returns the name that goes with the largest (argmax) or smallest value (argmin).

    Program: `{"op": "argmax" | "argmin", "cells": [C..], "names": [C..], "where"?}`, with one name for each cell.

    >>> bars, names = every(hours, "series.Hours.*"), every(hours, "categories.*")
    >>> run_program({"op": "argmax", "cells": bars, "names": names}, [hours]).value
    'M-103'
    >>> run_program({"op": "argmin", "cells": bars, "names": names}, [hours]).value
    'M-101'
    """
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
    threshold = visible_difference([best, second], scenes)
    if a == b or (threshold and abs(a - b) <= threshold):
        raise ProgramError(f"cells: {best['key']} and {second['key']} cannot be told apart")
    return to_answer(_read(names[cells.index(best)], scenes))


def _trend(program: dict[str, Any], scenes: Scenes) -> Answer:
    """Returns rising, falling or mixed, for the cells in their order. Program: `{"op": "trend", "cells": [C..]}`.

    >>> run_program({"op": "trend", "cells": every(hours, "series.Hours.*")}, [hours]).value
    'rising'
    """
    cells = program["cells"]
    if len(cells) < 2:
        raise ProgramError(f"cells: found {len(cells)}, expected two or more")
    steps = []
    for before, after in zip(cells, cells[1:], strict=False):
        step = _read_number(after, scenes) - _read_number(before, scenes)
        threshold = visible_difference([before, after], scenes)
        if threshold and abs(step) <= threshold:
            raise ProgramError(f"cells: {before['key']} and {after['key']} cannot be told apart")
        steps.append(step)
    if any(steps) and min(steps) >= 0:
        return Answer("choice", "rising", options=TREND)
    if any(steps) and max(steps) <= 0:
        return Answer("choice", "falling", options=TREND)
    return Answer("choice", "mixed", options=TREND)


def _cross_reference(program: dict[str, Any], scenes: Scenes) -> Answer:
    """Returns the value beside the one cell of `among` that equals `cell`.

    Program: `{"op": "cross_reference", "cell": C, "among": [C..], "values": [C..]}`, a value for each of `among`.

    >>> items, amounts = every(invoice, "table.*.0"), every(invoice, "table.*.1")
    >>> ink = {"op": "cross_reference", "cell": {"value": "ink"}, "among": items, "values": amounts}
    >>> run_program(ink, [invoice]).value
    45.5
    """
    target = to_comparable(_read(program["cell"], scenes))
    among, values = program["among"], program["values"]
    if len(among) != len(values):
        raise ProgramError(f"values: found {len(values)}, expected one for each of {len(among)}")
    places = [i for i, cell in enumerate(among) if to_comparable(_read(cell, scenes)) == target]
    if len(places) != 1:
        raise ProgramError(f"among: holds {target!r} {len(places)} times, expected once")
    cell = values[places[0]]
    return to_answer(_read(cell, scenes), total_tolerance([cell], scenes))


def _consistency(program: dict[str, Any], scenes: Scenes) -> Answer:
    """Returns yes if two cells are equal, else no. Program: `{"op": "consistency", "cells": [C, C], "tell"?}`.

    With "tell" (0 or 1) the answer is the value of that cell instead of no.

    >>> cells = [at(invoice, "fields.Contract"), {"value": "C-105"}]
    >>> run_program({"op": "consistency", "cells": cells}, [invoice]).value
    'no'
    >>> run_program({"op": "consistency", "cells": cells, "tell": 0}, [invoice]).value
    'C-104'
    """
    first, second = _pair(program)
    if total_tolerance([first, second], scenes):
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
    """Returns the box of a cell in its image. Program: `{"op": "point", "cell": C}`; the template has `pixels=True`.

    >>> from teacher.scenes import Scene, draw
    >>> image = draw(Scene("chart", hours, seed=1))
    >>> answer = run_program({"op": "point", "cell": at(hours, "categories.1")}, [hours], [image])
    >>> answer.value == [list(cell.box) for cell in image.cells if cell.key == "categories.1"][0]
    True
    """
    cell = program["cell"]
    _read(cell, scenes)
    if not images:
        raise ProgramError("only the drawn images have the boxes of cells")
    boxes = [c.box for c in images[cell["picture"]].cells if c.key == cell["key"]]
    if len(boxes) != 1:
        raise ProgramError(f"{cell['key']}: drawn {len(boxes)} times, expected once")
    return Answer("point", list(boxes[0]))


OPERATIONS: dict[str, Callable[..., Answer]] = {
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
    threshold = Decimal(str(total_tolerance([cell], scenes)))
    if threshold and abs(a - b) <= threshold:
        raise ProgramError(f"where: {cell['key']} cannot be told from {where['value']!r}")
    return _CONDITIONS[where["is"]](a, b)


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
