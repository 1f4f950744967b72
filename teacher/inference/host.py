"""What this process may use of its machine: CPU cores, memory, instructions; how its threads wait."""

import os
import re
from pathlib import Path

_POLICY = "OMP_WAIT_POLICY"


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def host_memory() -> int:
    """Bytes of memory of this machine, or of this container if it has a limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
    return min(total, int(text)) if text.isdigit() else total


def multiplies_bfloat16(cpu: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU has the dot product of bfloat16 numbers (AVX-512 BF16). cpu: how Linux describes it."""
    text = cpu.read_text(errors="replace") if cpu.is_file() else ""
    return bool(re.search(r"^flags\s*:.*\bavx512_bf16\b", text, re.MULTILINE))


def thread_policy() -> dict[str, str]:
    """The variable by which OpenMP's threads sleep while they wait for each other, unless the environment has it.

    A program reads it when it loads OpenMP; in Python, that is the first import of torch. Beside other programs on two
    cores, threads that spin make a llama.cpp server 1.5 times slower, llama-imatrix ten times, and take 2.5 to 3 times
    the CPU time in training (benchmarks/README.md). Threads that sleep cost up to a tenth where nothing else runs.
    """
    return {_POLICY: os.environ.get(_POLICY, "passive")}
