"""The layout of sequence diagrams: participants side by side, a message per row."""

import itertools
from collections.abc import Iterator
from typing import Any

from PIL import ImageFont

from teacher.scenes.diagram.labels import broken, extent, line_height, outer_size
from teacher.scenes.diagram.placement import Placed, Point
from teacher.scenes.diagram.style import Style
from teacher.scenes.scene import Box


def sequence(data: dict[str, Any], style: Style, face: ImageFont.FreeTypeFont) -> Iterator[Placed]:
    """Yields layouts with participants side by side and a message per row, first with wide labels, then narrower."""
    for columns in (16, 11, 8):
        yield _rows(data, style, face, columns)


def _rows(
    data: dict[str, Any], style: Style, face: ImageFont.FreeTypeFont, columns: float
) -> Placed:
    """One layout of a sequence. columns: widest line of a message, in heights of its font."""
    size, step = face.size, line_height(face)
    order = list(data["nodes"])
    lines = {n: broken(t, face, 9 * size) for n, t in data["nodes"].items()}
    heads = {n: outer_size("box", *extent(text, face), size) for n, text in lines.items()}
    words = {
        number: broken(label, face, columns * size)
        for number, (_, _, label) in enumerate(data["edges"])
        if label
    }
    loop = 2 * size  # width of the arrow of a message to its own sender

    def needed_width(number: int) -> float:
        return extent(words[number], face)[0] + 3 * size if number in words else 4 * size

    # Gaps between neighbours must hold their heads, then the messages between them; short spans are fitted first.
    gaps = [(heads[a][0] + heads[b][0]) / 2 + size for a, b in itertools.pairwise(order)]
    tail = heads[order[-1]][0] / 2
    spans = sorted(
        (sorted((order.index(start), order.index(end))), number)
        for number, (start, end, _) in enumerate(data["edges"])
    )
    for (left, right), number in sorted(spans, key=lambda span: span[0][1] - span[0][0]):
        if left == right == len(order) - 1:
            tail = max(tail, loop + needed_width(number))
        elif left == right:
            gaps[left] = max(gaps[left], loop + needed_width(number))
        else:
            short = needed_width(number) - sum(gaps[left:right])
            for gap in range(left, right):
                gaps[gap] += max(0, short) / (right - left)
    first = heads[order[0]][0] / 2
    xs = dict(zip(order, itertools.accumulate([first, *gaps]), strict=True))

    top = max(height for _, height in heads.values())
    nodes = {
        n: (round(xs[n] - w / 2), round(top - h), round(xs[n] + w / 2), round(top))
        for n, (w, h) in heads.items()
    }
    arrows: list[list[Point]] = []
    labels: dict[int, Box] = {}
    y = top + 0.8 * size
    requests: list[tuple[str, str]] = []
    replies = set()
    for number, (start, end, _) in enumerate(data["edges"]):
        width, height = extent(words[number], face) if number in words else (0, 0)
        x, to = xs[start], xs[end]
        if start == end:
            height = max(height, step)
            arrows.append([(x, y), (x + loop, y), (x + loop, y + height), (x, y + height)])
            left, above = x + loop + 0.25 * size, y - 2
        else:
            arrows.append([(x, y + height), (to, y + height)])
            left, above = (x + to - width - 8) / 2, y - 9
            if (end, start) in requests and style.dashed:
                replies.add(number)
                requests.remove((end, start))
            else:
                requests.append((start, end))
        if number in words:
            tall = len(words[number]) * step
            labels[number] = (round(left), round(above), round(left + width + 8), round(above + tall + 4))  # fmt: skip
        y += height + 1.3 * size
    placed = Placed(
        width=max(xs[order[-1]] + tail, *(box[2] for box in [*labels.values(), *nodes.values()])),
        height=y,
        lines=lines,
        shapes=dict.fromkeys(order, style.step),
        nodes=nodes,
        arrows=arrows,
        labels=labels,
        words=words,
    )
    placed.lifelines = [((xs[n], top), (xs[n], y)) for n in order]
    placed.dashed = replies
    return placed
