"""A small pack with images, for tests: pages of fee notes, a chart, a tool that returns a page, and a choice."""

from pathlib import Path

from teacher.domain.pack import Domain, load

DOMAIN = """\
name: fees
title: Fee notes
description: Fee notes and what they say.
licence: Apache-2.0
system: You read fee notes. Answer in one short sentence.
personas: [a clerk]
kinds:
  document: {share: 0.6}
  chart: {share: 0.2}
  workflow: {share: 0.2}
languages: [en]
budgets: {steps: 6}
"""

ENVIRONMENT = '''\
import random
from typing import Any

from teacher.domain import Answer, Blueprint, Environment, template
from teacher.scenes import Scene

PAYERS = {"train": ["Ardmore", "Brenfield", "Calder", "Dunmore"], "exam": ["Ellwood", "Fenwick", "Garland", "Holm"]}


class Desk(Environment):
    def reset(self, **task: Any) -> str | None:
        self._task = task
        rng = random.Random(f"{task['split']}:{task['seed']}")
        self._rng = rng
        self._payer = rng.choice(PAYERS[task["split"]])
        self._fee = rng.randrange(1000, 9000)
        self._number = f"N-{rng.randrange(100, 999)}"
        self._paid: list[int] = []
        return None

    def _state(self) -> Any:
        return self._paid

    def _note(self) -> Scene:
        data = {
            "variant": "letter",
            "title": "Fee note",
            "number": self._number,
            "fields": {"Payer": self._payer, "Fee due": f"EUR {self._fee:,}"},
        }
        return Scene("document", data, self._task["seed"])

    def get_note(self, number: str) -> Scene:
        """Get a fee note as a scanned page.

        Args:
            number: The note's number, such as N-104.
        """
        if number != self._number:
            raise ValueError(f"no note {number}")
        return self._note()

    def pay(self, amount: int) -> dict:
        """Pay an amount.

        Args:
            amount: Whole euros.
        """
        self._paid.append(amount)
        return {"paid": amount}

    def count_notes(self) -> dict:
        """Count the fee notes of the desk."""
        return {"notes": 1}


@template(kind="workflow")
def fee_of_stored_note(world: Desk, rng: random.Random) -> Blueprint:
    return Blueprint(
        request=f"What fee does note {world._number} state?",
        plan=[("get_note", {"number": world._number})],
        reply=f"The fee is EUR {world._fee:,}.",
        answer=Answer("amount", world._fee),
    )
'''

VISUAL = """\
import random
from typing import Any

from teacher.domain import Answer, Blueprint, at, template
from teacher.scenes import Scene, draw


@template(kind="document")
def fee_on_page(world: Any, rng: random.Random) -> Blueprint:
    note = world._note()
    return Blueprint(
        request="What is the fee due on this page?",
        plan=[],
        reply=f"The fee due is EUR {world._fee:,}.",
        pictures=[note],
        program={"op": "lookup", "cell": at(note.data, "fields.Fee due")},
    )


@template(kind="document")
def paid_page(world: Any, rng: random.Random) -> Blueprint:
    note = world._note()
    return Blueprint(
        request="Pay the fee that this page asks for.",
        plan=[("pay", {"amount": world._fee})],
        reply="It is paid.",
        pictures=[note],
        program={"op": "lookup", "cell": at(note.data, "fields.Fee due")},
    )


@template(kind="document", pixels=True)
def where_is_the_fee(world: Any, rng: random.Random) -> Blueprint:
    note = world._note()
    box = next(cell.box for cell in draw(note).cells if cell.key == "fields.Fee due")
    return Blueprint(
        request="Where on the page is the fee? Give one point (x, y) in pixels.",
        plan=[],
        reply=f"It is at ({(box[0] + box[2]) // 2}, {(box[1] + box[3]) // 2}).",
        pictures=[note],
        program={"op": "point", "cell": at(note.data, "fields.Fee due")},
    )


@template(kind="document")
def visit_of_letter(world: Any, rng: random.Random) -> Blueprint:
    day = world._rng.randrange(10, 28)
    data = {
        "variant": "letter",
        "title": "Visit",
        "number": f"V-{world._rng.randrange(100, 999)}",
        "fields": {"Visitor": world._payer, "Day of visit": f"2026-05-{day}"},
    }
    letter = Scene("document", data, world._task["seed"])
    return Blueprint(
        request="On which day of visit does the visitor come?",
        plan=[],
        reply=f"They come on 2026-05-{day}.",
        pictures=[letter],
        program={"op": "lookup", "cell": at(letter.data, "fields.Day of visit")},
    )


@template(kind="chart")
def best_quarter(world: Any, rng: random.Random) -> Blueprint:
    values = world._rng.sample(range(10, 90, 7), 4)
    quarters = ["First", "Second", "Third", "Fourth"]
    data = {
        "variant": "bar",
        "title": "Fees",
        "x_label": "Quarter",
        "y_label": "Fees",
        "unit": "kEUR",
        "categories": quarters,
        "series": {"Fees": values},
        "labels": True,
    }
    cells = [at(data, f"series.Fees.{n}") for n in range(4)]
    names = [at(data, f"categories.{n}") for n in range(4)]
    best = quarters[values.index(max(values))]
    return Blueprint(
        request="In which quarter were the fees highest?",
        plan=[],
        reply=f"In the {best.lower()} quarter.",
        answer=Answer("choice", best, options=tuple(quarters)),
        pictures=[Scene("chart", data, world._task["seed"])],
        program={"op": "argmax", "cells": cells, "names": names},
    )
"""


def write(directory: Path, *changes: tuple[str, str]) -> Domain:
    """Writes the pack to a new directory, with each (old, new) text replaced in its files, and loads it."""
    directory.mkdir(parents=True)
    files = {"domain.yaml": DOMAIN, "environment.py": ENVIRONMENT, "visual.py": VISUAL}
    for old, new in changes:
        assert any(old in text for text in files.values())
        files = {name: text.replace(old, new) for name, text in files.items()}
    for name, text in files.items():
        (directory / name).write_text(text)
    return load(str(directory))
