"""Images drawn from data, so that everything an image shows is known and answers about it can be computed.

In: a Scene (kind, data, seed). Out: a DrawnImage (PNG, cells with boxes, its data in words). `images` holds the image
store of a run and puts images into messages. May import schemas only. For pack authors:
"""

from teacher.scenes.kinds import draw
from teacher.scenes.legibility import check
from teacher.scenes.scene import Cell, DrawnImage, Scene, SceneError

Picture = DrawnImage  # old name

__all__ = [
    "Cell",  # a value that an image shows: key in the data, text, box in pixels
    "DrawnImage",  # a drawn scene: PNG bytes, size, cells, source in words, sha256
    "Picture",  # old name of DrawnImage
    "Scene",  # kind ("document", "chart", "diagram", "screen"), data, seed: an image before it is drawn
    "SceneError",  # raised by draw: the data cannot be drawn
    "check",  # the faults of a DrawnImage, a sentence each; [] for a legible image
    "draw",  # draws a Scene; the same scene gives the same bytes
]
