"""Charts of a run's training, as self-contained SVG text."""

import io
import re
from collections.abc import Sequence
from typing import Any

# Two hues that tell apart on white and on black; held-out curves are dashed.
COLOURS = ("#3d85c6", "#d9772b")
# Panels of the training chart: title, and its curves as (label, column of the log, line style).
PANELS = (
    ("Loss", (("training", "loss", "-"), ("held out", "eval_loss", "--"))),
    ("Learning rate", (("learning rate", "learning_rate", "-"),)),
    ("Speed, tokens/s", (("tokens/s", "tokens_s", "-"),)),
    ("Memory, GiB", (("memory", "memory_gib", "-"),)),
)
# matplotlib's black; the page sets the colour of its text, which differs by its scheme.
_BLACK = "#000000"


def plot_training(runs: Sequence[tuple[str, list[dict[str, Any]]]]) -> list[tuple[str, str]]:
    """Loss, learning rate, speed and memory by optimiser step: (description, SVG element) of each panel with values.

    Args:
        runs: name and rows of RUN/train/log.jsonl of each run; all are drawn in the same panels.
    """
    charts = []
    for title, curves in PANELS:
        lines = []
        for (run, rows), colour in zip(runs, COLOURS, strict=False):
            for label, column, style in curves:
                points = [(row["step"], row[column]) for row in rows if column in row]
                if points:
                    name = f"{label}, {run}" if len(runs) > 1 else label
                    lines.append((name, points, colour, style))
        if lines:
            charts.append((_describe(title, lines), _draw(title, lines)))
    return charts


def _describe(title: str, lines: list[Any]) -> str:
    """The chart in words, for a reader that does not see it."""
    ends = [f"{name} {points[0][1]:.4g} to {points[-1][1]:.4g}" for name, points, *_ in lines]
    return f"{title} by optimiser step: {'; '.join(ends)}"


def _draw(title: str, lines: list[Any]) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    # svg.fonttype none keeps text as text, which the browser sets in the page's font.
    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": f"stillhouse {title}",
            "font.size": 11,
            "text.parse_math": False,  # dollars in a run's name are no formula
        }
    ):
        figure = Figure(figsize=(4.6, 2.9), layout="constrained")
        axes = figure.subplots()
        for name, points, colour, style in lines:
            marker = "." if len(points) < 60 else None
            axes.plot(
                *zip(*points, strict=True),
                color=colour,
                label=name,
                marker=marker,
                linestyle=style,
                linewidth=1.8,
            )
        axes.set_title(title, fontsize=11, loc="left")
        axes.set_xlabel("optimiser step")
        axes.set_ylim(bottom=0)
        axes.grid(color="#888888", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=10)
        out = io.StringIO()
        figure.savefig(
            out, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    svg = out.getvalue()[out.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    # The page describes the chart; its letters and numbers one by one would not help.
    return svg.replace(_BLACK, "currentColor").replace("<svg ", '<svg aria-hidden="true" ', 1)
