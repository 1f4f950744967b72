"""`make setup` installs the extras that fit the machine. A stand-in for Python records its arguments."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("listed", "extras"),
    [
        ("echo 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)'", ".[dev,gpu]"),
        ("echo 'No devices were found'; exit 6", ".[dev]"),
        ("exit 127", ".[dev]"),
    ],
)
def test_the_extra_gpu_is_installed_where_an_nvidia_gpu_is(
    listed: str, extras: str, tmp_path: Path
) -> None:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    script(tmp_path / "bin" / "nvidia-smi", listed)
    script(tmp_path / ".venv" / "bin" / "python", 'echo "$@" >> arguments')
    # An outer make would pass on its flags.
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    clean["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["make", "setup"], cwd=tmp_path, env=clean, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    asked = (tmp_path / "arguments").read_text().splitlines()
    assert any(line.endswith(f"-e {extras}") for line in asked)


@pytest.mark.parametrize("fails", [False, True])
def test_llama_cpp_is_built_beside_pip_and_a_failed_build_does_not_fail_the_setup(
    fails: bool, tmp_path: Path
) -> None:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    script(
        tmp_path / ".venv" / "bin" / "python",
        'case "$*" in\n'
        "*llamacpp) while [ ! -e pip-runs ]; do sleep 0.01; done; touch built; exit $FAILS;;\n"
        '*" -e "*) touch pip-runs; while [ ! -e built ]; do sleep 0.01; done;;\n'
        '*cmake*) echo "$@" > tools;;\n'
        "esac",
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    clean["FAILS"] = str(int(fails))
    done = subprocess.run(
        ["make", "setup"], cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and (tmp_path / ".venv" / ".ready").exists()
    assert ("llama.cpp was not built" in done.stderr) is fails
    tools = (tmp_path / "tools").read_text()
    assert "cmake" in tools and "ninja" in tools and "jsonschema-rs>=" in tools
