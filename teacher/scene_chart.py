"""Charts drawn from data: bar, grouped and stacked bars, lines, pie.

    {"variant": "bar", "title": "Revenue", "x_label": "Year", "y_label": "Revenue", "unit": "EUR million",
     "categories": ["2023", "2024"], "series": {"Revenue": [41, 44.5]}, "labels": true}

Bars stand on zero and every value axis is linear, parted by its ticks in five or more, so that what is not written can
be read off. `labels` writes each value at its mark. Cells are measured on matplotlib's artists after they were laid
out; an arrangement in which two of them overlap is given up for the next. No global state of matplotlib is touched.
"""

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from teacher.scene_chart_example import example
from teacher.scenes import MAX_SIDE, SANS, SERIF, Box, Cell, SceneError, covering, font, wrap

__all__ = ["VARIANTS", "build", "example", "paint", "source"]

VARIANTS = ("bar", "grouped_bar", "stacked_bar", "line", "pie")
_DPI = 100
# More are not told apart by colour, however chosen.
MAX_SERIES = 8

# Told apart by readers with any kind of colour blindness: Okabe and Ito (2008); Paul Tol's bright, muted and high
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
_MANY = 3  # the first three, of eight hues each
# Lines and their numbers need 3:1 against their ground (WCAG 2.2, 1.4.11): the dark ones of the same sets, and light ones
# for dark grounds.
_ON_LIGHT = ("#332288", "#d55e00", "#117733", "#0072b2", "#882255", "#000000", "#aa4499", "#7a6a00")
_ON_DARK = ("#88ccee", "#ddcc77", "#66ccaa", "#ee99aa", "#ffffff", "#cc99ff", "#ffaa55", "#bbbbbb")
_MARKERS = "os^Dv*PX"
_DASHES = ("-", "--", "-.", ":", (0, (8, 2)), (0, (4, 1, 1, 1)), (0, (1, 1)), (0, (6, 2, 2, 2)))
_HATCHES = ("", "//", "..", "xx", "\\\\", "--", "oo", "++")


@dataclass(frozen=True)
class _Style:
    family: str
    points: float  # size of text
    ground: str
    panel: str  # the ground within the axes
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


def paint(data: dict[str, Any], seed: int) -> tuple[Image.Image, list[Cell]]:
    """The drawing and its cells: "title", "x_label", "y_label", "categories.N", "series.NAME" in a legend, and
    "series.NAME.N" where values are written.

    Raises:
        SceneError: data of another shape, or that no arrangement shows within 2,048 px without overlaps.
    """
    figure, cells = build(data, seed)
    # A copy: the buffer belongs to the canvas, which is freed with the figure.
    pixels_HW3 = np.asarray(figure.canvas.buffer_rgba())[:, :, :3].copy()  # type: ignore[attr-defined]
    figure.clear()
    return Image.fromarray(pixels_HW3), cells


def build(data: dict[str, Any], seed: int) -> tuple[Figure, list[Cell]]:
    """The chart as matplotlib's figure, drawn on an Agg canvas, and its cells in pixels of it."""
    _valid(data)
    style = _style(data, random.Random(seed))
    for grown, option in _attempts(data, style):
        chart = _Chart(data, style, grown, option)
        cells = _cells(chart.figure)
        if _fits(chart.figure, cells) and chart.holds():
            return chart.figure, cells
        chart.figure.clear()
    raise SceneError(
        f"{data['title']!r}: {len(data['categories'])} categories and {len(data['series'])} series: no arrangement"
        f" within {MAX_SIDE} px in which no text lies on another"
    )


def source(data: dict[str, Any]) -> str:
    """The chart's data as a table, a category a line."""
    names = list(data["series"])
    unit = f" ({data['unit']})" if data.get("unit") else ""
    lines = [f'{data["variant"].replace("_", " ")} chart "{data["title"]}"']
    if data.get("y_label"):
        lines[0] += f": {data['y_label']}{unit}"
    lines.append(" | ".join([data.get("x_label") or "", *names]))
    for place, category in enumerate(data["categories"]):
        values = [f"{data['series'][name][place]:,}" for name in names]
        lines.append(" | ".join([str(category), *values]))
    return "\n".join(lines)


def _valid(data: dict[str, Any]) -> None:
    if data.get("variant") not in VARIANTS:
        raise SceneError(
            f"variant: {data.get('variant')!r}: expected one of {', '.join(VARIANTS)}"
        )
    categories, series = data.get("categories") or [], data.get("series") or {}
    if not categories or not series:
        raise SceneError("categories, series: expected at least one of each")
    most = 1 if data["variant"] in ("bar", "pie") else MAX_SERIES
    if len(series) > most:
        raise SceneError(
            f"series: {len(series)}: expected at most {most} in a {data['variant']} chart"
        )
    for name, values in series.items():
        if len(values) != len(categories):
            raise SceneError(
                f"series.{name}: {len(values)} values: expected {len(categories)}, one a category"
            )
        for place, value in enumerate(values):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise SceneError(f"series.{name}.{place}: {value!r}: expected a number")
            if not math.isfinite(value):
                raise SceneError(f"series.{name}.{place}: {value!r}: expected a finite number")
            if value < 0 and data["variant"] in ("stacked_bar", "pie"):
                raise SceneError(
                    f"series.{name}.{place}: {value}: a {data['variant']} chart shows none below 0"
                )
    if data["variant"] == "pie" and not sum(next(iter(series.values()))):
        raise SceneError("series: a pie of nothing: expected a sum above 0")


def _style(data: dict[str, Any], rng: random.Random) -> _Style:
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
        # One scale of hue or grey holds no more than four colours that are told apart.
        shown = len(data["categories"] if data["variant"] == "pie" else data["series"])
        place = rng.randrange(len(_PALETTES) if shown <= 4 else _MANY)
        turn = rng.randrange(3) if place < _MANY else 0
        colours = [*_PALETTES[place][turn:], *_PALETTES[place][:turn]]
    long = max(len(str(category)) for category in data["categories"])
    return _Style(
        family=rng.choice([*SANS, *SANS, *SERIF]),
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
        thousands=rng.choice([",", ",", ",", "", "\u202f"]),
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
class _Option:
    """What may be changed in a style to make its texts fit."""

    horizontal: bool
    turn: int  # of category labels
    label_turn: int  # of written values
    start: int  # pie: where the first wedge begins
    beside: bool


def _attempts(data: dict[str, Any], style: _Style) -> Iterator[tuple[float, _Option]]:
    """Arrangements, the style's own first, then with other turns, then larger."""
    for grown in (1.0, 1.4, 2.0, 3.0):
        if data["variant"] == "pie":
            for start, beside in itertools.product(range(0, 360, 90), (style.beside, not style.beside)):
                yield grown, _Option(False, 0, 0, (style.start + start) % 360, beside)
            continue
        ways = [style.horizontal]
        if data["variant"] != "line" and grown > 1:
            ways.append(not style.horizontal)
        for horizontal in ways:
            if horizontal:
                yield grown, _Option(True, 0, 0, 0, False)
                continue
            label_turns = [0] if data["variant"] in ("line", "stacked_bar") else [0, 90]
            for label_turn, turn in itertools.product(label_turns, dict.fromkeys((style.turn, 0, 90))):
                yield grown, _Option(False, turn, label_turn, 0, False)


class _Chart:
    """One arrangement of a chart. Texts that are cells carry their key as matplotlib's `gid`."""

    def __init__(self, data: dict[str, Any], style: _Style, grown: float, option: _Option) -> None:
        self.data, self.style, self.option = data, style, option
        side = (MAX_SIDE - 8) / _DPI
        width, height = min(style.width * grown, side), min(style.height * grown, side)
        self.figure = Figure((width, height), dpi=_DPI, layout="constrained", facecolor=style.ground)
        FigureCanvasAgg(self.figure)
        self.figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # type: ignore[union-attr]
        self.face = FontProperties(fname=self._file(), size=style.points)
        self.axes: Axes = self.figure.add_subplot(facecolor=style.panel)
        self.written: list[tuple[Text, tuple[float, float]]] = []  # at a point of a line
        self.within: list[tuple[Text, Patch]] = []  # in a surface
        self.crowded = False
        self._title()
        if data["variant"] == "pie":
            self._pie()
        else:
            {
                "bar": self._bars,
                "grouped_bar": self._bars,
                "stacked_bar": self._stacks,
                "line": self._lines,
            }[data["variant"]]()
            self._dress()
        self.figure.canvas.draw()
        if self.written:
            # Where lines run is known only once the axes have their place.
            self.figure.set_layout_engine("none")
            # A value far from its point is less plain than a larger chart.
            self._spread(far=1 if grown < 1.7 else 4)
            self.figure.canvas.draw()

    def _file(self, bold: bool = False) -> str:
        """A font that has every character of the chart."""
        data = self.data
        texts = [data["title"], data.get("x_label"), data.get("y_label"), data.get("unit")]
        texts += [*data["categories"], *data["series"], "0123456789,.-\u2212"]
        thousands = self.style.thousands if self.style.thousands != "\u202f" else " "
        text = "".join(str(part) for part in [*texts, thousands] if part)
        return str(covering(text.replace("\n", " "), font(self.style.family, 16, bold)).path)

    def _number(self, value: float) -> str:
        """A value as written at its mark: all of its digits."""
        text = f"{value:,}".removesuffix(".0")
        return text.replace(",", " " if self.style.thousands == "\u202f" else self.style.thousands)

    def _value_label(self) -> str:
        label, unit = self.data.get("y_label") or "", self.data.get("unit") or ""
        if not label or not unit:
            return label or unit
        return {
            "brackets": f"{label} ({unit})",
            "comma": f"{label}, {unit}",
            "in": f"{label} in {unit}",
        }[self.style.unit_in]

    def _wrapped(self, text: str, width: float) -> str:
        """Text in lines of at most `width` inches at the chart's size of text, never broken inside a word."""
        measure = font("DejaVu Sans", round(self.style.points * _DPI / 72))
        longest = max((measure.getlength(word) for word in str(text).split()), default=0)
        return "\n".join(wrap(str(text), measure, max(width * _DPI, longest)))

    def _title(self) -> None:
        style = self.style
        face = FontProperties(fname=self._file(style.bold), size=style.points * 1.25)
        width = self.figure.get_figwidth()
        text = self._wrapped(self.data["title"], (width - 0.5) / 1.35)
        left = {"x": 0.3 / width, "ha": "left"} if style.title_left else {}
        title = self.figure.suptitle(text, fontproperties=face, color=style.ink, gid="title", **left)
        title.set_linespacing(1.15)

    # ----------------------------------------------------------------------------------- marks

    def _look(self, place: int) -> dict[str, Any]:
        """How a series' or a wedge's surface is drawn."""
        style = self.style
        colour = style.colours[place % len(style.colours)]
        # A surface too near to its ground gets an outline.
        pale = min(_contrast(colour, style.panel), _contrast(colour, style.ground)) < 2
        look: dict[str, Any] = {"facecolor": colour, "linewidth": 0.9}
        look["edgecolor"] = style.ink if style.outlined or pale else colour
        # Hatching would run through values written on it.
        if style.hatched and not self.data.get("labels"):
            look |= {"hatch": _HATCHES[place % len(_HATCHES)], "edgecolor": style.ink}
        return look

    def _bars(self) -> None:
        data, count = self.data, len(self.data["series"])
        share = self.style.thickness / count
        for place, (name, values) in enumerate(data["series"].items()):
            middles = [
                at + (place - (count - 1) / 2) * share for at in range(len(data["categories"]))
            ]
            draw = self.axes.barh if self.option.horizontal else self.axes.bar
            # A hair less than its share, so that neighbours are told apart.
            bars = draw(middles, values, share * (0.94 if count > 1 else 1), label=name)
            for bar in bars:
                bar.set(**self._look(place))
            if data.get("labels"):
                for at, value in enumerate(values):
                    self._at_end(f"series.{name}.{at}", middles[at], value)
        lows, highs = zip(*((min(v), max(v)) for v in data["series"].values()), strict=True)
        self._limits(min(0, *lows), max(0, *highs))

    def _at_end(self, key: str, middle: float, value: float) -> None:
        """A value written just beyond the end of its bar."""
        beyond = 4 if value >= 0 else -4
        if self.option.horizontal:
            at, offset = (value, middle), (beyond, 0)
            place = {"ha": "left" if value >= 0 else "right", "va": "center_baseline"}
        else:
            at, offset = (middle, value), (0, beyond)
            place = {"ha": "center", "va": "bottom" if value >= 0 else "top"}
        self.axes.annotate(
            self._number(value), at, offset, textcoords="offset points", gid=key, rotation=self.option.label_turn,
            fontproperties=self._small(), color=self.style.ink, **place,
        )  # fmt: skip

    def _stacks(self) -> None:
        data = self.data
        floors = [0.0] * len(data["categories"])
        for place, (name, values) in enumerate(data["series"].items()):
            draw = self.axes.barh if self.option.horizontal else self.axes.bar
            under = {"left" if self.option.horizontal else "bottom": floors}
            bars = draw(range(len(floors)), values, self.style.thickness, label=name, **under)
            look = self._look(place)
            for bar in bars:
                bar.set(**look)
            for at, value in enumerate(values):
                if data.get("labels"):
                    middle = floors[at] + value / 2
                    xy = (middle, at) if self.option.horizontal else (at, middle)
                    text = self.axes.text(
                        *xy, self._number(value), gid=f"series.{name}.{at}", ha="center", va="center",
                        fontproperties=self._small(), color=_ink_on(look["facecolor"]),
                    )  # fmt: skip
                    self.within.append((text, bars[at]))
            floors = [floor + value for floor, value in zip(floors, values, strict=True)]
        self._limits(0, max(floors))

    def _lines(self) -> None:
        data, style = self.data, self.style
        many = len(data["categories"]) > 16
        for place, (name, values) in enumerate(data["series"].items()):
            colour = style.colours[place % len(style.colours)]
            marked = style.markers or data.get("labels")
            self.axes.plot(
                range(len(values)), values, label=name, color=colour, linewidth=1.2 + style.thickness,
                marker=_MARKERS[place] if marked else "", markersize=4 if many else 5.5,
                linestyle=_DASHES[place] if not style.markers or style.hatched else "-",
            )  # fmt: skip
            if data.get("labels"):
                for at, value in enumerate(values):
                    text = self.axes.annotate(
                        self._number(value), (at, value), (0, 0), textcoords="offset pixels", ha="center",
                        va="center", gid=f"series.{name}.{at}", fontproperties=self._small(), color=colour,
                        bbox={"boxstyle": "square,pad=0.05", "facecolor": style.panel, "edgecolor": "none"},
                    )  # fmt: skip
                    self.written.append((text, (at, value)))
        numbers = [value for values in data["series"].values() for value in values]
        low, high = min(numbers), max(numbers)
        if style.from_zero:
            low, high = min(low, 0), max(high, 0)
        elif low == high:
            low, high = low - 1, high + 1
        if style.filled and len(data["series"]) == 1 and not data.get("labels"):
            base = 0 if style.from_zero else low - (high - low)
            self.axes.fill_between(range(len(numbers)), numbers, base, color=style.colours[0], alpha=0.2)  # fmt: skip
        self._limits(low, high)
        margin = 0.8 if data.get("labels") else 0.4
        self.axes.set_xlim(-margin, len(data["categories"]) - 1 + margin)

    def _limits(self, low: float, high: float) -> None:
        """Ends the value axis at ticks, with room for the values written beyond the marks."""
        span = (high - low) or 1.0
        room = span * (0.1 if self.data.get("labels") and self.data["variant"] != "stacked_bar" else 0.01)  # fmt: skip
        line = self.data["variant"] == "line"
        bottom = low - room if low < 0 else max(0, low - room) if line else low
        top = high + room if high > 0 or line else high
        locator = MaxNLocator(nbins=self.style.parts, steps=[1, 2, 2.5, 5, 10], min_n_ticks=6)
        ticks = locator.tick_values(bottom, top if top > bottom else bottom + 1)
        while len(ticks) > 7 and ticks[1] <= bottom:
            ticks = ticks[1:]
        while len(ticks) > 7 and ticks[-2] >= top:
            ticks = ticks[:-1]
        axis = self.axes.xaxis if self.option.horizontal else self.axes.yaxis
        axis.set_ticks(ticks)
        (self.axes.set_xlim if self.option.horizontal else self.axes.set_ylim)(ticks[0], ticks[-1])
        self.crosses_zero = ticks[0] < 0 < ticks[-1]
        step = ticks[1] - ticks[0]
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        digits += round(step * 10**digits, 6) % 1 != 0  # 2.5, 0.25
        axis.set_major_formatter(
            FuncFormatter(lambda value, _: self._number_at(round(value, digits), digits))
        )

    def _number_at(self, value: float, digits: int) -> str:
        text = f"{value + 0.0:,.{digits}f}"
        return text.replace(",", " " if self.style.thousands == "\u202f" else self.style.thousands)

    def _spread(self, far: int) -> None:
        """Puts each value of a line next to its point: above, below, or further off, where nothing else is."""
        transform = self.axes.transData.transform
        height = self.written[0][0].get_window_extent().height
        frame = self.axes.get_window_extent()
        points = {xy: transform(xy) for _, xy in self.written}
        taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in points.values()]
        # The highest first: they go up, the lower ones find what is left.
        for text, xy in sorted(self.written, key=lambda pair: (pair[1][0], -pair[1][1])):
            x, y = points[xy]
            extent = text.get_window_extent()
            near, side = height / 2 + 7, extent.width / 2 + 8
            steps = [(0, near), (0, -near), (side, 0), (-side, 0), (side, near), (-side, near), (side, -near),
                     (-side, -near)]  # fmt: skip
            steps += [(0, sign * (near + n * (height + 2))) for n in range(1, far) for sign in (1, -1)]
            for dx, dy in steps:
                box = (x + dx - extent.width / 2 - 1, y + dy - height / 2 - 1,
                       x + dx + extent.width / 2 + 1, y + dy + height / 2 + 1)  # fmt: skip
                inside = frame.y0 < box[1] and box[3] < frame.y1 and frame.x0 < box[0] and box[2] < frame.x1
                if inside and not any(_overlap(box, other) for other in taken):
                    break
            else:
                self.crowded = True
                return
            text.set_position((dx, dy))  # an offset in pixels
            taken.append(box)

    def _pie(self) -> None:
        data, style = self.data, self.style
        (name, values), categories = next(iter(data["series"].items())), data["categories"]
        wedges = self.axes.pie(
            values, startangle=self.option.start, counterclock=False, normalize=True,
            wedgeprops={"width": 1 - style.hole if style.hole else None},
        )[0]  # fmt: skip
        reach = 0.62 if not style.hole else (1 + style.hole) / 2
        for place, wedge in enumerate(wedges):
            look = self._look(place)
            if look["edgecolor"] != style.ink:
                look |= {"edgecolor": style.ground, "linewidth": 1.4}
            wedge.set(**look)
            angle = math.radians((wedge.theta1 + wedge.theta2) / 2)
            x, y = math.cos(angle), math.sin(angle)
            outward = {"ha": "left" if x > 0.15 else "right" if x < -0.15 else "center",
                       "va": "bottom" if y > 0.6 else "top" if y < -0.6 else "center"}  # fmt: skip
            if self.option.beside:
                label = self._wrapped(categories[place], 1.6)
                self.axes.text(
                    x * 1.07, y * 1.07, label, gid=f"categories.{place}", fontproperties=self.face, color=style.ink,
                    **outward,
                )  # fmt: skip
            if data.get("labels"):
                # Beyond the rim where the names are in a legend, else within the wedge.
                at = reach if self.option.beside else 1.07
                inner = {"ha": "center", "va": "center"}
                text = self.axes.text(
                    x * at, y * at, self._number(values[place]), gid=f"series.{name}.{place}",
                    fontproperties=self._small(), **(inner if self.option.beside else outward),
                    color=_ink_on(look["facecolor"]) if self.option.beside else style.ink,
                )  # fmt: skip
                if self.option.beside:
                    self.within.append((text, wedge))
        self.axes.set_aspect("equal")
        if not self.option.beside:
            legend = self._legend(wedges, [str(category) for category in categories])
            for place, text in enumerate(legend.get_texts()):
                text.set_gid(f"categories.{place}")
        if label := self._value_label():
            self.axes.set_xlabel(label, fontproperties=self.face, color=style.ink, gid="y_label")

    def holds(self) -> bool:
        """Whether each value lies within the bar or wedge that it is written in, or found a place at its point."""
        return not self.crowded and all(
            patch.contains_point(corner)
            for text, patch in self.within
            for corner in text.get_window_extent().corners()
        )

    # ------------------------------------------------------------------------- axes and legend

    def _small(self) -> FontProperties:
        return FontProperties(fname=self.face.get_file(), size=max(9, self.style.points * 0.88))

    def _legend(self, handles: Any, names: list[str]) -> Any:
        style = self.style
        flat = "lower" in style.legend
        width = max(len(name) for name in names) * style.points * 0.62 / 72 + 0.6
        columns = max(1, min(len(names), int((self.figure.get_figwidth() - 0.6) / width)))
        return self.figure.legend(
            handles, [self._wrapped(name, 2.2) if not flat else name for name in names], loc=style.legend,
            ncols=columns if flat else 1, prop=self.face, labelcolor=style.ink, frameon=style.legend_frame,
            facecolor=style.ground, edgecolor=style.grid_colour if style.ground != style.grid_colour else "#999999",
            handlelength=2.6, borderaxespad=0.6, labelspacing=0.6,
        )  # fmt: skip

    def _dress(self) -> None:
        data, style, axes = self.data, self.style, self.axes
        values, names = (axes.xaxis, axes.yaxis) if self.option.horizontal else (axes.yaxis, axes.xaxis)  # fmt: skip
        count = len(data["categories"])
        room = 2.0 if self.option.horizontal else (self.figure.get_figwidth() - 1.6) / count * 0.92
        shown = [
            str(c) if self.option.turn else self._wrapped(c, room) for c in data["categories"]
        ]
        names.set_ticks(range(count), shown)
        for place, label in enumerate(names.get_ticklabels()):
            label.set(gid=f"categories.{place}", fontproperties=self.face, color=style.ink)
            if self.option.turn and not self.option.horizontal:
                slanted = self.option.turn in (30, 45)
                label.set(rotation=self.option.turn, ha="right" if slanted else "center")
                label.set_rotation_mode("anchor" if slanted else "default")
        for label in values.get_ticklabels():
            label.set(fontproperties=self.face, color=style.ink)
        if self.option.horizontal:
            axes.set_ylim(count - 0.4, -0.6)
        elif data["variant"] != "line":
            axes.set_xlim(-0.6, count - 0.4)
        for label, axis, key in ((self._value_label(), values, "y_label"), (data.get("x_label"), names, "x_label")):  # fmt: skip
            if label:
                upright = axis is axes.yaxis
                text = self._wrapped(label, self.figure.get_figheight() - 1.2 if upright else 5.0)
                axis.set_label_text(text, fontproperties=self.face, color=style.ink, gid=key)
        if style.right and not self.option.horizontal:
            axes.yaxis.tick_right()
            axes.yaxis.set_label_position("right")
        axes.set_axisbelow(True)
        if style.grid != "none":
            look: dict[str, Any] = {"color": style.grid_colour, "linewidth": 0.9}
            values.grid(True, linestyle="--" if style.dashed_grid else "-", **look)
            if style.grid == "both":
                names.grid(True, linestyle="--" if style.dashed_grid else "-", **look)
        for side, spine in axes.spines.items():
            spine.set_visible(side in style.spines)
            spine.set_color(style.ink)
        # Without any grid or ticks a value could not be read off.
        length = 0 if style.ticks == "none" and style.grid != "none" else 4
        direction = "in" if style.ticks == "in" else "out"
        axes.tick_params(length=length, direction=direction, color=style.ink)
        if style.minor and length:
            values.set_minor_locator(_halves(values.get_ticklocs()))
            values.set_tick_params(which="minor", length=2, color=style.ink)
        if self.crosses_zero:
            (axes.axvline if self.option.horizontal else axes.axhline)(0, color=style.ink, linewidth=0.9)  # fmt: skip
        if len(data["series"]) > 1:
            handles, labels = axes.get_legend_handles_labels()
            for name, text in zip(data["series"], self._legend(handles, labels).get_texts(), strict=True):  # fmt: skip
                text.set_gid(f"series.{name}")


def _halves(ticks: Sequence[float]) -> Any:
    from matplotlib.ticker import FixedLocator

    return FixedLocator([(a + b) / 2 for a, b in itertools.pairwise(ticks)])


# ----------------------------------------------------------------------------------- measuring


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


def _cells(figure: Figure) -> list[Cell]:
    """The texts that carry a key."""
    return [
        Cell(text.get_gid(), text.get_text().replace("\n", " "), box)
        for box, text in _texts(figure)
        if text.get_gid()
    ]


def _fits(figure: Figure, cells: Sequence[Cell]) -> bool:
    width, height = figure.bbox.width, figure.bbox.height
    inside = all(
        c.box[0] > 1 and c.box[1] > 1 and c.box[2] < width - 1 and c.box[3] < height - 1
        for c in cells
    )
    boxes = [box for box, _ in _texts(figure)]
    if not inside or any(_overlap(a, b) for a, b in itertools.combinations(boxes, 2)):
        return False
    # The title is the one text that the layout does not keep away from a legend.
    title = next(cell.box for cell in cells if cell.key == "title")
    frames = [legend.get_window_extent() for legend in figure.legends]
    return not any(_overlap(title, (f.x0, height - f.y1, f.x1, height - f.y0)) for f in frames)


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def _luminance(colour: str) -> float:
    """Relative luminance, 0 to 1, as WCAG 2.2 defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _ink_on(colour: str) -> str:
    return max(("#000000", "#ffffff"), key=lambda ink: _contrast(ink, colour))
