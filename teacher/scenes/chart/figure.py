"""A chart's figure: fonts, texts, surfaces and legend, and the check that each value belongs to its mark."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.patches import Patch
from matplotlib.text import Text

from teacher.scenes.canvas import wrap
from teacher.scenes.chart.measure import overlap
from teacher.scenes.chart.style import Option, Style, ink_on
from teacher.scenes.colour import contrast
from teacher.scenes.fonts import covering, font
from teacher.scenes.scene import MAX_SIDE

_DPI = 100
_HATCHES = ("", "//", "..", "xx", "\\\\", "--", "oo", "++")


class Chart:
    """A matplotlib figure with one arrangement of a chart. Texts that are cells have their key as `gid`."""

    def __init__(self, data: dict[str, Any], style: Style, grown: float, option: Option) -> None:
        self.data, self.style, self.option = data, style, option
        side = (MAX_SIDE - 8) / _DPI
        size = (min(style.width * grown, side), min(style.height * grown, side))
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
        self.figure = Figure(size, dpi=_DPI, layout=layout, facecolor=style.ground)
        FigureCanvasAgg(self.figure)
        self.face = FontProperties(fname=self.font_path(), size=style.points)
        self.axes: Axes = self.figure.add_subplot(facecolor=style.panel)
        self.written: list[tuple[Text, tuple[float, float]]] = []  # values at points of lines
        self.ends: list[Text] = []  # values beyond the ends of bars
        self.within: list[tuple[Text, Patch]] = []  # values inside bars and wedges
        self.crowded = False  # a value found no place at its point
        self.crosses_zero = False
        self._draw_title()

    def font_path(self, bold: bool = False) -> str:
        """The file of a font that has every character of the chart."""
        data = self.data
        texts = [data["title"], data.get("x_label"), data.get("y_label"), data.get("unit")]
        texts += [*data["categories"], *data["series"], "0123456789,.-\u2212"]
        text = "".join(str(part) for part in texts if part)
        return str(covering(text.replace("\n", " "), font(self.style.family, 16, bold)).path)

    def number(self, value: float) -> str:
        """The text of a value, with all its digits."""
        return f"{value:,}".removesuffix(".0").replace(",", self.style.thousands)

    def value_label(self) -> str:
        """The label of the value axis, with its unit."""
        label, unit = self.data.get("y_label") or "", self.data.get("unit") or ""
        if not label or not unit:
            return label or unit
        return {
            "brackets": f"{label} ({unit})",
            "comma": f"{label}, {unit}",
            "in": f"{label} in {unit}",
        }[self.style.unit_in]

    def wrapped(self, text: str, width: float) -> str:
        """Text in lines of at most `width` inches, never broken inside a word."""
        measure = font("DejaVu Sans", round(self.style.points * _DPI / 72))
        longest = max((measure.getlength(word) for word in str(text).split()), default=0)
        return "\n".join(wrap(str(text), measure, max(width * _DPI, longest)))

    def _draw_title(self) -> None:
        """Writes the title above the chart."""
        style = self.style
        face = FontProperties(fname=self.font_path(style.bold), size=style.points * 1.25)
        width = self.figure.get_figwidth()
        text = self.wrapped(self.data["title"], (width - 0.5) / 1.35)
        left = {"x": 0.3 / width, "ha": "left"} if style.title_left else {}
        title = self.figure.suptitle(
            text, fontproperties=face, color=style.ink, gid="title", **left
        )
        title.set_linespacing(1.15)

    def surface(self, place: int) -> dict[str, Any]:
        """The matplotlib properties of the bars of a series, or of a wedge."""
        style = self.style
        colour = style.colours[place % len(style.colours)]
        # A surface with little contrast to its background gets an outline.
        pale = min(contrast(colour, style.panel), contrast(colour, style.ground)) < 2
        look: dict[str, Any] = {"facecolor": colour, "linewidth": 0.9}
        look["edgecolor"] = style.ink if style.outlined or pale else colour
        # Hatching would make values on the surface illegible.
        if style.hatched and not self.data.get("labels"):
            look |= {"hatch": _HATCHES[place % len(_HATCHES)], "edgecolor": style.ink}
        return look

    def small_font(self, bold: bool = False) -> FontProperties:
        """The font of values at marks."""
        return FontProperties(fname=self.font_path(bold), size=max(9, self.style.points * 0.88))

    def text_on(self, colour: str) -> dict[str, Any]:
        """Colour and font of a number on a surface: bold where black and white both have little contrast."""
        ink = ink_on(colour)
        return {"color": ink, "fontproperties": self.small_font(bold=contrast(ink, colour) < 9)}

    def legend(self, handles: Any, names: list[str]) -> Legend:
        """Adds the legend of the chart."""
        style = self.style
        place: Any = style.legend
        flat = "lower" in style.legend
        width = max(len(name) for name in names) * style.points * 0.62 / 72 + 0.6
        columns = max(1, min(len(names), int((self.figure.get_figwidth() - 0.6) / width)))
        return self.figure.legend(
            handles, [self.wrapped(name, 2.2) if not flat else name for name in names], loc=place,
            ncols=columns if flat else 1, prop=self.face, labelcolor=style.ink, frameon=style.legend_frame,
            facecolor=style.ground, edgecolor=style.grid_colour if style.ground != style.grid_colour else "#999999",
            handlelength=2.6, borderaxespad=0.6, labelspacing=0.6,
        )  # fmt: skip

    def holds(self) -> bool:
        """Whether each value is at its point, within its bar or wedge, or beyond its bar and on no other bar."""
        bars = [patch.get_window_extent() for patch in self.axes.patches]
        ends = [text.get_window_extent() for text in self.ends]
        if self.crowded or any(overlap(a.extents, b.extents) for a in ends for b in bars):
            return False
        return all(
            patch.contains_point(corner)
            for text, patch in self.within
            for corner in text.get_window_extent().corners()
        )
