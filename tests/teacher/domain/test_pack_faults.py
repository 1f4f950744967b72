"""A mistake in a pack is one line that names the file, what is wrong there, and what was expected."""

import enum
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import InputError
from teacher.domain import Answer, Blueprint, Domain, load
from teacher.domain.tasks import build, sample

SPEC = """\
name: stock
title: Stock room
description: Keeps a stock room.
licence: CC0-1.0
system: You keep a stock room.
personas: [worker]
kinds:
  lookup: {share: 0.5}
  workflow: {share: 0.5}
languages: [en]
budgets: {steps: 4}
"""
ENVIRONMENT = """\
import random

from teacher.domain import Answer, Blueprint, Environment, template


class StockRoom(Environment):
    def reset(self, **task):
        rng = random.Random(f"{task['split']}:{task['seed']}")
        first = 1000 if task["split"] == "train" else 5000
        self._items = {f"S-{n}": {"count": rng.randrange(5, 900)} for n in range(first, first + 900, 7)}
        return None

    def _state(self):
        return self._items

    def get_item(self, item: str) -> dict:
        '''Get an item's count.

        Args:
            item: The item's number.
        '''
        return {"item": item, **self._known(item)}

    def empty(self, item: str) -> dict:
        '''Take all of an item.

        Args:
            item: The item's number.
        '''
        self._known(item)["count"] = 0
        return {"item": item, "count": 0}

    def _known(self, item):
        if item not in self._items:
            raise ValueError(f"no item {item}")
        return self._items[item]


@template(kind="lookup")
def count_of_item(world: StockRoom, rng: random.Random) -> Blueprint:
    number, item = rng.choice(list(world._items.items()))
    return Blueprint(
        request=f"How many of {number} are there?",
        plan=[("get_item", {"item": number})],
        reply=f"There are {item['count']}.",
        answer=Answer("number", item["count"]),
    )


@template(kind="workflow")
def emptied(world: StockRoom, rng: random.Random) -> Blueprint:
    number = rng.choice(list(world._items))
    return Blueprint(f"Take all of {number}.", [("empty", {"item": number})], "Taken.")
"""
GET_ITEM = 'return {"item": item, **self._known(item)}'


def pack(tmp_path: Path, *changes: tuple[str, str], **files: str) -> Domain:
    """The stock room above, with each text of `changes` replaced where it is, and more files beside."""
    texts = {"domain.yaml": SPEC, "environment.py": ENVIRONMENT}
    for old, new in changes:
        (name,) = (name for name, text in texts.items() if old in text)
        texts[name] = texts[name].replace(old, new, 1)
    texts |= {f"{name}.py": text for name, text in files.items()}
    (tmp_path / "stock").mkdir()
    for name, text in texts.items():
        (tmp_path / "stock" / name).write_text(text)
    return load(str(tmp_path / "stock"))


def refusal(tmp_path: Path, *changes: tuple[str, str], **files: str) -> str:
    """The error of loading the changed pack, without the directory."""
    with pytest.raises(InputError) as raised:
        pack(tmp_path, *changes, **files)
    return _line(raised.value, tmp_path)


def fault(tmp_path: Path, template: str, *changes: tuple[str, str]) -> str:
    """The error of building a task of the changed pack, without the directory."""
    domain = pack(tmp_path, *changes)
    with pytest.raises(InputError) as raised:
        build(domain, template, "train", 7)
    return _line(raised.value, tmp_path)


def _line(error: InputError, tmp_path: Path) -> str:
    message = str(error)
    assert message.startswith(f"{tmp_path / 'stock'}/") and "\n" not in message
    return message.removeprefix(f"{tmp_path / 'stock'}/")


# ------------------------------------------------------------------------------------- files and world


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "title: ",
            "name: again\ntitle: ",
            "domain.yaml: line 2: not YAML: the key 'name' is given twice",
        ),
        (
            "  lookup: {share: 0.5}",
            "  lookup: {share: 0.5}\n  lookup: {share: 0.4}",
            "domain.yaml: line 9: not YAML: the key 'lookup' is given twice",
        ),
        ("title: ", "titel: ", "domain.yaml: titel: unknown field, expected one of name, title"),
        (
            "{share: 0.5}",
            "{share: half}",
            "domain.yaml: kinds.lookup.share: found 'half', expected number",
        ),
        (
            "system: ",
            "sytem: x\nsystem: ",
            "domain.yaml: sytem: unknown field, expected one of name",
        ),
        (
            'template(kind="lookup")',
            'template(kind="lookups")',
            "environment.py: count_of_item: found the kind lookups, expected one of kinds in domain.yaml: lookup,",
        ),
        (
            "  lookup: {share: 0.5}",
            "  lookup: {share: 0.5}\n  chart: {share: 0.5}",
            "domain.yaml: kinds.chart: no template has this kind: write one, or remove the kind",
        ),
        (
            "def count_of_item(",
            "def workflow(",
            "environment.py: workflow: a kind has this name: rename it",
        ),
        (
            "def count_of_item(world: StockRoom, rng: random.Random)",
            "def count_of_item(world: StockRoom)",
            "environment.py: count_of_item: found the parameters (world: ",
        ),
        (
            "def emptied(",
            "def count_of_item(",
            "environment.py: count_of_item: the file has a template of that name",
        ),
        (
            '@template(kind="lookup")',
            '@(lambda function: function.name)\n@template(kind="lookup")',
            "environment.py: count_of_item: another decorator is above @template: write @template as the first line",
        ),
        (
            '@template(kind="lookup")',
            "@template",
            "environment.py: cannot be loaded: TypeError: @template: expected a kind, as in",
        ),
        (
            '@template(kind="lookup")',
            '@template(kind="lookup")\n@template(kind="workflow")',
            "environment.py: cannot be loaded: TypeError: @template(kind='lookup'): found a Template below",
        ),
        (
            '@template(kind="lookup")',
            '@template(kind="lookup"',
            "environment.py: cannot be loaded: SyntaxError: '(' was never closed (environment.py:",
        ),
        (
            "class StockRoom(Environment):",
            "NUMBER = int('x')\nclass StockRoom(Environment):",
            "environment.py: cannot be loaded: ValueError: invalid literal for int() with base 10: 'x' (environ",
        ),
        (
            "class StockRoom(Environment):",
            "raise SystemExit(3)\nclass StockRoom(Environment):",
            "environment.py: cannot be loaded: SystemExit: 3 (environment.py:",
        ),
        (
            "class StockRoom(Environment):",
            "class StockRoom:",
            "environment.py: found no subclass of Environment, expected one",
        ),
        (
            "class StockRoom(Environment):",
            "class Room(Environment): ...\nclass StockRoom(Environment):",
            "environment.py: found 2 subclasses of Environment (Room, StockRoom), expected one",
        ),
        (
            "def _state(self)",
            "def _sate(self)",
            "environment.py: StockRoom: no _state: expected a method _state(self)",
        ),
        (
            "def reset(self",
            "def _reset(self",
            "environment.py: StockRoom: no reset: expected a method reset(self, **task)",
        ),
        (
            "def reset(self, **task)",
            "def reset(self, seed, split)",
            "environment.py: StockRoom.reset: found the parameters (self, seed, split), expected",
        ),
        (
            "class StockRoom(Environment):",
            "class StockRoom(Environment):\n    errors = KeyError",
            "environment.py: StockRoom.errors: found <class 'KeyError'>, expected a tuple of particular exceptions",
        ),
        (
            "class StockRoom(Environment):",
            "class StockRoom(Environment):\n    errors = (Exception,)",
            "environment.py: StockRoom.errors: found (<class 'Exception'>,), expected a tuple of particular",
        ),
        (
            "def _known(",
            "def known(",
            "environment.py: StockRoom.known: no docstring: a public method is a tool",
        ),
    ],
)
def test_a_mistake_is_refused_when_the_pack_is_loaded(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert refusal(tmp_path, (old, new)).startswith(message)


def test_a_template_in_a_file_that_is_not_read_for_templates_is_refused(tmp_path: Path) -> None:
    helper = "from teacher.domain import template\n\n@template(kind='lookup')\ndef lost(world, rng): ...\n"
    changes = ("import random\n", "import random\n\nfrom . import helper\n")
    assert refusal(tmp_path, changes, helper=helper).startswith(
        "helper.py: lost: templates are read from environment.py, textual.py, visual.py, swarm.py"
        " and extraction.py alone"
    )


def test_templates_that_call_each_other_or_have_no_name_in_the_module_are_kept(
    tmp_path: Path,
) -> None:
    textual = """\
from teacher.domain import Blueprint, template

from .environment import StockRoom, count_of_item


def _again(name):
    def again(world: StockRoom, rng) -> Blueprint:
        return count_of_item(world, rng)

    again.__name__ = name
    return template(kind="lookup")(again)


_MADE = [_again("again_1"), _again("again_2")]
"""
    domain = pack(tmp_path, textual=textual)
    assert list(domain.templates) == ["count_of_item", "emptied", "again_1", "again_2"]
    assert build(domain, "again_2", "train", 7)["template"] == "again_2"


def test_a_pack_that_is_loaded_twice_has_no_template_twice(tmp_path: Path) -> None:
    first = pack(tmp_path)
    assert list(load(str(tmp_path / "stock")).templates) == list(first.templates)


# ------------------------------------------------------------------------------------- while tasks are proven


@pytest.mark.parametrize(
    ("template", "old", "new", "message"),
    [
        (
            "count_of_item",
            'item["count"]),',
            'item["cuont"]),',
            "environment.py: count_of_item: seed 7 (train): the template raised KeyError: 'cuont' (environment.py:",
        ),
        (
            "count_of_item",
            'answer=Answer("number", item["count"])',
            'answer=Answer("numbr", item["count"])',
            "environment.py: count_of_item: seed 7 (train): the template raised ValueError: Answer: type: found"
            " 'numbr', expected one of amount, number, date, text, choice, point, not_shown, declines, asks,"
            " refuses, json (environment.py:",
        ),
        (
            "count_of_item",
            'answer=Answer("number", item["count"])',
            'answer=Answer("number", str(item["count"]))',
            "environment.py: count_of_item: seed 7 (train): the template raised ValueError: Answer: value: found '",
        ),
        (
            "count_of_item",
            "    return Blueprint(\n",
            "    Blueprint(\n",
            "environment.py: count_of_item: seed 7 (train): the template returned NoneType, expected a Blueprint",
        ),
        (
            "count_of_item",
            'plan=[("get_item", {"item": number})]',
            'plan=[("get_item", number)]',
            "environment.py: count_of_item: seed 7 (train): the template raised ValueError: Blueprint: plan[0]: found"
            " ('get_item', 'S-",
        ),
        (
            "count_of_item",
            'plan=[("get_item", {"item": number})]',
            'plan=[("get_item", {"item": {number}})]',
            "environment.py: count_of_item: seed 7 (train): the template raised NotJson: plan[0] (get_item).item: found"
            " a set",
        ),
        (
            "count_of_item",
            GET_ITEM,
            'return {"item": item, "name": self._known(item)["nmae"]}',
            "environment.py: count_of_item: seed 7 (train): StockRoom.get_item raised KeyError:"
            " 'nmae' (environment.py:",
        ),
        (
            "count_of_item",
            GET_ITEM,
            'return {"item": item, "tags": [{"red"}]}',
            "environment.py: count_of_item: seed 7 (train): StockRoom.get_item: result.tags[0]:"
            " found a set ({'red'}), expected a list in a fixed order, such as sorted(...)",
        ),
        (
            "count_of_item",
            GET_ITEM,
            "self._known(item)",
            "environment.py: count_of_item: seed 7 (train): StockRoom.get_item: returned None,",
        ),
        (
            "count_of_item",
            "return self._items\n",
            'return {**self._items, "used": {1}}\n',
            "environment.py: count_of_item: seed 7 (train): StockRoom._state: state.used: found a set ({1}),",
        ),
        (
            "count_of_item",
            "        return None\n",
            "        return task['tsak']\n",
            "environment.py: count_of_item: seed 7 (train): StockRoom.reset raised KeyError: 'tsak' (environment.py:",
        ),
        (
            "count_of_item",
            "        return None\n",
            "        return 3\n",
            "environment.py: count_of_item: seed 7 (train): StockRoom.reset: returned int, expected text for the",
        ),
    ],
)
def test_a_mistake_that_shows_when_code_runs_names_template_seed_and_line(
    tmp_path: Path, template: str, old: str, new: str, message: str
) -> None:
    assert fault(tmp_path, template, (old, new)).startswith(message)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise SystemExit(3)", "StockRoom.get_item raised SystemExit: 3 (environment.py:"),
        ("return self.get_item(item)", "StockRoom.get_item raised RecursionError: maximum"),
        ("return (n for n in [1])", "StockRoom.get_item: result: found a generator"),
    ],
)
def test_a_tool_cannot_end_the_command_itself(tmp_path: Path, code: str, message: str) -> None:
    assert message in fault(tmp_path, "count_of_item", (GET_ITEM, code))


def test_the_line_of_a_fault_is_the_last_one_in_the_pack(tmp_path: Path) -> None:
    line = fault(tmp_path, "count_of_item", (GET_ITEM, 'return self._known(item)["count"].upper()'))
    assert line.endswith('return self._known(item)["count"].upper())')


def test_a_fault_of_the_world_in_another_file_than_the_template_names_both(tmp_path: Path) -> None:
    textual = """\
from teacher.domain import template

from .environment import count_of_item


@template(kind="lookup")
def other(world, rng):
    return count_of_item(world, rng)
"""
    domain = pack(tmp_path, (GET_ITEM, "return {1, 2}"), textual=textual)
    with pytest.raises(InputError) as raised:
        build(domain, "other", "train", 7)
    assert _line(raised.value, tmp_path).startswith(
        "textual.py: other: seed 7 (train): environment.py: StockRoom.get_item: result: found a set"
    )


class Shelf(enum.Enum):
    A1 = "A1"


def test_a_solution_may_have_what_a_world_has_and_is_stored_as_json() -> None:
    blueprint = Blueprint("Move it.", [("move", {"shelf": Shelf.A1, "to": ("a", 1)})], "Moved.")
    assert blueprint.plan == [("move", {"shelf": "A1", "to": ["a", 1]})]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"request": ""}, "request: found '', expected text"),
        ({"request": None}, "request: found None, expected text"),
        ({"reply": 3}, "reply: found 3, expected text"),
        (
            {"plan": ("get_item", {"item": "S-1"})},
            "plan[0]: found 'get_item', expected (tool, {argument: value})",
        ),
        ({"plan": [{"tool": "get_item", "arguments": {}}]}, "plan[0]: found {"),
        ({"plan": "get_item"}, "plan: found 'get_item', expected a list"),
        ({"answer": 3}, "answer: found 3, expected an Answer or None"),
        ({"pictures": ["page"]}, "pictures[0]: found 'page', expected a Scene"),
        ({"program": "lookup"}, "program: found 'lookup', expected a dict"),
    ],
)
def test_a_blueprint_with_a_field_of_another_form_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    fields: dict[str, Any] = {"request": "How many?", "plan": [], "reply": "3.", "answer": None}
    with pytest.raises(ValueError) as raised:
        Blueprint(**{**fields, **changes})
    assert str(raised.value).startswith(f"Blueprint: {message}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dates", "2026-03-02"), "type: found 'dates', expected one of amount, number, date"),
        (("number", True), "value: found True for the type number, expected a number"),
        (("amount", float("nan")), "value: found nan for the type amount, expected a number"),
        (
            ("date", "2 March 2026"),
            "value: found '2 March 2026' for the type date, expected an ISO date",
        ),
        (("date", "20260302"), "value: found '20260302' for the type date"),
        (("text", " "), "value: found ' ' for the type text, expected words"),
        (("text", None), "value: found None for the type text"),
        (("choice", "a"), "options: found (), expected at least two texts, each once"),
        (
            ("choice", "c", 0, ("a", "b")),
            "value: found 'c' for the type choice, expected one of its options",
        ),
        (("choice", "a", 0, ("a", "a")), "options: found ('a', 'a'), expected at least two"),
        (("choice", "a", 0, "ab"), "options: found 'ab', expected at least two"),
        (
            ("text", "a", 0, ("a", "b")),
            "options: found ('a', 'b') for the type text: only a choice",
        ),
        (("text", "a", 1), "tolerance: found 1 for the type text: only amount and number have one"),
        (("number", 1, -1), "tolerance: found -1, expected a number from 0"),
        (
            ("point", [10, 10, 5, 20]),
            "value: found [10, 10, 5, 20] for the type point, expected the box",
        ),
        (("not_shown", "a"), "value: found 'a' for the type not_shown, expected no value"),
    ],
)
def test_an_answer_whose_value_does_not_fit_its_type_is_refused(
    arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(ValueError) as raised:
        Answer(*arguments)
    assert str(raised.value).startswith(f"Answer: {message}")


def test_answers_that_fit_are_kept_and_a_date_becomes_its_iso_text() -> None:
    import datetime as dt

    assert Answer("date", dt.date(2026, 3, 2)) == Answer("date", "2026-03-02")
    for answer in (
        Answer("amount", 12500.5, tolerance=0.5),
        Answer("number", 0),
        Answer("text", "Ada Nore"),
        Answer("choice", "a", options=("a", "b")),
        Answer("point", [1, 2, 3, 4.5]),
        Answer("not_shown"),
    ):
        assert answer.as_row()["type"] == answer.type


def test_the_unchanged_pack_has_none_of_these_mistakes(tmp_path: Path) -> None:
    assert len(sample(pack(tmp_path), "train", 10, seed=0)) == 10
