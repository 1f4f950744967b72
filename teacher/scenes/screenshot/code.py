"""The panes of a code editor: code in the colours of a Pygments style, and the console with its output."""

import random
from typing import Any

from pygments.lexers import get_lexer_by_name
from pygments.styles import get_style_by_name
from pygments.token import Token
from pygments.util import ClassNotFound

from teacher.scenes.canvas import Canvas
from teacher.scenes.colour import mix
from teacher.scenes.fonts import font
from teacher.scenes.scene import MAX_SIDE, Box, SceneError
from teacher.scenes.screenshot.style import readable

_LIGHT = ("default", "friendly", "vs", "xcode", "tango", "solarized-light", "gruvbox-light", "sas")
_DARK = (
    "monokai",
    "nord",
    "one-dark",
    "github-dark",
    "dracula",
    "native",
    "gruvbox-dark",
    "zenburn",
)
_PAD = 14
_DIGITS = 4  # width of the gutter, in digits


def needed_width(text: str, size: int) -> int:
    """The width of a pane, in px, that holds each line of `text` unwrapped."""
    longest = max((len(line.rstrip().expandtabs(4)) for line in text.splitlines()), default=0)
    return round((longest + _DIGITS) * font("DejaVu Mono", size).getlength("0")) + 2 * _PAD


class Editor:
    """Draws code and output on a canvas, in random colours. size: of the font, in px."""

    def __init__(self, canvas: Canvas, rng: random.Random, size: int) -> None:
        self.canvas = canvas
        self.face, self.bold = font("DejaVu Mono", size), font("DejaVu Mono", size, bold=True)
        self.step = round(size * rng.choice((1.45, 1.6, 1.8)))
        self.style = get_style_by_name(rng.choice(rng.choice((_LIGHT, _DARK))))
        self.ground = self.style.background_color
        self.text = self._ink(Token.Text, self.ground)
        self.gutter = rng.random() < 0.85
        self.console = rng.choice(
            ("#101216", "#1d1f21", "#f7f7f5", mix(self.ground, "#808080", 0.15))
        )
        self.bold_tokens = rng.random() < 0.5

    def _ink(self, kind: Any, ground: str) -> str:
        """The style's colour for a kind of token, made readable on `ground`."""
        return readable("#" + (self.style.style_for_token(kind)["color"] or "808080"), ground)

    def fill(self, left: int, right: int, top: int, bottom: int) -> None:
        """Fills an area with the editor's background."""
        self.canvas.pen.rectangle((left, top, right, bottom), self.ground)

    def code(self, data: dict[str, Any], left: int, right: int, top: int) -> int:
        """Draws data["code"] with its highlighted line; returns the bottom of the pane.

        Raises:
            SceneError: a language that Pygments does not know, or a highlighted line that the code does not have.
        """
        lines = self._lines(data["code"], data["language"])
        bottom = top + len(lines) * self.step + _PAD
        self.canvas.pen.rectangle((left, top, right, MAX_SIDE), self.ground)
        highlight = data.get("highlight")
        if highlight is not None and not 1 <= highlight <= len(lines):
            raise SceneError(f"highlight: {highlight}: the code has {len(lines)} lines")
        width = self.face.getlength("0")
        start = left + _PAD + (round(_DIGITS * width) if self.gutter else 0)
        for number, pieces in enumerate(lines, 1):
            y = top + _PAD // 2 + (number - 1) * self.step
            ground = self.ground
            if number == highlight:
                ground = mix(self.ground, "#e0b020", 0.28)
                self.canvas.pen.rectangle((left, y, right, y + self.step - 1), ground)
                self.canvas.pen.rectangle((left, y, left + 4, y + self.step - 1), "#d08000")
            middle = y + self.step / 2
            if self.gutter:
                xy = (start - 1.2 * width, middle)
                grey = readable(mix(self.text, self.ground, 0.5), ground, 3.5)
                self.canvas.text(xy, str(number), self.face, fill=grey, anchor="rm")
            boxes: list[Box] = []
            column = 0
            for kind, piece in pieces:
                look = self.style.style_for_token(kind)
                face = self.bold if look["bold"] and self.bold_tokens else self.face
                ink = self._ink(kind, ground)
                if piece.strip():
                    blank = len(piece) - len(piece.lstrip())
                    xy = (start + (column + blank) * width, middle)
                    boxes.append(self.canvas.text(xy, piece.strip(), face, fill=ink, anchor="lm"))
                column += len(piece)
            text = "".join(piece for _, piece in pieces).strip()
            # Lines of brackets alone are not cells: no question needs them, and their thin strokes fail the contrast
            # check.
            if any(c.isalnum() for c in text):
                self.canvas.record(f"code.{number}", text, boxes)
        return bottom

    def output(self, text: str, left: int, right: int, top: int) -> int:
        """Draws the output of the code in a console; returns the bottom of the pane."""
        lines = text.rstrip().splitlines()
        bottom = top + len(lines) * self.step + 2 * _PAD
        self.canvas.pen.rectangle((left, top, right, MAX_SIDE), self.console)
        self.canvas.pen.line((left, top, right, top), mix(self.console, "#808080", 0.5), 2)
        ink = readable("#808080", self.console, 8)
        for number, line in enumerate(lines, 1):
            y = top + _PAD + (number - 0.5) * self.step
            text = line.rstrip().expandtabs(4)
            if not text:
                continue
            x = left + _PAD + (len(text) - len(text.lstrip())) * self.face.getlength("0")
            key = f"output.{number}"
            self.canvas.text((x, y), text.strip(), self.face, key, ink, anchor="lm")
        return bottom

    def _lines(self, code: str, language: str) -> list[list[tuple[Any, str]]]:
        """The lines of the code, each as (token kind, text) pieces."""
        try:
            lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
        except ClassNotFound:
            raise SceneError(f"language: {language!r}: Pygments knows no such language") from None
        text = "\n".join(line.rstrip().expandtabs(4) for line in code.splitlines())
        lines: list[list[tuple[Any, str]]] = [[]]
        for kind, value in lexer.get_tokens(text):
            for i, piece in enumerate(value.split("\n")):
                if i:
                    lines.append([])
                if piece:
                    lines[-1].append((kind, piece))
        return lines
