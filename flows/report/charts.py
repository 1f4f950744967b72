"""Charts of a run's report, as self-contained SVG text."""

import io
from typing import Any

COLOURS = ("#1f5f8b", "#c8641b")
# Panels of the training chart: title, and its curves as (label, column of the log).
PANELS = (
    ("loss", (("training", "loss"), ("held out", "eval_loss"))),
    ("learning rate", (("learning rate", "learning_rate"),)),
    ("tokens/s", (("tokens/s", "tokens_s"),)),
    ("memory, GiB", (("memory", "memory_gib"),)),
)


def plot_training(rows: list[dict[str, Any]]) -> str | None:
    """Loss, learning rate, speed and memory by optimiser step as an SVG element; None where no loss was logged.

    Args:
        rows: the rows of RUN/train/log.jsonl.
    """
    if not any("loss" in row for row in rows):
        return None

    import matplotlib
    from matplotlib.figure import Figure

    # svg.fonttype none keeps text as text, which the browser sets in the page's font.
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "stillhouse", "font.size": 10}
    ):
        figure = Figure(figsize=(8, 5), layout="constrained")
        for axes, (title, curves) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
            for (name, column), colour in zip(curves, COLOURS, strict=False):
                points = [(row["step"], row[column]) for row in rows if column in row]
                if points:
                    axes.plot(
                        *zip(*points, strict=True),
                        color=colour,
                        label=name,
                        marker=".",
                        linewidth=1.6,
                    )
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("optimiser step")
            axes.set_ylim(bottom=0)
            axes.grid(color="#e6e6e0")
            axes.spines[["top", "right"]].set_visible(False)
            if len(curves) > 1 and axes.lines:
                axes.legend(frameon=False)
        out = io.StringIO()
        figure.savefig(
            out, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    return out.getvalue()[out.getvalue().index("<svg") :]
