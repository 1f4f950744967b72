"""Diagrams: labels touch nothing else, and arrows end at their nodes."""

import math
import random
from typing import Any

import pytest
from drawings import DRAWINGS
from hypothesis import given, settings
from hypothesis import strategies as st

from teacher.scenes.diagram import render
from teacher.scenes.diagram.labels import face_for
from teacher.scenes.diagram.layered import graph
from teacher.scenes.diagram.placement import Placed, clear
from teacher.scenes.diagram.render import VARIANTS, paint, source
from teacher.scenes.diagram.sequence import sequence
from teacher.scenes.diagram.style import choose
from teacher.scenes.kinds import draw, example
from teacher.scenes.legibility import check
from teacher.scenes.scene import MAX_BYTES, MAX_SIDE, Scene, SceneError

pytestmark = pytest.mark.slow


def diagram(variant: str = "flow", **changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = {
        "variant": variant,
        "title": "Approval of orders",
        "nodes": {"a": "Enter order", "b": "In budget?", "c": "Approve", "d": "Ask the board"},
        "edges": [["a", "b", ""], ["b", "c", "yes"], ["b", "d", "no"], ["d", "c", ""]],
    }
    return data | changes


def texts(data: dict[str, Any], seed: int) -> dict[str, str]:
    return {cell.key: cell.text for cell in paint(data, seed)[1]}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_node_and_every_labelled_arrow_is_shown(variant: str) -> None:
    for seed in range(8):
        image = draw(Scene("diagram", diagram(variant), seed))
        assert not check(image)
        assert {cell.key: cell.text for cell in image.cells} == {
            "title": "Approval of orders",
            "nodes.a": "Enter order",
            "nodes.b": "In budget?",
            "nodes.c": "Approve",
            "nodes.d": "Ask the board",
            "edges.1": "yes",
            "edges.2": "no",
        }


def test_groups_are_named_and_hold_their_nodes() -> None:
    data = diagram(groups={"Sales": ["a"], "Finance": ["b", "c", "d"]})
    for seed in range(8):
        assert not check(draw(Scene("diagram", data, seed)))
        shown = texts(data, seed)
        assert (shown["groups.Sales"], shown["groups.Finance"]) == ("Sales", "Finance")


def placed_for(data: dict[str, Any], seed: int) -> Placed:
    """The first layout that `paint` accepts."""
    style = choose(data, random.Random(seed))
    arrange = sequence if data["variant"] == "sequence" else graph
    for size in range(style.size, render.SMALLEST - 1, -1):
        face = face_for(data, style.family, size)
        for placed in arrange(data, style, face):
            if clear(placed):
                return placed
    raise AssertionError("no arrangement")


def distance(point: tuple[float, float], box: tuple[int, int, int, int]) -> float:
    """The distance from a point to a box, 0 inside it."""
    dx = max(box[0] - point[0], 0, point[0] - box[2])
    dy = max(box[1] - point[1], 0, point[1] - box[3])
    return math.hypot(dx, dy)


def test_arrows_begin_and_end_at_their_nodes() -> None:
    for seed in range(60):
        data = example("diagram", random.Random(seed)).data
        if data["variant"] == "sequence":
            continue
        placed = placed_for(data, seed)
        for route, (start, end, _) in zip(placed.arrows, data["edges"], strict=True):
            assert distance(route[0], placed.nodes[start]) <= 1.5
            assert distance(route[-1], placed.nodes[end]) <= 1.5


def test_an_arrow_passes_through_no_foreign_node_or_label() -> None:
    """Checked point by point, independently of placement.clear."""
    for seed in range(40):
        data = example("diagram", random.Random(1000 + seed)).data
        placed = placed_for(data, seed)
        for number, route in enumerate(placed.arrows):
            foreign = [box for other, box in placed.labels.items() if other != number]
            if data["variant"] != "sequence":
                ends = set(data["edges"][number][:2])
                foreign += [box for node, box in placed.nodes.items() if node not in ends]
            for a, b in zip(route, route[1:], strict=False):
                for step in range(101):
                    x, y = (a[i] + (b[i] - a[i]) * step / 100 for i in (0, 1))
                    assert not any(
                        box[0] + 1 < x < box[2] - 1 and box[1] + 1 < y < box[3] - 1
                        for box in foreign
                    ), f"seed {seed}: arrow {number}"


def test_a_label_is_nearer_to_its_own_arrow_than_to_any_other() -> None:
    compared = 0
    for seed in range(80):
        data = example("diagram", random.Random(2000 + seed)).data
        placed = placed_for(data, seed)
        for number, box in placed.labels.items():
            away = [
                min(
                    distance((a[0] + (b[0] - a[0]) * i / 200, a[1] + (b[1] - a[1]) * i / 200), box)
                    for a, b in zip(route, route[1:], strict=False)
                    for i in range(201)
                )
                for route in placed.arrows
            ]
            assert away[number] <= 8
            # In a sequence, the message above ends where this label begins.
            if data["variant"] != "sequence":
                assert away[number] <= min(away)
                compared += 1
    assert compared > 50


def test_messages_of_a_sequence_come_one_below_the_other_between_their_lifelines() -> None:
    for seed in range(60):
        data = example("diagram", random.Random(seed)).data
        if data["variant"] != "sequence":
            continue
        placed = placed_for(data, seed)
        middles = {n: (box[0] + box[2]) / 2 for n, box in placed.nodes.items()}
        heights = [route[-1][1] for route in placed.arrows]
        assert heights == sorted(heights) and len(set(heights)) == len(heights)
        for route, (start, end, _) in zip(placed.arrows, data["edges"], strict=True):
            assert route[0][0] == pytest.approx(middles[start], abs=1)
            assert route[-1][0] == pytest.approx(middles[end], abs=1)


def test_the_same_diagram_is_the_same_bytes_and_another_seed_looks_different() -> None:
    one, two = paint(diagram(), 11)[0], paint(diagram(), 11)[0]
    assert one.tobytes() == two.tobytes()
    assert len({paint(diagram(), seed)[0].tobytes() for seed in range(12)}) == 12


def test_the_source_names_every_arrow_in_words() -> None:
    data = diagram(groups={"Finance": ["b", "d"]})
    assert source(data).splitlines() == [
        'flow diagram "Approval of orders"',
        "Finance: In budget?, Ask the board",
        "Enter order -> In budget?",
        "In budget? -> Approve: yes",
        "In budget? -> Ask the board: no",
        "Ask the board -> Approve",
    ]


def test_the_source_tells_nodes_of_the_same_label_apart_and_keeps_those_without_arrows() -> None:
    data = diagram(nodes={"a": "Check", "b": "Check", "c": "Alone"}, edges=[["a", "b", ""]])
    assert "Check [a] -> Check [b]" in source(data)
    assert source(data).endswith("Alone")


def test_the_source_numbers_the_messages_of_a_sequence() -> None:
    assert "2. In budget? -> Approve: yes" in source(diagram("sequence"))


def test_long_labels_are_shown_whole() -> None:
    long = "Obtain the written consent of every shareholder who holds more than five per cent"
    data = diagram(nodes=diagram()["nodes"] | {"c": long})
    for variant in VARIANTS:
        assert not check(draw(Scene("diagram", data | {"variant": variant}, 4)))
        assert texts(data | {"variant": variant}, 4)["nodes.c"] == long


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"variant": "mindmap"}, "variant: 'mindmap': expected one of"),
        ({"nodes": {}, "edges": []}, "nodes: expected at least one"),
        ({"nodes": {"a": " "}, "edges": []}, "nodes.a: expected a label"),
        ({"edges": [["a", "z", ""]]}, "edges.0: .*expected .node, node, label"),
        ({"edges": [["a", "b"]]}, "edges.0: .*expected .node, node, label"),
        ({"groups": {"G": ["z"]}}, "groups: 'z' is not a node"),
        ({"groups": {"G": ["a"], "H": ["a"]}}, "each node in at most one group"),
        ({"variant": "sequence", "groups": {"G": ["a"]}}, "groups: a sequence has none"),
    ],
)
def test_data_that_is_no_diagram_is_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(SceneError, match=expected):
        paint(diagram(**changes), 1)


def test_a_diagram_too_large_for_a_picture_is_refused() -> None:
    nodes = {f"n{i}": f"Step number {i}" for i in range(120)}
    edges = [[f"n{i}", f"n{i + 1}", ""] for i in range(119)]
    with pytest.raises(SceneError, match="120 nodes and 119 edges: no arrangement within 2048 px"):
        paint(diagram(nodes=nodes, edges=edges), 1)


@settings(max_examples=40, deadline=None)
@given(
    variant=st.sampled_from(["flow", "organisation", "dependency", "sequence"]),
    count=st.integers(1, 8),
    links=st.lists(
        st.tuples(st.integers(0, 7), st.integers(0, 7), st.sampled_from(["", "", "yes", "subject to"])),
        max_size=10,
    ),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_any_graph_is_drawn_right_or_refused(
    variant: str, count: int, links: list[tuple[int, int, str]], seed: int
) -> None:
    nodes = {f"n{i}": f"Node {i}" for i in range(count)}
    edges = [[f"n{a % count}", f"n{b % count}", label] for a, b, label in links]
    scene = Scene("diagram", diagram(variant, nodes=nodes, edges=edges), seed)
    try:
        image = draw(scene)
    except SceneError as error:
        assert "no arrangement" in str(error)
        return
    assert not check(image)


def test_many_diagrams_are_right_and_no_two_alike() -> None:
    seen = set()
    for seed in range(DRAWINGS):
        image = draw(example("diagram", random.Random(seed)))
        assert not check(image), f"seed {seed}: {check(image)}"
        data = image.scene.data
        wanted = {"title", *(f"nodes.{node}" for node in data["nodes"])}
        wanted |= {f"edges.{i}" for i, edge in enumerate(data["edges"]) if edge[2]}
        wanted |= {f"groups.{name}" for name in data.get("groups", {})}
        assert {cell.key for cell in image.cells} == wanted
        assert max(image.width, image.height) <= MAX_SIDE
        assert len(image.png) <= MAX_BYTES
        assert image.sha256 not in seen
        seen.add(image.sha256)
