"""Screens show each value of their data once, legibly and without overlaps, in many looks."""

import io
import random
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from drawings import DRAWINGS
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from teacher.scenes import kinds, legibility
from teacher.scenes.canvas import Canvas
from teacher.scenes.colour import mix
from teacher.scenes.kinds import draw, example
from teacher.scenes.legibility import check
from teacher.scenes.scene import Box, DrawnImage, Scene, SceneError
from teacher.scenes.screenshot.style import DARK, LIGHT, format_value, readable

FORM: dict[str, Any] = {
    "variant": "form",
    "application": "Stockroom",
    "title": "Order 4711",
    "message": "Two changes have not been saved.",
    "fields": {"Customer": "Ida Lund", "Due by": "2026-03-02", "Quantity": 1200, "Express": True},
    "buttons": ["Save", "Cancel"],
}
TABLE: dict[str, Any] = {
    "variant": "table",
    "title": "Shipments",
    "table": {
        "columns": ["No.", "Town", "Status"],
        "rows": [["T-1", "Cork", "open"], ["T-2", "Delft", "late"], ["T-3", "Faro", "open"]],
    },
}
DIALOG: dict[str, Any] = {
    "variant": "dialog",
    "title": "Delete order?",
    "message": "Order 4711 was shipped on 2 March 2026. It cannot be restored once it is deleted.",
    "buttons": ["Delete", "Keep"],
}
EDITOR: dict[str, Any] = {
    "variant": "editor",
    "title": "total.py",
    "code": 'def total(values):\n    # all of them\n    return sum(values)\n\n\nprint("total", total([2, 3]))\n',
    "language": "python",
    "output": "total 5",
    "fields": {"Total": 5},
    "highlight": 3,
}
SCREENS = {"form": FORM, "table": TABLE, "dialog": DIALOG, "editor": EDITOR}


def drawn(data: dict[str, Any], seed: int = 0) -> DrawnImage:
    return draw(Scene("screen", data, seed))


def pixels(image: DrawnImage) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image.png)).convert("RGB")).astype(int)


def expected_cells(data: dict[str, Any]) -> dict[str, str]:
    """The drawn text of each key of the data."""
    cells = {name: data[name] for name in ("application", "title", "message") if data.get(name)}
    cells |= {f"fields.{k}": v for k, v in data.get("fields", {}).items()}
    if table := data.get("table"):
        cells |= {f"table.columns.{i}": name for i, name in enumerate(table["columns"])}
        for r, row in enumerate(table["rows"]):
            cells |= {f"table.{r}.{c}": value for c, value in enumerate(row)}
    cells |= {f"buttons.{i}": name for i, name in enumerate(data.get("buttons", []))}
    for name in ("code", "output"):
        lines = enumerate(data.get(name, "").splitlines(), 1)
        cells |= {f"{name}.{n}": line.strip() for n, line in lines if any(map(str.isalnum, line))}
    return {
        key: {True: "Yes", False: "No"}.get(v, str(v)) if isinstance(v, bool) else str(v)
        for key, v in cells.items()
    }


@pytest.mark.parametrize("variant", SCREENS)
@pytest.mark.parametrize("seed", range(6))
def test_a_screen_shows_each_value_of_its_data_once_and_nothing_is_wrong_with_it(
    variant: str, seed: int
) -> None:
    image = drawn(SCREENS[variant], seed)
    assert {cell.key: cell.text for cell in image.cells} == expected_cells(SCREENS[variant])
    assert check(image) == []


@pytest.mark.parametrize(
    "numbers",
    [range(16), pytest.param(range(16, DRAWINGS), marks=pytest.mark.slow)],
)
def test_no_text_lies_on_another_or_leaves_the_screen_labels_and_line_numbers_included(
    numbers: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Canvas.text
    written: dict[int, list[tuple[str, Box]]] = defaultdict(list)
    kept: list[Canvas] = []  # so that no two canvases have the same id

    def recording(self: Canvas, xy: Any, text: str, *arguments: Any, **named: Any) -> Box:
        box = write(self, xy, text, *arguments, **named)
        kept.append(self)
        written[id(self)].append((text, box))
        return box

    monkeypatch.setattr(Canvas, "text", recording)
    for number in numbers:
        written.clear()
        kept.clear()
        scene = example("screen", random.Random(f"screens/{number}"))
        image = draw(scene)
        assert check(image) == [], (number, scene)
        assert {cell.key: cell.text for cell in image.cells} == expected_cells(scene.data)
        for boxes in written.values():
            for i, (text, (left, top, right, bottom)) in enumerate(boxes):
                assert left >= 0 and top >= 0 and right <= image.width, (number, text)
                for other, box in boxes[i + 1 :]:
                    across = min(right, box[2]) - max(left, box[0])
                    along = min(bottom, box[3]) - max(top, box[1])
                    assert across <= 2 or along <= 2, (number, text, other)


def test_the_same_seed_gives_the_same_file_and_another_seed_another_look() -> None:
    files = []
    for seed in (1, 1, 2):
        kinds._draw.cache_clear()
        files.append(drawn(FORM, seed).png)
    assert files[0] == files[1] != files[2]


def test_seeds_choose_light_and_dark_many_sizes_and_never_the_words() -> None:
    images = [drawn(FORM, seed) for seed in range(20)]
    brightness = [float(np.median(pixels(image))) for image in images]
    assert min(brightness) < 60 and max(brightness) > 200
    assert len({(image.width, image.height) for image in images}) > 10
    assert (
        len({tuple((c.key, c.text) for c in sorted(p.cells, key=lambda c: c.key)) for p in images})
        == 1
    )


def test_words_of_code_are_coloured_and_the_highlighted_line_stands_out() -> None:
    for seed in range(6):
        plain, marked = drawn({**EDITOR, "highlight": 2}, seed), drawn(EDITOR, seed)
        cells = {cell.key: cell.box for cell in marked.cells}
        left, top, right, bottom = cells["code.3"]
        here, there = pixels(marked)[top:bottom, left:right], pixels(plain)[top:bottom, left:right]
        # Most pixels of the line are background.
        assert np.abs(np.median(here, axis=(0, 1)) - np.median(there, axis=(0, 1))).max() > 15
        top, bottom = cells["code.1"][1], cells["code.6"][3]
        code = pixels(marked)[top:bottom, left:right]
        assert (code.max(axis=2) - code.min(axis=2) > 60).any(), "every word is grey"


def test_the_source_says_what_the_screen_shows() -> None:
    for number in range(20):
        scene = example("screen", random.Random(f"source/{number}"))
        image = draw(scene)
        for cell in image.cells:
            assert cell.text in image.source, (cell, image.source)


def test_the_source_numbers_the_lines_of_code_and_names_the_highlighted_one() -> None:
    lines = drawn(EDITOR).source.splitlines()
    assert "3     return sum(values)" in lines and "Line 3 is highlighted." in lines


WORDS = st.lists(
    st.text("abcdefghABCDEFGH0123456789", min_size=2, max_size=60), min_size=1, max_size=25
)


@settings(max_examples=20, deadline=None)
@given(WORDS, WORDS, st.integers(0, 10_000), st.sampled_from(["form", "dialog", "table"]))
def test_long_labels_and_values_are_broken_into_lines_and_stay_apart(
    label: list[str], value: list[str], seed: int, variant: str
) -> None:
    text = " ".join(value)
    data = {
        "variant": variant,
        "title": " ".join(label[:6]),
        "message": text,
        "fields": {" ".join(label[:8]): text, "Second": "value 2", "On": True},
        "table": {"columns": ["A1", "B1"], "rows": [[text, "x1"], ["y1", "z1"]]},
        "buttons": ["Accept", "Close"],
    }
    try:
        image = drawn(data, seed)
    except SceneError as error:
        assert "px high, at most" in str(error)  # noqa: PT017
        return
    assert check(image) == []
    assert {c.key: c.text for c in image.cells} == expected_cells(data)


@pytest.mark.parametrize("theme", [*LIGHT, *DARK])
def test_the_colours_of_a_theme_can_be_read_on_its_grounds(theme: Any) -> None:
    for ground in (theme.ground, theme.surface, theme.field):
        for ink in (theme.text, theme.muted):
            assert readable(ink, ground, 4.5) == ink, (ink, ground)


@given(st.integers(0, 0xFFFFFF), st.integers(0, 0xFFFFFF))
def test_any_colour_can_be_made_readable_on_any_ground(ink: int, ground: int) -> None:
    made = readable(f"#{ink:06x}", f"#{ground:06x}", 4.5)
    tints = [
        legibility._luminance(Image.new("RGB", (1, 1), c))[0, 0] for c in (made, f"#{ground:06x}")
    ]
    assert (max(tints) + 0.05) / (min(tints) + 0.05) >= 4.4


def test_a_mixture_lies_between_its_colours() -> None:
    assert mix("#000000", "#ffffff", 0.5) == "#808080"
    assert mix("#102030", "#ffffff", 0) == "#102030"


def test_values_are_written_as_they_are() -> None:
    assert [format_value(v) for v in (True, False, None, 12.5, " a \n b ")] == [
        "Yes",
        "No",
        "",
        "12.5",
        "a b",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "splash"}, "variant: 'splash': expected one of form, table, dialog, editor"),
        ({"title": ""}, "title: a screen needs one"),
        ({"footer": "x"}, "footer: no field of a screen"),
        ({"code": "x = 1"}, "code: an editor needs it, and no other screen has it"),
        ({"table": {"columns": ["a"], "rows": []}}, "table: expected columns and rows"),
        ({"table": {"columns": ["a", "b"], "rows": [[1]]}}, "table: expected as many values"),
        ({"table": {"columns": ["a"], "rows": [[i] for i in range(200)]}}, "px high, at most 2048"),
        (
            {"table": {"columns": ["a" * 9] * 90, "rows": [["b" * 9] * 90]}},
            "90 columns do not fit on a screen",
        ),
        ({"buttons": ["press " * 80]}, "wider than the screen"),
        ({"application": "long " * 90}, "wider than the window"),
        ({"fields": {"Mood": "漢"}}, "no font here has"),
    ],
)
def test_a_screen_that_cannot_be_drawn_says_why(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SceneError, match=message):
        drawn({**FORM, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"language": "klingon"}, "language: 'klingon': Pygments knows no such language"),
        ({"highlight": 40}, "highlight: 40: the code has 6 lines"),
        ({"code": "x = '" + "y" * 400 + "'"}, "code: a line of .* px: at most"),
        ({"code": ""}, "code: an editor needs it"),
    ],
)
def test_code_that_cannot_be_shown_says_why(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SceneError, match=message):
        drawn({**EDITOR, **change})
