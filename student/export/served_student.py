"""What the commands that serve an exported student need to know of it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Served:
    """An exported student.

    Attributes:
        name: under which it is served, such as legal.
        ggufs: file names by variant. projector: the vision tower's, or None.
        vllm: whether the directory vllm/ is there.
        context: tokens of a conversation. temperature: the exam's.
        licence: its licence, and where to read it.
    """

    name: str
    ggufs: dict[str, str]
    projector: str | None
    vllm: bool
    context: int
    temperature: float
    licence: str
