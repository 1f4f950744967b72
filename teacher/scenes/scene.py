"""Pictures drawn from data, so that what they show is known and every answer about them is computed.

    scene = Scene("document", {"variant": "letter", "title": "Notice", ...}, seed=7)
    picture = draw(scene)        # the same scene gives the same bytes
    assert not check(picture)    # every value is in the drawing, inside it, readable, on top of no other

A scene is data; its seed chooses only how the data looks. Each kind of scene is a module with `paint(data, seed)`,
`source(data)` and `example(rng)`. What a drawing shows is recorded by what draws it (`Canvas`, or the artists of
matplotlib), never predicted. Fonts come from packages: what is drawn does not depend on the machine's own.
"""

import functools
import hashlib
import importlib
import importlib.util
import io
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFont

from teacher.scenes.colour import WEIGHTS, linear

KINDS = {
    "document": "teacher.scenes.document.render",
    "chart": "teacher.scenes.chart.render",
    "diagram": "teacher.scenes.diagram.render",
    "screen": "teacher.scenes.screenshot.render",
}

# No side above 2,048 px: hosted vision endpoints scale larger pictures down, and what is read then is not what was
# checked. 4 MB is far above what a page needs (about 0.2 MB) and far below what endpoints refuse (20 MB and more).
MAX_SIDE = 2048
MAX_BYTES = 4_000_000
# WCAG 2.2, success criterion 1.4.3: the least contrast of large text is 3:1. Measured on the drawn pixels, where
# anti-aliasing has already taken its part from thin strokes.
MIN_CONTRAST = 3.0
# Capitals and digits of a font of 11 px are 7 to 8 px high.
MIN_GLYPH = 7
# Boxes are whole pixels and hold the anti-aliased edge of their glyphs: that much of two boxes may be common.
_TOUCH = 2

Box = tuple[int, int, int, int]


class SceneError(ValueError):
    """Data that cannot be drawn as it should be: the message says which and why."""


@dataclass(frozen=True)
class Scene:
    """A picture before it is drawn.

    kind: document, chart, diagram or screen. data: JSON; everything the drawing shows comes from it.
    seed: chooses layout, fonts, colours and the effects of a scan, never content.
    """

    kind: str
    data: dict[str, Any]
    seed: int


@dataclass(frozen=True)
class Cell:
    """A value that a drawing shows.

    key: where in the data it comes from: "title", "fields.Payment term", "table.2.1", "nodes.b".
    text: as drawn. box: left, top, right, bottom in pixels of the final image, right and bottom exclusive.
    """

    key: str
    text: str
    box: Box


@dataclass(frozen=True)
class Picture:
    """A scene as drawn: its PNG file, what it shows and where, and the same in words.

    source: the data in words and tables, short, for who cannot see; it says nothing of the layout.
    """

    scene: Scene
    png: bytes
    width: int
    height: int
    cells: tuple[Cell, ...]
    source: str

    @property
    def sha256(self) -> str:
        """sha256 of the PNG file, in hex: what traces call the picture by."""
        return hashlib.sha256(self.png).hexdigest()


def draw(scene: Scene) -> Picture:
    """Draws a scene. The same scene gives the same bytes, with the same versions of the drawing libraries.

    Raises:
        SceneError: no such kind, or data that the kind cannot draw.
    """
    # Not sorted: the order of fields, categories and nodes is the order in which they are drawn.
    return _draw(scene.kind, json.dumps(scene.data, ensure_ascii=False), scene.seed)


@functools.lru_cache(maxsize=48)
def _draw(kind: str, text: str, seed: int) -> Picture:
    data, module = json.loads(text), _module(kind)
    image, cells = module.paint(data, seed)
    file = io.BytesIO()
    # Level 9, which `optimize` means, saves 3 % and takes 3 to 20 times as long on a page of scanner's noise.
    image.save(file, "PNG", compress_level=6)
    scene = Scene(kind, data, seed)
    return Picture(
        scene, file.getvalue(), image.width, image.height, tuple(cells), module.source(data)
    )


def example(kind: str, rng: random.Random) -> Scene:
    """A scene of invented data, for tests and measurements."""
    return Scene(kind, _module(kind).example(rng), rng.randrange(1 << 31))


def as_text(source: str) -> str:
    """A picture as a reader without eyes is shown it, whether teacher or student."""
    return f"[Image: {source}]"


def check(picture: Picture) -> list[str]:
    """What is wrong with a drawing, a sentence each; [] when it is right.

    Found on the file itself: sides or bytes over the limits; a cell outside the picture or cut by its edge, a cell
    of which there is no ink or too little contrast to read, one too small to read, two cells on top of each other,
    two of the same key.
    """
    faults = []
    if max(picture.width, picture.height) > MAX_SIDE:
        faults.append(f"{picture.width} x {picture.height} px: at most {MAX_SIDE} a side")
    if len(picture.png) > MAX_BYTES:
        faults.append(f"{len(picture.png)} bytes: at most {MAX_BYTES}")
    with Image.open(io.BytesIO(picture.png)) as image:
        if image.size != (picture.width, picture.height):
            faults.append(
                f"the file is {image.width} x {image.height} px, not {picture.width} x {picture.height}"
            )
            return faults
        luminance_HW = _luminance(image)
    seen: set[str] = set()
    inside = []
    for cell in picture.cells:
        if cell.key in seen:
            faults.append(f"{cell.key}: drawn twice under one key")
        seen.add(cell.key)
        left, top, right, bottom = cell.box
        # A box that reaches the edge was cut, or is so near to it that nobody can tell.
        if left < 1 or top < 1 or right > picture.width - 1 or bottom > picture.height - 1:
            faults.append(f"{cell.key}: its box {cell.box} is cut by the edge of the picture")
            continue
        if right <= left or bottom <= top:
            faults.append(f"{cell.key}: its box {cell.box} is empty")
            continue
        inside.append(cell)
        if any(c.isdigit() or c.isupper() for c in cell.text):
            size = min(right - left if len(cell.text) > 1 else MIN_GLYPH, bottom - top)
            if size < MIN_GLYPH:
                faults.append(f"{cell.key}: {size} px high: text of at least {MIN_GLYPH} px")
        contrast = _contrast(luminance_HW, cell.box)
        if contrast < MIN_CONTRAST:
            faults.append(
                f"{cell.key}: no readable ink in its box: contrast {contrast:.1f}, at least {MIN_CONTRAST}"
            )
    faults += [
        f"{one.key} and {other.key}: their boxes {one.box} and {other.box} overlap"
        for one, other in _overlaps(inside)
    ]
    return faults


def _luminance(image: Image.Image) -> np.ndarray:
    """Relative luminance of each pixel, 0 to 1."""
    channels_HW3 = np.asarray(image.convert("RGB"))
    lights = np.array([linear(value / 255) for value in range(256)])
    weighted = (w * lights for w in WEIGHTS)
    return sum(table[channels_HW3[..., c]] for c, table in enumerate(weighted))


def _contrast(luminance_HW: np.ndarray, box: Box) -> float:
    """Contrast ratio of the ink in a box against its ground, 1 where nothing is drawn.

    The ground is the median of the box and 3 px around it: text covers less than half of that. Ink counts only where
    it is spread over the box as text is: a rule that runs through an empty box is none.
    """
    left, top, right, bottom = box
    around_HW = luminance_HW[max(top - 3, 0) : bottom + 3, max(left - 3, 0) : right + 3]
    ground = float(np.median(around_HW))
    inside_HW = luminance_HW[top:bottom, left:right]
    ratio_HW = (np.maximum(inside_HW, ground) + 0.05) / (np.minimum(inside_HW, ground) + 0.05)
    # The strongest ink of each row and column, and what a third of the one and a fifth of the other reach: letters have
    # ink in most of both, "11" in thin strokes across a quarter of its width, or of its height where it is turned.
    rows, columns = ratio_HW.max(axis=1), ratio_HW.max(axis=0)
    return max(
        float(min(np.quantile(one, 0.67), np.quantile(other, 0.8)))
        for one, other in ((rows, columns), (columns, rows))
    )


def _overlaps(cells: Sequence[Cell]) -> list[tuple[Cell, Cell]]:
    found = []
    in_order = sorted(cells, key=lambda cell: cell.box[1])
    for i, one in enumerate(in_order):
        for other in in_order[i + 1 :]:
            if other.box[1] >= one.box[3] - _TOUCH:
                break  # sorted by their tops: all that follow begin below this one
            if min(one.box[2], other.box[2]) - max(one.box[0], other.box[0]) > _TOUCH:
                found.append((one, other))
    return found


def _module(kind: str) -> Any:
    if kind not in KINDS:
        raise SceneError(f"kind: {kind!r}: expected one of {', '.join(KINDS)}")
    return importlib.import_module(KINDS[kind])


# -------------------------------------------------------------------------------------------- fonts

# Family: package, regular, bold. DejaVu and STIX are shipped with matplotlib (Bitstream Vera's licence and the OFL);
# the others are under the OFL, Caladea under Apache 2.0.
_FONTS = {
    "DejaVu Sans": ("matplotlib/mpl-data/fonts/ttf", "DejaVuSans.ttf", "DejaVuSans-Bold.ttf"),
    "DejaVu Serif": ("matplotlib/mpl-data/fonts/ttf", "DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf"),
    "DejaVu Mono": (
        "matplotlib/mpl-data/fonts/ttf",
        "DejaVuSansMono.ttf",
        "DejaVuSansMono-Bold.ttf",
    ),
    "STIX": ("matplotlib/mpl-data/fonts/ttf", "STIXGeneral.ttf", "STIXGeneralBol.ttf"),
    "Caladea": ("font_caladea/files", "Caladea-Regular.ttf", "Caladea-Bold.ttf"),
    "Source Serif": (
        "font_source_serif_pro/files",
        "SourceSerifPro-Regular.ttf",
        "SourceSerifPro-Bold.ttf",
    ),
    "Source Sans": (
        "font_source_sans_pro/files",
        "SourceSansPro-Regular.ttf",
        "SourceSansPro-Bold.ttf",
    ),
    "Lato": ("font_lato/files", "Lato-Regular.ttf", "Lato-Bold.ttf"),
    "Intuitive": ("font_intuitive/files", "Intuitive.ttf", "Intuitive.ttf"),
    "Amatic": ("font_amatic_sc/files", "AmaticSC-Regular.ttf", "AmaticSC-Bold.ttf"),
}
SERIF = ("DejaVu Serif", "STIX", "Caladea", "Source Serif")
SANS = ("DejaVu Sans", "Source Sans", "Lato")
MONO = ("DejaVu Mono",)
HAND = ("Intuitive", "Amatic")


@functools.cache
def font_file(family: str, bold: bool = False) -> Path:
    """The file of a font, by the families above.

    Raises:
        SceneError: no such family, or its package is not installed.
    """
    if family not in _FONTS:
        raise SceneError(f"font: {family!r}: expected one of {', '.join(_FONTS)}")
    folder, regular, heavy = _FONTS[family]
    package, _, inside = folder.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SceneError(f"font {family}: package {package} is not installed")
    return Path(spec.origin).parent / inside / (heavy if bold else regular)


@functools.lru_cache(maxsize=256)
def font(family: str, size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """A font at a size in pixels."""
    # The basic layout engine: which other is there depends on how Pillow was built.
    return ImageFont.truetype(font_file(family, bold), size, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def _glyphs(file: str) -> frozenset[int]:
    from fontTools.ttLib import TTFont

    with TTFont(file, lazy=True) as opened:
        return frozenset(opened.getBestCmap())


def covering(text: str, wanted: ImageFont.FreeTypeFont) -> ImageFont.FreeTypeFont:
    """`wanted`, or DejaVu Sans at its size where `wanted` lacks a character of the text.

    Raises:
        SceneError: DejaVu Sans lacks it too; drawn, it would be an empty box.
    """
    for candidate in (wanted, font("DejaVu Sans", round(wanted.size))):
        missing = {ord(c) for c in text} - _glyphs(str(candidate.path))
        if not missing:
            return candidate
    raise SceneError(f"text: {text[:40]!r}: no font here has {chr(min(missing))!r}")


# ------------------------------------------------------------------------------------------- canvas


class Canvas:
    """A Pillow image that records what is written on it.

    `pen` is Pillow's own drawing interface, for lines and shapes. What shall count as shown is written with `text`
    or `paragraph` and a key.
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
        """Writes one line; returns the box of its glyphs, and records it under `key` if there is one."""
        font = covering(text, font)
        xy = (round(xy[0]), round(xy[1]))
        left, top, *_ = self.pen.textbbox(xy, text, font=font, anchor=anchor)
        self.pen.text(xy, text, font=font, fill=fill, anchor=anchor)
        # Pillow's box is as wide as the pen moves; a narrow digit fills half of it.
        inked = font.getmask(text).getbbox()
        if inked is None:
            raise SceneError(f"text: {text!r}: nothing to be seen")
        left, top = math.floor(left), math.floor(top)
        box = (left + inked[0], top + inked[1], left + inked[2], top + inked[3])
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
        spacing: float = 1.35,
    ) -> float:
        """Writes text in lines of at most `width` px; one cell for all of them. Returns where the next line begins."""
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
        """One cell for a text that was written in several pieces."""
        self.cells.append(Cell(key, text, hull(boxes)))

    def paste(self, other: "Canvas", xy: tuple[int, int], degrees: float) -> Box:
        """Lays another canvas on this one, turned and with white as its transparent colour; takes over its cells."""
        turned = other.image.rotate(
            degrees, Image.Resampling.BICUBIC, expand=True, fillcolor="white"
        )
        middle = (xy[0] + turned.width / 2, xy[1] + turned.height / 2)
        whole = (xy[0], xy[1], xy[0] + turned.width, xy[1] + turned.height)
        self.image.paste(ImageChops.darker(self.image.crop(whole), turned), xy)
        self.cells += [_turned(cell, degrees, other.image.size, middle) for cell in other.cells]
        return whole

    def shrink(self, bottom: int) -> None:
        """Cuts the canvas off below `bottom`."""
        self.image = self.image.crop((0, 0, self.image.width, bottom))
        self.pen = ImageDraw.Draw(self.image)


def wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Text in lines of at most `width` px, broken between words, and inside one only if it alone is wider."""
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
    """An image turned about its middle (counter-clockwise), and its cells with the boxes around where they went."""
    turned = image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=ground)
    middle = (image.width / 2, image.height / 2)
    return turned, [_turned(cell, degrees, image.size, middle) for cell in cells]


def _turned(cell: Cell, degrees: float, size: tuple[int, int], middle: tuple[float, float]) -> Cell:
    """A cell of a picture of `size` that is turned about its middle and laid with that at `middle`."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    left, top, right, bottom = cell.box
    corners = [(x - size[0] / 2, y - size[1] / 2) for x in (left, right) for y in (top, bottom)]
    xs = [middle[0] + x * cos + y * sin for x, y in corners]
    ys = [middle[1] - x * sin + y * cos for x, y in corners]
    box = (math.floor(min(xs)), math.floor(min(ys)), math.ceil(max(xs)), math.ceil(max(ys)))
    return Cell(cell.key, cell.text, box)
