"""How many servers of llama.cpp run side by side on a machine.

A server samples the tokens of all its slots on one thread. On a GPU that thread is what limits it: 64 conversations
with a model of 1.5B parameters got 4 requests/s under a grammar and left an H200 at 7 %. On a CPU more servers share
the same cores and win nothing. On an H200 8 servers on 16 cores gave 20 requests/s and 16 on 32 cores 30.
"""

from schemas.recipe import Serve
from teacher.inference.host import cores
from teacher.planning.hardware import GIB, Hardware

_MOST, _CORES_EACH, _SLOTS_EACH = 16, 2, 4
# Bytes that a server takes beside weights and cache: on its GPU, and on the host with one GiB of prompts.
_GPU_EACH, _HOST_EACH = GIB, 2 * GIB
# Shares of memory that servers are chosen for: of one GPU, which also holds the caches of their slots, and of the host.
_GPU_SHARE, _HOST_SHARE = 0.25, 0.5


def llama_servers(hardware: Hardware, slots: int, weights: float) -> int:
    """The number of servers for so many slots in all. weights: bytes of the model."""
    if hardware.gpu is None:
        return 1
    limits = [_MOST, (hardware.cores or cores()) // _CORES_EACH, slots // _SLOTS_EACH]
    limits.append(int(_GPU_SHARE * hardware.gpu.memory / (weights + _GPU_EACH)))
    if hardware.host_memory:
        limits.append(int(_HOST_SHARE * hardware.host_memory / _HOST_EACH))
    return max(1, min(limits))


def planned_servers(options: Serve, hardware: Hardware, slots: int, weights: float) -> int:
    """`llama_servers`, unless serve.replicas says how many."""
    return options.replicas or llama_servers(hardware, slots, weights)


def without_room(servers: int, hardware: Hardware, weights: float) -> str:
    """Why so many servers have no room on a machine; "" if they have, as far as is known."""
    if hardware.gpu and hardware.gpus * hardware.gpu.memory < servers * (weights + _GPU_EACH):
        return f"serve.replicas: {servers} copies of {weights / 1e9:.1f} GB of weights are more than {hardware} hold"
    if hardware.host_memory and hardware.host_memory < servers * _HOST_EACH + weights:
        return (
            f"serve.replicas: {servers} servers take about {servers * _HOST_EACH / 1e9:.0f} GB of host memory; found"
            f" {hardware.host_memory / 1e9:.0f} GB"
        )
    return ""
