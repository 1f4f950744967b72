"""The stock room: a world to replace with your own.

Public methods of the class are the tools; their type hints and docstrings become the tools' schemas. A template
makes a task: the request, the calls that solve it, and the expected answer or final state. Each task is proven
before it is used: its solution is replayed here and must pass the task's own checks.
"""

import random
from typing import Any

from teacher.domain import Answer, Blueprint, Environment, template

# Train and exam share no name and no number, so that no entity of the exam occurs in training.
MATERIALS = {
    "train": [
        "brass",
        "oak",
        "nylon",
        "copper",
        "walnut",
        "rubber",
        "zinc",
        "birch",
        "cork",
        "slate",
    ],
    "exam": [
        "steel",
        "maple",
        "ceramic",
        "bronze",
        "cedar",
        "felt",
        "nickel",
        "larch",
        "glass",
        "linen",
    ],
}
PARTS = [
    "hinge",
    "dowel",
    "bracket",
    "washer",
    "knob",
    "handle",
    "clamp",
    "spacer",
    "hook",
    "panel",
]
SHELVES = [f"{row}{column}" for row in "ABCDEF" for column in range(1, 10)]


class StockRoom(Environment):
    """A workshop's stock room."""

    def reset(self, **task: Any) -> str | None:
        self._task = task
        split = task["split"]
        rng = random.Random(f"{split}:{task['seed']}")
        names = [f"{material} {part}" for material in MATERIALS[split] for part in PARTS]
        numbers = range(1001 if split == "train" else 1000, 9999, 2)
        self._items = {
            f"S-{number}": {
                "name": name,
                "shelf": rng.choice(SHELVES),
                "count": rng.randrange(5, 900),
            }
            for number, name in zip(rng.sample(numbers, 12), rng.sample(names, 12), strict=True)
        }
        return None

    def _state(self) -> Any:
        return self._items

    def find_item(self, name: str) -> dict:
        """Find an item's number by its name.

        Args:
            name: The item's name, such as brass hinge.
        """
        for number, item in self._items.items():
            if item["name"] == name.strip().lower():
                return {"item": number}
        raise ValueError(f"no item is called {name}")

    def get_item(self, item: str) -> dict:
        """Get an item's name, shelf and count.

        Args:
            item: The item's number, such as S-1042.
        """
        return {"item": item, **self._known(item)}

    def move_item(self, item: str, shelf: str) -> dict:
        """Put an item on another shelf.

        Args:
            item: The item's number, such as S-1042.
            shelf: The new shelf, such as B4.
        """
        if shelf not in SHELVES:
            raise ValueError(f"no shelf {shelf}")
        self._known(item)["shelf"] = shelf
        return {"item": item, "shelf": shelf}

    def take_item(self, item: str, count: int) -> dict:
        """Take some of an item out of the stock room.

        Args:
            item: The item's number, such as S-1042.
            count: How many are taken.
        """
        known = self._known(item)
        if not 0 < count <= known["count"]:
            raise ValueError(f"{known['count']} of {item} are there, {count} cannot be taken")
        known["count"] -= count
        return {"item": item, "count": known["count"]}

    def _known(self, item: str) -> dict[str, Any]:
        if item not in self._items:
            raise ValueError(f"no item {item}")
        return self._items[item]


@template(kind="lookup")
def count_of_item(world: StockRoom, rng: random.Random) -> Blueprint:
    number, item = rng.choice(list(world._items.items()))
    request = rng.choice(
        [
            f"How many of {number} do we have?",
            f"What is the count of {number}?",
            f"Stock of {number}?",
        ]
    )
    return Blueprint(
        request=request,
        plan=[("get_item", {"item": number})],
        reply=f"There are {item['count']} of {number}.",
        answer=Answer("number", item["count"]),
    )


@template(kind="workflow")
def moved_item(world: StockRoom, rng: random.Random) -> Blueprint:
    number, item = rng.choice(list(world._items.items()))
    shelf = rng.choice([shelf for shelf in SHELVES if shelf != item["shelf"]])
    request = rng.choice(
        [
            f"Move the {item['name']} to shelf {shelf}.",
            f"The {item['name']} goes to {shelf}, please.",
            f"Put our {item['name']} on {shelf}.",
        ]
    )
    return Blueprint(
        request=request,
        plan=[
            ("find_item", {"name": item["name"]}),
            ("move_item", {"item": number, "shelf": shelf}),
        ],
        reply=f"The {item['name']} ({number}) is on shelf {shelf} now.",
    )
