"""Shell commands that a person can copy from the terminal: they work in the working directory, as it is."""

import contextlib
import os
import shlex
import shutil
import sys
from pathlib import Path

from schemas.errors import StillhouseError
from student.registry.location import VARIABLE, RegistryUrl, location
from teacher.inference.llamacpp import find_binary
from teacher.inference.vllm_server import interpreter


def shell_path(path: Path | str) -> str:
    """A path as a shell takes it: from the working directory on where it lies in it, quoted where it has to be."""
    text = os.path.abspath(path)
    inside = os.path.relpath(text)
    if inside != ".." and not inside.startswith(f"..{os.sep}"):
        text = f".{os.sep}{inside}" if inside.startswith("-") else inside
    return shlex.quote(text)


def stillhouse() -> str:
    """The command `stillhouse`: its name where PATH has the one that is running, else the path that started it."""
    started, beside = Path(sys.argv[0]), Path(sys.executable).with_name("stillhouse")
    on_path = shutil.which("stillhouse")
    if on_path and any(_same(on_path, program) for program in (started, beside)):
        return "stillhouse"
    if started.name == "stillhouse":
        return _program(started)
    if started.name != "__main__.py" and beside.is_file():  # a deployment
        return _program(beside)
    python = shutil.which("python")
    name = "python" if python and _same(python, sys.executable) else _program(sys.executable)
    return f"{name} -m flows.cli"


def store_name(store: str) -> str:
    """A store as a shell takes it. store: a path or the URL of a registry."""
    return shlex.quote(store) if "://" in store else shell_path(store)


def pull(name: str, store: str) -> str:
    """The command that fetches a student from the store that it was published in, a path or a URL."""
    makefile = Path("Makefile")
    has_make = makefile.is_file() and "stillhouse pull" in makefile.read_text(errors="replace")
    command = (
        f"make pull DOMAIN={shlex.quote(name)}"
        if has_make
        else f"{stillhouse()} pull {shlex.quote(name)}"
    )
    default = location()
    same = (
        str(default) == store
        if isinstance(default, RegistryUrl)
        else "://" not in store and default.resolve() == Path(store).resolve()
    )
    return command if same else f"{VARIABLE}={store_name(store)} {command}"


def llama_server(weights: Path, projector: Path | None) -> str:
    """The command that serves a GGUF, with its vision tower if it has one."""
    name = "llama-server"
    if not shutil.which(name):
        # STILLHOUSE_LLAMA_CPP may name a directory without it.
        with contextlib.suppress(StillhouseError):
            name = _program(find_binary(name) or name)
    tower = f" --mmproj {shell_path(projector)}" if projector else ""
    return f"{name} --jinja -m {shell_path(weights)}{tower}"


def vllm_serve(directory: Path) -> str:
    """The command that serves a directory with vLLM."""
    name = "vllm"
    if not shutil.which(name):
        with contextlib.suppress(StillhouseError):
            beside = interpreter().with_name(name)
            name = _program(beside) if beside.is_file() else name
    return f"{name} serve {shell_path(directory)}"


def _program(path: Path | str) -> str:
    """A program as a shell runs it: a name without a slash would be looked up on PATH."""
    text = str(path)
    if os.sep not in text:
        return text
    shown = shell_path(text)
    return shown if os.sep in shown else f".{os.sep}{shown}"


def _same(one: Path | str, other: Path | str) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samefile(one, other)
    return False
