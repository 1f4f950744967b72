"""A table on a page. Columns are as wide as their text; the widest are wrapped if space is short."""

import re
from typing import Any

from PIL import ImageFont

from teacher.scenes.canvas import Canvas, wrap
from teacher.scenes.fonts import covering
from teacher.scenes.scene import SceneError

_PAD = 9


def draw_table(
    canvas: Canvas,
    table: dict[str, Any],
    top: float,
    *,
    sides: tuple[float, float],
    faces: tuple[ImageFont.FreeTypeFont, ImageFont.FreeTypeFont],
    form: str,
    accent: str,
) -> float:
    """Draws {"columns", "rows"} between two sides; returns its bottom. Cells: "table.columns.1", "table.2.1".

    Args:
        faces: the fonts of the head and of the rows.
        form: grid, rules, striped or filled. accent: the colour of a filled head.

    Raises:
        SceneError: the columns do not fit on the page.
    """
    bold, face = faces
    rows = [[str(value) for value in row] for row in table["rows"]]
    columns = [str(name) for name in table["columns"]]
    natural = [
        max([bold.getlength(name)] + [covering(row[i], face).getlength(row[i]) for row in rows]) + 1
        for i, name in enumerate(columns)
    ]
    widths = _column_widths(natural, sides[1] - sides[0] - 2 * _PAD * len(columns))
    numeric = [all(_is_number(row[i]) for row in rows) for i in range(len(columns))]
    edges = [float(sides[0])]
    for width in widths:
        edges.append(edges[-1] + width + 2 * _PAD)
    tops = [top]
    for index, row in enumerate([columns, *rows]):
        y, used = tops[-1], bold if index == 0 else face
        lines = max(
            len(wrap(text, covering(text, used), width + 1))
            for text, width in zip(row, widths, strict=True)
        )
        bottom = y + max(lines, 1) * round(used.size * 1.35) + _PAD * 1.4
        fill = "#111111"
        if index == 0 and form in ("filled", "striped"):
            canvas.pen.rectangle((edges[0], y, edges[-1], bottom), accent)
            fill = "white"
        elif index % 2 == 0 and form == "striped":
            canvas.pen.rectangle((edges[0], y, edges[-1], bottom), "#e9edf2")
        y += _PAD * 0.7
        for i, text in enumerate(row):
            key = f"table.columns.{i}" if index == 0 else f"table.{index - 1}.{i}"
            if numeric[i] and covering(text, used).getlength(text) <= widths[i] + 1:
                canvas.text((edges[i + 1] - _PAD, y), text, used, key, fill, "ra")
            else:
                canvas.paragraph((edges[i] + _PAD, y), text, used, widths[i] + 1, key, fill)
        tops.append(bottom)
    if form != "striped":
        for y in tops:
            canvas.pen.line((edges[0], y, edges[-1], y), "#555555")
    if form == "grid":
        for x in edges:
            canvas.pen.line((x, tops[0], x, tops[-1]), "#555555")
    return tops[-1]


def _is_number(text: str) -> bool:
    """Whether a column of such texts is right-aligned."""
    return re.fullmatch(r"(?:[A-Z]{3} |[€$£])?-?[\d,]+(?:\.\d+)?(?: ?%)?", text) is not None


def _column_widths(natural: list[float], room: float) -> list[float]:
    """Natural widths, stretched to fill the room; if it is too small, the widest columns are narrowed."""
    if sum(natural) <= room:
        spare = (room - sum(natural)) / len(natural)
        return [width + spare for width in natural]
    widths = list(natural)
    while sum(widths) > room + 0.5:
        widest = max(widths)
        if widest < 40:
            raise SceneError(f"table: {len(widths)} columns do not fit on the page")
        second = max([w for w in widths if w < widest], default=40.0)
        many = [i for i, w in enumerate(widths) if w == widest]
        cut = min(widest - max(second, 39.0), (sum(widths) - room) / len(many))
        for i in many:
            widths[i] -= max(cut, 0.5)
    return widths
