"""A legible image passes the check, and the check names each fault of a spoilt one."""

import dataclasses
import io
import random
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from teacher.scenes.canvas import Canvas, rotated, wrap
from teacher.scenes.fonts import HAND, MONO, SANS, SERIF, font
from teacher.scenes.kinds import as_text, draw
from teacher.scenes.legibility import check
from teacher.scenes.scene import MAX_SIDE, Cell, DrawnImage, Scene, SceneError

FAMILIES = SERIF + SANS + MONO + HAND
PAGE = Scene(
    "document",
    {
        "variant": "amendment",
        "title": "Amendment",
        "number": "A-104",
        "fields": {"Payment term": "30 business days", "Effective date": "2026-01-05"},
    },
    7,
)


def picture(image: Image.Image, cells: list[Cell]) -> DrawnImage:
    file = io.BytesIO()
    image.save(file, "PNG")
    return DrawnImage(PAGE, file.getvalue(), image.width, image.height, tuple(cells), "")


def spoilt(change: str) -> DrawnImage:
    """A legible image with one fault."""
    page = Canvas(400, 200)
    face = font("Lato", 18)
    fill = "#e2e2e2" if change == "pale" else "black"
    page.text((30, 30), "Payment term", face, "a", fill)
    right = 330 if change == "cut" else 200
    page.text((right, 30), "30 business days", face, "b")
    if change != "empty":
        page.text((30, 90), "2026-01-05", face)
    page.cells.append(Cell("c", "2026-01-05", (30, 92, 130, 108)))
    if change == "ruled":  # a line runs through where the text should be
        page.pen.rectangle((30, 92, 130, 108), "white")
        page.pen.line((0, 100, 400, 100), "black", 2)
    if change == "painted over":
        page.pen.rectangle((20, 80, 180, 130), "#222222")
    if change == "overprinted":
        page.text((60, 95), "2026-02-01", face, "d")
    if change == "tiny":
        page.text((30, 150), "12", font("Lato", 7), "d")
    if change == "twice":
        page.text((30, 150), "12 days", face, "a")
    return picture(page.image, page.cells)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("pale", "a: no readable ink"),
        ("cut", "b: its box .* is cut by the edge"),
        ("empty", "c: no readable ink"),
        ("ruled", "c: no readable ink"),
        ("painted over", "c: no readable ink"),
        ("overprinted", "c and d: .* overlap"),
        ("tiny", "d: .* px high"),
        ("twice", "a: drawn twice"),
    ],
)
def test_a_spoilt_drawing_is_found_and_the_fault_named(change: str, fault: str) -> None:
    faults = check(spoilt(change))
    assert len(faults) == 1 and re.match(fault, faults[0]), faults


def test_a_right_drawing_has_no_fault() -> None:
    assert check(spoilt("not")) == []
    assert check(draw(PAGE)) == []


def test_a_drawing_over_the_limits_is_found() -> None:
    wide = picture(Image.new("L", (MAX_SIDE + 1, 20), 255), [])
    assert check(wide) == [f"{MAX_SIDE + 1} x 20 px: at most {MAX_SIDE} a side"]
    noise = np.random.RandomState(0).randint(0, 256, (1500, 1500, 3)).astype(np.uint8)
    assert "bytes: at most" in check(picture(Image.fromarray(noise), []))[0]
    lying = dataclasses.replace(draw(PAGE), width=10)
    assert any("the file is" in fault for fault in check(lying))


def test_a_cell_that_only_claims_to_be_drawn_is_found_on_every_example() -> None:
    """The check finds each cell whose ink is wiped from the file."""
    whole = draw(PAGE)
    for cell in whole.cells:
        image = Image.open(io.BytesIO(whole.png)).convert("RGB")
        corner = image.getpixel((2, image.height - 2))
        ImageDraw.Draw(image).rectangle(cell.box, corner)
        faults = check(picture(image, list(whole.cells)))
        assert any(fault.startswith(f"{cell.key}: no readable ink") for fault in faults), cell


def test_the_same_scene_gives_the_same_bytes_and_another_seed_others() -> None:
    from teacher.scenes import kinds

    first = draw(PAGE)
    kinds._draw.cache_clear()
    again = draw(Scene(PAGE.kind, dict(PAGE.data), PAGE.seed))
    assert first.png == again.png and first.sha256 == again.sha256 and first is not again
    looks = {draw(dataclasses.replace(PAGE, seed=seed)).sha256 for seed in range(12)}
    assert len(looks) == 12


def test_the_order_of_fields_is_kept() -> None:
    turned = dict(PAGE.data, fields=dict(reversed(PAGE.data["fields"].items())))
    assert draw(Scene("document", turned, 7)).png != draw(PAGE).png
    assert draw(PAGE).source.index("Payment") < draw(PAGE).source.index("Effective")


@pytest.mark.parametrize("seed", [1, 4])  # a light look and a dark one, both with chips
def test_a_word_of_a_status_has_one_colour_whatever_stands_beside_it(seed: int) -> None:
    def colours(*words: str) -> dict[str, Any]:
        rows = [[f"T-{number}", word] for number, word in enumerate(words)]
        table = {"columns": ["No.", "Status"], "rows": rows}
        data = {"variant": "table", "title": "Runs", "table": table}
        picture = draw(Scene("screen", data, seed))
        assert check(picture) == []
        image = Image.open(io.BytesIO(picture.png))
        boxes = {c.text: c.box for c in picture.cells if c.text in words}
        return {w: image.getpixel((b[0] - 3, (b[1] + b[3]) // 2)) for w, b in boxes.items()}

    some, others = colours("failed", "passed", "open"), colours("on hold", "closed", "failed")
    assert some["failed"] == others["failed"] and colours("Failed")["Failed"] == some["failed"]
    assert len({*some.values(), *others.values()}) == 5
    assert len(set(colours("failed", "Turku", "Porto").values())) <= 2  # towns are no status


def test_an_unknown_kind_and_a_character_without_glyph_are_refused() -> None:
    with pytest.raises(SceneError, match="kind: 'painting': expected one of document"):
        draw(Scene("painting", {}, 0))
    page = Canvas(100, 50)
    with pytest.raises(SceneError, match="no font here has '\U0001f9ff'"):
        page.text((5, 5), "\U0001f9ff", font("Lato", 20), "a")
    with pytest.raises(SceneError, match="no visible character"):
        page.text((5, 5), " ", font("Lato", 20), "a")


def test_a_text_only_model_gets_the_source_in_a_frame() -> None:
    assert as_text("Amendment, A-104") == "[Image: Amendment, A-104]"


@settings(max_examples=150, deadline=None)
@given(
    text=st.text(st.sampled_from("1.agWfjÀ7,-é€"), min_size=1, max_size=9),
    family=st.sampled_from(FAMILIES),
    size=st.integers(11, 40),
    x=st.floats(150, 160),
    anchor=st.sampled_from(("la", "ra", "mm", "ms", "ma")),
)
def test_a_recorded_box_holds_all_of_the_ink_and_little_else(
    text: str, family: str, size: int, x: float, anchor: str
) -> None:
    page = Canvas(700, 160)
    left, top, right, bottom = page.text(
        (x + 150, 70.4), text, font(family, size), "a", "black", anchor
    )
    ys, xs = np.where(np.asarray(page.image.convert("L")) < 250)
    assert left <= xs.min() and top <= ys.min() and xs.max() < right and ys.max() < bottom
    assert xs.min() - left <= 2 and right - xs.max() <= 3 and ys.min() - top <= 2


@settings(max_examples=40, deadline=None)
@given(degrees=st.floats(-15, 15), seed=st.integers(0, 99))
def test_a_turned_page_takes_its_boxes_along(degrees: float, seed: int) -> None:
    page = Canvas(600, 600)
    rng = random.Random(seed)
    place = (rng.uniform(200, 300), rng.uniform(200, 380))
    page.text(place, "EUR 12,500", font("Lato", 22), "a")
    turned, (cell,) = rotated(page.image, page.cells, degrees, "white")
    ys, xs = np.where(np.asarray(turned.convert("L")) < 128)
    left, top, right, bottom = cell.box
    assert left <= xs.min() and xs.max() < right and top <= ys.min() and ys.max() < bottom


@settings(max_examples=40, deadline=None)
@given(degrees=st.floats(-15, 15))
def test_a_pasted_canvas_brings_its_cells(degrees: float) -> None:
    stamp, page = Canvas(200, 80), Canvas(500, 400)
    stamp.text((100, 40), "PAID", font("Lato", 24, True), "stamp", "#b3202a", "mm")
    page.paste(stamp, (150, 150), degrees)
    (cell,) = page.cells
    ys, xs = np.where(np.asarray(page.image.convert("L")) < 128)
    left, top, right, bottom = cell.box
    assert left <= xs.min() and xs.max() < right and top <= ys.min() and ys.max() < bottom


@settings(max_examples=100, deadline=None)
@given(words=st.lists(st.text("abcdefgWM-", min_size=1, max_size=30), min_size=1, max_size=12))
def test_wrapped_lines_fit_and_lose_no_character(words: list[str]) -> None:
    face = font("Lato", 16)
    lines = wrap(" ".join(words), face, 120)
    assert all(face.getlength(line) <= 120 for line in lines)
    assert "".join(lines).replace(" ", "") == "".join(words)
