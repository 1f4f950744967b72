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
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter
from PIL import Image

from teacher.scenes.canvas import wrap
from teacher.scenes.chart.measure import cells_of, fits, overlap
from teacher.scenes.chart.samples import example
from teacher.scenes.chart.style import (
    Option,
    Style,
    attempts,
    choose,
    ink_on,
    readable,
    ticks,
)
from teacher.scenes.colour import contrast
from teacher.scenes.fonts import covering, font
from teacher.scenes.scene import MAX_SIDE, Cell, SceneError

__all__ = ["VARIANTS", "build", "example", "paint", "source"]

VARIANTS = ("bar", "grouped_bar", "stacked_bar", "line", "pie")
_DPI = 100
# More are not told apart by colour, however chosen.
MAX_SERIES = 8
_MARKERS = "os^Dv*PX"
_DASHES = ("-", "--", "-.", ":", (0, (8, 2)), (0, (4, 1, 1, 1)), (0, (1, 1)), (0, (6, 2, 2, 2)))
_HATCHES = ("", "//", "..", "xx", "\\\\", "--", "oo", "++")


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
    style = choose(data, random.Random(seed))
    for grown, option in attempts(data, style):
        chart = _Chart(data, style, grown, option)
        cells = cells_of(chart.figure)
        if fits(chart.figure, cells) and chart.holds():
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
        raise SceneError(f"variant: {data.get('variant')!r}: expected one of {', '.join(VARIANTS)}")
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


class _Chart:
    """One arrangement of a chart. Texts that are cells carry their key as matplotlib's `gid`."""

    def __init__(self, data: dict[str, Any], style: Style, grown: float, option: Option) -> None:
        self.data, self.style, self.option = data, style, option
        side = (MAX_SIDE - 8) / _DPI
        size = (min(style.width * grown, side), min(style.height * grown, side))
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
        self.figure = Figure(size, dpi=_DPI, layout=layout, facecolor=style.ground)
        FigureCanvasAgg(self.figure)
        self.face = FontProperties(fname=self._file(), size=style.points)
        self.axes: Axes = self.figure.add_subplot(facecolor=style.panel)
        self.written: list[tuple[Text, tuple[float, float]]] = []  # at a point of a line
        self.ends: list[Text] = []  # beyond a bar
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
        text = "".join(str(part) for part in texts if part)
        return str(covering(text.replace("\n", " "), font(self.style.family, 16, bold)).path)

    def _number(self, value: float) -> str:
        """A value as written at its mark: all of its digits."""
        return f"{value:,}".removesuffix(".0").replace(",", self.style.thousands)

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
        title = self.figure.suptitle(
            text, fontproperties=face, color=style.ink, gid="title", **left
        )
        title.set_linespacing(1.15)

    # ----------------------------------------------------------------------------------- marks

    def _look(self, place: int) -> dict[str, Any]:
        """How a series' or a wedge's surface is drawn."""
        style = self.style
        colour = style.colours[place % len(style.colours)]
        # A surface too near to its ground gets an outline.
        pale = min(contrast(colour, style.panel), contrast(colour, style.ground)) < 2
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
        aligned: dict[str, Any]
        if self.option.horizontal:
            at, offset = (value, middle), (beyond, 0)
            aligned = {
                "ha": "left" if value >= 0 else "right",
                "va": "center_baseline",
            }
        else:
            at, offset = (middle, value), (0, beyond)
            aligned = {"ha": "center", "va": "bottom" if value >= 0 else "top"}
        text = self.axes.annotate(
            self._number(value), at, offset, textcoords="offset points", gid=key, rotation=self.option.label_turn,
            fontproperties=self._small(), color=self.style.ink, **aligned,
        )  # fmt: skip
        self.ends.append(text)

    def _stacks(self) -> None:
        data = self.data
        floors = [0.0] * len(data["categories"])
        for place, (name, values) in enumerate(data["series"].items()):
            draw = self.axes.barh if self.option.horizontal else self.axes.bar
            under: dict[str, Any] = {"left" if self.option.horizontal else "bottom": floors}
            bars = draw(range(len(floors)), values, self.style.thickness, label=name, **under)
            look = self._look(place)
            for bar in bars:
                bar.set(**look)
            for at, value in enumerate(values):
                if data.get("labels"):
                    middle = floors[at] + value / 2
                    x, y = (middle, at) if self.option.horizontal else (at, middle)
                    text = self.axes.text(
                        x, y, self._number(value), gid=f"series.{name}.{at}", ha="center", va="center",
                        **self._on(look["facecolor"]),
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
                        va="center", gid=f"series.{name}.{at}", fontproperties=self._small(),
                        color=readable(colour, style.panel, style.ink),
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
        places = ticks(bottom, top if top > bottom else bottom + 1, self.style.parts)
        axis = self.axes.xaxis if self.option.horizontal else self.axes.yaxis
        axis.set_ticks(places)
        (self.axes.set_xlim if self.option.horizontal else self.axes.set_ylim)(
            places[0], places[-1]
        )
        self.crosses_zero = places[0] < 0 < places[-1]
        step = places[1] - places[0]
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        digits += round(step * 10**digits, 6) % 1 != 0  # 2.5, 0.25
        axis.set_major_formatter(
            FuncFormatter(lambda value, _: self._number_at(round(value, digits), digits))
        )

    def _number_at(self, value: float, digits: int) -> str:
        return f"{value + 0.0:,.{digits}f}".replace(",", self.style.thousands)

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
            steps += [
                (0, sign * (near + n * (height + 2))) for n in range(1, far) for sign in (1, -1)
            ]
            for dx, dy in steps:
                box = (x + dx - extent.width / 2 - 1, y + dy - height / 2 - 1,
                       x + dx + extent.width / 2 + 1, y + dy + height / 2 + 1)  # fmt: skip
                inside = (
                    frame.y0 < box[1]
                    and box[3] < frame.y1
                    and frame.x0 < box[0]
                    and box[2] < frame.x1
                )
                if inside and not any(overlap(box, other) for other in taken):
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
            outward: dict[str, Any] = {"ha": "left" if x > 0.15 else "right" if x < -0.15 else "center",
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
                drawn: dict[str, Any] = {
                    "color": style.ink,
                    "fontproperties": self._small(),
                    **outward,
                }
                if self.option.beside:
                    drawn = {"ha": "center", "va": "center", **self._on(look["facecolor"])}
                text = self.axes.text(x * at, y * at, self._number(values[place]), **drawn)
                text.set_gid(f"series.{name}.{place}")
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
        """Whether each value is at its point, within its bar or wedge, or beyond its bar and on no other."""
        bars = [patch.get_window_extent() for patch in self.axes.patches]
        ends = [text.get_window_extent() for text in self.ends]
        if self.crowded or any(overlap(a.extents, b.extents) for a in ends for b in bars):
            return False
        return all(
            patch.contains_point(corner)
            for text, patch in self.within
            for corner in text.get_window_extent().corners()
        )

    # ------------------------------------------------------------------------- axes and legend

    def _small(self, bold: bool = False) -> FontProperties:
        return FontProperties(fname=self._file(bold), size=max(9, self.style.points * 0.88))

    def _on(self, colour: str) -> dict[str, Any]:
        """Ink and font of a number on a surface: bold where neither black nor white stands out much."""
        ink = ink_on(colour)
        return {"color": ink, "fontproperties": self._small(bold=contrast(ink, colour) < 9)}

    def _legend(self, handles: Any, names: list[str]) -> Legend:
        style = self.style
        place: Any = style.legend
        flat = "lower" in style.legend
        width = max(len(name) for name in names) * style.points * 0.62 / 72 + 0.6
        columns = max(1, min(len(names), int((self.figure.get_figwidth() - 0.6) / width)))
        return self.figure.legend(
            handles, [self._wrapped(name, 2.2) if not flat else name for name in names], loc=place,
            ncols=columns if flat else 1, prop=self.face, labelcolor=style.ink, frameon=style.legend_frame,
            facecolor=style.ground, edgecolor=style.grid_colour if style.ground != style.grid_colour else "#999999",
            handlelength=2.6, borderaxespad=0.6, labelspacing=0.6,
        )  # fmt: skip

    def _dress(self) -> None:
        data, style, axes = self.data, self.style, self.axes
        values, names = (axes.xaxis, axes.yaxis) if self.option.horizontal else (axes.yaxis, axes.xaxis)  # fmt: skip
        count = len(data["categories"])
        room = 2.0 if self.option.horizontal else (self.figure.get_figwidth() - 1.6) / count * 0.92
        shown = [str(c) if self.option.turn else self._wrapped(c, room) for c in data["categories"]]
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
        for name, axis, key in (
            (self._value_label(), values, "y_label"),
            (data.get("x_label"), names, "x_label"),
        ):
            if name:
                upright = axis is axes.yaxis
                text = self._wrapped(name, self.figure.get_figheight() - 1.2 if upright else 5.0)
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
            halves = [(a + b) / 2 for a, b in itertools.pairwise(values.get_ticklocs())]
            values.set_minor_locator(FixedLocator(halves))
            values.set_tick_params(which="minor", length=2, color=style.ink)
        if self.crosses_zero:
            (axes.axvline if self.option.horizontal else axes.axhline)(0, color=style.ink, linewidth=0.9)  # fmt: skip
        if len(data["series"]) > 1:
            handles, labels = axes.get_legend_handles_labels()
            entries = self._legend(handles, labels).get_texts()
            for series, entry in zip(data["series"], entries, strict=True):
                entry.set_gid(f"series.{series}")
