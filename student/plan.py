"""What training a student takes of one GPU, or of the host: before anything is loaded.

The parts are sums over the student's shape; they come within 5 % of the peaks that were measured on an H100 (QLoRA of
rank 16 in 2,048 tokens, 4 bits: 32B at batches of 4 and 8 26.9 and 33.9 GiB, 70B at a batch of 4 50.6 GiB).
"""

from typing import Any

from teacher.gpus import GIB, Gpu, Hardware

# NF4 with double quantisation: 4 bits, 8 for each 64 values and 32 for each 256 of those (QLoRA, arXiv:2305.14314).
_NF4 = (4 + 8 / 64 + 32 / (64 * 256)) / 8
# Gradient and Adam's two moments beside each trained weight, in its type; PEFT keeps an adapter in float32.
_STATES = 3
_SAID = {
    "qlora": "QLoRA on 4-bit weights",
    "lora": "LoRA on {} weights",
    "full": "training all {} weights",
}
# Of an H100: CUDA's context and what the allocator cannot use.
_RESERVE = 2 * GIB
# TRL with Liger's kernels and full recomputation on an H100, 2,048 tokens, 4 bits: 2,419 tokens/s of 32B, 1,188 of 70B;
# of the 4,050 and 1,880 that 6 floating point operations a parameter and token allow at 790 TFLOP/s, 0.8 of the peak.
_OF_PEAK = 0.8 * 0.6
_OPERATIONS = {"qlora": 6, "lora": 6, "full": 8}
# Two CPU cores on the 135M student in bf16 (benchmarks/README.md), tokens/s.
_CPU_TOKENS_S, _CPU_CORES, _CPU_PARAMETERS = 180.0, 2, 134_515_008


def memory(student: dict[str, Any], train: Any, hardware: Hardware) -> dict[str, Any]:
    """What training takes and how fast it goes.

    Args:
        student: its description. train: the recipe's `train` section (`method` may also be "qlora": 4-bit weights).

    Returns:
        {"fits", "peak_bytes", "parts": bytes by component, "tokens_s", "reason", "advice"}; peak_bytes is None and fits
        true for a student without a shape; tokens_s is None where it is not known. advice may be None.
    """
    if "shape" not in student:
        speed = _tokens_s(student, train.method, hardware)
        reason = "its description has no shape, so its memory is not planned"
        return {
            "fits": True,
            "peak_bytes": None,
            "parts": {},
            "tokens_s": speed,
            "reason": reason,
            "advice": None,
        }
    parts = _parts(student, train, hardware)
    peak, (room, where) = sum(parts.values()), _room(hardware)
    said = _SAID[train.method].format(f"{8 * _bytes(train)}-bit")
    taken, limit = f"{said} takes about {peak / GIB:.1f}", f"the {room / GIB:.1f} GiB of {where}"
    return {
        "fits": peak <= room,
        "peak_bytes": peak,
        "parts": parts,
        "tokens_s": _tokens_s(student, train.method, hardware),
        "reason": f"{taken} of {limit}" if peak <= room else f"{taken} GiB, more than {limit}",
        "advice": None if peak <= room else _advice(student, train, hardware, room),
    }


def _parts(
    student: dict[str, Any], train: Any, hardware: Hardware, **changed: Any
) -> dict[str, int]:
    """Bytes at the peak of a training step, by component.

    On a GPU each layer keeps its input and is computed again in the backward pass (gradient checkpointing). What the
    layer that is being computed needs: its queries, keys, values and attention output, four activations of the MLP, and
    four hidden states. The loss is taken in chunks, so that logits count for little.
    """
    shape = student["shape"]
    settings = {
        name: getattr(train, name) for name in ("method", "rank", "batch_size", "max_length")
    }
    settings |= changed
    method, tokens = settings["method"], settings["batch_size"] * settings["max_length"]
    hidden, queries = shape["hidden"], shape["heads"] * shape["head_dim"]
    keys = shape["kv_heads"] * shape["head_dim"]
    linear = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    linear += [(hidden, shape["intermediate"])] * 2 + [(shape["intermediate"], hidden)]
    in_layers = shape["layers"] * sum(a * b for a, b in linear)
    others = student["parameters"] - in_layers
    adapter = settings["rank"] * shape["layers"] * sum(a + b for a, b in linear)
    working = 2 * queries + 2 * keys + 4 * shape["intermediate"] + 4 * hidden
    size = _bytes(train)
    kept = hidden if hardware.gpu else working
    trained = (1 + _STATES) * 4 * adapter
    return {
        "weights": int(in_layers * (_NF4 if method == "qlora" else size) + others * size),
        "trained": _STATES * size * student["parameters"] if method == "full" else trained,
        "kept_activations": 2 * tokens * kept * shape["layers"],
        "working_activations": 2 * tokens * working,
    }


def _bytes(train: Any) -> int:
    """Of one weight that is not quantised."""
    return 4 if getattr(train, "dtype", "bfloat16") == "float32" else 2


def _room(hardware: Hardware) -> tuple[int, str]:
    """Bytes that training may use, and of what: a student is trained on one GPU."""
    if hardware.gpu:
        return hardware.gpu.memory - _RESERVE, f"one {hardware.gpu.name}"
    return int(0.9 * (hardware.host_memory or 0)), "this host's memory"


def _tokens_s(student: dict[str, Any], method: str, hardware: Hardware) -> float | None:
    gpu: Gpu | None = hardware.gpu
    if gpu is None and hardware.cores:
        of_measured = hardware.cores / _CPU_CORES * _CPU_PARAMETERS / student["parameters"]
        return _CPU_TOKENS_S * of_measured
    if gpu is None or gpu.flops is None:
        return None
    return _OF_PEAK * gpu.flops / (_OPERATIONS[method] * student["parameters"])


def _advice(student: dict[str, Any], train: Any, hardware: Hardware, room: int) -> str:
    """The first smaller way of training that fits."""
    smaller = (
        ({"batch_size": 1}, "train.batch_size=1"),
        ({"method": "qlora"}, "4-bit weights (QLoRA)"),
        ({"method": "qlora", "batch_size": 1}, "4-bit weights (QLoRA) and train.batch_size=1"),
        (
            {"method": "qlora", "batch_size": 1, "max_length": 2048},
            "4-bit weights (QLoRA), train.batch_size=1 and train.max_length=2048",
        ),
    )
    for change, words in smaller:
        needed = sum(_parts(student, train, hardware, **change).values())
        if needed <= room:
            return f"{words} would take about {needed / GIB:.1f} GiB"
    return (
        f"even with {words} it takes about {needed / GIB:.1f} GiB: a GPU with more memory is needed"
    )
