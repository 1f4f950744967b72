"""The legibility check of drawn images. It reads the PNG file itself, not what the drawing code intended."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from teacher.scenes.colour import WEIGHTS, linear
from teacher.scenes.scene import MAX_BYTES, MAX_SIDE, Box, Cell, DrawnImage

# WCAG 2.2, success criterion 1.4.3: large text needs a contrast of at least 3:1. The check measures drawn pixels, whose
# contrast anti-aliasing has already reduced in thin strokes.
MIN_CONTRAST = 3.0
# Capitals and digits of a font of 11 px are 7 to 8 px high.
MIN_GLYPH = 7
# Boxes are whole pixels and include the anti-aliased edges of their glyphs, so two boxes may share this many px.
_TOUCH = 2


def check(image: DrawnImage) -> list[str]:
    """Returns the faults of a drawn image, a sentence each; [] for a legible image.

    Checks the PNG file for: sides or bytes over the limits; a cell outside the image or cut by its edge; a cell
    without ink, with too little contrast or with too small text; two cells that overlap; two cells with one key.

    >>> from teacher.scenes import Scene, draw
    >>> check(draw(Scene("document", {"variant": "letter", "title": "Notice", "date": "2026-03-02"}, seed=7)))
    []
    """
    faults = []
    if max(image.width, image.height) > MAX_SIDE:
        faults.append(f"{image.width} x {image.height} px: at most {MAX_SIDE} a side")
    if len(image.png) > MAX_BYTES:
        faults.append(f"{len(image.png)} bytes: at most {MAX_BYTES}")
    with Image.open(io.BytesIO(image.png)) as opened:
        if opened.size != (image.width, image.height):
            faults.append(
                f"the file is {opened.width} x {opened.height} px, not {image.width} x {image.height}"
            )
            return faults
        luminance_HW = _luminance(opened)
    seen: set[str] = set()
    inside = []
    for cell in image.cells:
        if cell.key in seen:
            faults.append(f"{cell.key}: drawn twice under one key")
        seen.add(cell.key)
        left, top, right, bottom = cell.box
        # A box that reaches the edge may have been cut there.
        if left < 1 or top < 1 or right > image.width - 1 or bottom > image.height - 1:
            faults.append(f"{cell.key}: its box {cell.box} is cut by the edge of the image")
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
    """Relative luminance of each pixel, [height, width], 0 to 1."""
    channels_HW3 = np.asarray(image.convert("RGB"))
    lights = np.array([linear(value / 255) for value in range(256)])
    weighted = (w * lights for w in WEIGHTS)
    return sum(table[channels_HW3[..., c]] for c, table in enumerate(weighted))


def _contrast(luminance_HW: np.ndarray, box: Box) -> float:
    """Contrast ratio of the ink in a box against its background; 1 for an empty box.

    The background is the median of the box and 3 px around it, because text covers less than half of that area. Ink
    counts only where it is spread over the box as text is; a single line through an empty box does not count.
    """
    left, top, right, bottom = box
    around_HW = luminance_HW[max(top - 3, 0) : bottom + 3, max(left - 3, 0) : right + 3]
    ground = float(np.median(around_HW))
    inside_HW = luminance_HW[top:bottom, left:right]
    ratio_HW = (np.maximum(inside_HW, ground) + 0.05) / (np.minimum(inside_HW, ground) + 0.05)
    # The maximum of each row and column, then the value that a third of the rows and a fifth of the columns reach (or
    # the reverse, for turned text): "11" has ink in only a quarter of its columns.
    rows, columns = ratio_HW.max(axis=1), ratio_HW.max(axis=0)
    return max(
        float(min(np.quantile(one, 0.67), np.quantile(other, 0.8)))
        for one, other in ((rows, columns), (columns, rows))
    )


def _overlaps(cells: Sequence[Cell]) -> list[tuple[Cell, Cell]]:
    pairs = []
    in_order = sorted(cells, key=lambda cell: cell.box[1])
    for i, one in enumerate(in_order):
        for other in in_order[i + 1 :]:
            if other.box[1] >= one.box[3] - _TOUCH:
                break  # cells are sorted by top: all later cells begin below this one
            if min(one.box[2], other.box[2]) - max(one.box[0], other.box[0]) > _TOUCH:
                pairs.append((one, other))
    return pairs
