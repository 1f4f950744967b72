"""What a check of a pack reports: findings, each with the place, what is wrong and how to mend it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Level = Literal["error", "warning"]
# Called as pieces of work are done, with what is being done and how many pieces.
Advance = Callable[[str, int], None]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a pack.

    check: the group that it belongs to: loads, filled, solvable, deterministic, provable, fair or sized.
    level: an error makes the pack unusable; a warning is for its author to judge.
    file: the file of the pack to edit. template, tool, seed: where the check found it, if it is in one place.
    """

    check: str
    level: Level
    file: Path
    message: str
    fix: str
    template: str | None = None
    tool: str | None = None
    seed: int | None = None

    def line(self, base: Path) -> str:
        """The finding as one line; the file relative to the pack's directory `base`."""
        file = self.file.relative_to(base) if self.file.is_relative_to(base) else self.file
        places = [str(file), self.template, self.tool]
        if self.seed is not None:
            places.append(f"seed {self.seed}")
        return f"{': '.join(place for place in places if place)}: {self.message}; {self.fix}"

    def row(self) -> dict[str, Any]:
        """The finding as JSON, without the fields that are empty."""
        row = {**asdict(self), "file": str(self.file)}
        return {key: value for key, value in row.items() if value is not None}


def shorten(value: Any, limit: int = 60) -> str:
    """A value as a finding quotes it, on one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
