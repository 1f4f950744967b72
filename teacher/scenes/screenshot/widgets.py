"""What screens are made of: colours, and a pane that stacks titles, notices, fields, tables and buttons.

A pane draws on a canvas between its left and right edge, downwards from `y`. Values get their cells; labels, icons and
borders get none.
"""

import random
from dataclasses import dataclass
from typing import Any

from teacher.scenes.canvas import Canvas, wrap
from teacher.scenes.colour import contrast, luminance, mix
from teacher.scenes.fonts import SANS, covering, font
from teacher.scenes.scene import Box, SceneError

# Text against its ground; WCAG 2.2, success criterion 1.4.3. Anti-aliasing takes some of it on the pixels.
_LEAST_CONTRAST = 5.5


@dataclass(frozen=True)
class Theme:
    """The colours of an application: `surface` of bars, `field` of inputs, `accent` of what asks to be pressed."""

    ground: str
    surface: str
    field: str
    line: str
    text: str
    muted: str
    accent: str


LIGHT = (
    Theme("#ffffff", "#f3f5f8", "#ffffff", "#cbd2dc", "#1d2430", "#505b6b", "#1f5fbf"),
    Theme("#fbfaf7", "#efece4", "#ffffff", "#d3ccbd", "#2a2620", "#62594c", "#8a4b12"),
    Theme("#f6f9f8", "#e4ece9", "#ffffff", "#bccfc8", "#13241d", "#45594f", "#0f6b4a"),
    Theme("#f8f6fc", "#ebe6f5", "#ffffff", "#cdc4e0", "#221a33", "#574c70", "#5b2fb0"),
    Theme("#e9e9e9", "#d9d9d9", "#ffffff", "#979797", "#000000", "#3c3c3c", "#0a3d91"),
    Theme("#ffffff", "#fdeff0", "#fff9f9", "#e3c5c8", "#2b1517", "#6b494c", "#a3182b"),
)
DARK = (
    Theme("#1e1f24", "#27292f", "#2f3239", "#4a4e57", "#e8e9ec", "#b3b7bf", "#7db0ff"),
    Theme("#0f1720", "#16212d", "#1b2937", "#35495f", "#e2ebf3", "#a6bacb", "#53c1e8"),
    Theme("#20201d", "#2a2a26", "#32322d", "#504f46", "#f0eee4", "#bdbaaa", "#f0b54a"),
    Theme("#1a1523", "#241d31", "#2c243d", "#4b4164", "#ece6f7", "#b9aed0", "#c79bff"),
    Theme("#0b0b0b", "#161616", "#202020", "#484848", "#ffffff", "#c0c0c0", "#4be38a"),
)
# A word of a status has one colour on every screen: green is well, red is not, blue is under way, amber waits, grey is
# out of the way.
_MEANINGS = {
    "#1f7d45": "done merged passed delivered approved approve accepted adopt completed performed resolved confirmed"
    " paid signed active published",
    "#b3261e": "failed overdue blocked rejected error critical urgent expired disputed withdrawn avoid",
    "#2b62b8": "open running started new in_transit in_progress in_review normal medium trial",
    "#9a6700": "pending queued waiting on_hold outstanding request_changes high watch",
    "#626973": "closed draft cancelled archived skipped low",
}
_CHIPS = {
    word.replace("_", " "): colour for colour, words in _MEANINGS.items() for word in words.split()
}


@dataclass(frozen=True)
class Style:
    """How an application draws its parts. size: of text, in px; roomy: 1.0 is dense, 1.8 airy."""

    theme: Theme
    family: str
    size: int
    roomy: float
    radius: int
    labels: str  # above, left, right: right-aligned to the left of the value
    form_columns: int
    field: str  # box, filled, underline, plain
    table: str  # grid, rules, zebra
    chips: bool
    upper_edge: bool  # the notice's accent: a stripe above it rather than at its left
    buttons_right: bool

    @classmethod
    def of(cls, rng: random.Random) -> "Style":
        return cls(
            theme=rng.choice(rng.choice((LIGHT, LIGHT, DARK))),
            family=rng.choice(SANS),
            size=rng.randrange(13, 20),
            roomy=rng.choice((1.0, 1.2, 1.5, 1.8)),
            radius=rng.choice((0, 3, 6, 10)),
            labels=rng.choice(("above", "left", "right")),
            form_columns=rng.choice((1, 1, 2)),
            field=rng.choice(("box", "box", "filled", "underline", "plain")),
            table=rng.choice(("grid", "rules", "zebra")),
            chips=rng.random() < 0.5,
            upper_edge=rng.random() < 0.3,
            buttons_right=rng.random() < 0.6,
        )

    def space(self, lines: float) -> int:
        """A distance in px, in lines of text, as wide as the style is roomy."""
        return round(self.size * lines * self.roomy)


def shown(value: Any) -> str:
    """A value as the screen writes it."""
    if isinstance(value, bool):
        return "Yes" if value else "No"
    return "" if value is None else " ".join(str(value).split())


def readable(colour: str, ground: str, least: float = _LEAST_CONTRAST) -> str:
    """The colour, moved towards black or white as far as it takes to be read on `ground`."""
    # At this luminance black and white stand out equally, 4.6 to 1.
    end = "#000000" if luminance(ground) > 0.179 else "#ffffff"
    for step in range(11):
        mixed = mix(colour, end, step / 10)
        if contrast(mixed, ground) >= least:
            return mixed
    return end


def table_width(table: dict[str, Any], style: Style) -> int:
    """How wide a table is whose values all stand on one line."""
    pad = 2 * style.space(0.6)
    return sum(_widest(table, column, style) + pad for column in range(len(table["columns"]))) + 2


def _widest(table: dict[str, Any], column: int, style: Style) -> int:
    texts = [shown(row[column]) for row in table["rows"]]
    head = font(style.family, style.size, bold=True).getlength(shown(table["columns"][column]))
    # A chip has a rim of its own.
    rim = style.size if style.chips else 0
    face = font(style.family, style.size)
    return round(max([head, *(covering(t, face).getlength(t) + rim for t in texts)])) + 2


class Pane:
    """A column of a screen; each method draws one part and moves `y` below it."""

    def __init__(self, canvas: Canvas, style: Style, left: int, right: int, y: int) -> None:
        self.canvas, self.style = canvas, style
        self.left, self.right, self.y = left, right, y
        self.face = font(style.family, style.size)
        self.bold = font(style.family, style.size, bold=True)
        self.small = font(style.family, max(12, round(style.size * 0.88)))
        self.step = round(style.size * 1.4)

    def title(self, text: str, key: str = "title", times: float = 1.45) -> None:
        face = font(self.style.family, round(self.style.size * times), bold=True)
        self.y = round(
            self.canvas.paragraph(
                (self.left, self.y),
                shown(text),
                face,
                self.right - self.left,
                key,
                self.style.theme.text,
            )
        ) + self.style.space(0.5)

    def notice(self, text: str, key: str = "message") -> None:
        """A message on a tinted ground with a stripe of the accent."""
        style, theme = self.style, self.style.theme
        pad = style.space(0.6) + 4
        lines = wrap(shown(text), self.face, self.right - self.left - 2 * pad)
        ground = mix(theme.ground, theme.accent, 0.12)
        bottom = self.y + len(lines) * self.step + 2 * pad
        self.canvas.pen.rectangle((self.left, self.y, self.right, bottom), ground)
        stripe = (
            (self.left, self.y, self.right, self.y + 3)
            if style.upper_edge
            else (self.left, self.y, self.left + 4, bottom)
        )
        self.canvas.pen.rectangle(stripe, theme.accent)
        self._lines(self.left + pad, self.y + pad, lines, self.face, key, shown(text), theme.text)
        self.y = bottom + style.space(0.8)

    def text(self, text: str, key: str) -> None:
        lines = wrap(shown(text), self.face, self.right - self.left)
        self._lines(self.left, self.y, lines, self.face, key, shown(text), self.style.theme.text)
        self.y += len(lines) * self.step + self.style.space(0.7)

    def form(self, fields: dict[str, Any]) -> None:
        """Labelled values, in one column or two."""
        style = self.style
        gap = style.space(1.0)
        columns = style.form_columns if self.right - self.left >= style.size * 42 else 1
        width = (self.right - self.left - gap * (columns - 1)) // columns
        # The label's column is as wide as its longest label, but leaves the values most of the room.
        beside = max(self.small.getlength(shown(label)) for label in fields) + gap
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
        """One label and its value, from `self.y`; returns where they end. beside: the label's width, 0: above."""
        style, theme = self.style, self.style.theme
        names = wrap(
            shown(label), self.small, (beside or width) - (style.space(0.5) if beside else 0)
        )
        small_step = round(self.small.size * 1.4)
        inner = x + beside
        top = self.y if beside else self.y + len(names) * small_step + 2
        text, plain = shown(value), style.field == "plain" or isinstance(value, bool)
        pad_x, pad_y = (0, 2) if plain else (style.space(0.5), style.space(0.28))
        # A drop-down's arrow for short words; which fields have one is the layout's choice, not the data's.
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
        self._lines(start, top + pad_y, lines, face, f"fields.{label}", text, ink)
        for i, name in enumerate(names):
            # Beside its value a label stands on the same line; right-aligned ones end where the value begins.
            drop = pad_y + round((self.step - small_step) / 2) if beside else 0
            at = inner - style.space(0.5) if beside and style.labels == "right" else x
            anchor = "ra" if beside and style.labels == "right" else "la"
            xy = (at, self.y + drop + i * small_step)
            self.canvas.text(xy, name, self.small, fill=theme.muted, anchor=anchor)
        return max(box[3], self.y + len(names) * small_step)

    def _input(self, box: Box, plain: bool) -> str:
        """The frame of an input field; returns the colour in it."""
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
        """A table; columns share the width, and values that need more than their share are broken into lines."""
        style, theme, pen = self.style, self.style.theme, self.canvas.pen
        pad_x, pad_y = style.space(0.6), style.space(0.32)
        count = len(table["columns"])
        room = self.right - self.left - 2 * pad_x * count
        widths = _shared([_widest(table, i, style) for i in range(count)], room)
        numeric = [all(_is_number(row[i]) for row in table["rows"]) for i in range(count)]
        chips = [
            style.chips and all(_chip_colour(row[i]) for row in table["rows"]) for i in range(count)
        ]
        top = self.y
        for number, row in enumerate([table["columns"], *table["rows"]]):
            head = number == 0
            face = self.bold if head else self.face
            texts = [shown(value) for value in row]
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
                    self._chip(xy, texts[i], _chip_colour(row[i]), key)
                else:
                    edge = xy[0] + widths[i] if numeric[i] else None
                    self._lines(*xy, lines, covering(texts[i], face), key, texts[i], ink, edge)
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
        """A value on a rounded ground of its colour."""
        ground = mix(self.style.theme.ground, colour, 0.22)
        rim, face = self.style.size // 2, covering(text, self.face)
        right = xy[0] + 2 * rim + round(face.getlength(text))
        box = (xy[0], xy[1] - 1, right, xy[1] + self.step - 1)
        self.canvas.pen.rounded_rectangle(box, self.step // 2, ground)
        self.canvas.text((xy[0] + rim, xy[1]), text, face, key, readable(colour, ground))

    def buttons(self, names: list[str], to_right: bool | None = None) -> None:
        """Buttons in a row, or in as many as it takes; the first asks to be pressed."""
        style, theme = self.style, self.style.theme
        pad, gap = style.space(0.8), style.space(0.5)
        height = self.step + style.space(0.6)
        widths = [round(self.face.getlength(shown(name))) + 2 * pad for name in names]
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
            self.canvas.text(middle, shown(name), self.face, f"buttons.{i}", ink, anchor="mm")
            x += width + gap
        self.y += height + style.space(0.8)

    def _lines(
        self,
        x: int,
        y: int,
        lines: list[str],
        face: Any,
        key: str,
        text: str,
        ink: str,
        right: int | None = None,
    ) -> None:
        """Writes lines as one cell, from `x` or up to `right`."""
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


def _shared(natural: list[int], room: int) -> list[int]:
    """Widths of columns that fill `room`: short columns get what they need, long ones share the rest."""
    if sum(natural) <= room:
        spare = (room - sum(natural)) // len(natural)
        return [width + spare for width in natural]
    widths: dict[int, int] = {}
    order = sorted(range(len(natural)), key=lambda i: natural[i])
    for done, i in enumerate(order):
        share = (room - sum(widths.values())) // (len(order) - done)
        widths[i] = min(natural[i], share)
        if widths[i] < 40:
            raise SceneError(f"table: {len(natural)} columns are more than a screen is wide")
    return [widths[i] for i in range(len(natural))]


def _is_number(value: Any) -> bool:
    digits = shown(value).replace(",", "").replace(".", "").lstrip("-").removesuffix("%").strip()
    return digits.isdecimal()


def _chip_colour(value: Any) -> str:
    """The colour of a status's word, "" for any other value."""
    return _CHIPS.get(shown(value).casefold().replace("_", " "), "")
