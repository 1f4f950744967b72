"""What tests of stages share: the check of a pack of the repository, which takes most of a small plan's time."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from teacher.domain.check import Amount, Checked, check
from teacher.domain.pack import Domain

ROOT = Path(__file__).resolve().parents[2]
_checked: dict[tuple[Path, Amount], Checked] = {}


def check_once(domain: Domain, amount: Amount, **more: Any) -> Checked:
    """What `check` returns; of a pack of the repository, which no test changes, it is kept for the next plan."""
    if not domain.path.is_relative_to(ROOT):
        return check(domain, amount, **more)
    key = domain.path, amount
    if key not in _checked:
        _checked[key] = check(domain, amount, **more)
    return _checked[key]


@pytest.fixture(autouse=True, scope="session")
def _packs_are_checked_once_a_process() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("flows.stages.plan"), "check", check_once)
        yield
