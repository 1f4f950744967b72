"""Pages: contracts, amendments, invoices, tables and letters, printed or scanned, drawn with Pillow.

    data = {"variant": "amendment", "title": "Amendment A-101", "fields": {"Payment term": "30 business days"},
            "signatures": [{"name": "Ada Nore", "date": "2026-01-05"}], "stamp": "EXECUTED", "scan": True}
    image, cells = paint(data, seed=3)

Optional beside variant and title: number, date, parties [text], paragraphs [{"heading"?, "text"}], table
{"columns", "rows"}, fields {label: value}, signatures [{"name", "date"?}], stamp, page, pages, scan. Cells are called
"title", "number", "date", "parties.0", "fields.LABEL", "paragraphs.0.heading", "paragraphs.0.text", "table.columns.1",
"table.2.1" (row, column), "signatures.0.name", "signatures.0.date" and "stamp".

The seed chooses page, fonts, sizes, colours, the order and form of the parts, and how a scan came out.
"""

import random
from collections.abc import Sequence
from typing import Any

from PIL import Image

from teacher.scenes.canvas import Canvas, wrap
from teacher.scenes.document.samples import example as example
from teacher.scenes.document.scan import scanned
from teacher.scenes.document.style import Style
from teacher.scenes.document.table import draw_table
from teacher.scenes.fonts import covering, font
from teacher.scenes.scene import MAX_SIDE, Cell, SceneError

VARIANTS = ("contract", "amendment", "invoice", "table", "letter")
_OPTIONAL = {
    *("number", "date", "parties", "paragraphs", "table", "fields"),
    *("signatures", "stamp", "page", "pages", "scan"),
}
_STAMPS = ("#b3202a", "#1d4ea0", "#17693c", "#5a2d82")
# Fields of an invoice that stand under its table.
_SUMS = ("subtotal", "total", "vat", "tax", "amount due", "balance")
# Smaller text is tried when a page is too full, down to 11 px for the smallest of it.
_SCALES = (1.0, 0.88, 0.76)
_SMALLEST = 11


def paint(data: dict[str, Any], seed: int) -> tuple[Image.Image, list[Cell]]:
    """Draws a page; returns it and what it shows.

    Raises:
        SceneError: a field that is not one of a document, or more than a page holds.
    """
    _validate(data)
    for scale in _SCALES:
        rng = random.Random(f"document/{data['variant']}/{seed}")
        style = Style.of(rng, data["variant"], bool(data.get("scan")))
        page = _Page(data, style, scale, rng)
        if page.fits():
            image, cells = page.image(), page.canvas.cells
            return scanned(image, cells, seed) if data.get("scan") else (image, cells)
    raise SceneError(f"document {data['title']!r}: more than a page of {MAX_SIDE} px holds")


def source(data: dict[str, Any]) -> str:
    """What the page says, in lines."""
    head = [data["title"], data.get("number"), data.get("date")]
    lines = [", ".join(str(part) for part in head if part)]
    lines += [str(party) for party in data.get("parties") or []]
    lines += [f"{label}: {value}" for label, value in (data.get("fields") or {}).items()]
    for paragraph in data.get("paragraphs") or []:
        heading = paragraph.get("heading")
        lines.append(f"{heading}: {paragraph['text']}" if heading else paragraph["text"])
    if table := data.get("table"):
        lines += [" | ".join(map(str, row)) for row in (table["columns"], *table["rows"])]
    for signature in data.get("signatures") or []:
        signed = [signature["name"], signature.get("date")]
        lines.append("Signed " + ", ".join(part for part in signed if part))
    if data.get("stamp"):
        lines.append(f"Stamp: {data['stamp']}")
    if data.get("pages", 1) > 1:
        lines.append(f"Page {data.get('page', 1)} of {data['pages']}")
    return "\n".join(lines)


def _validate(data: dict[str, Any]) -> None:
    if data.get("variant") not in VARIANTS:
        raise SceneError(f"variant: {data.get('variant')!r}: expected one of {', '.join(VARIANTS)}")
    if not data.get("title"):
        raise SceneError("title: a document needs one")
    unknown = set(data) - _OPTIONAL - {"variant", "title"}
    if unknown:
        raise SceneError(f"{min(unknown)}: a document has no such field")
    table = data.get("table")
    if table and any(len(row) != len(table["columns"]) for row in table["rows"]):
        raise SceneError("table: expected as many values in each row as there are columns")


class _Page:
    """A page while it is being written from top to bottom; `y` is where the next part begins."""

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
            self._fields(others)
            self._paragraphs()
        else:
            self._paragraphs()
            self._fields(others)
        self._table()
        self._sums(sums)
        self._ending()

    def fits(self) -> bool:
        return self.y + self.style.margin < MAX_SIDE

    def image(self) -> Image.Image:
        """The page, as high as its paper or its text."""
        low = self.y + self.style.margin
        bottom = round(max(low, min(self.style.width * self.style.ratio, MAX_SIDE)))
        # A short note on a tall page is mostly paper: cut it, as a phone's scanner does.
        if bottom > 1.6 * low:
            bottom = round(1.3 * low)
        self.canvas.shrink(bottom)
        if self.data.get("page") or self.data.get("pages"):
            number = f"Page {self.data.get('page', 1)} of {self.data.get('pages', 1)}"
            place = (self.style.width / 2, bottom - self.style.margin * 0.4)
            self.canvas.text(place, number, self._font(0.75), fill="#444444", anchor="ms")
        return self.canvas.image

    def _font(self, times: float = 1.0, bold: bool = False, head: bool = False) -> Any:
        size = max(_SMALLEST, round(self.style.size * self.scale * times))
        return font(self.style.head if head else self.style.body, size, bold)

    def _value_font(self, bold: bool = False) -> Any:
        """What a field's value is written in: by hand it is larger, as handwriting is."""
        if not self.style.hand:
            return self._font(bold=bold)
        times = 1.8 if self.style.hand == "Amatic" else 1.25
        return font(self.style.hand, round(self.style.size * self.scale * times), True)

    # ------------------------------------------------------------------------------------ the parts

    def _header(self) -> None:
        data, style, canvas = self.data, self.style, self.canvas
        parties = list(data.get("parties") or [])
        letter = data["variant"] == "letter" and parties
        if letter:  # a letterhead: who writes, above everything
            x = style.width / 2 if style.header == "centre" else self.left
            anchor = "ma" if style.header == "centre" else "la"
            face = self._fitting(parties[0], 1.3, self.right - self.left)
            box = canvas.text((x, self.y), parties[0], face, "parties.0", style.accent, anchor)
            self.y = box[3] + 8
            canvas.pen.line((self.left, self.y, self.right, self.y), style.accent, 2)
            self.y += self.gap
        title = self._font(style.title_times(), bold=True, head=True)
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
            # The title on the left, number and date on the right of it.
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
        """Number and date, on a line of their own or one under the other at the right; returns where they end."""
        parts = [
            (key, label, str(self.data[key]))
            for key, label in (("number", "No. "), ("date", "Date: "))
            if self.data.get(key)
        ]
        face, y = self._font(), self.y
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
        """A label and the cell behind it on one line; returns its right end."""
        self.canvas.text(xy, label, face, fill="#333333")
        place = (xy[0] + face.getlength(label), xy[1])
        return self.canvas.text(place, text, face, key)[2]

    def _addressee(self, parties: Sequence[str]) -> None:
        for number, party in enumerate(parties[1:], 1):
            width = self.right - self.left
            place = (self.left, self.y)
            self.y = self.canvas.paragraph(place, party, self._font(), width, f"parties.{number}")
        self.y += self.gap * 0.6

    def _parties(self, parties: Sequence[str]) -> None:
        if not parties:
            return
        face = self._font(bold=True)
        width = (self.right - self.left) / len(parties) - 12
        beside = all(face.getlength(party) < width for party in parties)
        titles = ("From", "To") if self.data["variant"] == "invoice" else ("Between", "and")
        top = self.y
        for number, party in enumerate(parties):
            x = self.left + (width + 12) * number if beside else self.left
            y = top if beside else self.y
            label = titles[min(number, 1)]
            self.canvas.text((x, y), label, self._font(0.8), fill="#444444")
            y += self._font(0.8).size * 1.5
            place = (x, y)
            whole = width if beside else self.right - self.left
            self.y = self.canvas.paragraph(place, party, face, whole, f"parties.{number}")
        self.y += self.gap * 0.7

    def _fields(self, fields: dict[str, Any]) -> None:
        if not fields:
            return
        style, canvas = self.style, self.canvas
        label_face, face = self._font(), self._value_font()
        fill = style.ink if style.hand else "#111111"
        widest = max(label_face.getlength(f"{label}:") for label in fields)
        indent = min(widest + self.gap, (self.right - self.left) * 0.5)
        step = max(label_face.size, face.size) * 1.5
        shift = (face.size - label_face.size) * 0.3  # baselines of the two fonts, about
        form = style.fields
        if form == "grid":
            self._fields_grid(fields, face, fill)
            return
        for label, value in fields.items():
            text, key, top = str(value), f"fields.{label}", self.y
            pad = 7 if form == "boxed" else 0
            if form == "inline":
                canvas.text((self.left, top), f"{label}:", self._font(bold=True), fill="#222222")
                x = self.left + self._font(bold=True).getlength(f"{label}: ") + 4
                if x > self.left + (self.right - self.left) * 0.6:
                    x, top = self.left + self.gap, top + step
            else:
                ending = "" if form == "boxed" else ":"
                low = canvas.paragraph(
                    (self.left + pad, top + pad), label + ending, label_face, indent - 10
                )
                x = self.left + indent + pad
            length = covering(text, face).getlength(text)
            if form == "leader" and x + length < self.right - 40:
                end = self.right - length - 10
                for dot in range(round(x), round(end), 8):
                    canvas.pen.point((dot, top + label_face.size), "#555555")
                x = self.right - length - 2
            place = (x, top + pad - shift)
            bottom = canvas.paragraph(place, text, face, self.right - x - pad, key, fill)
            if form != "inline":
                bottom = max(bottom, low)
            self.y = max(top + step, bottom + 4) + pad
            if form == "boxed":
                canvas.pen.rectangle((self.left, top, self.right, self.y), outline="#666666")
                canvas.pen.line((x - pad - 3, top, x - pad - 3, self.y), "#666666")
        self.y += self.gap

    def _fields_grid(self, fields: dict[str, Any], face: Any, fill: str) -> None:
        """Fields side by side, the label small above its value."""
        small = self._font(0.78)
        texts = [str(value) for value in fields.values()]
        room = self.right - self.left
        longest = max(
            [covering(t, face).getlength(t) for t in texts] + [small.getlength(f) for f in fields]
        )
        across = max(1, min(3, len(fields), int(room // (longest + 24))))
        width, items = room / across, list(fields.items())
        for first in range(0, len(items), across):
            bottoms = []
            for column, (label, value) in enumerate(items[first : first + across]):
                x = self.left + column * width
                low = self.canvas.paragraph((x, self.y), label, small, width - 16, fill="#444444")
                place = (x, low + 2)
                bottoms.append(
                    self.canvas.paragraph(
                        place, str(value), face, width - 16, f"fields.{label}", fill
                    )
                )
            self.y = max(bottoms) + self.gap * 0.5
        self.y += self.gap * 0.5

    def _paragraphs(self) -> None:
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
                    bold = self._font(bold=True, head=True)
                    self.y = self.canvas.paragraph(
                        (x, self.y), heading, bold, width, f"{key}.heading", style.accent
                    )
                    self.y += 4
                self.y = self.canvas.paragraph(
                    (x, self.y),
                    paragraph["text"],
                    self._font(),
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
        faces = (self._font(times, bold=True), self._font(times))
        sides = (self.left, self.right)
        style = self.style
        self.y = draw_table(self.canvas, table, self.y, sides, faces, style.table, style.accent)
        self.y += self.gap

    def _sums(self, sums: dict[str, Any]) -> None:
        """Under an invoice's table, at the right."""
        face = self._font(bold=True)
        for label, value in sums.items():
            text = str(value)
            self.canvas.text((self.right - 4, self.y), text, face, f"fields.{label}", anchor="ra")
            x = self.right - face.getlength(text) - self.gap * 1.5
            self.canvas.text((x, self.y), label, self._font(), fill="#222222", anchor="ra")
            self.y += face.size * 1.6
        if sums:
            self.y += self.gap

    def _ending(self) -> None:
        """Signatures side by side or below each other, and a stamp in the room beside or under them."""
        signatures = self.data.get("signatures") or []
        if signatures:
            self.y += self.gap * 0.4
            if self.data["variant"] == "letter":
                self.canvas.text((self.left, self.y), "Yours sincerely,", self._font())
                self.y += self._font().size * 1.6
        slot = (self.right - self.left) / 3
        for first in range(0, len(signatures), 2):
            lows = [
                self._signature(number, self.left + (number - first) * slot, slot - 24)
                for number in range(first, min(first + 2, len(signatures)))
            ]
            self.y = max(lows) + self.gap * 0.5
        if stamp := self.data.get("stamp"):
            self._stamp(str(stamp))

    def _signature(self, number: int, x: float, width: float) -> float:
        signature = self.data["signatures"][number]
        rng, top = self.rng, self.y
        high = self.style.size * 2.2
        # A scribble of a few strokes, above the line.
        points = [
            (x + 10 + width * 0.75 * t / 24, top + high * (0.5 + 0.4 * rng.uniform(-1, 1)))
            for t in range(25)
        ]
        smooth = [
            tuple(sum(axis) / 3 for axis in zip(*points[i : i + 3], strict=True))
            for i in range(len(points) - 2)
        ]
        self.canvas.pen.line([c for p in smooth for c in p], self.style.ink, 2, joint="curve")
        y = top + high + 4
        self.canvas.pen.line((x, y, x + width, y), "#333333")
        key = f"signatures.{number}"
        place = (x, y + 6)
        y = self.canvas.paragraph(place, signature["name"], self._font(), width, f"{key}.name")
        if signature.get("date"):
            face = self._value_font() if self.style.hand else self._font(0.9)
            fill = self.style.ink if self.style.hand else "#222222"
            place = (x, y + 3)
            y = self.canvas.paragraph(place, signature["date"], face, width, f"{key}.date", fill)
        return y

    def _stamp(self, text: str) -> None:
        rng, pad = self.rng, 16
        colour, angle = rng.choice(_STAMPS), rng.uniform(-11, 11)
        form = rng.choice(("box", "double", "round", "ellipse"))
        face = self._fitting(text, rng.uniform(1.2, 1.5), (self.right - self.left) * 0.5)
        inked = Canvas(round(face.getlength(text)) + 4 * pad, round(face.size) + 3 * pad)
        middle = (inked.image.width / 2, inked.image.height / 2)
        inked.text(middle, text, face, "stamp", colour, "mm")
        frame = (2, 2, inked.image.width - 3, inked.image.height - 3)
        if form == "ellipse":
            inked.pen.ellipse(frame, outline=colour, width=3)
        elif form == "round":
            inked.pen.rounded_rectangle(frame, 14, outline=colour, width=4)
        else:
            inked.pen.rectangle(frame, outline=colour, width=3)
            if form == "double":
                inner = (8, 8, frame[2] - 6, frame[3] - 6)
                inked.pen.rectangle(inner, outline=colour, width=1)
        x = rng.uniform(self.left, max(self.left, self.right - inked.image.width * 1.1))
        self.y = self.canvas.paste(inked, (round(x), round(self.y)), angle)[3] + 4

    def _fitting(self, text: str, times: float, width: float) -> Any:
        """The bold font at `times` the body's size, or as much smaller as the text needs to fit."""
        face = covering(text, self._font(times, bold=True, head=True))
        if face.getlength(text) > width:
            face = covering(text, self._font(times * width / face.getlength(text), True, True))
        return face
