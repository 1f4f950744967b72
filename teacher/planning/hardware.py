"""What a machine has: its GPUs, or its host memory. Named ("8xH200", "2x8xH100-80GB", "cpu-768GB") or found.

Nothing here needs CUDA: `nvidia-smi` is asked once, and a machine without it is a CPU host.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import InputError

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    memory: bytes that a process can use. bandwidth: bytes/s. flops: dense bf16, 1/s; both None where the GPU is not
    known. fp8_mla: whether vLLM can keep an MLA model's KV cache in fp8 on it.
    """

    name: str
    memory: int
    bandwidth: float | None
    flops: float | None
    fp8_mla: bool


@dataclass(frozen=True)
class Hardware:
    """One or more equal machines. count: GPUs of one machine. host_memory: bytes, None where only GPUs were named."""

    gpu: Gpu | None
    count: int
    nodes: int = 1
    host_memory: int | None = None
    cores: int | None = None

    @property
    def gpus(self) -> int:
        return self.count * self.nodes

    def __str__(self) -> str:
        if self.gpu:
            nodes = f"{self.nodes} machines of " if self.nodes > 1 else ""
            return f"{nodes}{self.count}x{self.gpu.name} ({self.gpu.memory / GIB:.1f} GiB each)"
        memory = f", {self.host_memory / 1e9:.0f} GB of memory" if self.host_memory else ""
        cores = f"{self.cores} CPU cores" if self.cores else "a CPU host"
        return cores + memory


# Memory: what PyTorch's out-of-memory errors call the total capacity, which is less than what is sold (several issues
# and logs on GitHub for each). Bandwidth and dense bf16 rate: NVIDIA's and AMD's data sheets, SXM or OAM form.
# fp8_mla: vLLM 0.32, v1/attention/backends/mla: FlashMLA (compute capability 9 and 10), FlashInfer (10), Triton (from
# 8.9 on: "native FP8 requires SM89+"), AITER on ROCm; nothing on an A100, whose compute capability is 8.0.
_KNOWN = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100-40GB", int(39.49 * GIB), 1.555e12, 312e12, False),
        Gpu("A100-80GB", int(79.15 * GIB), 2.039e12, 312e12, False),
        Gpu("L40S-48GB", int(44.40 * GIB), 0.864e12, 362e12, True),
        Gpu("H20-96GB", int(95.00 * GIB), 4.0e12, 148e12, True),
        Gpu("H100-80GB", int(79.18 * GIB), 3.35e12, 989e12, True),
        Gpu("H200-141GB", int(139.80 * GIB), 4.8e12, 989e12, True),
        Gpu("B200-180GB", int(178.35 * GIB), 8.0e12, 2250e12, True),
        Gpu("B300-288GB", int(267.69 * GIB), 8.0e12, 2250e12, True),
        Gpu("MI300X-192GB", int(191.98 * GIB), 5.3e12, 1307e12, True),
    )
}
# A name without its memory means the larger or only one.
_SHORT = {"A100": "A100-80GB"} | {name.split("-")[0]: name for name in _KNOWN if "A100" not in name}
_FORM = (
    "expected COUNTxGPU such as 8xH200, MACHINESxCOUNTxGPU such as 2x8xH100-80GB, cpu, or cpu-768GB"
)


def parse(text: str) -> Hardware:
    """The machine that a person names.

    Raises:
        InputError: neither of the forms, or a GPU that is not known.
    """
    host = re.fullmatch(r"cpu(?:-(\d+)\s*GB)?", text.strip(), re.IGNORECASE)
    if host:
        memory = int(host[1]) * 10**9 if host[1] else host_memory()
        return Hardware(None, 0, host_memory=memory, cores=None if host[1] else cores())
    named = re.fullmatch(
        r"(?:(\d+)x)?(?:(\d+)x)?([A-Za-z]\w*(?:-\d+GB)?)", text.strip(), re.IGNORECASE
    )
    name = named[3].upper() if named else ""
    gpu = _KNOWN.get(_SHORT.get(name, name))
    if not named or not gpu:
        raise InputError(f"--gpus {text}: {_FORM}; known GPUs: {', '.join(_KNOWN)}")
    counts = [int(number) for number in named.groups()[:2] if number] or [1]
    if not all(counts):
        raise InputError(f"--gpus {text}: found a count of 0, {_FORM}")
    if len(counts) == 1 and counts[0] > 8 and counts[0] % 8 == 0:
        counts = [counts[0] // 8, 8]  # a machine has eight at most, as far as these GPUs are sold
    return Hardware(gpu, counts[-1], counts[0] if len(counts) == 2 else 1)


def find() -> Hardware:
    """This machine: the GPUs that nvidia-smi lists and CUDA_VISIBLE_DEVICES leaves, else the CPU."""
    bare = Hardware(None, 0, host_memory=host_memory(), cores=cores())
    if not shutil.which("nvidia-smi"):
        return bare
    query = [
        "nvidia-smi",
        "--query-gpu=name,memory.total,compute_cap",
        "--format=csv,noheader,nounits",
    ]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return bare
    # "[N/A]" stands where a GPU has no memory of its own.
    rows = re.findall(r"^(.+), (\d+), ([\d.]+)$", listed.stdout, re.MULTILINE)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and all(part.strip().isdigit() for part in visible.split(",") if part):
        rows = [rows[int(part)] for part in visible.split(",") if part and int(part) < len(rows)]
    if not rows:
        return bare
    # One server wants equal GPUs: the most frequent kind, the larger of two as frequent.
    kind = max(rows, key=lambda row: (rows.count(row), row[1]))
    return Hardware(_gpu(*kind), rows.count(kind), host_memory=bare.host_memory, cores=bare.cores)


def _gpu(name: str, mebibytes: str, capability: str) -> Gpu:
    """A GPU as nvidia-smi tells of it; the known one of that name and memory where there is one."""
    memory = int(float(mebibytes) * 2**20)
    for known in _KNOWN.values():
        if known.name.split("-")[0] in name.upper() and abs(known.memory / memory - 1) < 0.05:
            return known
    # What a process can use is up to 1 % less than what nvidia-smi counts (79.18 of 79.65 GiB on an H100).
    return Gpu(name, int(0.99 * memory), None, None, float(capability) >= 8.9)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def host_memory() -> int:
    """Bytes of memory that this machine, or the container that this is, has."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
    return min(total, int(text)) if text.isdigit() else total
