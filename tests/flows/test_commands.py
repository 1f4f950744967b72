"""The commands that a run's last lines print: a shell runs them in the working directory."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from flows import commands


def program(path: Path, prints: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {shlex.quote(prints)}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a space and a quote in its path; no program of ours is on PATH."""
    directory = tmp_path / "it's my work"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv("STILLHOUSE_STORE", raising=False)
    return directory


@pytest.mark.parametrize("name", ["runs", "a b", "it's", "-dash", "ä#b", "$(touch x)", "a;b", "~x"])
def test_a_path_is_the_same_one_in_a_shell(here: Path, name: str) -> None:
    for path in (Path(name), here / name, here.parent / name):
        text = commands.shell_path(path)
        shown = subprocess.run(["sh", "-c", f"printf %s {text}"], capture_output=True, text=True)
        assert (here / shown.stdout).resolve() == (here / path).resolve()
        assert not shown.stdout.startswith("-")
    assert not (here / "x").exists()


def test_a_path_in_the_working_directory_is_relative_and_any_other_is_absolute(here: Path) -> None:
    assert commands.shell_path(here / "runs" / "a") == "runs/a"
    assert commands.shell_path("/srv/store") == "/srv/store"
    assert commands.shell_path(here.parent / "..x").startswith("/")


def test_stillhouse_is_named_by_the_path_that_started_it_unless_it_is_on_path(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = program(here / "my venv" / "bin" / "stillhouse", "pulled")
    monkeypatch.setattr(sys, "argv", [str(started), "distill", "legal"])
    assert commands.stillhouse() == "'my venv/bin/stillhouse'"
    command = commands.pull("legal", str(here / "store"))
    assert command == "'my venv/bin/stillhouse' pull legal"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.stdout == "pulled\n"
    monkeypatch.setenv("PATH", f"{started.parent}:/usr/bin:/bin")
    assert commands.pull("legal", str(here / "store")) == "stillhouse pull legal"
    # Another stillhouse that comes first on PATH is not the one that published.
    other = program(here / "other" / "stillhouse")
    monkeypatch.setenv("PATH", f"{other.parent}:{started.parent}")
    assert commands.stillhouse() == "'my venv/bin/stillhouse'"


def test_a_run_of_the_module_is_pulled_by_the_module(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/srv/flows/cli/__main__.py", "distill"])
    words = shlex.split(commands.stillhouse())
    assert words[1:] == ["-m", "flows.cli"]
    assert Path(words[0]).samefile(sys.executable)


def test_make_is_named_only_where_its_makefile_is(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(program(here / "stillhouse"))])
    (here / "Makefile").write_text("pull:\n\tgit pull\n")
    assert commands.pull("legal", str(here / "store")) == "./stillhouse pull legal"
    (here / "Makefile").write_text("pull:\n\t@$(BIN)/stillhouse pull $$NAME\n")
    assert commands.pull("legal", str(here / "store")) == "make pull DOMAIN=legal"


def test_another_store_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(program(here / "stillhouse"))])
    command = commands.pull("legal", str(here / "my store"))
    assert command == "STILLHOUSE_STORE='my store' ./stillhouse pull legal"
    monkeypatch.setenv("STILLHOUSE_STORE", str(here / "my store"))
    assert commands.pull("legal", str(here / "my store")) == "./stillhouse pull legal"


def test_llama_server_is_named_by_its_path_unless_it_is_on_path(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = program(here / "built here" / "llama-server", "ready")
    monkeypatch.setenv("STILLHOUSE_LLAMA_CPP", str(server.parent))
    weights, tower = Path("students/legal/a b.gguf"), Path("students/legal/mmproj.gguf")
    command = commands.llama_server(weights, tower)
    assert shlex.split(command) == [
        "built here/llama-server",
        *("--jinja", "-m", str(weights), "--mmproj", str(tower)),
    ]
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.stdout == "ready\n"
    monkeypatch.setenv("PATH", f"{server.parent}:/usr/bin:/bin")
    assert commands.llama_server(weights, None).startswith("llama-server --jinja -m ")
    monkeypatch.setenv("STILLHOUSE_LLAMA_CPP", "/nowhere")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert commands.llama_server(weights, None).startswith("llama-server --jinja -m ")


def test_vllm_is_named_by_its_path_unless_it_is_on_path(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(here / "env" / "bin" / "python")
    server = program(here / "env" / "bin" / "vllm")
    monkeypatch.setenv("STILLHOUSE_VLLM", str(here / "env"))
    assert commands.vllm_serve(Path("students/legal/vllm")) == (
        "env/bin/vllm serve students/legal/vllm"
    )
    monkeypatch.setenv("PATH", str(server.parent))
    assert commands.vllm_serve(Path("a b")) == "vllm serve 'a b'"
