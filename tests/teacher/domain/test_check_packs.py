"""The packs of the repository pass the checks that every plan runs."""

import pytest

from teacher.domain.check import SAMPLE, check
from teacher.domain.pack import load


@pytest.mark.slow
@pytest.mark.parametrize("name", ["legal", "code-review", "tech-research"])
def test_a_pack_of_the_repository_has_no_error(name: str) -> None:
    found = check(load(name), SAMPLE).findings
    assert [finding for finding in found if finding.level == "error"] == []
