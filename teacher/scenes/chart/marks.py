"""The marks of a chart: bars, stacked bars, lines and wedges, with the values written at them."""

import math
from typing import Any

from teacher.scenes.chart.axes import limit_values
from teacher.scenes.chart.figure import Chart
from teacher.scenes.chart.style import readable

_MARKERS = "os^Dv*PX"
_DASHES = ("-", "--", "-.", ":", (0, (8, 2)), (0, (4, 1, 1, 1)), (0, (1, 1)), (0, (6, 2, 2, 2)))


def draw_bars(chart: Chart) -> None:
    """Draws bars, one series or several side by side."""
    data, count = chart.data, len(chart.data["series"])
    share = chart.style.thickness / count
    for place, (name, values) in enumerate(data["series"].items()):
        middles = [at + (place - (count - 1) / 2) * share for at in range(len(data["categories"]))]
        draw = chart.axes.barh if chart.option.horizontal else chart.axes.bar
        # Slightly less than its share, which leaves a gap between neighbours.
        bars = draw(middles, values, share * (0.94 if count > 1 else 1), label=name)
        for bar in bars:
            bar.set(**chart.surface(place))
        if data.get("labels"):
            for at, value in enumerate(values):
                _write_beyond(chart, f"series.{name}.{at}", middles[at], value)
    lows, highs = zip(*((min(v), max(v)) for v in data["series"].values()), strict=True)
    limit_values(chart, min(0, *lows), max(0, *highs))


def _write_beyond(chart: Chart, key: str, middle: float, value: float) -> None:
    """Writes a value just beyond the end of its bar."""
    beyond = 4 if value >= 0 else -4
    aligned: dict[str, Any]
    if chart.option.horizontal:
        at, offset = (value, middle), (beyond, 0)
        aligned = {
            "ha": "left" if value >= 0 else "right",
            "va": "center_baseline",
        }
    else:
        at, offset = (middle, value), (0, beyond)
        aligned = {"ha": "center", "va": "bottom" if value >= 0 else "top"}
    text = chart.axes.annotate(
        chart.number(value), at, offset, textcoords="offset points", gid=key, rotation=chart.option.label_turn,
        fontproperties=chart.small_font(), color=chart.style.ink, **aligned,
    )  # fmt: skip
    chart.ends.append(text)


def draw_stacks(chart: Chart) -> None:
    """Draws stacked bars."""
    data = chart.data
    floors = [0.0] * len(data["categories"])
    for place, (name, values) in enumerate(data["series"].items()):
        draw = chart.axes.barh if chart.option.horizontal else chart.axes.bar
        under: dict[str, Any] = {"left" if chart.option.horizontal else "bottom": floors}
        bars = draw(range(len(floors)), values, chart.style.thickness, label=name, **under)
        look = chart.surface(place)
        for bar in bars:
            bar.set(**look)
        for at, value in enumerate(values):
            if data.get("labels"):
                middle = floors[at] + value / 2
                x, y = (middle, at) if chart.option.horizontal else (at, middle)
                text = chart.axes.text(
                    x, y, chart.number(value), gid=f"series.{name}.{at}", ha="center", va="center",
                    **chart.text_on(look["facecolor"]),
                )  # fmt: skip
                chart.within.append((text, bars[at]))
        floors = [floor + value for floor, value in zip(floors, values, strict=True)]
    limit_values(chart, 0, max(floors))


def draw_lines(chart: Chart) -> None:
    """Draws lines; `place_values` later places their values."""
    data, style = chart.data, chart.style
    many = len(data["categories"]) > 16
    for place, (name, values) in enumerate(data["series"].items()):
        colour = style.colours[place % len(style.colours)]
        marked = style.markers or data.get("labels")
        chart.axes.plot(
            range(len(values)), values, label=name, color=colour, linewidth=1.2 + style.thickness,
            marker=_MARKERS[place] if marked else "", markersize=4 if many else 5.5,
            linestyle=_DASHES[place] if not style.markers or style.hatched else "-",
        )  # fmt: skip
        if data.get("labels"):
            for at, value in enumerate(values):
                text = chart.axes.annotate(
                    chart.number(value), (at, value), (0, 0), textcoords="offset pixels", ha="center",
                    va="center", gid=f"series.{name}.{at}", fontproperties=chart.small_font(),
                    color=readable(colour, style.panel, style.ink),
                    bbox={"boxstyle": "square,pad=0.05", "facecolor": style.panel, "edgecolor": "none"},
                )  # fmt: skip
                chart.written.append((text, (at, value)))
    numbers = [value for values in data["series"].values() for value in values]
    low, high = min(numbers), max(numbers)
    if style.from_zero:
        low, high = min(low, 0), max(high, 0)
    elif low == high:
        low, high = low - 1, high + 1
    if style.filled and len(data["series"]) == 1 and not data.get("labels"):
        base = 0 if style.from_zero else low - (high - low)
        chart.axes.fill_between(range(len(numbers)), numbers, base, color=style.colours[0], alpha=0.2)  # fmt: skip
    limit_values(chart, low, high)
    margin = 0.8 if data.get("labels") else 0.4
    chart.axes.set_xlim(-margin, len(data["categories"]) - 1 + margin)


def draw_pie(chart: Chart) -> None:
    """Draws a pie or a ring, with the names beside it or in a legend."""
    data, style = chart.data, chart.style
    (name, values), categories = next(iter(data["series"].items())), data["categories"]
    wedges = chart.axes.pie(
        values, startangle=chart.option.start, counterclock=False, normalize=True,
        wedgeprops={"width": 1 - style.hole if style.hole else None},
    )[0]  # fmt: skip
    reach = 0.62 if not style.hole else (1 + style.hole) / 2
    for place, wedge in enumerate(wedges):
        look = chart.surface(place)
        if look["edgecolor"] != style.ink:
            look |= {"edgecolor": style.ground, "linewidth": 1.4}
        wedge.set(**look)
        angle = math.radians((wedge.theta1 + wedge.theta2) / 2)
        x, y = math.cos(angle), math.sin(angle)
        outward: dict[str, Any] = {"ha": "left" if x > 0.15 else "right" if x < -0.15 else "center",
                   "va": "bottom" if y > 0.6 else "top" if y < -0.6 else "center"}  # fmt: skip
        if chart.option.beside:
            label = chart.wrapped(categories[place], 1.6)
            chart.axes.text(
                x * 1.07, y * 1.07, label, gid=f"categories.{place}", fontproperties=chart.face, color=style.ink,
                **outward,
            )  # fmt: skip
        if data.get("labels"):
            # Outside the pie if the names are in a legend, else inside the wedge.
            at = reach if chart.option.beside else 1.07
            properties: dict[str, Any] = {
                "color": style.ink,
                "fontproperties": chart.small_font(),
                **outward,
            }
            if chart.option.beside:
                properties = {"ha": "center", "va": "center", **chart.text_on(look["facecolor"])}
            text = chart.axes.text(x * at, y * at, chart.number(values[place]), **properties)
            text.set_gid(f"series.{name}.{place}")
            if chart.option.beside:
                chart.within.append((text, wedge))
    chart.axes.set_aspect("equal")
    if not chart.option.beside:
        legend = chart.legend(wedges, [str(category) for category in categories])
        for place, text in enumerate(legend.get_texts()):
            text.set_gid(f"categories.{place}")
    if label := chart.value_label():
        chart.axes.set_xlabel(label, fontproperties=chart.face, color=style.ink, gid="y_label")
