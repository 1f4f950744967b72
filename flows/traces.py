"""The traces of a run on disk."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

from schemas.files import read_jsonl
from schemas.trace import Trace


def read_traces(run: Path) -> Iterator[Trace]:
    """Yields the traces of a run's directory."""
    return cast(Iterator[Trace], read_jsonl(run / "traces.jsonl"))
