"""Diagrams drawn from data: flow, organisation, sequence, clause dependency.

variant: flow, organisation, sequence or dependency.
title: text.
nodes: {id: label}. Line breaks in labels are kept.
edges: [[id, id, label or ""]], arrows from the first node to the second.
groups: {name: [id]}, frames around nodes, optional; each node is in one at most, and a sequence has none.

Cells are title, nodes.ID, edges.2 (edges with a label) and groups.NAME. The seed chooses layout, fonts and colours.

    >>> from teacher.scenes import Scene, draw
    >>> data = {
    ...     "variant": "flow",
    ...     "title": "Approval",
    ...     "nodes": {"a": "Check order", "b": "In budget?", "c": "Order"},
    ...     "edges": [["a", "b", ""], ["b", "a", "no"], ["b", "c", "yes"]],
    ...     "groups": {"Purchasing": ["a", "b"]},
    ... }
    >>> sorted(cell.key for cell in draw(Scene("diagram", data, seed=3)).cells)
    ['edges.1', 'edges.2', 'groups.Purchasing', 'nodes.a', 'nodes.b', 'nodes.c', 'title']
"""

import itertools
import math
import random
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from teacher.scenes.canvas import Canvas, wrap
from teacher.scenes.diagram.labels import face_for, groups_of, line_height
from teacher.scenes.diagram.layered import graph
from teacher.scenes.diagram.placement import Placed, Point, clear
from teacher.scenes.diagram.samples import example
from teacher.scenes.diagram.sequence import sequence
from teacher.scenes.diagram.style import Style, Theme, choose
from teacher.scenes.scene import MAX_SIDE, Box, Cell, SceneError

__all__ = ["VARIANTS", "example", "paint", "source"]

VARIANTS = ("flow", "organisation", "sequence", "dependency")
# Smaller labels are hard to read for a model that receives the image scaled down.
SMALLEST = 12
# Shapes are drawn at twice the size and scaled down for anti-aliasing; text is drawn at its final size.
_FINE = 2

# Longer strips are a last resort: many vision models scale images to a square, which makes their text illegible.
_LONGEST = 4


def paint(data: dict[str, Any], seed: int) -> tuple[Image.Image, list[Cell]]:
    """Draws a diagram; returns the image and its cells "title", "nodes.ID", "edges.N" (labelled edges), "groups.NAME".

    A layout (layered.py or sequence.py) is accepted only if no label touches a node, another label or another arrow;
    otherwise the next layout is tried.

    Raises:
        SceneError: invalid data, or no layout within 2,048 px without overlaps.
    """
    _valid(data)
    style = choose(data, random.Random(seed))
    arrange = sequence if data["variant"] == "sequence" else graph
    narrow = None
    for size in dict.fromkeys((style.size, (style.size + SMALLEST) // 2, SMALLEST)):
        face = face_for(data, style.family, size)
        for placed in filter(clear, arrange(data, style, face)):
            result = _render(data, style, face, placed)
            if result is None:
                continue
            sides = sorted(result[0].size)
            if sides[1] <= _LONGEST * sides[0]:
                return result
            narrow = narrow or result
    if narrow is not None:
        return narrow
    raise SceneError(
        f"{data['title']!r}: {len(data['nodes'])} nodes and {len(data['edges'])} edges: no arrangement within"
        f" {MAX_SIDE} px in which no label lies on another, on a node or on an arrow"
    )


def source(data: dict[str, Any]) -> str:
    """The diagram in words, an arrow per line; nodes with equal labels get their ids appended."""
    labels = [" ".join(str(label).split()) for label in data["nodes"].values()]
    names = {
        node: f"{label} [{node}]" if labels.count(label) > 1 else label
        for node, label in zip(data["nodes"], labels, strict=True)
    }
    lines = [f'{data["variant"]} diagram "{data["title"]}"']
    lines += [f"{group}: {', '.join(names[n] for n in ids)}" for group, ids in groups_of(data)]
    for number, (start, end, label) in enumerate(data["edges"], 1):
        order = f"{number}. " if data["variant"] == "sequence" else ""
        lines.append(f"{order}{names[start]} -> {names[end]}" + (f": {label}" if label else ""))
    linked = {node for start, end, _ in data["edges"] for node in (start, end)}
    lines += [names[node] for node in data["nodes"] if node not in linked]
    return "\n".join(lines)


def _valid(data: dict[str, Any]) -> None:
    if data.get("variant") not in VARIANTS:
        raise SceneError(f"variant: {data.get('variant')!r}: expected one of {', '.join(VARIANTS)}")
    if not data.get("nodes"):
        raise SceneError("nodes: expected at least one")
    for node, label in data["nodes"].items():
        if not str(label).strip():
            raise SceneError(f"nodes.{node}: expected a label")
    for number, edge in enumerate(data["edges"]):
        if len(edge) != 3 or edge[0] not in data["nodes"] or edge[1] not in data["nodes"]:
            raise SceneError(f'edges.{number}: {edge!r}: expected [node, node, label or ""]')
    members = [node for _, ids in groups_of(data) for node in ids]
    if unknown := [node for node in members if node not in data["nodes"]]:
        raise SceneError(f"groups: {unknown[0]!r} is not a node")
    if len(set(members)) < len(members):
        raise SceneError("groups: expected each node in at most one group")
    if members and data["variant"] == "sequence":
        raise SceneError("groups: a sequence has none")


# --------------------------------------------------------------------------------------- rendering


def _render(
    data: dict[str, Any], style: Style, face: ImageFont.FreeTypeFont, placed: Placed
) -> tuple[Image.Image, list[Cell]] | None:
    """The image and its cells, or None if a side exceeds MAX_SIDE."""
    theme, size = style.theme, face.size
    margin = round(1.6 * size)
    large = face.font_variant(size=round(size * 1.35))
    title = wrap(str(data["title"]), large, max(placed.width, 24 * size))
    width = math.ceil(max(placed.width, *map(large.getlength, title))) + 2 * margin
    head = (
        margin
        + len(title) * line_height(large)
        + round(size * (1.4 if style.header == "band" else 0.8))
    )
    height = math.ceil(head + placed.height) + margin
    if max(width, height) > MAX_SIDE:
        return None
    dx, dy = (width - placed.width) / 2, float(head)
    fine = Image.new("RGB", (width * _FINE, height * _FINE), theme.ground)
    pen = ImageDraw.Draw(fine)
    if style.header == "band":
        pen.rectangle((0, 0, fine.width, (head - round(0.8 * size)) * _FINE), theme.fills[0])
        rule = (head - round(0.8 * size)) * _FINE
        pen.line([(0, rule), (fine.width, rule)], theme.line, 2)

    def at(points: Sequence[Point]) -> list[Point]:
        return [((x + dx) * _FINE, (y + dy) * _FINE) for x, y in points]

    def box_at(box: Box) -> list[Point]:
        return at([(box[0], box[1]), (box[2], box[3])])

    for frame, _ in placed.groups.values():
        pen.rounded_rectangle(box_at(frame), 8, theme.group, theme.line, _FINE)
    for ends in placed.lifelines:
        _stroke(pen, at(ends), theme.line, _FINE, dashed=True)
    bend = style.radius * _FINE
    for number, arrow in enumerate(placed.arrows):
        route = at(arrow)
        _stroke(
            pen, _rounded(route, bend), theme.line, style.stroke * _FINE, number in placed.dashed
        )
        if placed.heads:
            _head(pen, route[-2], route[-1], style, size * 0.65 * _FINE, theme)
    for node, box in placed.nodes.items():
        _shape(pen, placed.shapes[node], box_at(box), style, size * _FINE)
    for box in placed.labels.values():
        pen.rectangle(box_at(box), theme.ground)
    if style.frame:
        pen.rectangle((8, 8, fine.width - 9, fine.height - 9), None, theme.line, _FINE)

    canvas = Canvas(1, 1)
    canvas.image = fine.reduce(_FINE)
    canvas.pen = ImageDraw.Draw(canvas.image)
    left = margin if style.header == "left" else width / 2
    anchor = "la" if style.header == "left" else "ma"
    ink = theme.ink if style.header == "band" else theme.text
    boxes = [
        canvas.text((left, margin + n * line_height(large)), line, large, fill=ink, anchor=anchor)
        for n, line in enumerate(title)
    ]
    canvas.record("title", data["title"], boxes)

    def write(key: str, text: str, lines: list[str], box: Box, fill: str) -> None:
        top = (box[1] + box[3]) / 2 + dy - (len(lines) - 1) * line_height(face) / 2
        middle = (box[0] + box[2]) / 2 + dx
        boxes = [
            canvas.text((middle, top + n * line_height(face)), line, face, fill=fill, anchor="mm")
            for n, line in enumerate(lines)
        ]
        canvas.record(key, text, boxes)

    for node, label in data["nodes"].items():
        write(f"nodes.{node}", label, placed.lines[node], placed.nodes[node], theme.ink)
    for number, lines in placed.words.items():
        label = data["edges"][number][2]
        write(f"edges.{number}", label, lines, placed.labels[number], theme.text)
    for name, (_, box) in placed.groups.items():
        write(f"groups.{name}", name, [name], box, theme.text)
    return canvas.image, canvas.cells


def _shape(
    pen: ImageDraw.ImageDraw, shape: str, box: list[Point], style: Style, size: float
) -> None:
    """Draws the outline and fill of a node."""
    theme, width = style.theme, style.stroke * _FINE
    (left, top), (right, bottom) = box
    x, y = (left + right) / 2, (top + bottom) / 2
    if shape == "diamond":
        corners = [(x, top), (right, y), (x, bottom), (left, y)]
    elif shape == "hexagon":
        cut = (bottom - top) * 0.3
        corners = [(left + cut, top), (right - cut, top), (right, y)]
        corners += [(right - cut, bottom), (left + cut, bottom), (left, y)]
    elif shape == "note":
        fold = size * 0.5
        corners = [(left, top), (right - fold, top), (right, top + fold)]
        corners += [(right, bottom), (left, bottom)]
    else:
        radius = {"box": 0, "rounded": size * 0.5, "pill": (bottom - top) / 2}[shape]
        fill = theme.fills[2 if shape == "pill" else 0]
        pen.rounded_rectangle([*box[0], *box[1]], radius, fill, theme.line, width)
        return
    pen.polygon(corners, theme.fills[0 if shape == "note" else 1])
    pen.line([*corners, corners[0], corners[1]], theme.line, width, joint="curve")
    if shape == "note":
        pen.line([corners[1], (right - fold, top + fold), corners[2]], theme.line, width)


def _rounded(route: list[Point], radius: float) -> list[Point]:
    """The route with its corners replaced by arcs of at most `radius`."""
    if radius == 0:
        return route
    points = [route[0]]
    for before, corner, after in zip(route, route[1:], route[2:], strict=False):
        into, out = math.dist(before, corner), math.dist(corner, after)
        reach = min(radius, into / 2, out / 2)
        if reach == 0:
            continue
        a = _between(corner, before, reach / into)
        b = _between(corner, after, reach / out)
        for t in (0.0, 0.25, 0.5, 0.75, 1.0):
            points.append(_between(_between(a, corner, t), _between(corner, b, t), t))
    return [*points, route[-1]]


def _between(a: Point, b: Point, share: float) -> Point:
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share)


def _stroke(
    pen: ImageDraw.ImageDraw, route: list[Point], fill: str, width: int, dashed: bool
) -> None:
    """Draws the line of an arrow."""
    if not dashed:
        pen.line(route, fill, width, joint="curve")
        return
    dash, gap, offset = 9.0 * _FINE, 6.0 * _FINE, 0.0
    for a, b in itertools.pairwise(route):
        length = math.dist(a, b)
        if length == 0:
            continue
        at = -offset
        while at < length:
            if at + dash > 0:
                ends = [max(0.0, at) / length, min(length, at + dash) / length]
                pen.line([_between(a, b, end) for end in ends], fill, width)
            at += dash + gap
        offset = length - (at - dash - gap)


def _head(
    pen: ImageDraw.ImageDraw, before: Point, tip: Point, style: Style, size: float, theme: Theme
) -> None:
    """Draws the head of an arrow from `before` to `tip`."""
    length = math.dist(before, tip) or 1.0
    ux, uy = (tip[0] - before[0]) / length, (tip[1] - before[1]) / length
    wings = [
        (tip[0] - ux * size - uy * side * size / 2, tip[1] - uy * size + ux * side * size / 2)
        for side in (1, -1)
    ]
    if style.arrow == "full":
        pen.polygon([tip, *wings], theme.line)
    else:
        pen.line([wings[0], tip, wings[1]], theme.line, style.stroke * _FINE, joint="curve")
