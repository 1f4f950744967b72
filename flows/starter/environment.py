"""The stock room: a world to replace with your own.

The class is the world. Its public methods are the tools; their type hints and docstrings become the tools' schemas. A
template below it makes tasks: the request, the calls that solve it, and the answer or the final state that is checked.
Each task is proven before it is used: its solution is replayed here and must pass the task's own checks.

`stillhouse check-domain` on this directory says what is wrong after a change.
"""

import random
from typing import Any

from teacher.domain import (
    Answer,
    Blueprint,
    Environment,
    get_entry,
    is_same_name,
    quote,
    split_numbers,
    split_pool,
    template,
)

# What the tasks are about. `reset` divides the materials between train and exam with split_pool, so that the exam asks
# about items that no training task mentions. Use lists: the order of a set is another in each process.
MATERIALS = [
    *("brass", "oak", "nylon", "copper", "walnut", "rubber", "zinc", "birch", "cork", "slate"),
    *("steel", "maple", "ceramic", "bronze", "cedar", "felt", "nickel", "larch", "glass", "linen"),
]
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
        # Everything random comes from this generator: no clock, no global random. A task is then the same in every
        # process and on every day.
        self._task = task  # for get_reward of the base class
        split = task["split"]
        rng = random.Random(f"{split}:{task['seed']}")
        names = [
            f"{material} {part}" for material in split_pool(MATERIALS, split) for part in PARTS
        ]
        numbers = rng.sample(split_numbers(split, 1000), 12)
        self._items: dict[str, dict[str, Any]] = {
            f"S-{number}": {
                "name": name,
                "shelf": rng.choice(SHELVES),
                "count": rng.randrange(5, 900),
            }
            for number, name in zip(numbers, rng.sample(names, 12), strict=True)
        }
        # Text that is returned here is added to the system message of the task.
        return None

    # Names that begin with _ are no tools. The state is everything that a tool can change.
    def _state(self) -> Any:
        return self._items

    def find_item(self, name: str) -> dict:
        """Find an item's number by its name.

        Args:
            name: The item's name, such as brass hinge.
        """
        for number, item in self._items.items():
            if is_same_name(item["name"], name):
                return {"item": number}
        # A ValueError is a result that the model reads: say what was wrong and what is expected. Any other exception
        # is a bug of this file and ends the run.
        raise ValueError(f"no item is called {quote(name)}: expected a name such as brass hinge")

    def get_item(self, item: str) -> dict:
        """Get an item's name, shelf and count.

        Args:
            item: The item's number, such as S-1000.
        """
        return {"item": item, **get_entry(self._items, item, "item", "S-1000")}

    def move_item(self, item: str, shelf: str) -> dict:
        """Put an item on another shelf.

        Args:
            item: The item's number, such as S-1000.
            shelf: The new shelf, such as B4.
        """
        if shelf not in SHELVES:
            raise ValueError(f"no shelf {quote(shelf)}: expected one such as B4")
        get_entry(self._items, item, "item", "S-1000")["shelf"] = shelf
        return {"item": item, "shelf": shelf}

    def take_item(self, item: str, count: int) -> dict:
        """Take some of an item out of the stock room.

        Args:
            item: The item's number, such as S-1000.
            count: How many are taken.
        """
        known = get_entry(self._items, item, "item", "S-1000")
        if not 0 < count <= known["count"]:
            raise ValueError(f"{known['count']} of {item} are there, {count} cannot be taken")
        known["count"] -= count
        return {"item": item, "count": known["count"]}


# A question: one call, and an answer that is checked. Word it in several ways, as your users would.
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


# An order: two calls, the second of which needs the first one's result. Without an `answer`, only the final state is
# checked.
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


# An order with an answer: both the final state and the number in the reply are checked.
@template(kind="workflow")
def taken_item(world: StockRoom, rng: random.Random) -> Blueprint:
    number, item = rng.choice(list(world._items.items()))
    # The request must not contain the answer, so half of them is not taken.
    count = rng.choice([n for n in range(1, item["count"]) if n != item["count"] - n])
    request = rng.choice(
        [
            f"Take {count} of the {item['name']} out. How many are left?",
            f"I need {count} of the {item['name']}: book them out and tell me what remains.",
            f"{count} of the {item['name']} for the workshop, please. What is left then?",
        ]
    )
    return Blueprint(
        request=request,
        plan=[
            ("find_item", {"name": item["name"]}),
            ("take_item", {"item": number, "count": count}),
        ],
        reply=f"{item['count'] - count} of the {item['name']} are left.",
        answer=Answer("number", item["count"] - count),
    )
