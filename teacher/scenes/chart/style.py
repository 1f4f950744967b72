"""The look of a chart: palettes, axes and legends chosen by the seed, and the arrangements that make texts fit."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from matplotlib.colors import to_hex, to_rgb
from matplotlib.ticker import MaxNLocator

from teacher.scenes.colour import contrast
from teacher.scenes.fonts import SANS, SERIF

# Distinguishable with any kind of colour blindness: Okabe and Ito (2008); Paul Tol's bright, muted and high
# contrast sets (SRON/EPS/TN/09-002, 2021); steps of matplotlib's viridis and cividis; greys.
_PALETTES = (
    ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#333333"),
    ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#222255"),
    ("#332288", "#ddcc77", "#117733", "#cc6677", "#88ccee", "#882255", "#44aa99", "#999933"),
    ("#004488", "#ddaa33", "#bb5566", "#66a5ad", "#222222", "#999999", "#6b4c9a", "#c0d06b"),
    ("#440154", "#fde725", "#21918c", "#5ec962", "#3b528b", "#addc30", "#472d7b", "#28ae80"),
    ("#00224e", "#fee838", "#7d7c78", "#bcaf6f", "#35456c", "#a59c74", "#575d6d", "#d2c060"),
    ("#222222", "#bbbbbb", "#777777", "#e4e4e4", "#4d4d4d", "#a0a0a0", "#606060", "#d0d0d0"),
)  # fmt: skip
_MANY = 3  # the first three palettes have eight hues each
# Lines need a contrast of 3:1 to their background (WCAG 2.2, 1.4.11): dark colours of the same sets, light ones on
# dark.
_ON_LIGHT = ("#332288", "#d55e00", "#117733", "#0072b2", "#882255", "#000000", "#aa4499", "#7a6a00")
_ON_DARK = ("#88ccee", "#ddcc77", "#66ccaa", "#ee99aa", "#ffffff", "#cc99ff", "#ffaa55", "#bbbbbb")


@dataclass(frozen=True)
class Style:
    """The look of a chart. Colours are hex strings, sizes are inches unless a comment says otherwise."""

    family: str
    points: float  # size of text
    ground: str
    panel: str  # background inside the axes
    ink: str
    grid_colour: str
    grid: str
    dashed_grid: bool
    spines: tuple[str, ...]
    ticks: str
    right: bool  # value axis on the right
    minor: bool
    parts: int
    colours: tuple[str, ...]
    hatched: bool
    outlined: bool
    horizontal: bool
    thickness: float
    legend: str
    legend_frame: bool
    title_left: bool
    bold: bool
    thousands: str
    unit_in: str
    turn: int  # of category labels, degrees
    width: float  # inches
    height: float
    markers: bool
    from_zero: bool
    filled: bool
    hole: float
    start: int
    beside: bool  # pie: names beside the wedges instead of in a legend


def choose(data: dict[str, Any], rng: random.Random) -> Style:
    """Chooses a look that suits the data."""
    ground, panel, ink, grid = rng.choice([
        ("#ffffff", "#ffffff", "#1a1a1a", "#d9d9d9"),
        ("#ffffff", "#ffffff", "#1a1a1a", "#d9d9d9"),
        ("#ffffff", "#ebebeb", "#222222", "#ffffff"),
        ("#ffffff", "#f3f5f9", "#1f2a3a", "#d3dae6"),
        ("#fff6ea", "#fff6ea", "#33291f", "#dccdb8"),
        ("#1f2430", "#1f2430", "#eef1f6", "#475064"),
    ])  # fmt: skip
    dark = ground == "#1f2430"
    if data["variant"] == "line":
        colours = list(_ON_DARK if dark else _ON_LIGHT)
        rng.shuffle(colours)
    else:
        # A scale of one hue or of greys has at most four distinguishable colours.
        count = len(data["categories"] if data["variant"] == "pie" else data["series"])
        place = rng.randrange(len(_PALETTES) if count <= 4 else _MANY)
        turn = rng.randrange(3) if place < _MANY else 0
        colours = [*_PALETTES[place][turn:], *_PALETTES[place][:turn]]
        # Colours close to the background come last; they get an outline.
        colours.sort(key=lambda colour: contrast(colour, panel) < 1.5)
    long = max(len(str(category)) for category in data["categories"])
    return Style(
        family=rng.choice([*SANS, *SANS, *(name for name in SERIF if name != "Source Serif")]),
        points=rng.choice([9.5, 10, 10.5, 11, 12, 13]),
        ground=ground,
        panel=panel,
        ink=ink,
        grid_colour=grid,
        grid="both" if panel == "#ebebeb" else rng.choice(["none", "value", "value", "both"]),
        dashed_grid=rng.random() < 0.3,
        spines=rng.choice([
            ("left", "bottom", "right", "top"), ("left", "bottom"), ("left", "bottom"), ("bottom",), ()
        ]),
        ticks=rng.choice(["out", "out", "in", "none"]),
        right=rng.random() < 0.1,
        minor=rng.random() < 0.2,
        parts=rng.choice([6, 7, 8, 10]),
        colours=tuple(colours),
        hatched=rng.random() < 0.15,
        outlined=rng.random() < 0.3,
        horizontal=rng.random() < (0.55 if long > 12 else 0.25) and data["variant"] != "line",
        thickness=rng.uniform(0.5, 0.9),
        legend=rng.choice(["outside right upper", "outside right center", "outside lower center",
                           "outside lower left"]),
        legend_frame=rng.random() < 0.4,
        title_left=rng.random() < 0.35,
        bold=rng.random() < 0.4,
        thousands=rng.choice([",", ",", ",", "", " "]),
        unit_in=rng.choice(["brackets", "brackets", "comma", "in"]),
        turn=rng.choice([0, 0, 0, 30, 45, 90]),
        width=rng.uniform(5.6, 8.5 if data["variant"] == "pie" else 10.5),
        height=rng.uniform(3.8, 5.4 if data["variant"] == "pie" else 6.8),
        markers=rng.random() < 0.7,
        from_zero=rng.random() < 0.4,
        filled=rng.random() < 0.15,
        hole=rng.choice([0, 0, 0.45, 0.6]),
        start=rng.choice([90, 90, 0, 180, 45]),
        beside=rng.random() < 0.5,
    )  # fmt: skip


@dataclass(frozen=True)
class Option:
    """The properties of a style that vary to make its texts fit."""

    horizontal: bool
    turn: int  # of category labels
    label_turn: int  # of written values
    start: int  # pie: angle of the first wedge, degrees
    beside: bool


def attempts(data: dict[str, Any], style: Style) -> Iterator[tuple[float, Option]]:
    """Yields (factor of size, arrangement): first the style's own, then rotated labels, then larger figures."""
    for grown in (1.0, 1.4, 2.0, 3.0):
        if data["variant"] == "pie":
            for start, beside in itertools.product(
                range(0, 360, 90), (style.beside, not style.beside)
            ):
                yield grown, Option(False, 0, 0, (style.start + start) % 360, beside)
            continue
        ways = [style.horizontal]
        if data["variant"] != "line" and grown > 1:
            ways.append(not style.horizontal)
        for horizontal in ways:
            if horizontal:
                yield grown, Option(True, 0, 0, 0, False)
                continue
            label_turns = [0] if data["variant"] in ("line", "stacked_bar") else [0, 90]
            for label_turn, turn in itertools.product(
                label_turns, dict.fromkeys((style.turn, 0, 90))
            ):
                yield grown, Option(False, turn, label_turn, 0, False)


def ticks(low: float, high: float, parts: int) -> list[float]:
    """Round numbers from at most `low` to at least `high` that divide the axis into five or more intervals."""
    locator = MaxNLocator(nbins=parts, steps=[1, 2, 2.5, 5, 10], min_n_ticks=6)
    places = [float(place) for place in locator.tick_values(low, high)]
    while len(places) > 7 and places[1] <= low:
        places = places[1:]
    while len(places) > 7 and places[-2] >= high:
        places = places[:-1]
    return places


def readable(colour: str, ground: str, ink: str) -> str:
    """A colour for small numbers: the series' colour, moved towards the ink until its contrast to the ground is 9:1."""
    for share in (0.0, 0.2, 0.4, 0.6, 0.8):
        pairs = zip(to_rgb(colour), to_rgb(ink), strict=True)
        red, green, blue = (one * (1 - share) + other * share for one, other in pairs)
        mixed = to_hex((red, green, blue))
        if contrast(mixed, ground) >= 9:
            return mixed
    return ink


def ink_on(colour: str) -> str:
    """Black or white, whichever has more contrast to the colour."""
    return max(("#000000", "#ffffff"), key=lambda ink: contrast(ink, colour))
