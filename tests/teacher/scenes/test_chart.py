"""Charts show their data, measured on the artists and on the pixels."""

import gc
import random
from typing import Any

import matplotlib
import numpy as np
import pytest
from drawings import DRAWINGS
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, Wedge

from teacher.scenes.chart.render import VARIANTS, build, paint, source
from teacher.scenes.kinds import draw, example
from teacher.scenes.legibility import check
from teacher.scenes.scene import MAX_BYTES, MAX_SIDE, Scene, SceneError

pytestmark = pytest.mark.slow


def chart(variant: str = "bar", **changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = {
        "variant": variant,
        "title": "Revenue by office",
        "x_label": "Office",
        "y_label": "Revenue",
        "unit": "EUR million",
        "categories": ["Graz", "Lyon", "Porto"],
        "series": {"2023": [41, 12.5, 30], "2024": [44.5, 20, 8]},
        "labels": True,
    }
    if variant in ("bar", "pie"):
        data["series"] = {"Revenue": [41, 12.5, 30]}
    return data | changes


def of_variant(variant: str, count: int, first: int = 0) -> list[Scene]:
    """Invented scenes of one variant."""
    made = (example("chart", random.Random(seed)) for seed in range(first, first + 40 * count))
    return [scene for scene in made if scene.data["variant"] == variant][:count]


def bars(figure: Figure) -> list[Rectangle]:
    return [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]


def lies_down(figure: Figure) -> bool:
    """Whether the categories are on the y axis."""
    return any(
        (label.get_gid() or "").startswith("categories")
        for label in figure.axes[0].get_yticklabels()
    )


def drawn_values(figure: Figure, data: dict[str, Any]) -> dict[str, list[float]]:
    """The values of the artists, by series."""
    names, count = list(data["series"]), len(data["categories"])
    if data["variant"] == "line":
        lines = [line for line in figure.axes[0].get_lines() if line.get_label() in names]
        return {str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in lines}
    if data["variant"] == "pie":
        total = sum(data["series"][names[0]])
        wedges = [patch for patch in figure.axes[0].patches if isinstance(patch, Wedge)]
        return {names[0]: [(w.theta2 - w.theta1) / 360 * total for w in wedges]}
    lengths = [bar.get_width() if lies_down(figure) else bar.get_height() for bar in bars(figure)]
    return {name: lengths[i * count : (i + 1) * count] for i, name in enumerate(names)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_marks_are_as_long_as_the_data_says(variant: str) -> None:
    for scene in of_variant(variant, 4):
        figure, _ = build(scene.data, scene.seed)
        shown = drawn_values(figure, scene.data)
        assert shown.keys() == scene.data["series"].keys()
        for name, values in scene.data["series"].items():
            assert shown[name] == pytest.approx(values, rel=1e-5)


def test_the_heights_of_bars_on_the_pixels_give_the_values() -> None:
    read = 0
    for scene in of_variant("bar", 7):
        data = scene.data | {"labels": False}
        figure, _ = build(data, scene.seed)
        pixels_HW3 = np.asarray(paint(data, scene.seed)[0]).astype(int)
        if lies_down(figure) or bars(figure)[0].get_hatch():
            continue
        axes = figure.axes[0]
        low, high = axes.get_ylim()
        for bar, value in zip(bars(figure), data["series"].popitem()[1], strict=True):
            x = round(axes.transData.transform((bar.get_x() + bar.get_width() / 2, 0))[0])
            colour = np.array([round(255 * c) for c in to_rgb(bar.get_facecolor()[:3])])  # type: ignore[arg-type]
            rows = np.flatnonzero(np.abs(pixels_HW3[:, x] - colour).max(axis=1) < 3)
            scale = (high - low) / axes.get_window_extent().height
            tolerance = 0.02 * (high - low)
            assert (rows[-1] - rows[0] + 1) * scale == pytest.approx(abs(value), abs=tolerance)
            read += 1
        data["series"] = scene.data["series"]
    assert read > 8


@pytest.mark.parametrize("variant", VARIANTS)
def test_written_values_are_the_data_to_the_last_digit(variant: str) -> None:
    for scene in of_variant(variant, 4, first=5000):
        data = scene.data | {"labels": True}
        texts = {cell.key: cell.text for cell in build(data, scene.seed)[1]}
        for name, values in data["series"].items():
            for place, value in enumerate(values):
                text = texts[f"series.{name}.{place}"].replace(",", "").replace(" ", "")
                assert float(text) == value


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_labels_no_value_is_written(variant: str) -> None:
    data = chart(variant, labels=False)
    keys = {cell.key for cell in build(data, 3)[1]}
    values = {f"series.{name}.{i}" for name in data["series"] for i in range(3)}
    assert not keys & values
    assert {"title", "categories.0", "categories.1", "categories.2"} <= keys


def test_a_legend_names_the_series_where_there_are_several() -> None:
    for variant in ("grouped_bar", "stacked_bar", "line"):
        keys = {cell.key for cell in build(chart(variant), 5)[1]}
        assert {"series.2023", "series.2024"} <= keys


def test_bars_stand_on_zero_and_ticks_part_the_axis_in_five_or_more() -> None:
    for seed in range(8):
        scene = example("chart", random.Random(seed))
        if scene.data["variant"] == "pie":
            continue
        figure, _ = build(scene.data, scene.seed)
        axes = figure.axes[0]
        axis, limits = (
            (axes.xaxis, axes.get_xlim()) if lies_down(figure) else (axes.yaxis, axes.get_ylim())
        )
        ticks = [tick for tick in axis.get_ticklocs() if limits[0] <= tick <= limits[1]]
        assert len(ticks) >= 6
        assert (ticks[0], ticks[-1]) == pytest.approx(limits)
        if scene.data["variant"] != "line":
            assert limits[0] <= 0 <= limits[1]


def test_the_same_chart_is_the_same_bytes_and_another_seed_looks_different() -> None:
    one, two = paint(chart("line"), 11)[0], paint(chart("line"), 11)[0]
    assert one.tobytes() == two.tobytes()
    assert len({paint(chart("line"), seed)[0].tobytes() for seed in range(4)}) == 4


def test_drawing_leaves_the_settings_of_matplotlib_alone() -> None:
    before = dict(matplotlib.rcParams)
    paint(chart("stacked_bar"), 1)
    assert dict(matplotlib.rcParams) == before


def test_negative_values_are_drawn_below_zero() -> None:
    data = chart(series={"Result": [-12, 30.5, -4]}, y_label="Result")
    for seed in range(6):
        assert not check(draw(Scene("chart", data, seed)))


def test_long_names_and_titles_are_shown_whole() -> None:
    data = chart(
        "grouped_bar",
        title="Average time from the first notice of a defect to the credit note, by office and by year of contract",
        categories=["Breach of confidentiality by a subcontractor", "Late delivery", "Insolvency of a party"],
    )  # fmt: skip
    for seed in range(4):
        image = draw(Scene("chart", data, seed))
        assert not check(image)
        texts = {cell.key: cell.text for cell in image.cells}
        assert texts["title"] == data["title"]
        assert texts["categories.0"] == data["categories"][0]


def test_two_years_of_months_fit() -> None:
    months = [f"{month:02}/{year}" for year in (2024, 2025) for month in range(1, 13)]
    data = chart("line", categories=months, series={"Load": list(range(40, 88, 2))}, labels=False)
    for seed in range(3):
        assert not check(draw(Scene("chart", data, seed)))


def test_the_source_holds_every_value_and_name() -> None:
    text = source(chart("grouped_bar"))
    for part in ("Revenue by office", "EUR million", "Graz | 41 | 44.5", "Porto | 30 | 8", "2024"):
        assert part in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"variant": "radar"}, "variant: 'radar': expected one of"),
        ({"series": {}}, "expected at least one of each"),
        ({"series": {"A": [1, 2]}}, "series.A: 2 values: expected 3"),
        ({"series": {"A": [1, 2, float("nan")]}}, "series.A.2: nan: expected a finite number"),
        ({"series": {"A": [1, 2, "3"]}}, "series.A.2: '3': expected a number"),
        ({"series": {"A": [1, 2, 3], "B": [1, 2, 3]}}, "series: 2: expected at most 1 in a bar"),
        ({"variant": "pie", "series": {"A": [1, 2, -3]}}, "a pie chart shows no values below 0"),
        ({"variant": "pie", "series": {"A": [0, 0, 0]}}, "a pie needs a sum above 0"),
    ],
)
def test_data_that_is_no_chart_is_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(SceneError, match=expected):
        paint(chart(**changes), 1)


def test_a_chart_too_crowded_to_read_is_refused() -> None:
    slivers = chart(
        "pie", series={"Share": [1000, 1, 1, 1, 1, 1, 1, 1]}, categories=list("ABCDEFGH")
    )
    with pytest.raises(SceneError, match="no arrangement within 2048 px"):
        paint(slivers, 1)


def figures() -> int:
    """The number of live figures; they are freed with their image."""
    gc.collect()
    return sum(type(kept) is Figure for kept in gc.get_objects())


def test_many_charts_are_right_and_no_two_alike() -> None:
    seen, before = set(), figures()
    for seed in range(DRAWINGS):
        image = draw(example("chart", random.Random(seed)))
        assert not check(image), f"seed {seed}: {check(image)}"
        data = image.scene.data
        keys = {cell.key for cell in image.cells}
        assert {f"categories.{i}" for i in range(len(data["categories"]))} <= keys
        if data["labels"]:
            assert {f"series.{n}.{i}" for n, v in data["series"].items() for i in range(len(v))} <= keys  # fmt: skip
        assert max(image.width, image.height) <= MAX_SIDE
        assert len(image.png) <= MAX_BYTES
        assert image.sha256 not in seen
        seen.add(image.sha256)
    assert figures() <= before
