"""A change to the Prefect server: what it is, for people to read, and how it is made."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Change:
    """What is to be done about one object of the server.

    Attributes:
        action: create, update, remove, none (it is as the file says), or keep (not in the file, and left).
        kind: work pool, deployment or automation.
        apply: does it.
        fields: what it is and what it will be, by field; of an object that is to be created, what it will be alone.
        paused: whether people paused it in Prefect, which stays so.
    """

    action: str
    kind: str
    name: str
    apply: Callable[[], object] = lambda: None
    fields: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    paused: bool = False


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields of `after` that `before` has otherwise or not at all."""
    return {
        name: (before.get(name), value)
        for name, value in after.items()
        if name not in before or before[name] != value
    }
