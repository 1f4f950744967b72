"""The axes of a chart: limits, ticks, labels, grid and spines."""

import itertools
import math
from typing import Any

from matplotlib.ticker import FixedLocator, FuncFormatter

from teacher.scenes.chart.figure import Chart
from teacher.scenes.chart.style import ticks


def limit_values(chart: Chart, low: float, high: float) -> None:
    """Ends the value axis at ticks, with room for values beyond the marks."""
    span = (high - low) or 1.0
    room = span * (0.1 if chart.data.get("labels") and chart.data["variant"] != "stacked_bar" else 0.01)  # fmt: skip
    line = chart.data["variant"] == "line"
    bottom = low - room if low < 0 else max(0, low - room) if line else low
    top = high + room if high > 0 or line else high
    places = ticks(bottom, top if top > bottom else bottom + 1, chart.style.parts)
    axis = chart.axes.xaxis if chart.option.horizontal else chart.axes.yaxis
    axis.set_ticks(places)
    (chart.axes.set_xlim if chart.option.horizontal else chart.axes.set_ylim)(places[0], places[-1])
    chart.crosses_zero = places[0] < 0 < places[-1]
    step = places[1] - places[0]
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    digits += round(step * 10**digits, 6) % 1 != 0  # 2.5, 0.25
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: _format(chart, round(value, digits), digits))
    )


def _format(chart: Chart, value: float, digits: int) -> str:
    """The text of a tick of the value axis."""
    return f"{value + 0.0:,.{digits}f}".replace(",", chart.style.thousands)


def dress_axes(chart: Chart) -> None:
    """Sets labels, grid, spines, ticks and the legend of a chart with axes."""
    data, style, axes = chart.data, chart.style, chart.axes
    values, names = (axes.xaxis, axes.yaxis) if chart.option.horizontal else (axes.yaxis, axes.xaxis)  # fmt: skip
    count = len(data["categories"])
    room = 2.0 if chart.option.horizontal else (chart.figure.get_figwidth() - 1.6) / count * 0.92
    labels = [str(c) if chart.option.turn else chart.wrapped(c, room) for c in data["categories"]]
    names.set_ticks(range(count), labels)
    for place, label in enumerate(names.get_ticklabels()):
        label.set(gid=f"categories.{place}", fontproperties=chart.face, color=style.ink)
        if chart.option.turn and not chart.option.horizontal:
            slanted = chart.option.turn in (30, 45)
            label.set(rotation=chart.option.turn, ha="right" if slanted else "center")
            label.set_rotation_mode("anchor" if slanted else "default")
    for label in values.get_ticklabels():
        label.set(fontproperties=chart.face, color=style.ink)
    if chart.option.horizontal:
        axes.set_ylim(count - 0.4, -0.6)
    elif data["variant"] != "line":
        axes.set_xlim(-0.6, count - 0.4)
    for name, axis, key in (
        (chart.value_label(), values, "y_label"),
        (data.get("x_label"), names, "x_label"),
    ):
        if name:
            upright = axis is axes.yaxis
            text = chart.wrapped(name, chart.figure.get_figheight() - 1.2 if upright else 5.0)
            axis.set_label_text(text, fontproperties=chart.face, color=style.ink, gid=key)
    if style.right and not chart.option.horizontal:
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
    # Values can only be read off with a grid or ticks.
    length = 0 if style.ticks == "none" and style.grid != "none" else 4
    direction = "in" if style.ticks == "in" else "out"
    axes.tick_params(length=length, direction=direction, color=style.ink)
    if style.minor and length:
        halves = [(a + b) / 2 for a, b in itertools.pairwise(values.get_ticklocs())]
        values.set_minor_locator(FixedLocator(halves))
        values.set_tick_params(which="minor", length=2, color=style.ink)
    if chart.crosses_zero:
        (axes.axvline if chart.option.horizontal else axes.axhline)(0, color=style.ink, linewidth=0.9)  # fmt: skip
    if len(data["series"]) > 1:
        handles, labels = axes.get_legend_handles_labels()
        entries = chart.legend(handles, labels).get_texts()
        for series, entry in zip(data["series"], entries, strict=True):
            entry.set_gid(f"series.{series}")
