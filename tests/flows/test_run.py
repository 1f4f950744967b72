import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows import recipe_file
from flows.run_directory import Run, domain_digest, read
from schemas.errors import InputError, StageError
from schemas.recipe import Recipe

RECIPE = recipe_file.load("local")


@pytest.fixture
def pack(tmp_path):
    directory = tmp_path / "pack"
    directory.mkdir()
    (directory / "domain.yaml").write_text("name: pack\n")
    (directory / "environment.py").write_text("x = 1\n")
    return directory


@pytest.fixture
def opened(tmp_path, pack):
    with Run.open(tmp_path / "run", RECIPE, "pack", pack) as run:
        yield run


def do(run: Run, name: str, inputs: dict[str, str], **files: str) -> None:
    """Runs a stage that writes each file with its text."""
    paths = [run.directory / file for file in files]
    with run.stage(name, inputs, paths) as result:
        for path, text in zip(paths, files.values(), strict=True):
            path.write_text(text)
        result["files"] = len(files)


# ------------------------------------------------------------------------------------- receipts


def test_a_finished_stage_is_current_and_its_receipt_names_inputs_outputs_and_result(opened):
    assert not opened.is_current("filter", {"traces": "1"})
    do(opened, "filter", {"traces": "1"}, kept="abc")
    assert opened.is_current("filter", {"traces": "1"})
    receipt = opened.receipt("filter")
    assert receipt["inputs"] == {"traces": "1"}
    assert receipt["outputs"]["kept"]["bytes"] == 3
    assert receipt["result"] == {"files": 1}
    assert opened.outputs("filter") == {"kept": receipt["outputs"]["kept"]["sha256"]}


def test_other_inputs_make_a_stage_stale(opened):
    do(opened, "filter", {"traces": "1"}, kept="abc")
    assert not opened.is_current("filter", {"traces": "2"})
    assert not opened.is_current("filter", {})
    assert not opened.is_current("filter", {"traces": "1", "more": "1"})


@pytest.mark.parametrize("damage", ["removed", "truncated", "same size"])
def test_a_damaged_output_makes_its_stage_stale(opened, damage):
    do(opened, "filter", {}, kept="abc", rejected="d")
    kept = opened.directory / "kept"
    if damage == "removed":
        kept.unlink()
    else:
        kept.write_text("a" if damage == "truncated" else "xyz")
        os.utime(kept, ns=(1, 1))
    assert not opened.is_current("filter", {})


def test_a_copied_output_is_hashed_again_once(opened, monkeypatch):
    do(opened, "filter", {}, kept="abc")
    os.utime(opened.directory / "kept", ns=(1, 1))
    assert opened.is_current("filter", {})
    monkeypatch.setattr("flows.run_directory.sha256", lambda path: pytest.fail("hashed twice"))
    assert opened.is_current("filter", {})


def test_of_an_output_directory_each_file_counts(opened):
    export = opened.directory / "export"
    with opened.stage("export", {}, [export]):
        (export / "vllm").mkdir(parents=True)
        (export / "vllm" / "config.json").write_text("{}")
        (export / "a.gguf").write_text("x")
    assert sorted(opened.outputs("export")) == ["export/a.gguf", "export/vllm/config.json"]
    (export / "vllm" / "config.json").unlink()
    assert not opened.is_current("export", {})


def test_a_stage_that_fails_leaves_no_receipt_and_its_older_one_is_removed(opened):
    do(opened, "filter", {}, kept="abc")
    with (
        pytest.raises(RuntimeError),
        opened.stage("filter", {"other": "1"}, [opened.directory / "kept"]),
    ):
        raise RuntimeError
    assert opened.receipt("filter") is None
    assert not opened.is_current("filter", {})


def test_a_stage_that_did_not_write_a_declared_output_has_failed(opened):
    with (
        pytest.raises(StageError, match="was not written"),
        opened.stage("filter", {}, [opened.directory / "kept"]),
    ):
        pass
    assert opened.receipt("filter") is None


def test_only_a_changed_output_makes_the_next_stage_stale(opened):
    do(opened, "generate", {"seed": "1"}, traces="t")
    do(opened, "filter", opened.outputs("generate"), kept="k")
    do(opened, "generate", {"seed": "2"}, traces="t")
    assert opened.is_current("filter", opened.outputs("generate"))
    do(opened, "generate", {"seed": "3"}, traces="u")
    assert not opened.is_current("filter", opened.outputs("generate"))


def test_outputs_are_on_the_disk_before_the_receipt_says_so(opened, monkeypatch):
    synced: list[str] = []
    receipt = opened.directory / "stages" / "plan.json"
    fsync = os.fsync

    def note(descriptor: int) -> None:
        assert not receipt.exists()
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    do(opened, "plan", {"a": "1"}, tasks="x", images="y")
    run = opened.directory
    names = [str(path) for path in (run / "tasks", run / "images", run)]
    assert sorted(synced) == sorted(names) and receipt.exists()


def test_an_unreadable_receipt_counts_as_missing(opened):
    do(opened, "filter", {}, kept="abc")
    (opened.directory / "stages" / "filter.json").write_text('{"stage": "fil')
    assert not opened.is_current("filter", {})


def test_outputs_of_a_stage_that_has_not_run_name_the_command(opened):
    with pytest.raises(InputError, match="train has not run: `stillhouse train"):
        opened.outputs("train")


def test_a_moved_run_is_still_current(tmp_path, pack):
    with Run.open(tmp_path / "one", RECIPE, "pack", pack) as run:
        do(run, "filter", {}, kept="abc")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    with Run.open(tmp_path / "two", RECIPE, "pack", pack) as run:
        assert run.is_current("filter", {})


# ------------------------------------------------------------------------------------- opening


def test_run_json_holds_domain_recipe_and_versions(opened, pack):
    record = read(opened.directory)
    assert record["domain"] == {"name": "pack", "path": str(pack), "sha256": domain_digest(pack)}
    assert Recipe.model_validate(record["recipe"]) == RECIPE
    assert record["versions"]["torch"]


def test_a_run_opened_with_another_recipe_records_it(tmp_path, pack):
    Run.open(tmp_path / "run", RECIPE, "pack", pack).close()
    created = read(tmp_path / "run")["created"]
    Run.open(tmp_path / "run", recipe_file.load("local", ["train.epochs=9"]), "pack", pack).close()
    record = read(tmp_path / "run")
    assert record["recipe"]["train"]["epochs"] == 9
    assert record["created"] == created


def test_a_run_of_another_domain_is_refused_and_left_as_it_was(tmp_path, pack):
    Run.open(tmp_path / "run", RECIPE, "pack", pack).close()
    before = (tmp_path / "run" / "run.json").read_text()
    with pytest.raises(InputError, match="domain: found 'pack', expected 'other'"):
        Run.open(tmp_path / "run", RECIPE, "other", pack)
    assert (tmp_path / "run" / "run.json").read_text() == before
    Run.open(tmp_path / "run", RECIPE, "pack", pack).close()  # the refused open left no lock


def test_a_directory_with_other_files_is_refused(tmp_path, pack):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("")
    with pytest.raises(InputError, match=r"found files but no run\.json"):
        Run.open(tmp_path / "thesis", RECIPE, "pack", pack)
    with pytest.raises(InputError, match="cannot be used"):
        Run.open(tmp_path / "thesis" / "chapter.tex", RECIPE, "pack", pack)
    with pytest.raises(InputError, match="not a run"):
        read(tmp_path / "thesis")


def test_the_domain_digest_covers_the_pack_but_not_its_caches(pack):
    before = domain_digest(pack)
    (pack / "__pycache__").mkdir()
    (pack / "__pycache__" / "environment.pyc").write_text("")
    (pack / ".git").mkdir()
    (pack / ".git" / "HEAD").write_text("")
    assert domain_digest(pack) == before
    (pack / "environment.py").write_text("x = 2\n")
    assert domain_digest(pack) != before


# ------------------------------------------------------------------------------------- processes

OPENS_A_RUN = """
import os, subprocess, sys, time
from pathlib import Path
from flows import recipe_file
from flows.run_directory import Run
run = Run.open(Path(sys.argv[1]), recipe_file.load("local"), "pack", Path(sys.argv[2]))
started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
forked = os.fork()
if forked == 0:
    os.setsid()
    time.sleep(600)
print(started.pid, forked, flush=True)
time.sleep(600)
"""


@pytest.fixture
def other(tmp_path, pack):
    """Another process that has the run open, with a child started by exec and one by fork."""
    with subprocess.Popen(
        [sys.executable, "-c", OPENS_A_RUN, str(tmp_path / "run"), str(pack)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        assert process.stdout
        children = [int(pid) for pid in process.stdout.readline().split()]
        assert len(children) == 2
        yield process, children
        for pid in [process.pid, *children]:
            if psutil.pid_exists(pid):
                os.kill(pid, signal.SIGKILL)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_run_in_use_is_refused_by_pid_and_its_processes_are_left_alone(tmp_path, pack, other):
    process, children = other
    with pytest.raises(InputError, match=f"run: is in use by pid {process.pid}"):
        Run.open(tmp_path / "run", RECIPE, "pack", pack)
    assert all(is_running(pid) for pid in [process.pid, *children])


def test_a_file_system_without_locks_is_noted_and_any_other_failure_of_a_lock_ends_the_start(
    tmp_path, pack, monkeypatch
):
    number = errno.ENOLCK

    def lockf(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.lockf", lockf)
    with Run.open(tmp_path / "run", RECIPE, "pack", pack) as run:
        assert not run.has_lock
    number = errno.EIO
    with pytest.raises(InputError, match="run: cannot be locked: Input/output error"):
        Run.open(tmp_path / "run", RECIPE, "pack", pack)


@pytest.mark.parametrize("url", ["s3://bucket/runs/a", "memory://a", "gs://b", "abfs://c@d/e"])
def test_a_url_is_no_place_for_a_run_and_leaves_no_directory(tmp_path, pack, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    for act in (lambda: Run.open(Path(url), RECIPE, "pack", pack), lambda: read(Path(url))):
        with pytest.raises(InputError, match="found a URL, expected a directory: a run appends"):
            act()
    assert sorted(path.name for path in tmp_path.iterdir() if path != pack) == []


def test_a_killed_run_leaves_no_lock_and_its_orphans_are_ended(tmp_path, pack, other):
    process, children = other
    process.kill()
    process.wait()
    assert all(is_running(pid) for pid in children)
    with Run.open(tmp_path / "run", RECIPE, "pack", pack) as run:
        assert len(run.reaped) == 2
        for pid in children:
            assert any(f"(pid {pid})" in line for line in run.reaped)
    assert not any(is_running(pid) for pid in children)


def test_an_orphan_that_ignores_sigterm_is_killed(tmp_path, pack, monkeypatch):
    monkeypatch.setattr("flows.run_directory.SECONDS_TO_END", 0.5)
    directory = (tmp_path / "run").resolve()
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('ready', flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", stubborn],
        stdout=subprocess.PIPE,
        env={**os.environ, "STILLHOUSE_RUN": str(directory)},
    ) as process:
        assert process.stdout
        process.stdout.readline()
        Run.open(directory, RECIPE, "pack", pack).close()
        assert not is_running(process.pid)


def test_processes_of_another_run_and_this_one_are_spared(tmp_path, pack):
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        env={**os.environ, "STILLHOUSE_RUN": str(tmp_path / "run-2")},
    ) as process:
        time.sleep(0.2)
        with Run.open(tmp_path / "run", RECIPE, "pack", pack) as run:
            assert run.reaped == []
        assert process.poll() is None
        process.kill()


def test_a_run_marks_the_environment_while_it_is_open(tmp_path, pack):
    with Run.open(tmp_path / "run", RECIPE, "pack", pack) as run:
        assert os.environ["STILLHOUSE_RUN"] == str(run.directory)
        with pytest.raises(InputError, match="in use"):
            Run.open(tmp_path / "run", RECIPE, "pack", pack)
        assert os.environ["STILLHOUSE_RUN"] == str(run.directory)
    assert "STILLHOUSE_RUN" not in os.environ
