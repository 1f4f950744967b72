"""The widgets of a screen. A pane stacks titles, notices, fields, tables and buttons from top to bottom.

Values become cells; labels, icons and borders do not.
"""

from typing import Any

from teacher.scenes.canvas import Canvas, wrap
from teacher.scenes.colour import mix
from teacher.scenes.fonts import covering, font
from teacher.scenes.scene import Box, SceneError
from teacher.scenes.screenshot.style import Style, chip_colour, format_value, readable


def table_width(table: dict[str, Any], style: Style) -> int:
    """The width of a table, in px, whose values are not wrapped."""
    pad = 2 * style.space(0.6)
    return sum(_widest(table, column, style) + pad for column in range(len(table["columns"]))) + 2


def _widest(table: dict[str, Any], column: int, style: Style) -> int:
    """The width of a column, in px, whose values are not wrapped."""
    texts = [format_value(row[column]) for row in table["rows"]]
    head = font(style.family, style.size, bold=True).getlength(
        format_value(table["columns"][column])
    )
    # Chips have a margin around the text.
    rim = style.size if style.chips else 0
    face = font(style.family, style.size)
    return round(max([head, *(covering(t, face).getlength(t) + rim for t in texts)])) + 2


class Pane:
    """A column of a screen; each method draws one widget at `y` and moves `y` below it."""

    def __init__(self, canvas: Canvas, style: Style, left: int, right: int, y: int) -> None:
        self.canvas, self.style = canvas, style
        self.left, self.right, self.y = left, right, y
        self.face = font(style.family, style.size)
        self.bold = font(style.family, style.size, bold=True)
        self.small = font(style.family, max(12, round(style.size * 0.88)))
        self.step = round(style.size * 1.4)

    def title(self, text: str, key: str = "title", times: float = 1.45) -> None:
        """Writes a title. times: its size relative to other text."""
        face = font(self.style.family, round(self.style.size * times), bold=True)
        self.y = round(
            self.canvas.paragraph(
                (self.left, self.y),
                format_value(text),
                face,
                self.right - self.left,
                key,
                self.style.theme.text,
            )
        ) + self.style.space(0.5)

    def notice(self, text: str, key: str = "message") -> None:
        """Draws a message on a tinted background with a stripe in the accent colour."""
        style, theme = self.style, self.style.theme
        pad = style.space(0.6) + 4
        lines = wrap(format_value(text), self.face, self.right - self.left - 2 * pad)
        ground = mix(theme.ground, theme.accent, 0.12)
        bottom = self.y + len(lines) * self.step + 2 * pad
        self.canvas.pen.rectangle((self.left, self.y, self.right, bottom), ground)
        stripe = (
            (self.left, self.y, self.right, self.y + 3)
            if style.upper_edge
            else (self.left, self.y, self.left + 4, bottom)
        )
        self.canvas.pen.rectangle(stripe, theme.accent)
        at = (self.left + pad, self.y + pad)
        self._lines(at, lines, self.face, key=key, text=format_value(text), ink=theme.text)
        self.y = bottom + style.space(0.8)

    def text(self, text: str, key: str) -> None:
        """Writes text, wrapped to the width of the pane."""
        lines = wrap(format_value(text), self.face, self.right - self.left)
        at, ink = (self.left, self.y), self.style.theme.text
        self._lines(at, lines, self.face, key=key, text=format_value(text), ink=ink)
        self.y += len(lines) * self.step + self.style.space(0.7)

    def form(self, fields: dict[str, Any]) -> None:
        """Draws labelled values in one column or two."""
        style = self.style
        gap = style.space(1.0)
        columns = style.form_columns if self.right - self.left >= style.size * 42 else 1
        width = (self.right - self.left - gap * (columns - 1)) // columns
        # As wide as the longest label, but at most 42 % of the width.
        beside = max(self.small.getlength(format_value(label)) for label in fields) + gap
        beside = round(min(beside, width * 0.42))
        above = style.labels == "above" or width < style.size * 18
        items = list(fields.items())
        for first in range(0, len(items), columns):
            bottoms = []
            for column, (label, value) in enumerate(items[first : first + columns]):
                x = self.left + column * (width + gap)
                bottoms.append(self._field(x, width, label, value, 0 if above else beside))
            self.y = max(bottoms) + style.space(0.65)
        self.y += style.space(0.3)

    def _field(self, x: int, width: int, label: str, value: Any, beside: int) -> int:
        """Draws a label and its value at `self.y`; returns their bottom. beside: the label's width, or 0."""
        style, theme = self.style, self.style.theme
        names = wrap(
            format_value(label), self.small, (beside or width) - (style.space(0.5) if beside else 0)
        )
        small_step = round(self.small.size * 1.4)
        inner = x + beside
        top = self.y if beside else self.y + len(names) * small_step + 2
        text, plain = format_value(value), style.field == "plain" or isinstance(value, bool)
        pad_x, pad_y = (0, 2) if plain else (style.space(0.5), style.space(0.28))
        # Some short values get the arrow of a drop-down list; the choice carries no information.
        arrow = not plain and 0 < len(text) < 24 and (len(label) + len(text)) % 3 == 0
        room = width - beside - 2 * pad_x - (self.step if arrow or isinstance(value, bool) else 0)
        face = covering(text, self.face)
        lines = wrap(text, face, room) or [""]
        box = (inner, top, x + width, top + len(lines) * self.step + 2 * pad_y)
        ground = self._input(box, plain)
        start = inner + pad_x
        if isinstance(value, bool):
            self._tick((inner, top + pad_y), value)
            start += self.step
        if arrow:
            middle, edge, arm = (box[1] + box[3]) // 2, box[2] - self.step, self.step // 5
            points = [(edge - arm, middle - arm // 2), (edge, middle + arm // 2)]
            self.canvas.pen.line([*points, (edge + arm, middle - arm // 2)], theme.muted, 2)
        ink = readable(theme.text, ground)
        xy = (start, top + pad_y)
        self._lines(xy, lines, face, key=f"fields.{label}", text=text, ink=ink)
        for i, name in enumerate(names):
            # A label beside its value shares its line; right-aligned labels end where the value begins.
            drop = pad_y + round((self.step - small_step) / 2) if beside else 0
            at = inner - style.space(0.5) if beside and style.labels == "right" else x
            anchor = "ra" if beside and style.labels == "right" else "la"
            xy = (at, self.y + drop + i * small_step)
            self.canvas.text(xy, name, self.small, fill=theme.muted, anchor=anchor)
        return max(box[3], self.y + len(names) * small_step)

    def _input(self, box: Box, plain: bool) -> str:
        """Draws the frame of an input field; returns its background colour."""
        style, theme = self.style, self.style.theme
        if plain:
            return theme.ground
        if style.field == "underline":
            self.canvas.pen.line((box[0], box[3], box[2], box[3]), theme.muted, 1)
            return theme.ground
        ground = theme.field if style.field == "box" else mix(theme.ground, theme.text, 0.07)
        outline = theme.line if style.field == "box" else None
        self.canvas.pen.rounded_rectangle(box, style.radius, ground, outline)
        return ground

    def _tick(self, xy: tuple[int, int], on: bool) -> None:
        """Draws a check box."""
        theme, side = self.style.theme, round(self.style.size * 1.05)
        x, y = xy[0], xy[1] + (self.step - side) // 2
        self.canvas.pen.rounded_rectangle(
            (x, y, x + side, y + side), 3, theme.accent if on else theme.field, theme.muted
        )
        if on:
            mark = [(0.22, 0.55), (0.42, 0.75), (0.8, 0.28)]
            points = [(x + a * side, y + b * side) for a, b in mark]
            self.canvas.pen.line(points, readable(theme.ground, theme.accent, 3), 2)

    def table(self, table: dict[str, Any]) -> None:
        """Draws a table; columns share the width, and longer values are wrapped."""
        style, theme, pen = self.style, self.style.theme, self.canvas.pen
        pad_x, pad_y = style.space(0.6), style.space(0.32)
        count = len(table["columns"])
        room = self.right - self.left - 2 * pad_x * count
        widths = _shared([_widest(table, i, style) for i in range(count)], room)
        numeric = [all(_is_number(row[i]) for row in table["rows"]) for i in range(count)]
        chips = [
            style.chips and all(chip_colour(row[i]) for row in table["rows"]) for i in range(count)
        ]
        top = self.y
        for number, row in enumerate([table["columns"], *table["rows"]]):
            head = number == 0
            face = self.bold if head else self.face
            texts = [format_value(value) for value in row]
            cells = [wrap(t, covering(t, face), w) for t, w in zip(texts, widths, strict=True)]
            bottom = self.y + max(1, *map(len, cells)) * self.step + 2 * pad_y
            ground = theme.ground
            if head:
                ground = theme.surface
            elif style.table == "zebra" and number % 2 == 0:
                ground = mix(theme.ground, theme.text, 0.05)
            pen.rectangle((self.left, self.y, self.right, bottom), ground)
            x = self.left
            for i, lines in enumerate(cells):
                key = f"table.columns.{i}" if head else f"table.{number - 1}.{i}"
                xy, ink = (x + pad_x, self.y + pad_y), theme.text
                if chips[i] and not head and len(lines) == 1:
                    self._chip(xy, texts[i], chip_colour(row[i]), key)
                else:
                    edge = xy[0] + widths[i] if numeric[i] else None
                    used = covering(texts[i], face)
                    self._lines(xy, lines, used, key=key, text=texts[i], ink=ink, right=edge)
                x += widths[i] + 2 * pad_x
            self.y = bottom
            if style.table != "zebra" or head:
                pen.line((self.left, bottom, self.right, bottom), theme.line, 2 if head else 1)
        if style.table == "grid":
            x = self.left
            for width in widths:
                pen.line((x, top, x, self.y), theme.line, 1)
                x += width + 2 * pad_x
            pen.rectangle((self.left, top, self.right, self.y), None, theme.line)
        self.y += style.space(0.8)

    def _chip(self, xy: tuple[int, int], text: str, colour: str, key: str) -> None:
        """Draws a status value on a rounded background in its colour."""
        ground = mix(self.style.theme.ground, colour, 0.22)
        rim, face = self.style.size // 2, covering(text, self.face)
        right = xy[0] + 2 * rim + round(face.getlength(text))
        box = (xy[0], xy[1] - 1, right, xy[1] + self.step - 1)
        self.canvas.pen.rounded_rectangle(box, self.step // 2, ground)
        self.canvas.text((xy[0] + rim, xy[1]), text, face, key, readable(colour, ground))

    def buttons(self, names: list[str], to_right: bool | None = None) -> None:
        """Draws buttons in one or more rows; the first is the primary button."""
        style, theme = self.style, self.style.theme
        pad, gap = style.space(0.8), style.space(0.5)
        height = self.step + style.space(0.6)
        widths = [round(self.face.getlength(format_value(name))) + 2 * pad for name in names]
        to_right = style.buttons_right if to_right is None else to_right
        row_width = sum(widths) + gap * (len(names) - 1)
        x = max(self.left, self.right - row_width) if to_right else self.left
        for i, (name, width) in enumerate(zip(names, widths, strict=True)):
            if width > self.right - self.left:
                raise SceneError(f"buttons: {name!r}: wider than the screen")
            if x + width > self.right:
                x, self.y = self.left, self.y + height + gap
            box = (x, self.y, x + width, self.y + height)
            ground = theme.accent if i == 0 else theme.surface
            self.canvas.pen.rounded_rectangle(
                box, style.radius, ground, theme.accent if i == 0 else theme.line
            )
            ink = readable(theme.ground if i == 0 else theme.text, ground)
            middle = (x + width / 2, self.y + height / 2)
            self.canvas.text(
                middle, format_value(name), self.face, f"buttons.{i}", ink, anchor="mm"
            )
            x += width + gap
        self.y += height + style.space(0.8)

    def _lines(
        self,
        xy: tuple[int, int],
        lines: list[str],
        face: Any,
        *,
        key: str,
        text: str,
        ink: str,
        right: int | None = None,
    ) -> None:
        """Writes lines from `xy` down as one cell, left-aligned there or right-aligned at x = `right`."""
        x, y = xy
        boxes = [
            self.canvas.text(
                (x if right is None else right, y + i * self.step),
                line,
                face,
                fill=ink,
                anchor="la" if right is None else "ra",
            )
            for i, line in enumerate(lines)
            if line
        ]
        if boxes:
            self.canvas.record(key, text, boxes)


# Pixels of the narrowest column that a long text is broken into.
_NARROWEST = 40


def _shared(natural: list[int], room: int) -> list[int]:
    """Widths of columns that fill `room`: short columns get their natural width, long ones share the rest."""
    if sum(natural) <= room:
        spare = (room - sum(natural)) // len(natural)
        return [width + spare for width in natural]
    widths: dict[int, int] = {}
    order = sorted(range(len(natural)), key=lambda i: natural[i])
    for done, i in enumerate(order):
        share = (room - sum(widths.values())) // (len(order) - done)
        widths[i] = min(natural[i], share)
        if widths[i] < min(natural[i], _NARROWEST):
            raise SceneError(f"table: {len(natural)} columns do not fit on a screen")
    return [widths[i] for i in range(len(natural))]


def _is_number(value: Any) -> bool:
    """Whether a column of such values is right-aligned."""
    digits = (
        format_value(value).replace(",", "").replace(".", "").lstrip("-").removesuffix("%").strip()
    )
    return digits.isdecimal()
