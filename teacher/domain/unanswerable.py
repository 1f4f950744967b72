"""Tasks whose picture is another one: the right answer is that it does not show what was asked for.

A model that was only ever shown the right page learns to find an answer on any page.
"""

import json
import random
import re
from typing import Any

from teacher.domain import tasks
from teacher.domain.pack import Answer, Domain
from teacher.domain.scoring import answer_matches, says, state_hash
from teacher.scenes.images import ImageStore
from teacher.scenes.kinds import draw
from teacher.scenes.legibility import check
from teacher.scenes.scene import DrawnImage

# Pictures come from seeds of which no task and no worked example is made, `_TRIES` for each task.
_SEEDS, _SPAN, _TRIES = 450_000_000, 1_000_000, 24
# Any picture answers "how many", if only with none; those questions are left as they are.
_OPERATIONS = {"lookup", "difference", "argmax", "argmin", "trend", "consistency", "point"}
_NOUNS = {"document": "page", "chart": "chart", "diagram": "diagram", "screen": "screen"}


def swap_some(
    sampled: list[dict[str, Any]], domain: Domain, share: float, album: ImageStore
) -> list[dict[str, Any]]:
    """The tasks, of which a share of those with pictures now shows another picture of the same kind.

    Fewer, where too few of them ask for something that other pictures of the domain do not show.

    Args:
        share: of the tasks with pictures, 0 to 1.
    """
    visual = [place for place, task in enumerate(sampled) if "pictures" in task]
    wanted = round(share * len(visual))
    random.Random(f"swap {[sampled[place]['id'] for place in visual]}").shuffle(visual)
    made = list(sampled)
    for place in visual:
        if wanted and (other := _swapped(sampled[place], domain, album)):
            made[place], wanted = other, wanted - 1
    return made


def _swapped(task: dict[str, Any], domain: Domain, album: ImageStore) -> dict[str, Any] | None:
    """The task with the picture that it asks about replaced; None where no other will do."""
    places = {place for place, _ in task.get("cells", [])}
    if len(places) != 1 or task["program"]["op"] not in _OPERATIONS:
        return None
    place = places.pop()
    asked = _asked_for(task, album.description(task["pictures"][place]["sha256"]))
    answer = tasks.as_json(Answer("not_shown"))
    if not asked or answer_matches(answer, task["request"]):
        return None
    picture = _other(task, domain, task["pictures"][place]["kind"], asked)
    if picture is None:
        return None
    world = domain.environment()
    world.reset(seed=task["seed"], split=task["split"])
    pictures = list(task["pictures"])
    pictures[place] = tasks.described(picture)
    album.add(picture)
    return {
        **{name: value for name, value in task.items() if name != "cells"},
        "id": f"{task['id']}-swapped",
        "pictures": pictures,
        "swapped": True,
        "plan": [],
        "reply": f"The {_NOUNS[picture.scene.kind]} does not show that.",
        "checks": {"state": state_hash(world._state()), "answer": answer},
    }


def _other(task: dict[str, Any], domain: Domain, kind: str, asked: set[str]) -> DrawnImage | None:
    """A picture of this kind, of another task of the domain, that shows nothing of what is asked for."""
    names = [n for n, t in domain.templates.items() if t.kind == task["kind"]]  # type: ignore[attr-defined]
    first = _SEEDS + task["seed"] % _SPAN * _TRIES
    for number in range(_TRIES):
        name = names[(first + number) % len(names)]
        for scene in tasks.scenes_of(domain, name, task["split"], first + number):
            # The data holds all that the drawing could show, and is much sooner looked through.
            said = json.dumps(scene.data, ensure_ascii=False)
            if scene.kind != kind or any(says(said, words) for words in asked):
                continue
            picture = draw(scene)
            said = " ".join([picture.source, *(cell.text for cell in picture.cells)])
            if not check(picture) and not any(says(said, words) for words in asked):
                return picture
    return None


def _asked_for(task: dict[str, Any], about: dict[str, Any]) -> set[str]:
    """What a picture must be without so that it cannot answer the task.

    The names of the fields and series that the question uses, and whatever of the picture the request itself says.
    """
    names = set()
    for _, key in task["cells"]:
        head, _, rest = key.partition(".")
        if head in ("fields", "series", "groups"):
            names.add(re.sub(r"\.\d+$", "", rest))
    texts = {cell["text"] for cell in about["cells"]}
    names |= {text for text in texts if len(text) > 2 and says(task["request"], text)}
    return {name for name in names if any(letter.isalpha() for letter in name)}
