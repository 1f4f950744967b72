"""The fields of a page: labelled values in one of five forms."""

from typing import TYPE_CHECKING, Any

from teacher.scenes.fonts import covering

if TYPE_CHECKING:
    from teacher.scenes.document.page import Page


def draw_fields(page: "Page", fields: dict[str, Any]) -> None:
    """Draws labelled values in the form that the style chose: aligned, inline, grid, boxed or leader."""
    if not fields:
        return
    style, canvas = page.style, page.canvas
    label_face, face = page.font(), page.value_font()
    fill = style.ink if style.hand else "#111111"
    widest = max(label_face.getlength(f"{label}:") for label in fields)
    indent = min(widest + page.gap, (page.right - page.left) * 0.5)
    step = max(label_face.size, face.size) * 1.5
    shift = (
        face.size - label_face.size
    ) * 0.3  # aligns the baselines of the two fonts approximately
    form = style.fields
    if form == "grid":
        _draw_grid(page, fields, face, fill)
        return
    for label, value in fields.items():
        text, key, top = str(value), f"fields.{label}", page.y
        pad = 7 if form == "boxed" else 0
        if form == "inline":
            canvas.text((page.left, top), f"{label}:", page.font(bold=True), fill="#222222")
            x = page.left + page.font(bold=True).getlength(f"{label}: ") + 4
            if x > page.left + (page.right - page.left) * 0.6:
                x, top = page.left + page.gap, top + step
        else:
            ending = "" if form == "boxed" else ":"
            low = canvas.paragraph(
                (page.left + pad, top + pad), label + ending, label_face, indent - 10
            )
            x = page.left + indent + pad
        length = covering(text, face).getlength(text)
        if form == "leader" and x + length < page.right - 40:
            end = page.right - length - 10
            for dot in range(round(x), round(end), 8):
                canvas.pen.point((dot, top + label_face.size), "#555555")
            x = page.right - length - 2
        place = (x, top + pad - shift)
        bottom = canvas.paragraph(place, text, face, page.right - x - pad, key, fill)
        if form != "inline":
            bottom = max(bottom, low)
        page.y = max(top + step, bottom + 4) + pad
        if form == "boxed":
            canvas.pen.rectangle((page.left, top, page.right, page.y), outline="#666666")
            canvas.pen.line((x - pad - 3, top, x - pad - 3, page.y), "#666666")
    page.y += page.gap


def _draw_grid(page: "Page", fields: dict[str, Any], face: Any, fill: str) -> None:
    """Draws fields side by side, each with a small label above its value."""
    small = page.font(0.78)
    texts = [str(value) for value in fields.values()]
    room = page.right - page.left
    longest = max(
        [covering(t, face).getlength(t) for t in texts] + [small.getlength(f) for f in fields]
    )
    across = max(1, min(3, len(fields), int(room // (longest + 24))))
    width, items = room / across, list(fields.items())
    for first in range(0, len(items), across):
        bottoms = []
        for column, (label, value) in enumerate(items[first : first + across]):
            x = page.left + column * width
            low = page.canvas.paragraph((x, page.y), label, small, width - 16, fill="#444444")
            place = (x, low + 2)
            bottoms.append(
                page.canvas.paragraph(place, str(value), face, width - 16, f"fields.{label}", fill)
            )
        page.y = max(bottoms) + page.gap * 0.5
    page.y += page.gap * 0.5
