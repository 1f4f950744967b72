"""Selects the traces of the export gate."""

from collections.abc import Iterable
from typing import Any

from schemas.files import sha256_text
from schemas.trace import Trace
from student.training.mixture import is_held_out


def select_traces(traces: Iterable[Trace], count: int, holdout: float) -> list[Trace]:
    """Returns `count` traces, drawn in turn from each template of the tasks, or all if there are fewer.

    Within a template those that training held out come first, then the order is that of a hash of the trace's id: the
    same traces in each run, and not the first of the file.

    Args:
        holdout: the recipe's train.holdout.
    """
    by_template: dict[str, list[tuple[tuple[bool, str], Trace]]] = {}
    for trace in traces:
        group = by_template.setdefault(trace["task"]["template"], [])
        group.append(((not is_held_out(trace, holdout), sha256_text(trace["id"])), trace))
        group.sort(key=lambda ranked: ranked[0])
        del group[count:]  # so that a large file does not fill the memory
    ranked: list[tuple[Any, ...]] = [
        (place, template, trace)
        for template, group in by_template.items()
        for place, (_, trace) in enumerate(group)
    ]
    ranked.sort(key=lambda row: row[:2])
    return [trace for *_, trace in ranked[:count]]
