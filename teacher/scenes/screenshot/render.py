"""Application screens: forms, tables, dialogs, and editors with the page or output of their code.

variant: form, table, dialog or editor.
title: text; of an editor the file's name.
application, message: text, optional, as are all that follow.
fields: {label: value}.
table: {"columns": [text], "rows": [[value, one for each column]]}.
buttons: [text].
code, language: an editor needs both: text, and a language by its name in Pygments.
output: what the code prints.
highlight: the number of a line of code, from 1.

An editor shows message, fields, table and buttons as the page that its code renders. Cells are application, title,
message, fields.LABEL, table.columns.1, table.2.1 (row, column), buttons.0, code.12 and output.1 (lines from 1). The
seed chooses fonts, colours and the parts of the window.

    >>> from teacher.scenes import Scene, draw
    >>> data = {
    ...     "variant": "editor",
    ...     "title": "total.py",
    ...     "code": "total = 0\\nfor n in range(3):\\n    total += n",
    ...     "language": "python",
    ...     "highlight": 3,
    ... }
    >>> sorted(cell.key for cell in draw(Scene("screen", data, seed=3)).cells)
    ['code.1', 'code.2', 'code.3', 'title']

All text comes from the data, the names of its fields and line numbers. Menus, icons and the application behind a dialog
are drawn as shapes without text.
"""

import random
from dataclasses import replace
from typing import Any

from PIL import Image

from teacher.scenes.canvas import Canvas
from teacher.scenes.colour import mix
from teacher.scenes.fonts import font
from teacher.scenes.scene import MAX_SIDE, Cell, SceneError
from teacher.scenes.screenshot.code import Editor, needed_width
from teacher.scenes.screenshot.samples import example
from teacher.scenes.screenshot.style import DARK, LIGHT, Style, format_value, readable
from teacher.scenes.screenshot.widgets import Pane, table_width

__all__ = ["VARIANTS", "example", "paint", "source"]

VARIANTS = ("form", "table", "dialog", "editor")
_FIELDS = {
    *("variant", "title", "application", "message", "fields", "table", "buttons"),
    *("code", "language", "output", "highlight"),
}
_WIDEST = 1900  # px; leaves a margin for the desktop around the window
_PREVIEW = 360  # px; least width of a page beside its code


def paint(data: dict[str, Any], seed: int) -> tuple[Image.Image, list[Cell]]:
    """Draws a screen; returns the image and its cells.

    Raises:
        SceneError: invalid data, or content that exceeds the size of a screen.
    """
    _validate(data)
    rng = random.Random(f"screen/{data['variant']}/{seed}")
    style = Style.of(rng)
    draw = {"editor": _editor, "dialog": _dialog}.get(data["variant"], _window)
    canvas, bottom = draw(data, style, rng)
    if bottom > MAX_SIDE:
        raise SceneError(f"screen {data['title']!r}: {bottom} px high, at most {MAX_SIDE}")
    canvas.shrink(bottom)
    canvas.pen.rectangle((0, 0, canvas.image.width - 1, bottom - 1), None, style.theme.line)
    return _on_desktop(canvas, style, rng)


def source(data: dict[str, Any]) -> str:
    """The content of the screen as lines of text."""
    lines = [
        ", ".join(format_value(data[name]) for name in ("application", "title") if data.get(name))
    ]
    if data.get("code"):
        lines.append(f"Code ({data['language']}):")
        lines += [f"{n} {line}".rstrip() for n, line in enumerate(data["code"].splitlines(), 1)]
        if data.get("highlight"):
            lines.append(f"Line {data['highlight']} is highlighted.")
        if any(data.get(name) for name in ("message", "fields", "table", "buttons")):
            lines.append("Renders:")
    if data.get("message"):
        lines.append(format_value(data["message"]))
    lines += [
        f"{format_value(label)}: {format_value(value)}"
        for label, value in data.get("fields", {}).items()
    ]
    if table := data.get("table"):
        lines += [" | ".join(map(format_value, row)) for row in (table["columns"], *table["rows"])]
    if data.get("buttons"):
        lines.append("Buttons: " + ", ".join(map(format_value, data["buttons"])))
    if data.get("output"):
        lines += ["Output:", data["output"].rstrip()]
    return "\n".join(lines)


def _validate(data: dict[str, Any]) -> None:
    if data.get("variant") not in VARIANTS:
        raise SceneError(f"variant: {data.get('variant')!r}: expected one of {', '.join(VARIANTS)}")
    if unknown := set(data) - _FIELDS:
        raise SceneError(
            f"{min(unknown)}: no field of a screen: expected {', '.join(sorted(_FIELDS))}"
        )
    if not data.get("title"):
        raise SceneError("title: a screen needs one")
    code = data["variant"] == "editor"
    for name in ("code", "language"):
        if bool(data.get(name)) != code:
            raise SceneError(f"{name}: an editor needs it, and no other screen has it")
    if (table := data.get("table")) is not None:
        if not table.get("columns") or not table.get("rows"):
            raise SceneError("table: expected columns and rows")
        if any(len(row) != len(table["columns"]) for row in table["rows"]):
            raise SceneError("table: expected as many values in each row as there are columns")


def _body(pane: Pane, data: dict[str, Any]) -> None:
    """Draws message, fields, table and buttons, one below the other."""
    if data.get("message"):
        pane.notice(data["message"])
    if data.get("fields"):
        pane.form(data["fields"])
    if data.get("table"):
        pane.table(data["table"])
    if data.get("buttons"):
        pane.buttons(data["buttons"])


def _window(data: dict[str, Any], style: Style, rng: random.Random) -> tuple[Canvas, int]:
    """Draws a form or a table in its application's window; returns the canvas and the bottom of the window."""
    pad = style.space(1.2)
    side = rng.choice((0, 0, rng.randrange(60, 200)))
    width = rng.choice((640, 720, 800, 960, 1120, 1280))
    if data.get("table"):
        width = max(width, table_width(data["table"], style) + side + 2 * pad)
    width = min(width, _WIDEST)
    if width - side < 520:
        side = 0
    canvas = Canvas(width, MAX_SIDE, style.theme.ground)
    bar = _title_bar(canvas, data, style, rng)
    if side:
        _side_bar(canvas, style, bar, side, rng)
    pane = Pane(canvas, style, side + pad, width - pad, bar + pad)
    pane.title(data["title"])
    tools_above = data["variant"] == "table" and rng.random() < 0.5 and data.get("buttons")
    if tools_above:
        pane.buttons(data["buttons"], to_right=False)
    _body(pane, data | {"buttons": None} if tools_above else data)
    return canvas, max(pane.y + pad, rng.choice((0, 420, 560)))


def _dialog(data: dict[str, Any], style: Style, rng: random.Random) -> tuple[Canvas, int]:
    """Draws a dialog in front of a dimmed application without text; returns the canvas and the bottom of the window."""
    width = rng.choice((720, 840, 960, 1120))
    pad = style.space(1.1)
    inner = rng.randrange(440, 640, 20)
    if data.get("table"):
        inner = max(inner, table_width(data["table"], style) + 2 * pad)
    if data.get("fields"):
        inner = max(inner, 520)
    inner = min(inner, _WIDEST - 80)
    width = max(width, inner + 80)
    dimmed = replace(
        style.theme,
        ground=mix(style.theme.ground, "#000000", 0.35),
        surface=mix(style.theme.surface, "#000000", 0.35),
        line=mix(style.theme.line, "#000000", 0.3),
    )
    canvas = Canvas(width, MAX_SIDE, dimmed.ground)
    bar = _title_bar(canvas, data, style, rng)
    for y in range(bar + 30, MAX_SIDE, style.space(2.2)):
        x = 30
        while x < width - 90:
            length = rng.randrange(40, 160)
            end = min(x + length, width - 30)
            canvas.pen.rounded_rectangle((x, y, end, y + style.size // 2), 4, dimmed.line)
            x += length + 40
    left, top = (width - inner) // 2, bar + rng.randrange(40, 120)
    # The first pass, on a canvas of its own, measures the height; the second draws over the background.
    trial = Pane(Canvas(width, MAX_SIDE), style, left + pad, left + inner - pad, top + pad)
    _dialog_body(trial, data)
    box = (left, top, left + inner, trial.y + pad // 2)
    shadow = (box[0] + 6, box[1] + 8, box[2] + 6, box[3] + 8)
    canvas.pen.rounded_rectangle(shadow, style.radius, mix(dimmed.ground, "#000000", 0.4))
    canvas.pen.rounded_rectangle(box, style.radius, style.theme.ground, style.theme.line)
    _dialog_body(Pane(canvas, style, left + pad, left + inner - pad, top + pad), data)
    return canvas, box[3] + rng.randrange(40, 160)


def _dialog_body(pane: Pane, data: dict[str, Any]) -> None:
    pane.title(data["title"], times=1.25)
    if data.get("message"):
        pane.text(data["message"], "message")
    _body(pane, data | {"message": None})


def _editor(data: dict[str, Any], style: Style, rng: random.Random) -> tuple[Canvas, int]:
    """Draws an editor: code beside or above the page that it renders, with its output below."""
    size = rng.randrange(13, 18)
    pad = style.space(0.8)
    page = {name: data.get(name) for name in ("message", "fields", "table", "buttons")}
    preview = any(page.values())
    code = needed_width(data["code"], size)
    output = needed_width(data.get("output") or "", size)
    # The rendered page has its own colours.
    page_style = replace(style, theme=rng.choice(LIGHT if rng.random() < 0.7 else DARK))
    beside = 0
    if preview:
        table = page["table"]
        beside = max(_PREVIEW, table_width(table, page_style) + 2 * pad if table else 0)
    width = max(rng.choice((720, 880, 1040, 1240)), code, output)
    split = preview and rng.random() < 0.7 and code + beside <= _WIDEST
    if split:
        width = max(width, code + beside)
    if width > _WIDEST:
        raise SceneError(f"code: a line of {width} px: at most {_WIDEST}")
    canvas = Canvas(width, MAX_SIDE, style.theme.ground)
    bar = _title_bar(canvas, data, style, rng)
    # The code gets half of the remaining width.
    edge = code + (width - code - beside) // 2 if split else width
    editor = Editor(canvas, rng, size)
    tab = _tab(canvas, data["title"], style, bar, edge)
    bottom = editor.code(data, 0, edge, tab)
    if split:
        canvas.pen.rectangle((edge, bar, width, MAX_SIDE), page_style.theme.ground)
        canvas.pen.line((edge, bar, edge, MAX_SIDE), style.theme.line, 2)
        pane = Pane(canvas, page_style, edge + pad, width - pad, bar + pad + 4)
        _body(pane, page)
        if data.get("output"):
            editor.fill(0, edge, bottom, max(bottom, pane.y))
        bottom = max(bottom, pane.y)
    elif preview:
        canvas.pen.rectangle((0, bottom, width, MAX_SIDE), page_style.theme.ground)
        canvas.pen.line((0, bottom, width, bottom), style.theme.line, 2)
        pane = Pane(canvas, page_style, pad, width - pad, bottom + pad)
        _body(pane, page)
        bottom = pane.y
    if data.get("output"):
        bottom = editor.output(data["output"], 0, width, bottom)
    return canvas, bottom


def _tab(canvas: Canvas, title: str, style: Style, top: int, right: int) -> int:
    """Draws the row of tabs with the file's name; returns its bottom."""
    theme, face = style.theme, font(style.family, style.size)
    height = round(style.size * 1.9)
    canvas.pen.rectangle((0, top, right, top + height), theme.surface)
    end = 26 + round(face.getlength(format_value(title)))
    if end > right:
        raise SceneError(f"title: {title!r}: wider than the editor")
    canvas.pen.rectangle((0, top, end, top + height), theme.ground)
    canvas.pen.line((0, top, end, top), theme.accent, 3)
    canvas.text((13, top + height / 2), format_value(title), face, "title", theme.text, anchor="lm")
    return top + height


def _title_bar(canvas: Canvas, data: dict[str, Any], style: Style, rng: random.Random) -> int:
    """Draws the title bar of a window with the application's name; returns its bottom."""
    theme, width, pen = style.theme, canvas.image.width, canvas.pen
    face = font(style.family, style.size, bold=rng.random() < 0.5)
    height = round(style.size * rng.choice((2.0, 2.4, 3.0)))
    accented = rng.random() < 0.25
    ground = theme.accent if accented else theme.surface
    pen.rectangle((0, 0, width, height), ground)
    pen.line((0, height, width, height), theme.line, 1)
    middle, radius = height // 2, 6
    ink = readable(theme.ground if accented else theme.text, ground)
    if rng.random() < 0.5:  # three round buttons at the left
        for i, colour in enumerate(("#e0605a", "#e3b341", "#58b65c")):
            x = 18 + i * 22
            pen.ellipse((x - radius, middle - radius, x + radius, middle + radius), colour)
        left, right = 84, 20
    else:  # minimise, maximise, close at the right
        for i, x in enumerate((width - 84, width - 54, width - 24)):
            box = (x - 5, middle - 5, x + 5, middle + 5)
            if i == 0:
                pen.line((x - 5, middle, x + 5, middle), ink, 1)
            elif i == 1:
                pen.rectangle(box, None, ink)
            else:
                pen.line(box, ink, 1)
                pen.line((box[0], box[3], box[2], box[1]), ink, 1)
        left, right = 16, 104
    name = format_value(data.get("application"))
    if name:
        length = face.getlength(name)
        if length > width - left - right:
            raise SceneError(f"application: {name!r}: wider than the window")
        x = rng.choice((left, max(left, round((width - length) / 2))))
        x = min(x, round(width - right - length))
        canvas.text((x, middle), name, face, "application", ink, anchor="lm")
    return height + 1


def _side_bar(canvas: Canvas, style: Style, top: int, width: int, rng: random.Random) -> None:
    """Draws a navigation bar of icons and strokes."""
    theme, pen = style.theme, canvas.pen
    pen.rectangle((0, top, width, MAX_SIDE), theme.surface)
    pen.line((width, top, width, MAX_SIDE), theme.line, 1)
    chosen, step = rng.randrange(5), style.space(1.9)
    for i in range(rng.randrange(5, 9)):
        y = top + style.space(1.0) + i * step
        colour = theme.accent if i == chosen else theme.line
        pen.rounded_rectangle((16, y, 16 + style.size, y + style.size), 4, colour)
        if width > 100:
            end = rng.randrange(30 + style.size + 20, width - 12)
            box = (30 + style.size, y + style.size // 3, end, y + 2 * style.size // 3)
            pen.rounded_rectangle(box, 3, colour)


def _on_desktop(canvas: Canvas, style: Style, rng: random.Random) -> tuple[Image.Image, list[Cell]]:
    """The window as the whole image, or with part of the desktop around it."""
    margin = rng.choice((0, 0, rng.randrange(12, 60)))
    window = canvas.image
    if not margin or window.height + 2 * margin > MAX_SIDE:
        return window, canvas.cells
    size = (window.width + 2 * margin, window.height + 2 * margin)
    desktop = Image.new("RGB", size, mix(style.theme.accent, "#505860", 0.6))
    desktop.paste(window, (margin, margin))
    moved = [
        Cell(cell.key, cell.text, (left + margin, top + margin, right + margin, bottom + margin))
        for cell in canvas.cells
        for left, top, right, bottom in [cell.box]
    ]
    return desktop, moved
