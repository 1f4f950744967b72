"""The boxes of the texts in a matplotlib figure, and the check that they do not overlap."""

import itertools
import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.text import Text

from teacher.scenes.scene import Box, Cell


def _texts(figure: Figure) -> list[tuple[Box, Text]]:
    """The visible texts, including tick labels, with their boxes."""
    height = figure.bbox.height
    texts = []
    for text in figure.findobj(Text):
        if not text.get_visible() or not text.get_text():
            continue
        # An annotation's own extent would include its point.
        extent = Text.get_window_extent(text)
        box = (extent.x0, height - extent.y1, extent.x1, height - extent.y0)
        texts.append(((*map(math.floor, box[:2]), *map(math.ceil, box[2:])), text))
    return texts


def cells_of(figure: Figure) -> list[Cell]:
    """The cells: texts that have a key as their gid."""
    return [
        Cell(key, text.get_text().replace("\n", " "), box)
        for box, text in _texts(figure)
        if (key := text.get_gid())
    ]


def fits(figure: Figure, cells: Sequence[Cell]) -> bool:
    """Whether all cells are inside the figure and no two texts overlap."""
    width, height = figure.bbox.width, figure.bbox.height
    inside = all(
        c.box[0] > 1 and c.box[1] > 1 and c.box[2] < width - 1 and c.box[3] < height - 1
        for c in cells
    )
    boxes = [box for box, _ in _texts(figure)]
    if not inside or any(overlap(a, b) for a, b in itertools.combinations(boxes, 2)):
        return False
    # The layout engine does not keep the title away from a legend.
    title = next(cell.box for cell in cells if cell.key == "title")
    frames = [legend.get_window_extent() for legend in figure.legends]
    return not any(overlap(title, (f.x0, height - f.y1, f.x1, height - f.y0)) for f in frames)


def overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two boxes (left, top, right, bottom) overlap."""
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])
