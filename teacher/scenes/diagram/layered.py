"""Layered and tree layouts of flow, organisation and dependency diagrams, computed by graphlay."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import graphlay
from PIL import ImageFont

from teacher.scenes.diagram.labels import broken, extent, groups_of, outer_size
from teacher.scenes.diagram.placement import Placed, Point, crosses, grown, settle
from teacher.scenes.diagram.style import Style
from teacher.scenes.scene import Box


def _shapes(data: dict[str, Any], style: Style) -> dict[str, str]:
    """The shape of each node; in a flow, branches are decisions, and first and last steps are pills."""
    starts = [edge[0] for edge in data["edges"]]
    ends = [edge[1] for edge in data["edges"]]
    shapes = dict.fromkeys(data["nodes"], style.step)
    if data["variant"] == "flow":
        for node in shapes:
            labelled = any(start == node and label for start, _, label in data["edges"])
            if starts.count(node) > 1 and labelled:
                shapes[node] = style.decision
            elif node not in starts or node not in ends:
                shapes[node] = "pill"
    return shapes


def graph(data: dict[str, Any], style: Style, face: ImageFont.FreeTypeFont) -> Iterator[Placed]:
    """Yields layouts by graphlay, first with the style's own direction and spacing."""
    shapes = _shapes(data, style)
    other = "topbottom" if style.direction == "leftright" else "leftright"
    routings = dict.fromkeys((style.routing, "orthogonal"))
    for room, direction, routing, labels in itertools.product(
        (1.0, 1.5, 2.2), (style.direction, other), routings, ("candidates", "gap_centre")
    ):
        varied = replace(style, direction=direction, routing=routing, labels=labels)
        yield _layered(data, varied, face, shapes, room)


def _layered(
    data: dict[str, Any],
    style: Style,
    face: ImageFont.FreeTypeFont,
    shapes: dict[str, str],
    room: float,
) -> Placed:
    """One layout by graphlay. room: factor of the gaps between nodes."""
    size = face.size
    lines = {n: broken(t, face, style.columns * size) for n, t in data["nodes"].items()}
    words = {
        number: broken(label, face, 9 * size)
        for number, (_, _, label) in enumerate(data["edges"])
        if label
    }
    graph = graphlay.Graph()
    parents: dict[str, int] = {}
    for place, (name, ids) in enumerate(groups_of(data)):
        # A frame is at least as wide as its name.
        graph.node(("group", name), width=face.getlength(name) + 2 * size, height=2 * size)
        parents |= dict.fromkeys(ids, place)
    for node, text in lines.items():
        width, height = outer_size(shapes[node], *extent(text, face), size)
        graph.node(node, width=width, height=height, parent=parents.get(node))
    for number, (start, end, _) in enumerate(data["edges"]):
        label: dict[str, Any] = {}
        if number in words:
            width, height = extent(words[number], face)
            label = {"label_size": {"width": width + 8, "height": height + 4}}
        graph.edge(start, end, **label)
    tree = _is_tree(data) and not words and not parents
    if tree:
        laid = graphlay.layout_tree(
            graph,
            options={
                "direction": style.direction,
                "sibling_gap": size * room,
                "subtree_gap": 1.6 * size * room,
                "row_gap": 2.6 * size * room,
            },
        )
    else:
        laid = graphlay.layout(
            graph,
            preset="process_map" if data["variant"] == "flow" else "layered",
            options={
                "direction": style.direction,
                "routing": {"style": style.routing},
                "labels": {"reservation": "always", "placement": style.labels},
                "spacing": {
                    "layer_gap": 2.8 * size * room,
                    "node_gap": 2.2 * size * room,
                    "compound_padding": 2 * size,
                    "port_gap": 1.2 * size * room,
                    "compound_header": 1.8 * size,
                },
            },
        )
    # graphlay's bounds do not include labels beside their arrows.
    low, high = dict(laid.bounds["min"]), dict(laid.bounds["max"])
    for number, text in words.items():
        anchor = laid.edges[number]["label_anchor"]
        for axis, length in zip("xy", extent(text, face), strict=True):
            low[axis] = min(low[axis], anchor[axis] - length / 2 - 5)
            high[axis] = max(high[axis], anchor[axis] + length / 2 + 5)

    def box(centre: dict[str, float], width: float, height: float) -> Box:
        left, top = centre["x"] - width / 2 - low["x"], centre["y"] - height / 2 - low["y"]
        return (round(left), round(top), round(left + width), round(top + height))

    boxes = {
        key: box(node["center"], node["size"]["width"], node["size"]["height"])
        for key, node in zip(laid.ids, laid.nodes, strict=True)
    }
    nodes = {node: boxes[node] for node in data["nodes"]}
    arrows, labels = [], {}
    for number, edge in enumerate(laid.edges):
        route = [(p["x"] - low["x"], p["y"] - low["y"]) for p in edge["points"]]
        start, end, _ = data["edges"][number]
        route[0] = _on_outline(route[0], edge["source_port"]["side"], nodes[start], shapes[start])
        route[-1] = _on_outline(route[-1], edge["target_port"]["side"], nodes[end], shapes[end])
        arrows.append(route)
        if number in words:
            width, height = extent(words[number], face)
            labels[number] = box(edge["label_anchor"], width + 8, height + 4)
    placed = Placed(
        width=high["x"] - low["x"],
        height=high["y"] - low["y"],
        lines=lines,
        shapes=shapes,
        nodes=nodes,
        arrows=arrows,
        labels=labels,
        words=words,
    )
    for name, _ in groups_of(data):
        frame = boxes["group", name]
        placed.groups[name] = (frame, _name_box(frame, face.getlength(name), size, arrows))
    settle(placed)
    placed.heads = data["variant"] != "organisation" or bool(words)
    placed.dashed = (
        set(range(len(arrows))) if style.dashed and data["variant"] == "dependency" else set()
    )
    return placed


def _is_tree(data: dict[str, Any]) -> bool:
    """Whether the tree layout can draw it: an organisation in which each node has one parent, without cycles."""
    above = {end: start for start, end, _ in data["edges"]}
    if len(above) < len(data["edges"]):
        return False
    for node in data["nodes"]:
        seen = {node}
        while node in above:
            node = above[node]
            if node in seen:
                return False
            seen.add(node)
    return data["variant"] == "organisation"


def _on_outline(point: Point, side: str, box: Box, shape: str) -> Point:
    """An arrow's end, moved from the box around a shape to the outline of the shape."""
    (x, y), (left, top, right, bottom) = point, box
    width, half = (right - left) / 2, (bottom - top) / 2
    dx, dy = abs(x - (left + right) / 2), abs(y - (top + bottom) / 2)
    # slope: how far the outline recedes from the box at each end; inset: its depth at this point.
    slope = {"diamond": width, "hexagon": 0.6 * half, "pill": half}.get(shape, 0)
    if side in ("top", "bottom"):
        beyond = max(0.0, dx - (width - slope))
        if shape == "pill":
            inset = half - math.sqrt(max(0.0, half**2 - beyond**2))
        else:
            inset = half * beyond / slope if slope else 0
        return (x, y + inset if side == "top" else y - inset)
    inset = slope * dy / half
    if shape == "pill":
        inset = half - math.sqrt(max(0.0, half**2 - dy**2))
    return (x + inset if side == "left" else x - inset, y)


def _name_box(frame: Box, width: float, size: float, arrows: Sequence[Sequence[Point]]) -> Box:
    """The box of a group's name: at the top or bottom of its frame where no arrow crosses it, else at the top left."""
    height, edge = round(1.3 * size), round(0.5 * size)
    lefts = range(frame[0] + edge, max(frame[0] + edge + 1, round(frame[2] - width)), edge)
    places = [
        (left, top, math.ceil(left + width), top + height)
        for top in (frame[1] + edge, frame[3] - edge - height)
        for left in lefts
    ]
    free = (p for p in places if not any(crosses(arrow, grown(p, 2)) for arrow in arrows))
    return next(free, places[0])
