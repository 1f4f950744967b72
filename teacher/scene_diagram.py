"""Diagrams drawn from data: flow, organisation, sequence, clause dependency.

    {"variant": "flow", "title": "Approval", "nodes": {"a": "Check order", "b": "In budget?"},
     "edges": [["a", "b", ""], ["b", "a", "no"]], "groups": {"Purchasing": ["a"]}}

Where nodes, arrows and labels go is computed by graphlay (a layered layout; rows of messages in a sequence are our
own) and accepted only if no label lies on a node, on another label or on another arrow: otherwise the next of a few
arrangements is tried. A label with a line break keeps it.
"""

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import graphlay
from PIL import Image, ImageDraw, ImageFont

from teacher.scene_diagram_example import example
from teacher.scenes import MAX_SIDE, SANS, SERIF, Box, Canvas, Cell, SceneError, covering, font, wrap

__all__ = ["VARIANTS", "example", "paint", "source"]

VARIANTS = ("flow", "organisation", "sequence", "dependency")
# Below 12 px labels are hard to read for a model that sees the picture scaled down.
SMALLEST = 12
# Shapes are drawn at twice the size and scaled down, which smooths them; text is drawn at its own size.
_FINE = 2

Point = tuple[float, float]


@dataclass(frozen=True)
class _Theme:
    ground: str
    line: str
    text: str
    fills: tuple[str, ...]  # of nodes by their kind: step, decision, end
    ink: str  # of text in nodes
    group: str


_THEMES = (
    _Theme("#ffffff", "#222222", "#111111", ("#ffffff", "#ffffff", "#ffffff"), "#111111", "#f2f2f2"),
    _Theme("#ffffff", "#2b5c8a", "#12304d", ("#dbe9f6", "#dbe9f6", "#c3dbf0"), "#12304d", "#f3f7fb"),
    _Theme("#ffffff", "#4a4a4a", "#222222", ("#e8f1e4", "#fff1cf", "#f6dcd8"), "#1f1f1f", "#f6f6f2"),
    _Theme("#fbf8f1", "#5b4a36", "#3a2e20", ("#f3e6cf", "#ecd2ae", "#e4dccb"), "#2e2417", "#f5efe2"),
    _Theme("#ffffff", "#5f6b7a", "#1d2733", ("#27548a", "#8a4b1f", "#3d6b4a"), "#ffffff", "#eef1f5"),
    _Theme("#1e2430", "#9db7dc", "#eef3fa", ("#2f3a50", "#4b3b5e", "#2c4a4a"), "#f4f7fb", "#252d3c"),
    _Theme("#f4f6f8", "#37474f", "#1c262b", ("#ffffff", "#e0f2f1", "#eceff1"), "#1c262b", "#e4eaee"),
    _Theme("#ffffff", "#6a3d7c", "#33203b", ("#f1e6f5", "#fde9d9", "#e3ecf7"), "#2a1a31", "#f8f4fa"),
)  # fmt: skip


@dataclass(frozen=True)
class _Style:
    theme: _Theme
    family: str
    size: int  # of the labels' font, px
    direction: str
    routing: str
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
class _Placed:
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


def paint(data: dict[str, Any], seed: int) -> tuple[Image.Image, list[Cell]]:
    """The drawing and its cells: "title", "nodes.ID", "edges.N" of labelled edges, "groups.NAME".

    Raises:
        SceneError: data of another shape, or that no arrangement shows within 2,048 px without overlaps.
    """
    _valid(data)
    style = _style(data, random.Random(seed))
    for size in range(style.size, SMALLEST - 1, -1):
        face = _face(data, style.family, size)
        attempts = _sequence if data["variant"] == "sequence" else _graph
        for placed in attempts(data, style, face):
            if _clear(placed):
                drawn = _render(data, style, face, placed)
                if drawn is not None:
                    return drawn
    raise SceneError(
        f"{data['title']!r}: {len(data['nodes'])} nodes and {len(data['edges'])} edges: no arrangement within"
        f" {MAX_SIDE} px in which no label lies on another, on a node or on an arrow"
    )


def source(data: dict[str, Any]) -> str:
    """The diagram in words, an arrow a line; nodes that bear the same label are told apart by their ids."""
    labels = [" ".join(str(label).split()) for label in data["nodes"].values()]
    names = {
        node: f"{label} [{node}]" if labels.count(label) > 1 else label
        for node, label in zip(data["nodes"], labels, strict=True)
    }
    lines = [f'{data["variant"]} diagram "{data["title"]}"']
    lines += [f"{group}: {', '.join(names[n] for n in ids)}" for group, ids in _groups(data)]
    for number, (start, end, label) in enumerate(data["edges"], 1):
        order = f"{number}. " if data["variant"] == "sequence" else ""
        lines.append(f"{order}{names[start]} -> {names[end]}" + (f": {label}" if label else ""))
    linked = {node for start, end, _ in data["edges"] for node in (start, end)}
    lines += [names[node] for node in data["nodes"] if node not in linked]
    return "\n".join(lines)


def _groups(data: dict[str, Any]) -> list[tuple[str, list[str]]]:
    return list((data.get("groups") or {}).items())


def _valid(data: dict[str, Any]) -> None:
    if data.get("variant") not in VARIANTS:
        raise SceneError(
            f"variant: {data.get('variant')!r}: expected one of {', '.join(VARIANTS)}"
        )
    if not data.get("nodes"):
        raise SceneError("nodes: expected at least one")
    for node, label in data["nodes"].items():
        if not str(label).strip():
            raise SceneError(f"nodes.{node}: expected a label")
    for number, edge in enumerate(data["edges"]):
        if len(edge) != 3 or edge[0] not in data["nodes"] or edge[1] not in data["nodes"]:
            raise SceneError(
                f'edges.{number}: {edge!r}: expected [node, node, label or ""]'
            )
    members = [node for _, ids in _groups(data) for node in ids]
    if unknown := [node for node in members if node not in data["nodes"]]:
        raise SceneError(f"groups: {unknown[0]!r} is no node")
    if len(set(members)) < len(members):
        raise SceneError("groups: expected each node in at most one group")
    if members and data["variant"] == "sequence":
        raise SceneError("groups: a sequence has none")


def _style(data: dict[str, Any], rng: random.Random) -> _Style:
    across = {"flow": 0.35, "organisation": 0.2, "dependency": 0.6, "sequence": 0}[data["variant"]]
    return _Style(
        theme=rng.choice(_THEMES),
        family=rng.choice([*SANS, *SANS, *SERIF, "Intuitive"]),
        size=rng.randint(14, 20),
        direction="leftright" if rng.random() < across else "topbottom",
        routing="diagonal" if rng.random() < 0.25 else "orthogonal",
        radius=rng.choice([0, 0, 6, 12]),
        stroke=rng.choice([1, 2, 2, 3]),
        arrow=rng.choice(["full", "full", "open"]),
        step=rng.choice(["box", "rounded", "rounded", "note" if data["variant"] == "dependency" else "box"]),
        decision=rng.choice(["diamond", "diamond", "hexagon"]),
        columns=rng.uniform(7.5, 13),
        header=rng.choice(["left", "centre", "band"]),
        frame=rng.random() < 0.2,
        dashed=rng.random() < 0.4,
    )  # fmt: skip


def _face(data: dict[str, Any], family: str, size: int) -> ImageFont.FreeTypeFont:
    """One font for all labels, so that what is measured is what is drawn."""
    texts = [data["title"], *data["nodes"].values(), *(edge[2] or "" for edge in data["edges"])]
    text = "".join(map(str, [*texts, *(name for name, _ in _groups(data))]))
    return covering(text.replace("\n", " "), font(family, size))


def _broken(text: str, face: ImageFont.FreeTypeFont, width: float) -> list[str]:
    return [line for part in str(text).split("\n") for line in wrap(part, face, width)]


def _extent(lines: Sequence[str], face: ImageFont.FreeTypeFont) -> tuple[float, float]:
    return max(face.getlength(line) for line in lines), len(lines) * _step(face)


def _step(face: ImageFont.FreeTypeFont) -> int:
    """The distance of lines of text."""
    return round(face.size * 1.3)


# ------------------------------------------------------------------------------------------ graphs


def _shapes(data: dict[str, Any], style: _Style) -> dict[str, str]:
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


def _graph(data: dict[str, Any], style: _Style, face: ImageFont.FreeTypeFont) -> Iterator[_Placed]:
    """Arrangements by graphlay, the style's own first."""
    shapes = _shapes(data, style)
    other = "topbottom" if style.direction == "leftright" else "leftright"
    for room, direction, routing in itertools.product(
        (1.0, 1.5), (style.direction, other), dict.fromkeys((style.routing, "orthogonal"))
    ):
        yield _layered(data, style, face, shapes, direction, routing, room)


def _layered(
    data: dict[str, Any],
    style: _Style,
    face: ImageFont.FreeTypeFont,
    shapes: dict[str, str],
    direction: str,
    routing: str,
    room: float,
) -> _Placed:
    size = face.size
    lines = {n: _broken(t, face, style.columns * size) for n, t in data["nodes"].items()}
    words = {
        number: _broken(label, face, 9 * size)
        for number, (_, _, label) in enumerate(data["edges"])
        if label
    }
    graph = graphlay.Graph()
    parents = {}
    for place, (name, ids) in enumerate(_groups(data)):
        # A frame is at least as wide as its name.
        graph.node(("group", name), width=face.getlength(name) + 2 * size, height=2 * size)
        parents |= dict.fromkeys(ids, place)
    for node, text in lines.items():
        width, height = _outer(shapes[node], *_extent(text, face), size)
        graph.node(node, width=width, height=height, parent=parents.get(node))
    for number, (start, end, _) in enumerate(data["edges"]):
        label = {}
        if number in words:
            width, height = _extent(words[number], face)
            label = {"label_size": {"width": width + 8, "height": height + 4}}
        graph.edge(start, end, **label)
    tree = _is_tree(data) and not words and not parents
    if tree:
        laid = graphlay.layout_tree(
            graph,
            options={
                "direction": direction,
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
                "direction": direction,
                "routing": {"style": routing},
                "labels": {"reservation": "always"},
                "spacing": {
                    "layer_gap": 2.8 * size * room,
                    "node_gap": 2.2 * size * room,
                    "compound_padding": 1.2 * size,
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
    placed = _Placed(
        high["x"] - low["x"], high["y"] - low["y"], lines, shapes, nodes, arrows, labels, words
    )
    for name, _ in _groups(data):
        frame = boxes["group", name]
        placed.groups[name] = (frame, _name_box(frame, face.getlength(name), size, arrows))
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
    across = abs(2 * x - left - right) / (right - left)  # 0 in the middle of the side, 1 at its end
    along = abs(2 * y - top - bottom) / (bottom - top)
    half = (bottom - top) / 2
    if side in ("top", "bottom"):
        inset = half * across if shape == "diamond" else 0
        return (x, y + inset if side == "top" else y - inset)
    if shape == "diamond":
        inset = (right - left) / 2 * along
    elif shape == "hexagon":
        inset = half * 0.6 * along
    elif shape == "pill":
        inset = half * (1 - math.sqrt(max(0.0, 1 - along**2)))
    else:
        inset = 0
    return (x + inset if side == "left" else x - inset, y)


def _name_box(frame: Box, width: float, size: float, arrows: Sequence[Sequence[Point]]) -> Box:
    """Where a group's name goes in the head of its frame: the first place that no arrow crosses, or the left."""
    height, edge = round(1.3 * size), round(0.5 * size)
    places = []
    for left in range(frame[0] + edge, max(frame[0] + edge + 1, round(frame[2] - width)), edge):
        top = frame[1] + edge
        places.append((left, top, math.ceil(left + width), top + height))
    return next((p for p in places if not any(_crosses(a, p) for a in arrows)), places[0])


# ---------------------------------------------------------------------------------------- sequences


def _sequence(
    data: dict[str, Any], style: _Style, face: ImageFont.FreeTypeFont
) -> Iterator[_Placed]:
    """Participants side by side, a message a row; labels in broader lines first, then in narrower ones."""
    for columns in (16, 11, 8):
        yield _rows(data, style, face, columns)


def _rows(
    data: dict[str, Any], style: _Style, face: ImageFont.FreeTypeFont, columns: float
) -> _Placed:
    size, step = face.size, _step(face)
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
            left, above = x + loop + 0.4 * size, y - 2
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
    placed = _Placed(
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


def _clear(placed: _Placed) -> bool:
    """Whether no label lies on a node, on another label or on another's arrow, and no arrow runs through a node."""
    texts: list[tuple[int | None, Box]] = [*placed.labels.items()]
    texts += [(None, name) for _, name in placed.groups.values()]
    nodes = list(placed.nodes.values())
    if any(_overlap(a, b) for a, b in itertools.combinations(nodes, 2)):
        return False
    if any(_overlap(a[1], b[1]) for a, b in itertools.combinations(texts, 2)):
        return False
    if any(_overlap(text, node) for _, text in texts for node in nodes):
        return False
    for number, arrow in enumerate(placed.arrows):
        if any(own != number and _crosses(arrow, text) for own, text in texts):
            return False
        # Ends lie on the outlines of their own nodes; a shape's outline may be inside its box.
        if not placed.lifelines and any(_crosses(arrow[1:-1], _inner(node)) for node in nodes):
            return False
    return True


def _inner(box: Box) -> Box:
    return (box[0] + 2, box[1] + 2, box[2] - 2, box[3] - 2)


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


# --------------------------------------------------------------------------------------- rendering


def _render(
    data: dict[str, Any], style: _Style, face: ImageFont.FreeTypeFont, placed: _Placed
) -> tuple[Image.Image, list[Cell]] | None:
    """The drawing, or None if it is larger than a picture may be."""
    theme, size = style.theme, face.size
    margin = round(1.6 * size)
    large = face.font_variant(size=round(size * 1.35))
    title = wrap(str(data["title"]), large, max(placed.width, 24 * size))
    width = math.ceil(max(placed.width, *map(large.getlength, title))) + 2 * margin
    head = margin + len(title) * _step(large) + round(size * (1.4 if style.header == "band" else 0.8))
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
        _stroke(pen, _rounded(route, bend), theme.line, style.stroke * _FINE, number in placed.dashed)
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
        canvas.text((left, margin + n * _step(large)), line, large, fill=ink, anchor=anchor)
        for n, line in enumerate(title)
    ]
    canvas.record("title", data["title"], boxes)

    def write(key: str, text: str, lines: list[str], box: Box, fill: str) -> None:
        top = (box[1] + box[3]) / 2 + dy - (len(lines) - 1) * _step(face) / 2
        middle = (box[0] + box[2]) / 2 + dx
        drawn = [
            canvas.text((middle, top + n * _step(face)), line, face, fill=fill, anchor="mm")
            for n, line in enumerate(lines)
        ]
        canvas.record(key, text, drawn)

    for node, label in data["nodes"].items():
        write(f"nodes.{node}", label, placed.lines[node], placed.nodes[node], theme.ink)
    for number, lines in placed.words.items():
        label = data["edges"][number][2]
        write(f"edges.{number}", label, lines, placed.labels[number], theme.text)
    for name, (_, box) in placed.groups.items():
        write(f"groups.{name}", name, [name], box, theme.text)
    return canvas.image, canvas.cells


def _shape(
    pen: ImageDraw.ImageDraw, shape: str, box: list[Point], style: _Style, size: float
) -> None:
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
    """The route with its corners as arcs of at most `radius`."""
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
    if not dashed:
        pen.line(route, fill, width, joint="curve")
        return
    dash, gap, offset = 9.0 * _FINE, 6.0 * _FINE, 0.0
    for a, b in itertools.pairwise(route):
        length = math.dist(a, b)
        at = -offset
        while at < length:
            if at + dash > 0:
                ends = [max(0.0, at) / length, min(length, at + dash) / length]
                pen.line([_between(a, b, end) for end in ends], fill, width)
            at += dash + gap
        offset = length - (at - dash - gap)


def _head(
    pen: ImageDraw.ImageDraw, before: Point, tip: Point, style: _Style, size: float, theme: _Theme
) -> None:
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
