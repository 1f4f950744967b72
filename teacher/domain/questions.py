"""Questions about pictures as small programs over the data that the pictures were drawn from.

A program is JSON and part of its task; running it gives the answer, so an answer is computed and never guessed. Its
operands are cells, `{"picture": 0, "key": "table.2.1"}`, or literals, `{"value": 12500}` (what a record says):

    {"op": "lookup",          "cell": C}                             the value itself
    {"op": "count",           "cells": [C..], "where"?}              how many of the cells
    {"op": "sum",             "cells": [C..], "where"?}              their sum
    {"op": "difference",      "cells": [C, C]}                       how far apart: numbers, or days between dates
    {"op": "argmax"|"argmin", "cells": [C..], "names": [C..], "where"?}   the name that goes with the extreme value
    {"op": "trend",           "cells": [C..]}                        rising, falling or mixed, in the cells' order
    {"op": "cross_reference", "cell": C, "among": [C..], "values": [C..]}   `cell` is found in `among`, once; its value
    {"op": "consistency",     "cells": [C, C], "tell"?}              yes if both say the same, else no; with
                                                                     "tell" (0, 1), what that cell says instead of no
    {"op": "point",           "cell": C}                             the box of the cell in the drawing

`where` keeps the cells whose value, or whose neighbour's of the same place in `cells`, meets a condition:
{"cells"?: [C..], "is": "=" | "!=" | "<" | "<=" | ">" | ">=" | "contains", "value": X}. `at` and `every` make operands.

A question that a careful reader of the picture could not decide is refused: equal extremes, a name found twice, values
of a chart without written values that lie closer together than they can be read.
"""

import datetime as dt
import operator
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from teacher.domain.pack import Answer

TREND = ("rising", "falling", "mixed")
YES_NO = ("yes", "no")

# What can be read off an axis without written values: its ticks part it in five or more, and a reader who places a
# mark to a tenth of the way between two of them is within a fiftieth of the whole. A share of the value, as the 5 % of
# ChartQA's relaxed accuracy, would let a reader of the largest bar off lightly and ask the impossible at the smallest.
AXIS_SHARE = 0.02

_AMOUNT = re.compile(
    r"(?:[A-Z]{3} ?|[€$£] ?)?(?P<number>-?(?:\d{1,3}(?:,\d{3})+|[1-9]\d*|0)(?:\.\d+)?)"
    r"(?: ?%| ?[€$£]| [A-Z]{3}|(?: [a-z]+){1,2})?"
)
_DATES = ("%Y-%m-%d", "%d %B %Y", "%d %b %Y", "%B %d, %Y")
_CONDITIONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
Scenes = Sequence[dict[str, Any]]
Operand = dict[str, Any]


class ProgramError(ValueError):
    """A program that is none, or a question that the pictures do not decide; one line that says which part."""


def run(program: dict[str, Any], scenes: Scenes, pictures: Sequence[Any] = ()) -> Answer:
    """The program's answer, from the scenes' data alone.

    Args:
        program: as this module's docstring describes.
        scenes: the data of each picture (`Scene.data`), in the task's order.
        pictures: the drawn `Picture`s; only `point` looks at them, for the box.

    Raises:
        ProgramError: names the operation and what was expected.
    """
    op = program.get("op")
    if op not in _RUN:
        raise ProgramError(f"op: {op!r}: expected one of {', '.join(_RUN)}")
    try:
        if op == "point":
            return _point(program, scenes, pictures)
        return _RUN[op](program, scenes)
    except ProgramError as error:
        raise ProgramError(f"{op}: {error}") from None
    except KeyError as error:
        raise ProgramError(f"{op}: {error}: the program does not give it") from None


def used(program: dict[str, Any]) -> list[tuple[int, str]]:
    """The cells (picture, key) that who answers has to see, each once, in the order of the program.

    A value read off an axis has no cell of its own: the category and the series that lead to it stand for it.
    """
    where = program.get("where", {})
    operands = [program[name] for name in ("cell",) if name in program]
    for name in ("cells", "names", "among", "values"):
        operands += program.get(name, [])
    operands += where.get("cells", [])
    found: dict[tuple[int, str], None] = {}
    for operand in operands:
        if "value" in operand:
            continue
        for key in operand.get("axis", [operand["key"]]):
            found[operand["picture"], key] = None
    return list(found)


def value(data: dict[str, Any], key: str) -> Any:
    """What `data` holds at a cell's key: "fields.Payment term", "table.2.1", "series.Sales.3", "code.12".

    A name may contain dots: the longest that fits is taken. Rows and columns count from 0, lines of code from 1.

    Raises:
        ProgramError: `data` has no such key.
    """
    head, _, rest = key.partition(".")
    found: Any = data.get(head)
    if head in ("code", "output") and isinstance(found, str):
        lines = found.splitlines()
        if rest.isdecimal() and 1 <= int(rest) <= len(lines):
            return lines[int(rest) - 1]
    elif head == "table" and isinstance(found, dict):
        found = found if rest.partition(".")[0] == "columns" else found.get("rows")
        return _inside(found, rest, key)
    elif head == "series" and isinstance(found, dict) and rest in found:
        return rest  # the series' name in the legend
    elif head == "edges" and rest.isdecimal() and isinstance(found, list):
        if int(rest) < len(found):
            edge = found[int(rest)]
            if len(edge) > 2 and edge[2]:
                return edge[2]
            raise ProgramError(f"{key}: the edge bears no label")
    elif head == "groups" and isinstance(found, dict) and rest in found:
        return rest
    elif head in data:
        return _inside(found, rest, key)
    raise ProgramError(f"{key}: no such key in the data of the picture")


def at(data: dict[str, Any], key: str, picture: int = 0) -> Operand:
    """The operand for the cell `key` of picture number `picture`, whose data is `data`.

    Where a chart does not write its values, the operand names the cells that lead to the mark ("axis").
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
    """The operands of a whole column, row, series: in `pattern` one part is *, "table.*.2", "series.Sales.*"."""
    head, star, tail = pattern.partition("*")
    if not star:
        raise ProgramError(f"{pattern}: expected a * for the part that runs")
    parent = head.rstrip(".")
    if parent == "table":
        found: Any = data["table"]["rows"]
    elif parent in data:
        found = data[parent]
    elif parent.startswith("series."):
        found = data["series"].get(parent.removeprefix("series."))
    else:
        found = value(data, parent)
    if isinstance(found, str):
        found = range(1, len(found.splitlines()) + 1)
    elif isinstance(found, list):
        found = range(len(found))
    elif not isinstance(found, dict):
        raise ProgramError(f"{pattern}: nothing in the data of the picture runs there")
    return [at(data, f"{head}{part}{tail}", picture) for part in found]


def tolerance(data: dict[str, Any], key: str) -> float:
    """How far off, in the chart's units, a value read from the drawing may be; 0 where the value is written.

    A segment of a stacked bar is the distance of two edges, each read as well as any other.

    Raises:
        ProgramError: a pie without written values: it has no axis.
    """
    if not _is_mark(data, key) or data.get("labels"):
        return 0.0
    if data["variant"] == "pie":
        raise ProgramError(f"{key}: a pie has no axis to read a value from")
    return _resolution(data) * (2 if data["variant"] == "stacked_bar" else 1)


def axis(data: dict[str, Any]) -> tuple[float, float]:
    """The least axis (low, high) that shows a chart's values: bars stand on zero, lines need not."""
    series = list(data["series"].values())
    if data["variant"] == "stacked_bar":
        tops = [float(sum(values)) for values in zip(*series, strict=True)]
        return 0.0, max(tops)
    numbers = [float(number) for values in series for number in values]
    if data["variant"] == "line":
        return min(numbers), max(numbers)
    return min(0.0, *numbers), max(0.0, *numbers)


# ------------------------------------------------------------------------------------ the operations


def _lookup(program: dict[str, Any], scenes: Scenes) -> Answer:
    return _answer(_read(program["cell"], scenes), _slack([program["cell"]], scenes))


def _count(program: dict[str, Any], scenes: Scenes) -> Answer:
    return Answer("number", len(_kept(program, scenes)))


def _sum(program: dict[str, Any], scenes: Scenes) -> Answer:
    kept = _kept(program, scenes)
    if not kept:
        raise ProgramError("where: no cell meets it, there is nothing to add up")
    total = sum((_number(_read(cell, scenes), cell) for cell in kept), Decimal(0))
    return Answer("number", _plain(total), _slack(kept, scenes))


def _difference(program: dict[str, Any], scenes: Scenes) -> Answer:
    first, second = _pair(program)
    a, b = _read(first, scenes), _read(second, scenes)
    dates = _date(a), _date(b)
    if dates[0] and dates[1]:
        return Answer("number", abs((dates[0] - dates[1]).days))
    distance = abs(_number(a, first) - _number(b, second))
    return Answer("number", _plain(distance), _slack([first, second], scenes))


def _extreme(program: dict[str, Any], scenes: Scenes) -> Answer:
    cells, names = program["cells"], program["names"]
    if len(cells) != len(names):
        raise ProgramError(
            f"names: found {len(names)}, expected one for each of {len(cells)} cells"
        )
    kept = _kept(program, scenes)
    if len(kept) < 2:
        raise ProgramError(f"cells: found {len(kept)} to compare, expected two or more")
    found = {id(cell): _comparable(_read(cell, scenes), cell) for cell in kept}
    if len({type(one) for one in found.values()}) > 1:
        raise ProgramError("cells: some are numbers and some dates")
    order = sorted(kept, key=lambda cell: found[id(cell)], reverse=program["op"] == "argmax")
    best, second = order[:2]
    a, b = found[id(best)], found[id(second)]
    unclear = _apart([best, second], scenes)
    if a == b or (unclear and abs(a - b) <= unclear):
        raise ProgramError(f"cells: {best['key']} and {second['key']} cannot be told apart")
    return _answer(_read(names[cells.index(best)], scenes))


def _trend(program: dict[str, Any], scenes: Scenes) -> Answer:
    cells = program["cells"]
    if len(cells) < 2:
        raise ProgramError(f"cells: found {len(cells)}, expected two or more")
    steps = []
    for before, after in zip(cells, cells[1:], strict=False):
        step = _number(_read(after, scenes), after) - _number(_read(before, scenes), before)
        if abs(step) <= (unclear := _apart([before, after], scenes)) and unclear:
            raise ProgramError(f"cells: {before['key']} and {after['key']} cannot be told apart")
        steps.append(step)
    if any(steps) and min(steps) >= 0:
        return Answer("choice", "rising", options=TREND)
    if any(steps) and max(steps) <= 0:
        return Answer("choice", "falling", options=TREND)
    return Answer("choice", "mixed", options=TREND)


def _cross_reference(program: dict[str, Any], scenes: Scenes) -> Answer:
    wanted = _comparable(_read(program["cell"], scenes))
    among, values = program["among"], program["values"]
    if len(among) != len(values):
        raise ProgramError(f"values: found {len(values)}, expected one for each of {len(among)}")
    places = [i for i, cell in enumerate(among) if _comparable(_read(cell, scenes)) == wanted]
    if len(places) != 1:
        raise ProgramError(f"among: holds {wanted!r} {len(places)} times, expected once")
    return _answer(_read(values[places[0]], scenes), _slack([values[places[0]]], scenes))


def _consistency(program: dict[str, Any], scenes: Scenes) -> Answer:
    first, second = _pair(program)
    if _slack([first, second], scenes):
        raise ProgramError("cells: a value read off an axis is never exactly another's")
    said = _read(first, scenes), _read(second, scenes)
    same = _comparable(said[0]) == _comparable(said[1])
    if "tell" in program and not same:
        told = said[1 if program["tell"] else 0]
        if _comparable(told) in YES_NO:
            raise ProgramError(f"tell: {told!r} cannot be told apart from a word on both cells")
        return _answer(told)
    return Answer("choice", "yes" if same else "no", options=YES_NO)


def _point(program: dict[str, Any], scenes: Scenes, pictures: Sequence[Any]) -> Answer:
    cell = program["cell"]
    _read(cell, scenes)
    if not pictures:
        raise ProgramError("only the drawn pictures know where a cell is")
    boxes = [c.box for c in pictures[cell["picture"]].cells if c.key == cell["key"]]
    if len(boxes) != 1:
        raise ProgramError(f"{cell['key']}: drawn {len(boxes)} times, expected once")
    return Answer("point", list(boxes[0]))


_RUN: dict[str, Callable[..., Answer]] = {
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


# ---------------------------------------------------------------------------------- cells and values


def _read(operand: Operand, scenes: Scenes) -> Any:
    if "value" in operand:
        return operand["value"]
    picture = operand["picture"]
    if not 0 <= picture < len(scenes):
        raise ProgramError(f"picture {picture}: the task has {len(scenes)}")
    found = value(scenes[picture], operand["key"])
    if at(scenes[picture], operand["key"], picture) != operand:
        raise ProgramError(f"{operand['key']}: axis: does not say how this chart shows the value")
    if found is None or isinstance(found, (dict, list)):
        raise ProgramError(f"{operand['key']}: expected one value, found {type(found).__name__}")
    return found


def _pair(program: dict[str, Any]) -> tuple[Operand, Operand]:
    if len(program["cells"]) != 2:
        raise ProgramError(f"cells: found {len(program['cells'])}, expected two")
    return program["cells"][0], program["cells"][1]


def _kept(program: dict[str, Any], scenes: Scenes) -> list[Operand]:
    """The cells that meet the program's `where`; all of them where it has none."""
    cells, where = program["cells"], program.get("where")
    values = [_read(cell, scenes) for cell in cells]  # also without a condition: the cells must be
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
    kept = []
    for cell, neighbour, found in zip(cells, beside, values, strict=True):
        if where["is"] == "contains":
            holds = str(where["value"]).casefold() in str(found).casefold()
        else:
            a, b = _comparable(found), _comparable(where["value"])
            if type(a) is not type(b):
                raise ProgramError(f"where: {found!r} cannot be compared with {where['value']!r}")
            slack = Decimal(str(_slack([neighbour], scenes)))
            if slack and abs(a - b) <= slack:
                raise ProgramError(
                    f"where: {neighbour['key']} cannot be told from {where['value']!r}"
                )
            holds = _CONDITIONS[where["is"]](a, b)
        if holds:
            kept.append(cell)
    return kept


def _slack(cells: list[Operand], scenes: Scenes) -> float:
    """How far off the sum or difference of the cells' values may be, as read: errors add up."""
    return sum(
        tolerance(scenes[cell["picture"]], cell["key"]) for cell in cells if "value" not in cell
    )


def _apart(cells: list[Operand], scenes: Scenes) -> Decimal:
    """How much two values must differ for a reader to see which is larger; 0 where both are written."""
    unclear = 0.0
    for cell in cells:
        if "value" not in cell and "axis" in cell:
            unclear = max(unclear, _resolution(scenes[cell["picture"]]))
    return Decimal(str(unclear))


def _resolution(data: dict[str, Any]) -> float:
    if data["variant"] == "pie":
        return AXIS_SHARE * float(sum(sum(values) for values in data["series"].values()))
    low, high = axis(data)
    return AXIS_SHARE * (high - low)


def _is_mark(data: dict[str, Any], key: str) -> bool:
    """Whether the key is a value of a chart, rather than the name of a series."""
    series = data.get("series", {})
    return key.startswith("series.") and bool(series) and key.removeprefix("series.") not in series


def _inside(found: Any, rest: str, key: str) -> Any:
    """Goes down from `found` by the parts of `rest`."""
    if not rest:
        return found
    if isinstance(found, list):
        part, _, rest = rest.partition(".")
        if part.isdecimal() and int(part) < len(found):
            return _inside(found[int(part)], rest, key)
    elif isinstance(found, dict):
        for name in sorted(found, key=len, reverse=True):
            if rest == name or rest.startswith(f"{name}."):
                return _inside(found[name], rest[len(name) + 1 :], key)
    raise ProgramError(f"{key}: no such key in the data of the picture")


def _answer(found: Any, slack: float = 0.0) -> Answer:
    """The answer that says `found`: its type is what the value looks like to a reader."""
    if isinstance(found, bool):
        return Answer("choice", "yes" if found else "no", options=YES_NO)
    if (date := _date(found)) is not None:
        return Answer("date", date.isoformat())
    if (amount := _amount(found)) is not None:
        return Answer("number", _plain(amount), slack)
    return Answer("text", str(found))


def _comparable(found: Any, cell: Operand | None = None) -> Any:
    """A value by which cells are compared: a number as Decimal, a date, words whatever their case.

    cell: given where words will not do.
    """
    if not isinstance(found, bool):
        if (date := _date(found)) is not None:
            return date
        if (amount := _amount(found)) is not None:
            return amount
    if cell is not None:
        raise ProgramError(f"{cell.get('key', 'value')}: {found!r}: expected a number or a date")
    words = ("yes" if found else "no") if isinstance(found, bool) else str(found)
    return " ".join(words.split()).casefold()


def _number(found: Any, cell: Operand) -> Decimal:
    amount = None if isinstance(found, bool) else _amount(found)
    if amount is None:
        raise ProgramError(f"{cell.get('key', 'value')}: {found!r}: expected a number")
    return amount


def _amount(found: Any) -> Decimal | None:
    """12500, "12,500", "EUR 12,500.00", "3.5 %", "45 business days"; None for identifiers and words."""
    if isinstance(found, (int, float)):
        return Decimal(str(found))
    match = _AMOUNT.fullmatch(found.strip()) if isinstance(found, str) else None
    return Decimal(match["number"].replace(",", "")) if match else None


def _date(found: Any) -> dt.date | None:
    if not isinstance(found, str):
        return None
    for form in _DATES:
        try:
            return dt.datetime.strptime(found.strip(), form).date()
        except ValueError:
            continue
    return None


def _plain(number: Decimal) -> int | float:
    return int(number) if number == number.to_integral_value() else float(number)
