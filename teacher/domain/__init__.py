"""The public face of domain packs: what `environment.py`, `textual.py` and `visual.py` import."""

from teacher.domain.pack import (
    Answer,
    Blueprint,
    Domain,
    Environment,
    Plan,
    Template,
    day_between,
    dealt,
    dealt_numbers,
    known,
    load,
    one_of,
    quoted,
    same_name,
    template,
)

__all__ = [
    "Answer",
    "Blueprint",
    "Domain",
    "Environment",
    "Plan",
    "Template",
    "day_between",
    "dealt",
    "dealt_numbers",
    "known",
    "load",
    "one_of",
    "quoted",
    "same_name",
    "template",
]
