"""Describes a machine by its GPUs or its host memory: from a name ("8xH200", "2x8xH100-80GB", "cpu-768GB") or detected.

Nothing here needs CUDA: detection runs `nvidia-smi`, and a machine without it is a CPU host.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace

from schemas.errors import InputError
from teacher.inference.host import cores, host_memory
from teacher.planning import visible_devices

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        memory: bytes that a process can use.
        bandwidth: bytes/s; None for an unknown GPU.
        flops: dense bf16 operations/s; None for an unknown GPU.
        fp8_mla: whether vLLM can keep an MLA model's KV cache in fp8 on it.
    """

    name: str
    memory: int
    bandwidth: float | None
    flops: float | None
    fp8_mla: bool

    @property
    def fp8_products(self) -> bool:
        """Whether PyTorch multiplies e4m3 on it: NVIDIA's GPUs from compute capability 8.9 on, as for `fp8_mla`."""
        return self.fp8_mla and not self.name.startswith("MI")


@dataclass(frozen=True)
class Hardware:
    """One or more equal machines.

    Attributes:
        gpu: the GPU that all machines have; None for a CPU host.
        count: GPUs of one machine. nodes: machines.
        host_memory: bytes; None for a machine named by its GPUs.
        remark: why GPUs of the machine are left out; "" where none are.
    """

    gpu: Gpu | None
    count: int
    nodes: int = 1
    host_memory: int | None = None
    cores: int | None = None
    remark: str = ""

    @property
    def gpus(self) -> int:
        """GPUs of all machines together."""
        return self.count * self.nodes

    def __str__(self) -> str:
        remark = f" ({self.remark})" if self.remark else ""
        if self.gpu:
            nodes = f"{self.nodes} machines of " if self.nodes > 1 else ""
            gpus = f"{nodes}{self.count}x{self.gpu.name} ({self.gpu.memory / GIB:.1f} GiB each)"
            return gpus + remark
        memory = f", {self.host_memory / 1e9:.0f} GB of memory" if self.host_memory else ""
        cores = f"{self.cores} CPU cores" if self.cores else "a CPU host"
        return cores + memory + remark


# Memory: the total capacity in PyTorch's out-of-memory errors (several issues and logs on GitHub for each GPU), which
# is less than the nominal size. Bandwidth and dense bf16 rate: NVIDIA's and AMD's data sheets, SXM or OAM form.
# fp8_mla: vLLM 0.32, v1/attention/backends/mla: FlashMLA (compute capability 9 and 10), FlashInfer (10), Triton (from
# 8.9 on: "native FP8 requires SM89+"), AITER on ROCm; no backend for an A100, whose compute capability is 8.0.
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
# A name without the memory size means the larger or only variant.
_SHORT = {"A100": "A100-80GB"} | {name.split("-")[0]: name for name in _KNOWN if "A100" not in name}
_FORM = (
    "expected COUNTxGPU such as 8xH200, MACHINESxCOUNTxGPU such as 2x8xH100-80GB, cpu, or cpu-768GB"
)


def parse(text: str) -> Hardware:
    """The machine with a name, such as 8xH200 or cpu-768GB.

    Raises:
        InputError: the name has none of the forms, or the GPU is unknown.
    """
    host = re.fullmatch(r"cpu(?:-(\d+)\s*GB)?", text.strip(), re.IGNORECASE)
    if host:
        memory = int(host[1]) * 10**9 if host[1] else host_memory()
        return Hardware(None, 0, host_memory=memory, cores=None if host[1] else cores())
    match = re.fullmatch(
        r"(?:(\d+)x)?(?:(\d+)x)?([A-Za-z]\w*(?:-\d+GB)?)", text.strip(), re.IGNORECASE
    )
    name = match[3].upper() if match else ""
    gpu = _KNOWN.get(_SHORT.get(name, name))
    if not match or not gpu:
        raise InputError(f"--gpus {text}: {_FORM}; known GPUs: {', '.join(_KNOWN)}")
    counts = [int(number) for number in match.groups()[:2] if number] or [1]
    if not all(counts):
        raise InputError(f"--gpus {text}: found a count of 0, {_FORM}")
    if len(counts) == 1 and counts[0] > 8 and counts[0] % 8 == 0:
        counts = [counts[0] // 8, 8]  # these GPUs are sold in machines of at most eight
    return Hardware(gpu, counts[-1], counts[0] if len(counts) == 2 else 1)


def find() -> Hardware:
    """This machine: the GPUs of nvidia-smi that CUDA_VISIBLE_DEVICES allows, else the CPU."""
    cpu_host = Hardware(None, 0, host_memory=host_memory(), cores=cores())
    if not shutil.which("nvidia-smi"):
        return cpu_host
    output = _nvidia_smi(
        "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"
    )
    # A GPU without memory of its own has "[N/A]" in that column: it keeps its number, and is skipped.
    rows = re.findall(r"^(.+), (\d+|\[N/A\]), ([\d.]+)$", output, re.MULTILINE)
    visible = visible_devices.choose(
        os.environ.get("CUDA_VISIBLE_DEVICES"),
        visible_devices.read_listing(_nvidia_smi("-L") if rows else "", len(rows)),
    )
    if visible.mig:
        name, _, capability = rows[visible.mig.gpu]
        # A MIG device has fewer multiprocessors than its GPU, so the rates of the GPU do not hold for it.
        memory = visible.mig.gigabytes * 10**9
        gpu = Gpu(f"{name} MIG {visible.mig.profile}", memory, None, None, float(capability) >= 8.9)
        return replace(cpu_host, gpu=gpu, count=1, remark=visible.remark)
    kinds = [rows[number] for number in visible.gpus if rows[number][1].isdigit()]
    if not kinds:
        return replace(cpu_host, remark=visible.remark)
    # One server needs equal GPUs: take the most frequent kind, and of equally frequent ones the larger.
    kind = max(kinds, key=lambda row: (kinds.count(row), int(row[1])))
    return replace(cpu_host, gpu=_gpu(*kind), count=kinds.count(kind), remark=visible.remark)


def _nvidia_smi(*arguments: str) -> str:
    """The output of nvidia-smi; empty if it fails."""
    try:
        done = subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _gpu(name: str, mebibytes: str, capability: str) -> Gpu:
    """The known GPU of that name and memory, else a GPU with the values of nvidia-smi."""
    memory = int(float(mebibytes) * 2**20)
    for known in _KNOWN.values():
        if known.name.split("-")[0] in name.upper() and abs(known.memory / memory - 1) < 0.05:
            return known
    # A process can use up to 1 % less than nvidia-smi counts (79.18 of 79.65 GiB on an H100).
    return Gpu(name, int(0.99 * memory), None, None, float(capability) >= 8.9)
