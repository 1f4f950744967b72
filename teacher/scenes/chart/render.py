"""Charts drawn from data: bar, grouped and stacked bars, lines, pie.

variant: bar, grouped_bar, stacked_bar, line or pie.
title: text.
categories: [text], such as years or names.
series: {name: [number, one for each category]}; one series in a bar chart and a pie, at most eight in the others.
labels: true writes each value at its mark; otherwise a reader reads it off the axis, and answers have a tolerance.
x_label, y_label, unit: text, optional.

Cells are title, x_label, y_label, categories.2, series.NAME (in the legend of several series) and series.NAME.2 (values
that are written). Bars start at zero, and value axes are linear with at least five intervals. The seed chooses size,
fonts and colours.

    >>> from teacher.scenes import Scene, draw
    >>> data = {
    ...     "variant": "bar",
    ...     "title": "Revenue",
    ...     "x_label": "Year",
    ...     "y_label": "Revenue",
    ...     "unit": "EUR million",
    ...     "categories": ["2025", "2026"],
    ...     "series": {"Revenue": [41, 44.5]},
    ...     "labels": True,
    ... }
    >>> image = draw(Scene("chart", data, seed=3))
    >>> [(cell.key, cell.text) for cell in image.cells if cell.key.startswith("series")]
    [('series.Revenue.0', '41'), ('series.Revenue.1', '44.5')]
"""

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from teacher.scenes.chart.axes import dress_axes
from teacher.scenes.chart.figure import Chart
from teacher.scenes.chart.marks import draw_bars, draw_lines, draw_pie, draw_stacks
from teacher.scenes.chart.measure import cells_of, fits
from teacher.scenes.chart.samples import example
from teacher.scenes.chart.style import Option, Style, attempts, choose
from teacher.scenes.chart.values import place_values
from teacher.scenes.scene import MAX_SIDE, Cell, SceneError

__all__ = ["VARIANTS", "build", "example", "paint", "source"]

VARIANTS = ("bar", "grouped_bar", "stacked_bar", "line", "pie")
# More series cannot be distinguished by colour.
MAX_SERIES = 8
_DRAW: dict[str, Callable[[Chart], None]] = {
    "bar": draw_bars,
    "grouped_bar": draw_bars,
    "stacked_bar": draw_stacks,
    "line": draw_lines,
}


def paint(data: dict[str, Any], seed: int) -> tuple[Image.Image, list[Cell]]:
    """Draws a chart; returns the image and its cells "title", "x_label", "y_label", "categories.N", "series.NAME" (in a
    legend) and "series.NAME.N" (written values).

    Raises:
        SceneError: invalid data, or no arrangement within 2,048 px without overlaps.
    """
    figure, cells = build(data, seed)
    # Copied, because the buffer is freed with the figure.
    pixels_HW3 = np.asarray(figure.canvas.buffer_rgba())[:, :, :3].copy()  # type: ignore[attr-defined]
    figure.clear()
    return Image.fromarray(pixels_HW3), cells


def build(data: dict[str, Any], seed: int) -> tuple[Figure, list[Cell]]:
    """The chart as a matplotlib figure, drawn on an Agg canvas, and its cells in pixels of that canvas.

    Cells are measured on matplotlib's artists after the layout; if two texts overlap, the next arrangement is tried.
    matplotlib's global state is not used.
    """
    _valid(data)
    style = choose(data, random.Random(seed))
    for grown, option in attempts(data, style):
        chart = _arranged(data, style, grown, option)
        cells = cells_of(chart.figure)
        if fits(chart.figure, cells) and chart.holds():
            return chart.figure, cells
        chart.figure.clear()
    raise SceneError(
        f"{data['title']!r}: {len(data['categories'])} categories and {len(data['series'])} series: no arrangement"
        f" within {MAX_SIDE} px in which no text lies on another"
    )


def _arranged(data: dict[str, Any], style: Style, grown: float, option: Option) -> Chart:
    """Draws one arrangement of a chart. grown: factor of the figure's size."""
    chart = Chart(data, style, grown, option)
    if data["variant"] == "pie":
        draw_pie(chart)
    else:
        _DRAW[data["variant"]](chart)
        dress_axes(chart)
    chart.figure.canvas.draw()
    if chart.written:
        # The pixels of the lines are final only without the layout engine.
        chart.figure.set_layout_engine("none")
        # A value far from its point is harder to assign than in a larger chart.
        place_values(chart, far=1 if grown < 1.7 else 4)
        chart.figure.canvas.draw()
    return chart


def source(data: dict[str, Any]) -> str:
    """The data of the chart as a table, a category per line."""
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
                    f"series.{name}.{place}: {value}: a {data['variant']} chart shows no values below 0"
                )
    if data["variant"] == "pie" and not sum(next(iter(series.values()))):
        raise SceneError("series: a pie needs a sum above 0")
