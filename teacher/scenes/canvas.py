"""A canvas that records where text was written, and the geometry of lines and boxes."""

import math
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageChops, ImageDraw, ImageFont

from teacher.scenes.fonts import covering
from teacher.scenes.scene import Box, Cell, SceneError


class Canvas:
    """A Pillow image that records the cells of the text written on it.

    `pen` is Pillow's drawing interface, for lines and shapes. Text written with `text` or `paragraph` and a key becomes
    a cell.
    """

    def __init__(self, width: int, height: int, ground: str = "white") -> None:
        self.image = Image.new("RGB", (width, height), ground)
        self.pen = ImageDraw.Draw(self.image)
        self.cells: list[Cell] = []

    def text(
        self,
        xy: tuple[float, float],
        text: str,
        font: ImageFont.FreeTypeFont,
        key: str | None = None,
        fill: str = "black",
        anchor: str = "la",
    ) -> Box:
        """Writes one line and returns the box of its glyphs; with a `key`, records it as a cell."""
        font = covering(text, font)
        xy = (round(xy[0]), round(xy[1]))
        left, top, *_ = self.pen.textbbox(xy, text, font=font, anchor=anchor)
        self.pen.text(xy, text, font=font, fill=fill, anchor=anchor)
        # Pillow's box has the advance width; a narrow digit fills half of it.
        glyphs = font.getmask(text).getbbox()
        if glyphs is None:
            raise SceneError(f"text: {text!r}: no visible character")
        left, top = math.floor(left), math.floor(top)
        box = (left + glyphs[0], top + glyphs[1], left + glyphs[2], top + glyphs[3])
        if key is not None:
            self.cells.append(Cell(key, text, box))
        return box

    def paragraph(
        self,
        xy: tuple[float, float],
        text: str,
        font: ImageFont.FreeTypeFont,
        width: float,
        key: str | None = None,
        fill: str = "black",
        *,
        spacing: float = 1.35,
    ) -> float:
        """Writes text in lines of at most `width` px as one cell; returns the y of the next line."""
        x, y = xy
        font = covering(text, font)
        step = round(font.size * spacing)
        boxes = []
        for line in wrap(text, font, width):
            boxes.append(self.text((x, y), line, font, fill=fill))
            y += step
        if key is not None and boxes:
            self.record(key, text, boxes)
        return y

    def record(self, key: str, text: str, boxes: Sequence[Box]) -> None:
        """Records one cell for a text that was written in several pieces."""
        self.cells.append(Cell(key, text, hull(boxes)))

    def paste(self, other: "Canvas", xy: tuple[int, int], degrees: float) -> Box:
        """Pastes another canvas, rotated, with white as transparent, and adds its cells; returns the box it covers."""
        turned = other.image.rotate(
            degrees, Image.Resampling.BICUBIC, expand=True, fillcolor="white"
        )
        middle = (xy[0] + turned.width / 2, xy[1] + turned.height / 2)
        whole = (xy[0], xy[1], xy[0] + turned.width, xy[1] + turned.height)
        self.image.paste(ImageChops.darker(self.image.crop(whole), turned), xy)
        self.cells += [_turned(cell, degrees, other.image.size, middle) for cell in other.cells]
        return whole

    def shrink(self, bottom: int) -> None:
        """Crops the canvas to the height `bottom`."""
        self.image = self.image.crop((0, 0, self.image.width, bottom))
        self.pen = ImageDraw.Draw(self.image)


def wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Splits text into lines of at most `width` px, between words; inside a word only if it alone is wider."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        wider = f"{line} {word}" if line else word
        if font.getlength(wider) <= width:
            line = wider
            continue
        if line:
            lines.append(line)
        while font.getlength(word) > width and len(word) > 1:
            fits = next(
                n
                for n in range(len(word) - 1, 0, -1)
                if n == 1 or font.getlength(word[:n]) <= width
            )
            lines.append(word[:fits])
            word = word[fits:]
        line = word
    return [*lines, line] if line else lines


def hull(boxes: Sequence[Box]) -> Box:
    """The smallest box around boxes."""
    return (
        min(b[0] for b in boxes),
        min(b[1] for b in boxes),
        max(b[2] for b in boxes),
        max(b[3] for b in boxes),
    )


def rotated(
    image: Image.Image, cells: Sequence[Cell], degrees: float, ground: Any
) -> tuple[Image.Image, list[Cell]]:
    """An image rotated counter-clockwise about its centre, and its cells with the boxes around their new places."""
    turned = image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=ground)
    middle = (image.width / 2, image.height / 2)
    return turned, [_turned(cell, degrees, image.size, middle) for cell in cells]


def _turned(cell: Cell, degrees: float, size: tuple[int, int], middle: tuple[float, float]) -> Cell:
    """A cell of an image of `size` that is rotated about its centre and placed with the centre at `middle`."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    left, top, right, bottom = cell.box
    corners = [(x - size[0] / 2, y - size[1] / 2) for x in (left, right) for y in (top, bottom)]
    xs = [middle[0] + x * cos + y * sin for x, y in corners]
    ys = [middle[1] - x * sin + y * cos for x, y in corners]
    box = (math.floor(min(xs)), math.floor(min(ys)), math.ceil(max(xs)), math.ceil(max(ys)))
    return Cell(cell.key, cell.text, box)
