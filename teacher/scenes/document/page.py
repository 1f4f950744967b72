"""The layout of a page: header, parties, paragraphs, table and sums, from top to bottom."""

import random
from collections.abc import Sequence
from typing import Any

from PIL import Image

from teacher.scenes.canvas import Canvas, wrap
from teacher.scenes.document.ending import draw_ending
from teacher.scenes.document.fields import draw_fields
from teacher.scenes.document.style import Style
from teacher.scenes.document.table import draw_table
from teacher.scenes.fonts import covering, font
from teacher.scenes.scene import MAX_SIDE

# Fields of an invoice that stand under its table.
_SUMS = ("subtotal", "total", "vat", "tax", "amount due", "balance")
# Least size of text, px.
_SMALLEST = 11


class Page:
    """A page, written from top to bottom; `y` is the top of the next part. scale: factor of all font sizes."""

    def __init__(
        self, data: dict[str, Any], style: Style, scale: float, rng: random.Random
    ) -> None:
        self.data, self.style, self.rng = data, style, rng
        self.scale = scale
        self.canvas = Canvas(style.width, MAX_SIDE)
        self.left, self.right = style.margin, style.width - style.margin
        self.y: float = style.margin
        self.gap = round(style.size * scale * 1.3)
        sums: dict[str, Any] = {}
        others: dict[str, Any] = {}
        for label, value in (data.get("fields") or {}).items():
            last = data["variant"] == "invoice" and label.lower().startswith(_SUMS)
            (sums if last and data.get("table") else others)[label] = value
        self._header()
        if style.fields_first or data["variant"] == "invoice":
            draw_fields(self, others)
            self._paragraphs()
        else:
            self._paragraphs()
            draw_fields(self, others)
        self._table()
        self._sums(sums)
        draw_ending(self)

    def fits(self) -> bool:
        """Whether the content fits within MAX_SIDE."""
        return self.y + self.style.margin < MAX_SIDE

    def image(self) -> Image.Image:
        """The image of the page, cropped to the height of its paper or its text."""
        low = self.y + self.style.margin
        bottom = round(max(low, min(self.style.width * self.style.ratio, MAX_SIDE)))
        # A short note on a tall page is cropped, as scanner apps do.
        if bottom > 1.6 * low:
            bottom = round(1.3 * low)
        self.canvas.shrink(bottom)
        if self.data.get("page") or self.data.get("pages"):
            number = f"Page {self.data.get('page', 1)} of {self.data.get('pages', 1)}"
            place = (self.style.width / 2, bottom - self.style.margin * 0.4)
            self.canvas.text(place, number, self.font(0.75), fill="#444444", anchor="ms")
        return self.canvas.image

    def font(self, times: float = 1.0, bold: bool = False, head: bool = False) -> Any:
        """The font at `times` the body's size. head: of titles and headings."""
        size = max(_SMALLEST, round(self.style.size * self.scale * times))
        return font(self.style.head if head else self.style.body, size, bold)

    def value_font(self, bold: bool = False) -> Any:
        """The font of a field's value; handwriting is larger."""
        if not self.style.hand:
            return self.font(bold=bold)
        times = 1.8 if self.style.hand == "Amatic" else 1.25
        return font(self.style.hand, round(self.style.size * self.scale * times), True)

    # ------------------------------------------------------------------------------------ the parts

    def _header(self) -> None:
        """Writes title, number, date and parties."""
        data, style, canvas = self.data, self.style, self.canvas
        parties = list(data.get("parties") or [])
        letter = data["variant"] == "letter" and parties
        if letter:  # a letterhead with the sender
            x = style.width / 2 if style.header == "centre" else self.left
            anchor = "ma" if style.header == "centre" else "la"
            face = self.fitting_font(parties[0], 1.3, self.right - self.left)
            box = canvas.text((x, self.y), parties[0], face, "parties.0", style.accent, anchor)
            self.y = box[3] + 8
            canvas.pen.line((self.left, self.y, self.right, self.y), style.accent, 2)
            self.y += self.gap
        title = self.font(style.title_times(), bold=True, head=True)
        width = self.right - self.left
        if style.header == "band" and not letter:
            lines = wrap(data["title"], covering(data["title"], title), width)
            high = self.y * 0.6 + len(lines) * title.size * 1.35 + 16
            canvas.pen.rectangle((0, 0, style.width, high), style.accent)
            top = self.y * 0.6
            canvas.paragraph((self.left, top), data["title"], title, width, "title", "white")
            self.y = high + self.gap
            self._number_date()
        elif style.header == "split" and not letter:
            # The title on the left, number and date on the right.
            top = self.y
            bottom = self._number_date(alone=False)
            width = round(width * 0.62)
            low = canvas.paragraph(
                (self.left, top), data["title"], title, width, "title", style.accent
            )
            self.y = max(low, bottom) + self.gap * 0.6
        else:
            if letter:
                self._number_date()
                self._addressee(parties)
            if style.header == "centre":
                for_title = wrap(data["title"], covering(data["title"], title), width)
                boxes = []
                for line in for_title:
                    place = (style.width / 2, self.y)
                    boxes.append(canvas.text(place, line, title, fill=style.accent, anchor="ma"))
                    self.y += title.size * 1.35
                canvas.record("title", data["title"], boxes)
            else:
                place = (self.left, self.y)
                self.y = canvas.paragraph(place, data["title"], title, width, "title", style.accent)
            if style.header == "rule":
                self.y += 4
                canvas.pen.line((self.left, self.y, self.right, self.y), style.accent, 3)
            self.y += self.gap * 0.6
            if not letter:
                self._number_date()
        if not letter:
            self._parties(parties)

    def _number_date(self, alone: bool = True) -> float:
        """Writes number and date, on their own line or below each other at the right; returns their bottom."""
        parts = [
            (key, label, str(self.data[key]))
            for key, label in (("number", "No. "), ("date", "Date: "))
            if self.data.get(key)
        ]
        face, y = self.font(), self.y
        if alone and parts:
            x: float = self.left
            for key, label, text in parts:
                x = self._labelled((x, y), label, text, face, key) + self.gap * 1.5
            self.y += face.size * 1.4 + self.gap * 0.6
            return self.y
        for key, label, text in parts:
            x = self.right - face.getlength(label + text) - 4
            self._labelled((x, y), label, text, face, key)
            y += face.size * 1.5
        return y

    def _labelled(
        self, xy: tuple[float, float], label: str, text: str, face: Any, key: str
    ) -> float:
        """Writes a label and the cell after it on one line; returns its right end."""
        self.canvas.text(xy, label, face, fill="#333333")
        place = (xy[0] + face.getlength(label), xy[1])
        return self.canvas.text(place, text, face, key)[2]

    def _addressee(self, parties: Sequence[str]) -> None:
        """Writes the receivers of a letter."""
        for number, party in enumerate(parties[1:], 1):
            width = self.right - self.left
            place = (self.left, self.y)
            self.y = self.canvas.paragraph(place, party, self.font(), width, f"parties.{number}")
        self.y += self.gap * 0.6

    def _parties(self, parties: Sequence[str]) -> None:
        """Writes the parties of other documents, side by side if they fit."""
        if not parties:
            return
        face = self.font(bold=True)
        width = (self.right - self.left) / len(parties) - 12
        beside = all(face.getlength(party) < width for party in parties)
        titles = ("From", "To") if self.data["variant"] == "invoice" else ("Between", "and")
        top = self.y
        for number, party in enumerate(parties):
            x = self.left + (width + 12) * number if beside else self.left
            y = top if beside else self.y
            label = titles[min(number, 1)]
            self.canvas.text((x, y), label, self.font(0.8), fill="#444444")
            y += self.font(0.8).size * 1.5
            place = (x, y)
            whole = width if beside else self.right - self.left
            self.y = self.canvas.paragraph(place, party, face, whole, f"parties.{number}")
        self.y += self.gap * 0.7

    def _paragraphs(self) -> None:
        """Writes paragraphs with their headings, in one column or two."""
        paragraphs = self.data.get("paragraphs") or []
        style = self.style
        columns = style.columns if len(paragraphs) >= 4 else 1
        width = (self.right - self.left - (columns - 1) * 30) / columns
        top, lows = self.y, []
        half = -(-len(paragraphs) // columns)
        for column in range(columns):
            self.y = top
            x = self.left + column * (width + 30)
            for number in range(column * half, min((column + 1) * half, len(paragraphs))):
                paragraph, key = paragraphs[number], f"paragraphs.{number}"
                if heading := paragraph.get("heading"):
                    bold = self.font(bold=True, head=True)
                    self.y = self.canvas.paragraph(
                        (x, self.y), heading, bold, width, f"{key}.heading", style.accent
                    )
                    self.y += 4
                self.y = self.canvas.paragraph(
                    (x, self.y),
                    paragraph["text"],
                    self.font(),
                    width,
                    f"{key}.text",
                    spacing=style.spacing,
                )
                self.y += self.gap
            lows.append(self.y)
        self.y = max(lows)

    def _table(self) -> None:
        table = self.data.get("table")
        if not table:
            return
        times = 1.0 if len(table["columns"]) <= 5 else 0.85
        faces = (self.font(times, bold=True), self.font(times))
        sides = (self.left, self.right)
        self.y = draw_table(
            self.canvas,
            table,
            self.y,
            sides=sides,
            faces=faces,
            form=self.style.table,
            accent=self.style.accent,
        )
        self.y += self.gap

    def _sums(self, sums: dict[str, Any]) -> None:
        """Writes the sums of an invoice under its table, right-aligned."""
        face = self.font(bold=True)
        for label, value in sums.items():
            text = str(value)
            self.canvas.text((self.right - 4, self.y), text, face, f"fields.{label}", anchor="ra")
            x = self.right - face.getlength(text) - self.gap * 1.5
            self.canvas.text((x, self.y), label, self.font(), fill="#222222", anchor="ra")
            self.y += face.size * 1.6
        if sums:
            self.y += self.gap

    def fitting_font(self, text: str, times: float, width: float) -> Any:
        """The bold font at `times` the body's size, or smaller so that the text fits into `width`."""
        face = covering(text, self.font(times, bold=True, head=True))
        if face.getlength(text) > width:
            face = covering(text, self.font(times * width / face.getlength(text), True, True))
        return face
