"""Fixtures: the starter pack, and a task of each of its templates. A test module names this file in pytest_plugins."""

import shutil
from pathlib import Path

import pytest

from schemas.task import Task
from teacher.domain import Domain, load
from teacher.domain.tasks import build


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Domain:
    directory = tmp_path_factory.mktemp("domain") / "stock"
    shutil.copytree(Path(__file__).parents[2] / "flows" / "starter", directory)
    spec = directory / "domain.yaml"
    spec.write_text(spec.read_text().replace("NAME", "stock"))
    return load(str(directory))


@pytest.fixture(scope="module")
def count(stock: Domain) -> Task:
    """A lookup: one call and an answer."""
    return build(stock, "count_of_item", "train", 1)


@pytest.fixture(scope="module")
def move(stock: Domain) -> Task:
    """A workflow: two calls, the second of which changes the world; no answer to check."""
    return build(stock, "moved_item", "train", 1)
