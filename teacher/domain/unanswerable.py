"""Tasks that show another task's image: the correct answer is that the image does not show the requested fact.

A model that is always shown the right page learns to find an answer on any page.

In: sampled tasks and their image store. Out: the same tasks, a share of them with `swapped`. Their new images go to
the store.
"""

import json
import random
import re
from typing import Any

from schemas.task import Task
from teacher.domain.blueprint import Answer
from teacher.domain.pack import Domain
from teacher.domain.scoring import answer_matches, contains_words
from teacher.domain.tasks import image_row
from teacher.domain.worlds import hash_world, make_blueprint, start_world
from teacher.scenes.images import ImageStore
from teacher.scenes.kinds import draw
from teacher.scenes.legibility import check
from teacher.scenes.scene import DrawnImage

# Replacement images come from seeds of which no task and no worked example is made, `_TRIES` for each task.
_SEEDS, _SPAN, _TRIES = 450_000_000, 1_000_000, 24
# Any image answers "how many", if only with 0, so questions that count are never swapped.
_OPERATIONS = {"lookup", "difference", "argmax", "argmin", "trend", "consistency", "point"}
_NOUNS = {"document": "page", "chart": "chart", "diagram": "diagram", "screen": "screen"}


def swap_images(
    tasks: list[Task], domain: Domain, *, share: float, image_store: ImageStore
) -> list[Task]:
    """Returns the tasks, a share of those with images now with another image of the same kind of scene.

    There are fewer swapped tasks if too few ask for a fact that the pack's other images do not show.

    Args:
        share: of the tasks with images, 0 to 1.
    """
    visual = [index for index, task in enumerate(tasks) if "pictures" in task]
    left = round(share * len(visual))
    random.Random(f"swap {[tasks[index]['id'] for index in visual]}").shuffle(visual)
    result = list(tasks)
    for index in visual:
        if left and (swapped := _swap(tasks[index], domain, image_store)):
            result[index], left = swapped, left - 1
    return result


def _swap(task: Task, domain: Domain, image_store: ImageStore) -> Task | None:
    """Returns the task with the image that its question is about replaced, or None if no other image will do."""
    numbers = {number for number, _ in task.get("cells", [])}
    if len(numbers) != 1 or task["program"]["op"] not in _OPERATIONS:
        return None
    number = numbers.pop()
    names = _requested_names(task, image_store.description(task["pictures"][number]["sha256"]))
    answer = Answer("not_shown").as_row()
    if not names or answer_matches(answer, task["request"]):
        return None
    image = _find_image(task, domain, kind=task["pictures"][number]["kind"], without=names)
    if image is None:
        return None
    world, _ = start_world(domain.environment, seed=task["seed"], split=task["split"])
    image_store.add(image)
    images = list(task["pictures"])
    images[number] = image_row(image)
    swapped = task.copy()
    del swapped["cells"]
    swapped["id"] = f"{task['id']}-swapped"
    swapped["pictures"] = images
    swapped["swapped"] = True
    swapped["plan"] = []
    swapped["reply"] = f"The {_NOUNS[image.scene.kind]} does not show that."
    swapped["checks"] = {"state": hash_world(world), "answer": answer}
    return swapped


def _find_image(task: Task, domain: Domain, *, kind: str, without: set[str]) -> DrawnImage | None:
    """Returns an image of another task of the pack, of this kind of scene, that shows none of the given names."""
    templates = [t for t in domain.templates.values() if t.kind == task["kind"]]
    first = _SEEDS + task["seed"] % _SPAN * _TRIES
    for seed in range(first, first + _TRIES):
        template = templates[seed % len(templates)]
        _, blueprint = make_blueprint(domain.environment, template, split=task["split"], seed=seed)
        for scene in blueprint.pictures:
            # The data holds all that the image could show, and is searched much faster than an image is drawn.
            data = json.dumps(scene.data, ensure_ascii=False)
            if scene.kind != kind or any(contains_words(data, name) for name in without):
                continue
            image = draw(scene)
            text = " ".join([image.source, *(cell.text for cell in image.cells)])
            if not check(image) and not any(contains_words(text, name) for name in without):
                return image
    return None


def _requested_names(task: Task, about: dict[str, Any]) -> set[str]:
    """Returns the names that an image must not show if it is not to answer the task.

    They are the fields, series and groups that the question uses, and every text of the image that the request has.
    """
    names = set()
    for _, key in task["cells"]:
        head, _, rest = key.partition(".")
        if head in ("fields", "series", "groups"):
            names.add(re.sub(r"\.\d+$", "", rest))
    texts = {cell["text"] for cell in about["cells"]}
    names |= {text for text in texts if len(text) > 2 and contains_words(task["request"], text)}
    return {name for name in names if any(letter.isalpha() for letter in name)}
