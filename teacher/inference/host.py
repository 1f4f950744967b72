"""What this process may use of its machine: CPU cores, memory, instructions; how its threads wait."""

import os
import re
from pathlib import Path

_POLICY, _SPINS = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
# A server's threads wait more often, and for less long, than those of training.
SERVER_SPINS, TRAINING_SPINS = 200, 500


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


def thread_policy(spins: int = SERVER_SPINS) -> dict[str, str]:
    """The variables by which OpenMP's threads sleep while they wait for each other, unless OMP_WAIT_POLICY says how.

    A program reads them when it loads OpenMP; in Python, that is the first import of torch. Beside other programs on
    two cores, threads that spin make a llama.cpp server 1.5 times slower, llama-imatrix ten times, and take 2.5 to 3
    times the CPU time in training. Threads that sleep at once make the server 1.6 times slower where nothing else runs.
    So they spin for a few microseconds first (GNU's libgomp alone can; benchmarks/README.md has the measurements).

    spins: how often a thread looks before it sleeps.
    """
    policy = os.environ.get(_POLICY, "passive")
    return {_POLICY: policy} | ({_SPINS: str(spins)} if policy.lower() == "passive" else {})
