"""Positions of nodes, arrows and labels, and the check that labels touch nothing but their own arrows."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from teacher.scenes.scene import MAX_SIDE, Box

Point = tuple[float, float]


@dataclass
class Placed:
    """The positions of all parts, in px from the top left of the diagram below its title."""

    width: float
    height: float
    lines: dict[str, list[str]]  # of each node's label
    shapes: dict[str, str]
    nodes: dict[str, Box]
    arrows: list[list[Point]]
    labels: dict[int, Box]  # by edge number, of edges with a label
    words: dict[int, list[str]]  # lines of those labels
    groups: dict[str, tuple[Box, Box]] = field(default_factory=dict)  # the frame, its name
    lifelines: list[tuple[Point, Point]] = field(default_factory=list)
    heads: bool = True
    dashed: set[int] = field(default_factory=set)


def clear(placed: Placed) -> bool:
    """Whether each label touches only its own arrow, no arrow crosses a node, and the diagram fits into MAX_SIDE."""
    if max(placed.width, placed.height) > MAX_SIDE:
        return False
    nodes, names = list(placed.nodes.values()), [name for _, name in placed.groups.values()]
    if any(_overlap(a, b) for a, b in itertools.combinations([*nodes, *names], 2)):
        return False
    if any(crosses(arrow, grown(name, 2)) for arrow in placed.arrows for name in names):
        return False
    # The ends lie on the outlines of their nodes, which may be inside the boxes.
    if not placed.lifelines and any(
        crosses(arrow[1:-1], grown(node, -2)) for arrow in placed.arrows for node in nodes
    ):
        return False
    return all(_belongs(placed, number, box) for number, box in placed.labels.items())


def _belongs(placed: Placed, number: int, box: Box) -> bool:
    """Whether a label box is on or next to its arrow and touches nothing else."""
    if not crosses(placed.arrows[number], grown(box, 6)):
        return False
    others = [label for other, label in placed.labels.items() if other != number]
    taken = [*placed.nodes.values(), *others, *(name for _, name in placed.groups.values())]
    return not any(_overlap(box, other) for other in taken) and not any(
        crosses(arrow, grown(box, 4))
        for other, arrow in enumerate(placed.arrows)
        if other != number
    )


def settle(placed: Placed) -> None:
    """Moves each badly placed label along its arrow, from the middle outwards, to the first free place."""
    for number, box in placed.labels.items():
        if _belongs(placed, number, box):
            continue
        width, height, route = box[2] - box[0], box[3] - box[1], placed.arrows[number]
        for share in sorted((n / 40 for n in range(1, 40)), key=lambda share: abs(share - 0.5)):
            x, y = _along(route, share)
            # On the arrow, or just beside it.
            aside, above = width / 2 + 3, height / 2 + 3
            middles = [(x, y), (x + aside, y), (x - aside, y), (x, y - above), (x, y + above)]
            boxes = [_around(middle, width, height) for middle in middles]
            free = (b for b in boxes if _belongs(placed, number, b) and _within(b, placed))
            if moved := next(free, None):
                placed.labels[number] = moved
                break


def _around(middle: Point, width: int, height: int) -> Box:
    """The box of this size centred at `middle`."""
    left, top = round(middle[0] - width / 2), round(middle[1] - height / 2)
    return (left, top, left + width, top + height)


def _within(box: Box, placed: Placed) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= placed.width and box[3] <= placed.height


def _along(route: Sequence[Point], share: float) -> Point:
    """The point at a share (0 to 1) of a route's length."""
    left = share * sum(math.dist(a, b) for a, b in itertools.pairwise(route))
    for a, b in itertools.pairwise(route):
        length = math.dist(a, b)
        if left <= length > 0:
            return (a[0] + (b[0] - a[0]) * left / length, a[1] + (b[1] - a[1]) * left / length)
        left -= length
    return route[-1]


def grown(box: Box, by: int) -> Box:
    """A box enlarged by `by` px on each side."""
    return (box[0] - by, box[1] - by, box[2] + by, box[3] + by)


def _overlap(a: Box, b: Box) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def crosses(route: Sequence[Point], box: Box) -> bool:
    """Whether a route passes through a box."""
    return any(_meets(a, b, box) for a, b in itertools.pairwise(route))


def _meets(a: Point, b: Point, box: Box) -> bool:
    """Whether the line from a to b passes through the box (Liang and Barsky's clipping)."""
    enter, leave = 0.0, 1.0
    for axis in (0, 1):
        low, high, change = box[axis] - a[axis], box[axis + 2] - a[axis], b[axis] - a[axis]
        if change == 0:
            if low > 0 or high < 0:
                return False
            continue
        near, far = sorted((low / change, high / change))
        enter, leave = max(enter, near), min(leave, far)
    return enter < leave
