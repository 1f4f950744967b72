"""The look of a diagram: colour themes, fonts, shapes and arrows, chosen by the seed."""

import random
from dataclasses import dataclass
from typing import Any

from teacher.scenes.fonts import SANS, SERIF


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


def choose(data: dict[str, Any], rng: random.Random) -> Style:
    """Chooses a look that suits the diagram's variant."""
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
