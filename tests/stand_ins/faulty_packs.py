"""A small pack, tests/data/stock_room, with texts of its files replaced: packs with one mistake each."""

import shutil
from pathlib import Path

from schemas.task import Split
from teacher.domain.check.episode import Episode, Job, play
from teacher.domain.pack import Domain, load
from teacher.domain.seeds import FIRST_SEED

STOCK_ROOM = Path(__file__).parents[1] / "data" / "stock_room"

# Parts of its environment.py that mistakes replace.
REPLY = "        reply=f\"There are {item['count']} of {number}.\",\n"
ANSWER = '        answer=Answer("number", item["count"]),\n'
GET = '        return {"item": item, **self._known(item)}\n'
MOVED = '        return {"item": item, "shelf": shelf}\n'
BEFORE_REQUEST = '    request = rng.choice(\n        [\n            f"How many'
FIND = '            ("find_item", {"name": item["name"]}),\n'


def write_pack(directory: Path, *changes: tuple[str, str], file: str = "environment.py") -> Path:
    """Writes the pack with each text of `changes` in one of its files replaced; returns its directory."""
    shutil.copytree(STOCK_ROOM, directory, ignore=shutil.ignore_patterns("__pycache__"))
    text = (directory / file).read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    (directory / file).write_text(text)
    return directory


def load_pack(directory: Path, *changes: tuple[str, str], file: str = "environment.py") -> Domain:
    """Loads the pack that `write_pack` writes."""
    return load(str(write_pack(directory, *changes, file=file)))


def counted(setup: str, reply: str, answer: str) -> list[tuple[str, str]]:
    """The changes that give the template count_of_item another reply and answer.

    setup: lines before the request, each indented by four spaces.
    """
    return [
        (BEFORE_REQUEST, setup + BEFORE_REQUEST),
        (REPLY, f"        reply={reply},\n"),
        (ANSWER, f"        answer={answer},\n"),
    ]


def play_all(domain: Domain, train: int = 12, exam: int = 4) -> dict[str, list[Episode]]:
    """Episodes of every template, by its name."""
    splits: list[tuple[Split, int]] = [("train", train), ("exam", exam)]
    return {
        name: [
            play(domain, Job(name, split, FIRST_SEED[split] + i))
            for split, count in splits
            for i in range(count)
        ]
        for name in domain.templates
    }
