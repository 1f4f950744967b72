"""The end of a page: signatures and a stamp."""

from typing import TYPE_CHECKING

from teacher.scenes.canvas import Canvas

if TYPE_CHECKING:
    from teacher.scenes.document.page import Page

_STAMP_COLOURS = ("#b3202a", "#1d4ea0", "#17693c", "#5a2d82")


def draw_ending(page: "Page") -> None:
    """Draws signatures, two in a row, and a stamp below them."""
    signatures = page.data.get("signatures") or []
    if signatures:
        page.y += page.gap * 0.4
        if page.data["variant"] == "letter":
            page.canvas.text((page.left, page.y), "Yours sincerely,", page.font())
            page.y += page.font().size * 1.6
    slot = (page.right - page.left) / 3
    for first in range(0, len(signatures), 2):
        lows = [
            _draw_signature(page, number, page.left + (number - first) * slot, slot - 24)
            for number in range(first, min(first + 2, len(signatures)))
        ]
        page.y = max(lows) + page.gap * 0.5
    if stamp := page.data.get("stamp"):
        _draw_stamp(page, str(stamp))


def _draw_signature(page: "Page", number: int, x: float, width: float) -> float:
    """Draws a signature over its name and date; returns their bottom."""
    signature = page.data["signatures"][number]
    rng, top = page.rng, page.y
    high = page.style.size * 2.2
    # The signature itself is a scribble above the line.
    points = [
        (x + 10 + width * 0.75 * t / 24, top + high * (0.5 + 0.4 * rng.uniform(-1, 1)))
        for t in range(25)
    ]
    smooth = [
        tuple(sum(axis) / 3 for axis in zip(*points[i : i + 3], strict=True))
        for i in range(len(points) - 2)
    ]
    page.canvas.pen.line([c for p in smooth for c in p], page.style.ink, 2, joint="curve")
    y = top + high + 4
    page.canvas.pen.line((x, y, x + width, y), "#333333")
    key = f"signatures.{number}"
    place = (x, y + 6)
    y = page.canvas.paragraph(place, signature["name"], page.font(), width, f"{key}.name")
    if signature.get("date"):
        face = page.value_font() if page.style.hand else page.font(0.9)
        fill = page.style.ink if page.style.hand else "#222222"
        place = (x, y + 3)
        y = page.canvas.paragraph(place, signature["date"], face, width, f"{key}.date", fill)
    return y


def _draw_stamp(page: "Page", text: str) -> None:
    """Draws a stamp, rotated a little."""
    rng, pad = page.rng, 16
    colour, angle = rng.choice(_STAMP_COLOURS), rng.uniform(-11, 11)
    form = rng.choice(("box", "double", "round", "ellipse"))
    face = page.fitting_font(text, rng.uniform(1.2, 1.5), (page.right - page.left) * 0.5)
    inked = Canvas(round(face.getlength(text)) + 4 * pad, round(face.size) + 3 * pad)
    middle = (inked.image.width / 2, inked.image.height / 2)
    inked.text(middle, text, face, "stamp", colour, "mm")
    frame = (2, 2, inked.image.width - 3, inked.image.height - 3)
    if form == "ellipse":
        inked.pen.ellipse(frame, outline=colour, width=3)
    elif form == "round":
        inked.pen.rounded_rectangle(frame, 14, outline=colour, width=4)
    else:
        inked.pen.rectangle(frame, outline=colour, width=3)
        if form == "double":
            inner = (8, 8, frame[2] - 6, frame[3] - 6)
            inked.pen.rectangle(inner, outline=colour, width=1)
    x = rng.uniform(page.left, max(page.left, page.right - inked.image.width * 1.1))
    page.y = page.canvas.paste(inked, (round(x), round(page.y)), angle)[3] + 4
