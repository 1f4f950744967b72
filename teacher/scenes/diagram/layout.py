"""Where the nodes, arrows and labels of a diagram go.

`graph` asks graphlay for a layered layout, `sequence` sets participants side by side and a message a row. Both give one
arrangement after the other; `clear` says whether one can be taken: no label on a node, on another label or on another's
arrow, no arrow through a node.
"""

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import graphlay
from PIL import ImageFont

from teacher.scenes.canvas import wrap
from teacher.scenes.fonts import SANS, SERIF, covering, font
from teacher.scenes.scene import MAX_SIDE, Box

Point = tuple[float, float]


@dataclass(frozen=True)
class Theme:
    ground: str
    line: str
    text: str
    fills: tuple[str, ...]  # of nodes by their kind: step, decision, end
    ink: str  # of text in nodes
    group: str


_THEMES = (
    Theme("#ffffff", "#222222", "#111111", ("#ffffff", "#ffffff", "#ffffff"), "#111111", "#f2f2f2"),
    Theme("#ffffff", "#2b5c8a", "#12304d", ("#dbe9f6", "#dbe9f6", "#c3dbf0"), "#12304d", "#f3f7fb"),
    Theme("#ffffff", "#4a4a4a", "#222222", ("#e8f1e4", "#fff1cf", "#f6dcd8"), "#1f1f1f", "#f6f6f2"),
    Theme("#fbf8f1", "#5b4a36", "#3a2e20", ("#f3e6cf", "#ecd2ae", "#e4dccb"), "#2e2417", "#f5efe2"),
    Theme("#ffffff", "#5f6b7a", "#1d2733", ("#27548a", "#8a4b1f", "#3d6b4a"), "#ffffff", "#eef1f5"),
    Theme("#1e2430", "#9db7dc", "#eef3fa", ("#2f3a50", "#4b3b5e", "#2c4a4a"), "#f4f7fb", "#252d3c"),
    Theme("#f4f6f8", "#37474f", "#1c262b", ("#ffffff", "#e0f2f1", "#eceff1"), "#1c262b", "#e4eaee"),
    Theme("#ffffff", "#6a3d7c", "#33203b", ("#f1e6f5", "#fde9d9", "#e3ecf7"), "#2a1a31", "#f8f4fa"),
)  # fmt: skip


@dataclass(frozen=True)
class Style:
    theme: Theme
    family: str
    size: int  # of the labels' font, px
    direction: str
    routing: str
    labels: str  # how graphlay places labels of arrows
    radius: float  # of the corners of arrows, px
    stroke: int
    arrow: str
    step: str  # shape of a node
    decision: str
    columns: float  # widest line of a node's label, in heights of its font
    header: str
    frame: bool
    dashed: bool


@dataclass
class Placed:
    """Where everything goes, in px from the top left of the drawing without its title."""

    width: float
    height: float
    lines: dict[str, list[str]]  # of each node's label
    shapes: dict[str, str]
    nodes: dict[str, Box]
    arrows: list[list[Point]]
    labels: dict[int, Box]  # of edges that have one
    words: dict[int, list[str]]
    groups: dict[str, tuple[Box, Box]] = field(default_factory=dict)  # the frame, its name
    lifelines: list[tuple[Point, Point]] = field(default_factory=list)
    heads: bool = True
    dashed: set[int] = field(default_factory=set)


def groups_of(data: dict[str, Any]) -> list[tuple[str, list[str]]]:
    return list((data.get("groups") or {}).items())


def choose(data: dict[str, Any], rng: random.Random) -> Style:
    across = {"flow": 0.35, "organisation": 0.2, "dependency": 0.6, "sequence": 0}[data["variant"]]
    return Style(
        theme=rng.choice(_THEMES),
        family=rng.choice([*SANS, *SANS, *SERIF, "Intuitive"]),
        size=rng.randint(14, 20),
        direction="leftright" if rng.random() < across else "topbottom",
        routing="diagonal" if rng.random() < 0.25 else "orthogonal",
        labels="candidates",
        radius=rng.choice([0, 0, 6, 12]),
        stroke=rng.choice([2, 2, 2, 3]),
        arrow=rng.choice(["full", "full", "open"]),
        step=rng.choice(["box", "rounded", "rounded", "note" if data["variant"] == "dependency" else "box"]),
        decision=rng.choice(["diamond", "diamond", "hexagon"]),
        columns=rng.uniform(7.5, 13),
        header=rng.choice(["left", "centre", "band"]),
        frame=rng.random() < 0.2,
        dashed=rng.random() < 0.4,
    )  # fmt: skip


def face_for(data: dict[str, Any], family: str, size: int) -> ImageFont.FreeTypeFont:
    """One font for all labels, so that what is measured is what is drawn."""
    texts = [data["title"], *data["nodes"].values(), *(edge[2] or "" for edge in data["edges"])]
    text = "".join(map(str, [*texts, *(name for name, _ in groups_of(data))]))
    return covering(text.replace("\n", " "), font(family, size))


def _broken(text: str, face: ImageFont.FreeTypeFont, width: float) -> list[str]:
    return [line for part in str(text).split("\n") for line in wrap(part, face, width)]


def _extent(lines: Sequence[str], face: ImageFont.FreeTypeFont) -> tuple[float, float]:
    return max(face.getlength(line) for line in lines), len(lines) * line_height(face)


def line_height(face: ImageFont.FreeTypeFont) -> int:
    """The distance of lines of text."""
    return round(face.size * 1.3)


# ------------------------------------------------------------------------------------------ graphs


def _shapes(data: dict[str, Any], style: Style) -> dict[str, str]:
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


def _outer(shape: str, width: float, height: float, size: float) -> tuple[float, float]:
    """The size of a shape that holds a text of this width and height, in px."""
    if shape == "diamond":
        # Inside a diamond, the shares that a centred box takes of its width and height add up to one at most.
        return width / 0.58 + size, height / 0.42 + size
    if shape in ("pill", "hexagon"):
        return width + height + size * 1.2, height + size
    return width + size * 1.6, height + size


def graph(data: dict[str, Any], style: Style, face: ImageFont.FreeTypeFont) -> Iterator[Placed]:
    """Arrangements by graphlay, the style's own first."""
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
    size = face.size
    lines = {n: _broken(t, face, style.columns * size) for n, t in data["nodes"].items()}
    words = {
        number: _broken(label, face, 9 * size)
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
        width, height = _outer(shapes[node], *_extent(text, face), size)
        graph.node(node, width=width, height=height, parent=parents.get(node))
    for number, (start, end, _) in enumerate(data["edges"]):
        label: dict[str, Any] = {}
        if number in words:
            width, height = _extent(words[number], face)
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
    # graphlay's bounds leave out labels that it put beside their arrows.
    low, high = dict(laid.bounds["min"]), dict(laid.bounds["max"])
    for number, text in words.items():
        anchor = laid.edges[number]["label_anchor"]
        for axis, extent in zip("xy", _extent(text, face), strict=True):
            low[axis] = min(low[axis], anchor[axis] - extent / 2 - 5)
            high[axis] = max(high[axis], anchor[axis] + extent / 2 + 5)

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
            width, height = _extent(words[number], face)
            labels[number] = box(edge["label_anchor"], width + 8, height + 4)
    placed = Placed(
        high["x"] - low["x"], high["y"] - low["y"], lines, shapes, nodes, arrows, labels, words
    )
    for name, _ in groups_of(data):
        frame = boxes["group", name]
        placed.groups[name] = (frame, _name_box(frame, face.getlength(name), size, arrows))
    _settle(placed)
    placed.heads = data["variant"] != "organisation" or bool(words)
    placed.dashed = (
        set(range(len(arrows))) if style.dashed and data["variant"] == "dependency" else set()
    )
    return placed


def _is_tree(data: dict[str, Any]) -> bool:
    """Whether the layout for trees can draw it: one parent each, and no cycle."""
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
    """An arrow's end, moved from the box around a shape onto the shape."""
    (x, y), (left, top, right, bottom) = point, box
    width, half = (right - left) / 2, (bottom - top) / 2
    dx, dy = abs(x - (left + right) / 2), abs(y - (top + bottom) / 2)
    # How far the outline slopes in from the box at each end, and how deep it lies at this point.
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
    """Where a group's name goes in its frame: in the head or at the foot, where no arrow crosses it, or at the left."""
    height, edge = round(1.3 * size), round(0.5 * size)
    lefts = range(frame[0] + edge, max(frame[0] + edge + 1, round(frame[2] - width)), edge)
    places = [
        (left, top, math.ceil(left + width), top + height)
        for top in (frame[1] + edge, frame[3] - edge - height)
        for left in lefts
    ]
    free = (p for p in places if not any(_crosses(arrow, _grown(p, 2)) for arrow in arrows))
    return next(free, places[0])


# ---------------------------------------------------------------------------------------- sequences


def sequence(data: dict[str, Any], style: Style, face: ImageFont.FreeTypeFont) -> Iterator[Placed]:
    """Participants side by side, a message a row; labels in broader lines first, then in narrower ones."""
    for columns in (16, 11, 8):
        yield _rows(data, style, face, columns)


def _rows(
    data: dict[str, Any], style: Style, face: ImageFont.FreeTypeFont, columns: float
) -> Placed:
    size, step = face.size, line_height(face)
    order = list(data["nodes"])
    lines = {n: _broken(t, face, 9 * size) for n, t in data["nodes"].items()}
    heads = {n: _outer("box", *_extent(text, face), size) for n, text in lines.items()}
    words = {
        number: _broken(label, face, columns * size)
        for number, (_, _, label) in enumerate(data["edges"])
        if label
    }
    loop = 2 * size  # how far a message to oneself reaches to the right

    def needed(number: int) -> float:
        return _extent(words[number], face)[0] + 3 * size if number in words else 4 * size

    # Gaps between neighbours, wide enough for their heads, then for the messages, the shortest spans first.
    gaps = [(heads[a][0] + heads[b][0]) / 2 + size for a, b in itertools.pairwise(order)]
    tail = heads[order[-1]][0] / 2
    spans = sorted(
        (sorted((order.index(start), order.index(end))), number)
        for number, (start, end, _) in enumerate(data["edges"])
    )
    for (left, right), number in sorted(spans, key=lambda span: span[0][1] - span[0][0]):
        if left == right == len(order) - 1:
            tail = max(tail, loop + needed(number))
        elif left == right:
            gaps[left] = max(gaps[left], loop + needed(number))
        else:
            short = needed(number) - sum(gaps[left:right])
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
    asked: list[tuple[str, str]] = []
    replies = set()
    for number, (start, end, _) in enumerate(data["edges"]):
        width, height = _extent(words[number], face) if number in words else (0, 0)
        x, to = xs[start], xs[end]
        if start == end:
            height = max(height, step)
            arrows.append([(x, y), (x + loop, y), (x + loop, y + height), (x, y + height)])
            left, above = x + loop + 0.25 * size, y - 2
        else:
            arrows.append([(x, y + height), (to, y + height)])
            left, above = (x + to - width - 8) / 2, y - 9
            if (end, start) in asked and style.dashed:
                replies.add(number)
                asked.remove((end, start))
            else:
                asked.append((start, end))
        if number in words:
            tall = len(words[number]) * step
            labels[number] = (round(left), round(above), round(left + width + 8), round(above + tall + 4))  # fmt: skip
        y += height + 1.3 * size
    placed = Placed(
        max(xs[order[-1]] + tail, *(box[2] for box in [*labels.values(), *nodes.values()])),
        y,
        lines,
        dict.fromkeys(order, style.step),
        nodes,
        arrows,
        labels,
        words,
    )
    placed.lifelines = [((xs[n], top), (xs[n], y)) for n in order]
    placed.dashed = replies
    return placed


# --------------------------------------------------------------------------------------- clearness


def clear(placed: Placed) -> bool:
    """Whether each label lies on its own arrow and nothing else, no arrow runs through a node, and all of it fits."""
    if max(placed.width, placed.height) > MAX_SIDE:
        return False
    nodes, names = list(placed.nodes.values()), [name for _, name in placed.groups.values()]
    if any(_overlap(a, b) for a, b in itertools.combinations([*nodes, *names], 2)):
        return False
    if any(_crosses(arrow, _grown(name, 2)) for arrow in placed.arrows for name in names):
        return False
    # Ends lie on the outlines of their own nodes; a shape's outline may be inside its box.
    if not placed.lifelines and any(
        _crosses(arrow[1:-1], _grown(node, -2)) for arrow in placed.arrows for node in nodes
    ):
        return False
    return all(_belongs(placed, number, box) for number, box in placed.labels.items())


def _belongs(placed: Placed, number: int, box: Box) -> bool:
    """Whether a box is a place for the label of an arrow: on it or nearly, and away from all else."""
    if not _crosses(placed.arrows[number], _grown(box, 6)):
        return False
    others = [label for other, label in placed.labels.items() if other != number]
    taken = [*placed.nodes.values(), *others, *(name for _, name in placed.groups.values())]
    return not any(_overlap(box, other) for other in taken) and not any(
        _crosses(arrow, _grown(box, 4))
        for other, arrow in enumerate(placed.arrows)
        if other != number
    )


def _settle(placed: Placed) -> None:
    """Moves labels that are not well placed along their arrows, from the middle outwards, to where they are."""
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
            found = (b for b in boxes if _belongs(placed, number, b) and _within(b, placed))
            if moved := next(found, None):
                placed.labels[number] = moved
                break


def _around(middle: Point, width: int, height: int) -> Box:
    left, top = round(middle[0] - width / 2), round(middle[1] - height / 2)
    return (left, top, left + width, top + height)


def _within(box: Box, placed: Placed) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= placed.width and box[3] <= placed.height


def _along(route: Sequence[Point], share: float) -> Point:
    """The point at a share of a route's length."""
    left = share * sum(math.dist(a, b) for a, b in itertools.pairwise(route))
    for a, b in itertools.pairwise(route):
        length = math.dist(a, b)
        if left <= length > 0:
            return (a[0] + (b[0] - a[0]) * left / length, a[1] + (b[1] - a[1]) * left / length)
        left -= length
    return route[-1]


def _grown(box: Box, by: int) -> Box:
    return (box[0] - by, box[1] - by, box[2] + by, box[3] + by)


def _overlap(a: Box, b: Box) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def _crosses(route: Sequence[Point], box: Box) -> bool:
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
