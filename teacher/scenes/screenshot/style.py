"""The look of a screen: colour themes, status colours, and the style that the seed chooses."""

import random
from dataclasses import dataclass
from typing import Any

from teacher.scenes.colour import contrast, luminance, mix
from teacher.scenes.fonts import SANS

# Contrast of text to its background. WCAG 2.2, success criterion 1.4.3 demands 4.5; anti-aliasing costs some of it.
_LEAST_CONTRAST = 5.5


@dataclass(frozen=True)
class Theme:
    """The colours of an application: `surface` of bars, `field` of inputs, `accent` of the primary button."""

    ground: str
    surface: str
    field: str
    line: str
    text: str
    muted: str
    accent: str


LIGHT = (
    Theme("#ffffff", "#f3f5f8", "#ffffff", "#cbd2dc", "#1d2430", "#505b6b", "#1f5fbf"),
    Theme("#fbfaf7", "#efece4", "#ffffff", "#d3ccbd", "#2a2620", "#62594c", "#8a4b12"),
    Theme("#f6f9f8", "#e4ece9", "#ffffff", "#bccfc8", "#13241d", "#45594f", "#0f6b4a"),
    Theme("#f8f6fc", "#ebe6f5", "#ffffff", "#cdc4e0", "#221a33", "#574c70", "#5b2fb0"),
    Theme("#e9e9e9", "#d9d9d9", "#ffffff", "#979797", "#000000", "#3c3c3c", "#0a3d91"),
    Theme("#ffffff", "#fdeff0", "#fff9f9", "#e3c5c8", "#2b1517", "#6b494c", "#a3182b"),
)
DARK = (
    Theme("#1e1f24", "#27292f", "#2f3239", "#4a4e57", "#e8e9ec", "#b3b7bf", "#7db0ff"),
    Theme("#0f1720", "#16212d", "#1b2937", "#35495f", "#e2ebf3", "#a6bacb", "#53c1e8"),
    Theme("#20201d", "#2a2a26", "#32322d", "#504f46", "#f0eee4", "#bdbaaa", "#f0b54a"),
    Theme("#1a1523", "#241d31", "#2c243d", "#4b4164", "#ece6f7", "#b9aed0", "#c79bff"),
    Theme("#0b0b0b", "#161616", "#202020", "#484848", "#ffffff", "#c0c0c0", "#4be38a"),
)
# Each status word has one colour on every screen: green for success, red for failure, blue for active, amber for
# waiting, grey for inactive.
_MEANINGS = {
    "#1f7d45": "done merged passed delivered approved approve accepted adopt completed performed resolved confirmed"
    " paid signed active published",
    "#b3261e": "failed overdue blocked rejected error critical urgent expired disputed withdrawn avoid",
    "#2b62b8": "open running started new in_transit in_progress in_review normal medium trial",
    "#9a6700": "pending queued waiting on_hold outstanding request_changes high watch",
    "#626973": "closed draft cancelled archived skipped low",
}
_CHIPS = {
    word.replace("_", " "): colour for colour, words in _MEANINGS.items() for word in words.split()
}


@dataclass(frozen=True)
class Style:
    """The look of an application. size: of text, in px; roomy: factor of distances, from 1.0 (dense) to 1.8."""

    theme: Theme
    family: str
    size: int
    roomy: float
    radius: int
    labels: str  # above, left, right: right-aligned to the left of the value
    form_columns: int
    field: str  # box, filled, underline, plain
    table: str  # grid, rules, zebra
    chips: bool
    upper_edge: bool  # the notice's stripe is above it instead of at its left
    buttons_right: bool

    @classmethod
    def of(cls, rng: random.Random) -> "Style":
        """Chooses a random look."""
        return cls(
            theme=rng.choice(rng.choice((LIGHT, LIGHT, DARK))),
            family=rng.choice(SANS),
            size=rng.randrange(13, 20),
            roomy=rng.choice((1.0, 1.2, 1.5, 1.8)),
            radius=rng.choice((0, 3, 6, 10)),
            labels=rng.choice(("above", "left", "right")),
            form_columns=rng.choice((1, 1, 2)),
            field=rng.choice(("box", "box", "filled", "underline", "plain")),
            table=rng.choice(("grid", "rules", "zebra")),
            chips=rng.random() < 0.5,
            upper_edge=rng.random() < 0.3,
            buttons_right=rng.random() < 0.6,
        )

    def space(self, lines: float) -> int:
        """A distance of `lines` lines of text, in px, scaled by `roomy`."""
        return round(self.size * lines * self.roomy)


def format_value(value: Any) -> str:
    """The text that a screen shows for a value."""
    if isinstance(value, bool):
        return "Yes" if value else "No"
    return "" if value is None else " ".join(str(value).split())


def readable(colour: str, ground: str, least: float = _LEAST_CONTRAST) -> str:
    """The colour, moved towards black or white until its contrast to `ground` is at least `least`."""
    # At this luminance black and white have the same contrast, 4.6 to 1.
    end = "#000000" if luminance(ground) > 0.179 else "#ffffff"
    for step in range(11):
        mixed = mix(colour, end, step / 10)
        if contrast(mixed, ground) >= least:
            return mixed
    return end


def chip_colour(value: Any) -> str:
    """The colour of a status word; "" for any other value."""
    return _CHIPS.get(format_value(value).casefold().replace("_", " "), "")
