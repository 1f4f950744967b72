"""The types of drawn images: the scene, the values that it shows, the drawn image, and the limits of size.

    scene = Scene("document", {"variant": "letter", "title": "Notice", ...}, seed=7)
    image = draw(scene)          # teacher/scenes/kinds.py: the same scene gives the same bytes
    assert not check(image)      # teacher/scenes/legibility.py: every value is legible

A scene is data. Its seed chooses only how the data looks, so that every answer about an image can be computed.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

# Hosted vision endpoints scale down images with a side above 2,048 px, so the model would not read the checked image.
MAX_SIDE = 2048
# A page needs about 0.2 MB; endpoints refuse 20 MB and more.
MAX_BYTES = 4_000_000

# left, top, right, bottom in pixels; right and bottom are exclusive.
Box = tuple[int, int, int, int]


class SceneError(ValueError):
    """A scene's data cannot be drawn; the message names the field and the reason.

    >>> from teacher.scenes import draw
    >>> draw(Scene("document", {"variant": "letter", "title": "Notice", "body": "Dear client"}, seed=7))
    Traceback (most recent call last):
    teacher.scenes.scene.SceneError: body: a document has no such field
    """


@dataclass(frozen=True)
class Scene:
    """An image before it is drawn.

    kind: document, chart, diagram or screen.
    data: JSON; everything that the image shows comes from it.
    seed: chooses layout, fonts, colours and the effects of a scan, never content.

    A template shows a scene beside its request (`Blueprint.pictures`), and a tool may return one.

    >>> notice = Scene("document", {"variant": "letter", "title": "Notice", "fields": {"Due": "2026-03-02"}}, seed=7)
    """

    kind: str
    data: dict[str, Any]
    seed: int


@dataclass(frozen=True)
class Cell:
    """A value that an image shows.

    key: where in the data it comes from: "title", "fields.Payment term", "table.2.1", "nodes.b".
    text: as drawn.
    box: left, top, right, bottom in pixels of the final image, right and bottom exclusive.

    >>> Cell("fields.Due", "2026-03-02", (60, 112, 148, 124)).key
    'fields.Due'
    """

    key: str
    text: str
    box: Box


@dataclass(frozen=True)
class DrawnImage:
    """A drawn scene: its PNG file, the values that it shows with their boxes, and its data in words.

    `draw` makes it.

    scene: the scene that was drawn.
    png: the file's bytes.
    width, height: in pixels.
    cells: the values that the image shows.
    source: the data in words and tables, for text-only models; it does not describe the layout.

    >>> from teacher.scenes import draw
    >>> data = {"variant": "letter", "title": "Notice", "fields": {"Due": "2026-03-02"}}
    >>> image = draw(Scene("document", data, seed=7))
    >>> print(image.source)
    Notice
    Due: 2026-03-02
    >>> [(cell.key, cell.text) for cell in image.cells]
    [('title', 'Notice'), ('fields.Due', '2026-03-02')]
    """

    scene: Scene
    png: bytes
    width: int
    height: int
    cells: tuple[Cell, ...]
    source: str

    @property
    def sha256(self) -> str:
        """sha256 of the PNG file, in hex: the name of the image in traces and in the image store."""
        return hashlib.sha256(self.png).hexdigest()
