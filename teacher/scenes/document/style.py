"""The look of a page: everything that the seed chooses before text is written."""

import random
from dataclasses import dataclass

from teacher.scenes.fonts import HAND, SANS, SERIF

# The contrast of these colours to white is at least 5:1 (WCAG).
_ACCENTS = ("#1f3a5f", "#5b2333", "#22543d", "#3b3b3b", "#4a2c6d", "#7a3b12", "#0b5563", "#111111")
_INKS = ("#12266b", "#111111", "#1c2c63")


@dataclass(frozen=True)
class Style:
    """The look of a page; sizes in px."""

    width: int
    margin: int
    ratio: float  # height over width of an empty page
    size: int  # of the body's text, px
    body: str
    head: str
    hand: str | None  # font of handwritten field values, or None for print
    accent: str
    ink: str
    header: str
    fields: str
    table: str
    columns: int
    fields_first: bool
    spacing: float

    @classmethod
    def of(cls, rng: random.Random, variant: str, scan: bool) -> "Style":
        """Chooses a random look for a variant; only scans have handwriting."""
        body = rng.choice(SERIF + SANS)
        size = rng.randrange(16, 20)
        return cls(
            width=rng.randrange(780, 1000, 20),
            margin=rng.randrange(50, 90, 5),
            ratio=rng.choice((1.414, 1.294, 1.0 if variant == "table" else 1.414)),
            size=size,
            body=body,
            head=rng.choice((body, rng.choice(SERIF + SANS))),
            hand=rng.choice(HAND) if scan and rng.random() < 0.35 else None,
            accent=rng.choice(_ACCENTS),
            ink=rng.choice(_INKS),
            header=rng.choice(("left", "centre", "band", "rule", "split")),
            fields=rng.choice(("aligned", "inline", "grid", "boxed", "leader")),
            table=rng.choice(("grid", "rules", "striped", "filled")),
            columns=2 if variant == "contract" and rng.random() < 0.2 else 1,
            fields_first=rng.random() < 0.6,
            spacing=rng.choice((1.3, 1.4, 1.5)),
        )

    def title_times(self) -> float:
        """The size of the title's font relative to the body's."""
        return 1.7 if self.header in ("centre", "band") else 1.5
