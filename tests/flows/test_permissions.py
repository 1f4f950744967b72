"""Who may read what is written: as the umask says, for runs, reports, stores and pulled students."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from published_student import publish_legal
from report_run import finished

from flows.report import html
from student.registry.oci_layout import DirectoryStore
from student.registry.pull import pull
from teacher.inference.journal import Journal


@pytest.fixture(params=[0o002, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_files_and_directories_have_the_permissions_that_the_umask_leaves(
    umask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html, "INLINE_BYTES", 10)  # a report with pages beside it
    root = tmp_path / "root"
    root.mkdir()
    run = finished(root / "run")
    html.write(run)
    assert (run / "report").is_dir()
    Journal(run / "journal").close()
    store = DirectoryStore(root / "store")
    publish_legal(store, root / "files")
    pull(store, "legal", root / "students" / "legal")
    wrong = {}
    for path in (root, *root.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode != (0o777 if path.is_dir() else 0o666) & ~umask:
            wrong[str(path.relative_to(root))] = oct(mode)
    assert not wrong
