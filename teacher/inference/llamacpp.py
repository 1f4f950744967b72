"""llama.cpp's programs: finds them, or builds the pinned source once, and runs them.

Programs are searched in STILLHOUSE_LLAMA_CPP (a directory, or its bin/ or build/bin/), then in the user's cache, then
on PATH. If none has them, the source inside the pinned `llama-cpp-python` sdist (MIT) is compiled into the cache: with
CUDA for the GPUs of this machine where nvcc is installed, else for the CPU. `python -m teacher.inference.llamacpp`
does that and no more. The converter (convert_hf_to_gguf.py with the gguf package beside it) always comes from the
pinned source: PyPI's gguf package of the same version number differs from it and has no converter.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import IO, Any

from schemas.cache import cache_directory, make_once
from schemas.error_text import last_line
from schemas.errors import StageError
from schemas.files import whole, write_text
from teacher.inference.host import multiplies_bfloat16, thread_policy
from teacher.models import catalog
from teacher.models.pypi import pip_download

VERSION = "0.3.36"
_REQUIREMENT = f"llama-cpp-python=={VERSION}"
_SDIST_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
_TARGETS = ("llama-server", "llama-quantize", "llama-imatrix")
# Without network code, web page and tests, the build takes some minutes on two cores.
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_ALL_WARNINGS=OFF",
    f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={Path(__file__).with_name('llamacpp.cmake')}",
)

# Increased when the programs or what they do change, so that an older cached build is not used.
_BUILD = 2
# With AMX, quantised weights end llama.cpp in an illegal instruction on some CPUs that have it: the compiler drops the
# tile configuration (github.com/ggml-org/llama.cpp/pull/26954).
_NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"

Progress = Callable[[str], None]


def binary(name: str, report: Progress = print) -> Path:
    """The path of a llama.cpp program, which is built first if it is not installed.

    Raises:
        StageError: there is no compiler, or the build failed; the message says what to do.
    """
    path = find_binary(name)
    if path is None:
        _build(report)
        path = _built() / name
    return path


def find_binary(name: str) -> Path | None:
    """The path of a llama.cpp program that is already installed, or None."""
    configured = os.environ.get("STILLHOUSE_LLAMA_CPP")
    if configured:
        for directory in (
            Path(configured),
            Path(configured, "bin"),
            Path(configured, "build", "bin"),
        ):
            if (directory / name).is_file():
                return directory / name
        raise StageError(
            f"STILLHOUSE_LLAMA_CPP={configured}: no {name} in it, its bin/ or its build/bin/"
        )
    if (_built() / name).is_file():
        return _built() / name
    on_path = shutil.which(name)
    return Path(on_path) if on_path else None


def is_installed() -> bool:
    """Whether the server and the converter can be used without building or downloading anything."""
    return find_binary("llama-server") is not None and source_here() is not None


def source(report: Progress = print) -> Path:
    """The directory of the pinned source, downloaded from the package registry at the first use."""
    tree = _home() / "source"
    with make_once(tree) as missing:
        if not missing:
            return tree
        report(f"fetching the source of llama.cpp ({_REQUIREMENT})")
        with tempfile.TemporaryDirectory() as scratch:
            sdist = pip_download(_REQUIREMENT, _SDIST_SHA256, Path(scratch), source_only=True)
            with tarfile.open(sdist) as archive:
                archive.extractall(scratch, filter="data")
            with whole(tree) as temporary:
                shutil.move(
                    Path(scratch, f"llama_cpp_python-{VERSION}", "vendor", "llama.cpp"), temporary
                )
    return tree


def source_here() -> Path | None:
    """The directory of the pinned source, or None where it was not fetched yet."""
    tree = _home() / "source"
    return tree if tree.is_dir() else None


def converter_environment() -> dict[str, str]:
    """Environment for convert_hf_to_gguf.py: the gguf package of its own tree comes first."""
    path = [str(source() / "gguf-py"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in path if p)}


def run_tool(name: str, *arguments: str) -> str:
    """Runs one of llama.cpp's programs to its end and returns its output.

    Raises:
        StageError: the program failed; the message has its last error.
    """
    done = subprocess.run(
        [str(binary(name)), *arguments],
        env={**os.environ, **thread_policy()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode:
        raise StageError(f"{name} failed: {last_line(done.stdout)}")
    return done.stdout


def server_weights(model: dict[str, Any], report: Progress = print) -> Path:
    """The file that llama.cpp's server loads: the weights, converted if the description's `requantize` names a format.

    On a CPU the format decides the speed: prompts are read from 16 bits at about twice the speed of Q4_1
    (benchmarks/README.md).
    """
    weights = catalog.fetch(model, report)
    requantize = model.get("requantize")
    if not requantize:
        return weights
    if requantize == "auto":
        requantize = _fastest_type()
    path = weights.with_name(f"{weights.stem}-{requantize}.gguf")
    with make_once(path) as missing:
        if missing:
            with whole(path) as temporary:
                run_tool(
                    "llama-quantize", "--allow-requantize", str(weights), str(temporary), requantize
                )
    return path


def _fastest_type() -> str:
    """The 16-bit type that llama.cpp multiplies fastest on this machine's CPU.

    BF16 where the CPU has its dot product: 22 % less CPU time for prompts than F16. F16 anywhere else: on two cores
    without AVX-512 it was read 24 % faster than BF16 (benchmarks/README.md).
    """
    return "BF16" if multiplies_bfloat16() else "F16"


def _home() -> Path:
    return cache_directory() / f"llama.cpp-{VERSION}-{_BUILD}"


def _built(capabilities: str | None = None) -> Path:
    """The directory of the programs. capabilities: of the GPUs that they are built for; None: as for this machine."""
    if capabilities is None:
        capabilities = cuda_capabilities()
        if capabilities and _cuda_failure(capabilities).is_file():
            capabilities = ""
    return _home() / (f"bin-cuda-{capabilities.replace(';', '-')}" if capabilities else "bin")


def built_for_cpu() -> bool:
    """Returns whether the programs are the cache's own build for a CPU; an installed llama.cpp may be any."""
    return binary("llama-server").parent == _home() / "bin"


def _cuda_failure(capabilities: str) -> Path:
    """The file that says why no build with CUDA succeeded on this machine. Without it, the build is tried again."""
    return _home() / f"cuda-{capabilities.replace(';', '-')}.failed"


def cuda_capabilities() -> str:
    """The compute capabilities of the visible GPUs as CMake names them, such as "90"; "" without nvcc or a GPU."""
    program = shutil.which("nvidia-smi")
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") or not _nvcc() or not program:
        return ""
    return _listed_capabilities(program)


@cache
def _listed_capabilities(nvidia_smi: str) -> str:
    query = [nvidia_smi, "--query-gpu=compute_cap", "--format=csv,noheader"]
    listed = subprocess.run(query, capture_output=True, text=True, errors="replace")
    found = set(re.findall(r"^(\d+)\.(\d+)$", listed.stdout, re.MULTILINE))
    return ";".join(sorted((major + minor for major, minor in found), key=int))


def _nvcc() -> str | None:
    """NVIDIA's compiler: on PATH, or where its installer puts it."""
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def _build(report: Progress) -> None:
    compiler = os.environ.get("CXX") or next(
        (c for c in ("c++", "g++", "clang++") if shutil.which(c)), None
    )
    if not compiler or not shutil.which(compiler.split()[0]):
        raise StageError(
            "no C++ compiler: llama.cpp has to be built once; install one (Debian, Ubuntu: apt-get install g++)"
            " or set STILLHOUSE_LLAMA_CPP to the directory of an installed llama.cpp"
        )
    tree = source(report)
    capabilities = cuda_capabilities()
    if capabilities and not _cuda_failure(capabilities).is_file():
        report(
            f"building llama.cpp once, into the cache, with CUDA for compute capability {capabilities}"
            " (10 to 30 minutes)"
        )
        if not (failure := _build_once(tree, compiler, capabilities, report)):
            return
        report(f"llama.cpp did not build with CUDA: {failure}; it is built for the CPU")
        write_text(_cuda_failure(capabilities), f"{failure}\nRemove this file to try again.\n")
    report("building llama.cpp once, into the cache (5 to 10 minutes on 2 cores)")
    if failure := _build_once(tree, compiler, "", report):
        raise StageError(f"llama.cpp did not build: {failure}")


def _build_once(tree: Path, compiler: str, capabilities: str, report: Progress) -> str | None:
    """Builds the programs unless they are there. Returns why it failed; None where it did not.

    capabilities: of the GPUs to build for; "" for the CPU.
    """
    with make_once(_built(capabilities)) as missing:
        if not missing:
            return None
        # cmake and ninja come from this environment's packages, so the machine needs only a compiler.
        bin_dir = Path(sys.executable).parent
        environment = {**os.environ, "PATH": f"{bin_dir}{os.pathsep}{os.environ.get('PATH', '')}"}
        work, log = _home() / "build", _home() / "build.log"
        shutil.rmtree(work, ignore_errors=True)
        with log.open("w") as output:
            configure = ["cmake", "-S", str(tree), "-B", str(work), "-G", "Ninja", *_OPTIONS]
            if _accepts(compiler, _NO_AMX):
                configure += [f"-DCMAKE_C_FLAGS={_NO_AMX}", f"-DCMAKE_CXX_FLAGS={_NO_AMX}"]
            if capabilities:
                only = ";".join(f"{number}-real" for number in capabilities.split(";"))
                configure += ["-DGGML_CUDA=ON", f"-DCMAKE_CUDA_ARCHITECTURES={only}"]
                configure.append(f"-DCMAKE_CUDA_COMPILER={_nvcc()}")
            code = subprocess.run(
                configure, env=environment, stdout=output, stderr=output
            ).returncode
            if code == 0:
                command = ["cmake", "--build", str(work), "--target", *_TARGETS]
                code = _compile(command, environment, output, report)
        if code:
            return f"{last_line(log.read_text(errors='replace'))} (see {log})"
        with whole(_built(capabilities)) as temporary:
            temporary.mkdir()
            for target in _TARGETS:
                shutil.copy2(work / "bin" / target, temporary / target)
        shutil.rmtree(work)
    return None


def _accepts(compiler: str, flags: str) -> bool:
    """Whether a C++ compiler accepts flags. Only compilers for x86 that know AMX accept the flags that disable it."""
    command = [*compiler.split(), *flags.split(), "-x", "c++", "-fsyntax-only", os.devnull]
    return subprocess.run(command, capture_output=True).returncode == 0


def _compile(
    command: list[str], environment: dict[str, str], output: IO[str], report: Progress
) -> int:
    """Runs the build command, reports its progress at each tenth of its steps, and returns its exit code."""
    tenth = 0
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    assert process.stdout
    try:
        for line in process.stdout:
            output.write(line)
            step = re.match(r"\[(\d+)/(\d+)\]", line)
            if step and int(step[1]) * 10 // int(step[2]) > tenth:
                tenth = int(step[1]) * 10 // int(step[2])
                report(f"building llama.cpp: {step[1]} of {step[2]} steps")
        return process.wait()
    finally:
        if process.poll() is None:  # interrupted: the next build must not meet this one's compilers
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def main() -> None:
    """Makes the programs and the source ready, as `make setup` does while pip works."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        binary("llama-server")
        source()
    except StageError as error:
        sys.exit(f"llama.cpp: {error}")


if __name__ == "__main__":
    main()
