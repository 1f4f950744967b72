"""The text of a diagram: its font, the lines of labels, and the sizes of labels and of the shapes around them."""

from collections.abc import Sequence
from typing import Any

from PIL import ImageFont

from teacher.scenes.canvas import wrap
from teacher.scenes.fonts import covering, font


def groups_of(data: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """The groups of a diagram, as (name, node ids)."""
    return list((data.get("groups") or {}).items())


def face_for(data: dict[str, Any], family: str, size: int) -> ImageFont.FreeTypeFont:
    """The font of all labels; it has every character of the diagram, so measured sizes are drawn sizes."""
    texts = [data["title"], *data["nodes"].values(), *(edge[2] or "" for edge in data["edges"])]
    text = "".join(map(str, [*texts, *(name for name, _ in groups_of(data))]))
    return covering(text.replace("\n", " "), font(family, size))


def broken(text: str, face: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """The lines of a label: its own line breaks are kept, and lines are at most `width` px."""
    return [line for part in str(text).split("\n") for line in wrap(part, face, width)]


def extent(lines: Sequence[str], face: ImageFont.FreeTypeFont) -> tuple[float, float]:
    """Width and height of lines of text, in px."""
    return max(face.getlength(line) for line in lines), len(lines) * line_height(face)


def line_height(face: ImageFont.FreeTypeFont) -> int:
    """The distance between the baselines of two lines, in px."""
    return round(face.size * 1.3)


def outer_size(shape: str, width: float, height: float, size: float) -> tuple[float, float]:
    """The size of a shape that holds a text of this width and height, in px."""
    if shape == "diamond":
        # A centred box fits in a diamond if its shares of the width and of the height add up to at most 1.
        return width / 0.58 + size, height / 0.42 + size
    if shape in ("pill", "hexagon"):
        return width + height + size * 1.2, height + size
    return width + size * 1.6, height + size
