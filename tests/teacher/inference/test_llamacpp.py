"""Where llama.cpp's programs are found, and what is said where there are none. Nothing is built here."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import StageError
from teacher.inference import llamacpp
from teacher.inference.host import multiplies_bfloat16
from teacher.inference.llamacpp import binary, find_binary, run_tool, server_weights


@pytest.fixture(autouse=True)
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No llama.cpp, no compiler, an empty cache; and whatever would fetch or build fails the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")
    for name in ("STILLHOUSE_LLAMA_CPP", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(llamacpp, "source", lambda say: pytest.fail("fetched the source"))
    monkeypatch.setattr(llamacpp, "_compile", lambda *_: pytest.fail("built something"))


def program(directory: Path, name: str = "llama-quantize", script: str = "exit 0") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("inside", [".", "bin", "build/bin"])
def test_a_chosen_directory_is_searched_with_its_bin_and_its_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    path = program(tmp_path / "chosen" / inside)
    monkeypatch.setenv("STILLHOUSE_LLAMA_CPP", str(tmp_path / "chosen"))
    assert find_binary("llama-quantize") == path


@pytest.mark.parametrize("exists", [True, False])
def test_a_chosen_directory_without_the_program_is_an_error_and_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    chosen = tmp_path / "chosen"
    if exists:
        program(chosen, "llama-server")
    program(tmp_path / "path")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("STILLHOUSE_LLAMA_CPP", str(chosen))
    expected = f"STILLHOUSE_LLAMA_CPP={chosen}: no llama-quantize in it, its bin/ or its build/bin/"
    for look in (find_binary, binary):
        with pytest.raises(StageError) as raised:
            look("llama-quantize")
        assert str(raised.value) == expected


def test_what_was_built_into_the_cache_comes_before_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path = program(tmp_path / "path")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert find_binary("llama-quantize") == on_path
    built = program(tmp_path / "cache" / "stillhouse" / llamacpp._home().name / "bin")
    assert find_binary("llama-quantize") == built


def test_a_program_that_is_nowhere_is_none() -> None:
    assert find_binary("llama-quantize") is None


@pytest.mark.parametrize("compiler", [None, "/nowhere/c++", "no-such-compiler -m64"])
def test_without_a_compiler_it_is_said_what_to_install_and_nothing_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str | None
) -> None:
    if compiler:
        monkeypatch.setenv("CXX", compiler)
    with pytest.raises(StageError, match=r"no C\+\+ compiler.*g\+\+.*STILLHOUSE_LLAMA_CPP"):
        binary("llama-server", lambda said: pytest.fail(said))
    assert not (tmp_path / "cache").exists()


def test_a_build_that_fails_is_reported_with_its_last_error_and_leaves_no_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llamacpp, "source", lambda say: tmp_path / "tree")
    monkeypatch.setenv("CXX", str(program(tmp_path / "tools", "c++")))

    def configure(command: list[str], stdout: Any, **_: Any) -> subprocess.CompletedProcess:
        stdout.write("-- The CXX compiler\nCMake Error: it is broken\n-- Incomplete\n")
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(llamacpp, "_accepts", lambda compiler, flags: True)
    monkeypatch.setattr(subprocess, "run", configure)
    with pytest.raises(StageError, match="did not build: CMake Error: it is broken .*build.log"):
        binary("llama-server", lambda said: None)
    assert find_binary("llama-server") is None


@pytest.mark.parametrize(
    ("capabilities", "visible", "found"),
    [
        ("9.0\n9.0\n", None, "90"),
        ("9.0\n12.0\n8.9\n", "0,1,2", "89;90;120"),
        ("9.0\n", "", ""),
        ("9.0\n", "-1", ""),
        ("No devices were found\n", None, ""),
    ],
)
def test_the_gpus_to_build_for_are_those_of_this_machine(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capabilities: str,
    visible: str | None,
    found: str,
) -> None:
    tools = tmp_path / "tools"
    program(tools, "nvidia-smi", f"printf '{capabilities}'")
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(llamacpp, "_nvcc", lambda: None)
    assert llamacpp.cuda_capabilities() == ""
    monkeypatch.setattr(llamacpp, "_nvcc", lambda: "/cuda/nvcc")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert llamacpp.cuda_capabilities() == found


@pytest.mark.parametrize("cuda_works", [True, False])
def test_with_nvcc_it_is_built_for_the_gpu_and_else_for_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda_works: bool
) -> None:
    configured: list[list[str]] = []
    said: list[str] = []
    monkeypatch.setattr(llamacpp, "source", lambda say: tmp_path / "tree")
    monkeypatch.setenv("CXX", str(program(tmp_path / "tools", "c++")))
    monkeypatch.setattr(llamacpp, "cuda_capabilities", lambda: "90")
    monkeypatch.setattr(llamacpp, "_nvcc", lambda: "/cuda/nvcc")
    monkeypatch.setattr(llamacpp, "_accepts", lambda compiler, flags: False)

    def configure(command: list[str], stdout: Any, **_: Any) -> subprocess.CompletedProcess:
        configured.append([word for word in command if "CUDA" in word])
        stdout.write("CMake Error: no cuBLAS\n")
        fails = bool(configured[-1]) and not cuda_works
        return subprocess.CompletedProcess(command, int(fails))

    def compiled(command: list[str], *_: Any) -> int:
        for name in llamacpp._TARGETS:
            program(Path(command[2]) / "bin", name)
        return 0

    monkeypatch.setattr(subprocess, "run", configure)
    monkeypatch.setattr(llamacpp, "_compile", compiled)
    path = binary("llama-server", said.append)
    options = [
        "-DGGML_CUDA=ON",
        "-DCMAKE_CUDA_ARCHITECTURES=90-real",
        "-DCMAKE_CUDA_COMPILER=/cuda/nvcc",
    ]
    assert configured == ([options] if cuda_works else [options, []])
    assert path.parent.name == ("bin-cuda-90" if cuda_works else "bin")
    assert find_binary("llama-server") == path and path.is_file()
    assert any("no cuBLAS" in line for line in said) is not cuda_works


def test_a_tool_is_run_with_its_arguments_and_what_it_printed_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "tools", script='echo "$1|$2"; echo aside >&2')
    monkeypatch.setenv("STILLHOUSE_LLAMA_CPP", str(tmp_path / "tools"))
    assert run_tool("llama-quantize", "a b", "$HOME") == "a b|$HOME\naside\n"


def test_a_tool_that_fails_is_reported_with_its_last_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "tools", script="echo reading; echo ERROR: bad magic; echo bye; exit 3")
    monkeypatch.setenv("STILLHOUSE_LLAMA_CPP", str(tmp_path / "tools"))
    with pytest.raises(StageError, match=r"^llama-quantize failed: ERROR: bad magic$"):
        run_tool("llama-quantize", "in.gguf")


def test_the_converters_own_gguf_package_comes_before_an_installed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llamacpp, "source", lambda say=print: tmp_path / "tree")
    monkeypatch.setenv("PYTHONPATH", "/mine")
    path = llamacpp.converter_environment()["PYTHONPATH"]
    assert path.split(os.pathsep) == [str(tmp_path / "tree" / "gguf-py"), "/mine"]


def test_weights_without_requantize_are_served_as_they_are(tmp_path: Path) -> None:
    weights = tmp_path / "m.gguf"
    weights.write_bytes(b"GGUF")
    model = {"name": "m", "source": {"path": str(weights)}}
    assert server_weights(model) == weights
    assert server_weights({**model, "requantize": None}) == weights


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu avx512f avx512_bf16 amx_tile\n", True),
        ("processor : 0\nflags\t\t: fpu avx2 f16c avx512f avx512_vnni\n", False),
        ("CPU implementer : 0x41\nFeatures : fp asimd bf16\n", False),
        (None, False),
    ],
)
def test_a_cpu_that_multiplies_bfloat16_is_recognised(
    tmp_path: Path, cpuinfo: str | None, expected: bool
) -> None:
    file = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        file.write_text(cpuinfo)
    assert multiplies_bfloat16(file) == expected


def test_weights_are_requantized_once_beside_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "m.gguf"
    weights.write_bytes(b"GGUF")
    ran: list[tuple[str, ...]] = []

    def quantize(*command: str) -> str:
        ran.append(command)
        if len(ran) == 1:
            Path(command[3]).write_bytes(b"half")
            raise StageError("llama-quantize failed: disk full")
        Path(command[3]).write_bytes(b"whole")
        return ""

    monkeypatch.setattr(llamacpp, "run_tool", quantize)
    model = {"name": "m", "source": {"path": str(weights)}, "requantize": "BF16"}
    with pytest.raises(StageError):
        server_weights(model)
    assert list(tmp_path.iterdir()) == [weights]  # no half-written file remains
    for _ in range(2):
        assert server_weights(model).read_bytes() == b"whole"
    assert len(ran) == 2
    assert ran[0][:3] == ("llama-quantize", "--allow-requantize", str(weights))
    assert ran[0][4] == "BF16"
