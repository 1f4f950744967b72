"""A pack's files: which are loaded, what they may share, and which of them an error names."""

import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from schemas.errors import InputError
from teacher.domain.pack import Domain, load

STARTER = Path(__file__).parents[3] / "flows" / "starter"
SHELVED = """\
from teacher.domain import Answer, Blueprint, template

from .environment import StockRoom
from .wording import said


@template(kind="lookup")
def shelf_of_item(world: StockRoom, rng) -> Blueprint:
    number, item = rng.choice(list(world._items.items()))
    plan = [("get_item", {"item": number})]
    return Blueprint(said(number), plan, f"On {item['shelf']}.", Answer("text", item["shelf"]))
"""
WORDING = """\
def said(number: str) -> str:
    return f"On which shelf is {number}?"
"""


def pack(directory: Path, **files: str) -> Domain:
    """The stock room of flows/starter, with these files beside its own."""
    shutil.copytree(STARTER, directory)
    spec = directory / "domain.yaml"
    spec.write_text(spec.read_text().replace("NAME", "stock"))
    for name, text in files.items():
        (directory / f"{name}.py").write_text(text)
    return load(str(directory))


def test_a_pack_may_be_one_file_only(tmp_path: Path) -> None:
    assert sorted(pack(tmp_path / "stock").templates) == [
        "count_of_item",
        "moved_item",
        "taken_item",
    ]


def test_threads_may_load_a_pack_at_once() -> None:
    with ThreadPoolExecutor(4) as threads:
        loaded = list(threads.map(load, ["legal"] * 16))
    assert all(each.templates.keys() == loaded[0].templates.keys() for each in loaded)


@pytest.mark.parametrize("name", ["textual", "visual"])
def test_templates_lie_in_files_that_import_from_those_beside_them(
    tmp_path: Path, name: str
) -> None:
    domain = pack(tmp_path / "stock", wording=WORDING, **{name: SHELVED})
    assert list(domain.templates) == ["count_of_item", "moved_item", "taken_item", "shelf_of_item"]
    world = domain.environment()
    world.reset(seed=1, split="train")
    blueprint = domain.templates["shelf_of_item"](world, random.Random(1))
    assert blueprint.request.startswith("On which shelf is S-")


def test_two_packs_of_one_name_keep_their_own_files_apart(tmp_path: Path) -> None:
    one = pack(tmp_path / "one", wording=WORDING, textual=SHELVED)
    other = pack(
        tmp_path / "other", wording=WORDING.replace("On which shelf", "Where"), textual=SHELVED
    )
    asked = []
    for domain in (one, other, load(str(tmp_path / "one"))):
        world = domain.environment()
        world.reset(seed=1, split="train")
        asked.append(domain.templates["shelf_of_item"](world, random.Random(1)).request)
    assert asked[0] == asked[2] and asked[1] == asked[0].replace("On which shelf", "Where")


def test_a_template_of_a_name_that_is_taken_is_refused_by_both_files(tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        pack(tmp_path / "stock", wording=WORDING, textual=SHELVED, visual=SHELVED)
    assert str(raised.value) == (
        f"{tmp_path / 'stock' / 'visual.py'}: shelf_of_item: textual.py has a template of that name"
    )


def test_a_file_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        pack(tmp_path / "stock", textual="from .wording import said\n")
    assert str(raised.value).startswith(
        f"{tmp_path / 'stock' / 'textual.py'}: cannot be loaded: ModuleNotFoundError: "
    )
