"""Document pages show all of their data, in the image and in the source, for any seed."""

import hashlib
import io
import random
from typing import Any

import pytest
from drawings import DRAWINGS
from PIL import Image

from teacher.scenes.kinds import draw, example
from teacher.scenes.legibility import check
from teacher.scenes.scene import DrawnImage, Scene, SceneError


def expected(data: dict[str, Any]) -> dict[str, str]:
    """The text of each key of the data, computed independently."""
    cells = {key: str(data[key]) for key in ("title", "number", "date", "stamp") if data.get(key)}
    for i, party in enumerate(data.get("parties") or []):
        cells[f"parties.{i}"] = party
    for label, value in (data.get("fields") or {}).items():
        cells[f"fields.{label}"] = str(value)
    for i, paragraph in enumerate(data.get("paragraphs") or []):
        cells |= {f"paragraphs.{i}.{part}": text for part, text in paragraph.items()}
    if table := data.get("table"):
        cells |= {f"table.columns.{i}": name for i, name in enumerate(table["columns"])}
        for r, row in enumerate(table["rows"]):
            cells |= {f"table.{r}.{c}": str(value) for c, value in enumerate(row)}
    for i, signature in enumerate(data.get("signatures") or []):
        cells |= {f"signatures.{i}.{part}": text for part, text in signature.items()}
    return cells


def faults(picture: DrawnImage) -> list[str]:
    shown = {cell.key: cell.text for cell in picture.cells}
    wanted = expected(picture.scene.data)
    problems = check(picture)
    problems += [
        f"{key}: {shown.get(key)!r}, not {text!r}"
        for key, text in wanted.items()
        if shown.get(key) != text
    ]
    problems += [f"{key}: not of the data" for key in shown.keys() - wanted.keys()]
    problems += [
        f"{text!r} is not in the words" for text in wanted.values() if text not in picture.source
    ]
    return problems


def test_pages_of_every_variant_show_all_of_their_data() -> None:
    variants = set()
    for seed in range(12):
        picture = draw(example("document", random.Random(seed)))
        variants.add(picture.scene.data["variant"])
        assert faults(picture) == [], (seed, picture.scene)
    assert variants == {"contract", "amendment", "invoice", "table", "letter"}


@pytest.mark.slow
def test_many_pages_are_right_and_no_two_are_equal() -> None:
    seen = set()
    for seed in range(DRAWINGS):
        scene = example("document", random.Random(f"many {seed}"))
        picture = draw(scene)
        assert faults(picture) == [], (seed, scene)
        with Image.open(io.BytesIO(picture.png)) as image:
            seen.add(hashlib.sha256(image.convert("RGB").tobytes()).hexdigest())
    assert len(seen) == DRAWINGS


def test_the_seed_changes_the_looks_and_never_what_is_said() -> None:
    data = example("document", random.Random(2)).data
    images = [draw(Scene("document", data, seed)) for seed in range(15)]
    assert len({picture.sha256 for picture in images}) == 15
    assert len({picture.source for picture in images}) == 1
    assert len({(p.width, dict((c.key, c.box) for c in p.cells)["title"]) for p in images}) > 12
    for picture in images:
        assert {cell.key: cell.text for cell in picture.cells} == expected(data)


def test_a_scan_is_grey_or_noisy_and_a_print_is_neither() -> None:
    data = example("document", random.Random(2)).data
    for seed in range(3):
        colours = []
        for scan in (False, True):
            picture = draw(Scene("document", {**data, "scan": scan}, seed))
            with Image.open(io.BytesIO(picture.png)) as image:
                grey = image.convert("L")
                corner = grey.crop((0, grey.height - 60, grey.width, grey.height - 2))
                colours.append(len(corner.getcolors(256) or []))
        assert colours[0] < colours[1]


def test_words_are_short() -> None:
    scene = Scene(
        "document",
        {
            "variant": "amendment",
            "title": "Amendment",
            "number": "A-101",
            "fields": {"Cap": "EUR 5"},
        },
        1,
    )
    assert draw(scene).source == "Amendment, A-101\nCap: EUR 5"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "poster"}, "variant: 'poster': expected one of contract"),
        ({"title": ""}, "title: a document needs one"),
        ({"feilds": {}}, "feilds: a document has no such field"),
        ({"table": {"columns": ["a"], "rows": [["1", "2"]]}}, "table: expected as many values"),
        ({"paragraphs": [{"text": "word " * 2500}]}, "more than a page"),
        (
            {"table": {"columns": ["column"] * 40, "rows": [["1"] * 40]}},
            "40 columns do not fit on the page",
        ),
    ],
)
def test_data_that_is_no_page_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    data = {"variant": "letter", "title": "Notice", **change}
    with pytest.raises(SceneError, match=message):
        draw(Scene("document", data, 3))


@pytest.mark.parametrize("seed", range(6))
def test_long_labels_values_and_names_are_wrapped_never_cut(seed: int) -> None:
    data = {
        "variant": "amendment",
        "title": "Amendment to the framework agreement for the supply of refrigerated transport services",
        "parties": [
            "Ellcombe International Refrigerated Logistics and Warehousing Holdings Limited"
        ]
        * 2,
        "fields": {
            "Early termination fee payable by the customer": "EUR 1,250,000 for each calendar year that is left",
            "Reference": "X" * 90,
            "Term": "5",
        },
        "signatures": [{"name": "Wilhelmina Ardcombe-Fenwickstead", "date": "2026-01-05"}] * 3,
        "stamp": "RECEIVED BY THE REGISTRY 2026-01-05",
        "scan": seed % 2 == 0,
    }
    assert faults(draw(Scene("document", data, seed))) == []
