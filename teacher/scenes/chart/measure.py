"""Where the texts of a matplotlib figure were drawn, and whether they lie clear of each other."""

import itertools
import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.text import Text

from teacher.scenes.scene import Box, Cell


def _texts(figure: Figure) -> list[tuple[Box, Text]]:
    """The texts that are drawn, numbers of the axes among them, and where."""
    height = figure.bbox.height
    found = []
    for text in figure.findobj(Text):
        if not text.get_visible() or not text.get_text():
            continue
        # An annotation's own extent would take in the point it belongs to.
        extent = Text.get_window_extent(text)
        box = (extent.x0, height - extent.y1, extent.x1, height - extent.y0)
        found.append(((*map(math.floor, box[:2]), *map(math.ceil, box[2:])), text))
    return found


def cells_of(figure: Figure) -> list[Cell]:
    """The texts that carry a key."""
    return [
        Cell(key, text.get_text().replace("\n", " "), box)
        for box, text in _texts(figure)
        if (key := text.get_gid())
    ]


def fits(figure: Figure, cells: Sequence[Cell]) -> bool:
    width, height = figure.bbox.width, figure.bbox.height
    inside = all(
        c.box[0] > 1 and c.box[1] > 1 and c.box[2] < width - 1 and c.box[3] < height - 1
        for c in cells
    )
    boxes = [box for box, _ in _texts(figure)]
    if not inside or any(overlap(a, b) for a, b in itertools.combinations(boxes, 2)):
        return False
    # The title is the one text that the layout does not keep away from a legend.
    title = next(cell.box for cell in cells if cell.key == "title")
    frames = [legend.get_window_extent() for legend in figure.legends]
    return not any(overlap(title, (f.x0, height - f.y1, f.x1, height - f.y0)) for f in frames)


def overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])
