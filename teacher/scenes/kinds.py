"""The kinds of scenes, and the function that draws a scene of any kind.

Each kind is a package whose module `render` has `paint(data, seed)`, which returns a Pillow image and its cells;
`source(data)`, which returns the data in words; and `example(rng)`, which returns invented data. The code that draws a
value records its cell (`Canvas`, or matplotlib's artists); no position is predicted.
"""

import functools
import io
import json
import random
from collections.abc import Callable
from types import ModuleType

from teacher.scenes.scene import DrawnImage, Scene, SceneError


def _document() -> ModuleType:
    from teacher.scenes.document import render

    return render


def _chart() -> ModuleType:
    from teacher.scenes.chart import render

    return render


def _diagram() -> ModuleType:
    from teacher.scenes.diagram import render

    return render


def _screen() -> ModuleType:
    from teacher.scenes.screenshot import render

    return render


# Imported at first use: matplotlib alone takes about a second.
KINDS: dict[str, Callable[[], ModuleType]] = {
    "document": _document,
    "chart": _chart,
    "diagram": _diagram,
    "screen": _screen,
}


def draw(scene: Scene) -> DrawnImage:
    """Draws a scene. The same scene gives the same bytes, with the same versions of the drawing libraries.

    Raises:
        SceneError: no such kind, or data that the kind cannot draw.

    >>> data = {"variant": "line", "title": "Load", "categories": ["Mon", "Tue", "Wed"], "series": {"Load": [3, 8, 5]}}
    >>> draw(Scene("chart", data, seed=1)).png == draw(Scene("chart", data, seed=1)).png
    True
    """
    # Keys are not sorted: fields, categories and nodes are drawn in the order of the data.
    return _draw(scene.kind, json.dumps(scene.data, ensure_ascii=False), scene.seed)


@functools.lru_cache(maxsize=48)
def _draw(kind: str, text: str, seed: int) -> DrawnImage:
    data, module = json.loads(text), _module(kind)
    image, cells = module.paint(data, seed)
    file = io.BytesIO()
    # Level 9 (`optimize`) saves 3 % and takes 3 to 20 times as long on a page with scanner noise.
    image.save(file, "PNG", compress_level=6)
    scene = Scene(kind, data, seed)
    return DrawnImage(
        scene, file.getvalue(), image.width, image.height, tuple(cells), module.source(data)
    )


def example(kind: str, rng: random.Random) -> Scene:
    """A scene of invented data, for tests and benchmarks."""
    return Scene(kind, _module(kind).example(rng), rng.randrange(1 << 31))


def as_text(source: str) -> str:
    """The text that replaces an image in the messages of a text-only model, teacher or student."""
    return f"[Image: {source}]"


def _module(kind: str) -> ModuleType:
    if kind not in KINDS:
        raise SceneError(f"kind: {kind!r}: expected one of {', '.join(KINDS)}")
    return KINDS[kind]()
