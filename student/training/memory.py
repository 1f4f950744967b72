"""What training a student takes of one GPU, or of the host: before anything is loaded.

The parts are sums over the student's shape. For the fused layers (student/kernels/fused_layers.py) they come within 2 % of the peaks
that were measured on an H100 at 2,048 tokens, and up to 7 % above them in long sequences (benchmarks/qlora.md); for
TRL's and PEFT's modules as they come within 5 % (QLoRA of rank 16 in 2,048 tokens, 4 bits: 32B at batches of 4 and 8
26.9 and 33.9 GiB, 70B at a batch of 4 50.6 GiB).
"""

from typing import Any

from student.kernels.families import FUSED, padded_rank
from teacher.planning.hardware import GIB, Gpu, Hardware

# NF4 with double quantisation: 4 bits, 8 for each 64 values and 32 for each 256 of those (QLoRA, arXiv:2305.14314).
_NF4 = (4 + 8 / 64 + 32 / (64 * 256)) / 8
# Gradient and Adam's two moments beside each trained weight, in its type; PEFT keeps an adapter in float32, TRL makes
# bfloat16 of it where the weights are quantised.
_STATES = 3
_SAID = {
    "qlora": "QLoRA on {bits}-bit weights",
    "lora": "LoRA on {size}-bit weights",
    "full": "training all {size}-bit weights",
}
# Of an H100: CUDA's context and what the allocator cannot use.
_RESERVE = 2 * GIB
# TRL with Liger's kernels and full recomputation on an H100, 2,048 tokens, 4 bits: 2,419 tokens/s of 32B, 1,188 of 70B;
# of the 4,050 and 1,880 that 6 floating point operations a parameter and token allow at 790 TFLOP/s, 0.8 of the peak.
_OF_PEAK = 0.8 * 0.6
_OPERATIONS = {"qlora": 6, "lora": 6, "full": 8}
# The fused layers on an H100 (benchmarks/qlora.md): without dequantisation 0.55 and 0.58 of the data sheet's rate for
# the 4 operations a weight and token; a layer that is run again costs 37 % more; weights are written at 0.83 of the
# data sheet's bandwidth.
_FUSED_OF_PEAK, _AGAIN, _OF_BANDWIDTH = 0.55, 0.37, 0.83
# Where a GPU's rates are not known, the H100's stand in: only their proportion matters for the choice of a batch.
_H100 = (989e12, 3.35e12)
# Two CPU cores on the 135M student, packed, of the whole stage: in bfloat16 with AVX-512 129,652 tokens in 493 s, in
# float32 without it 123 tokens/s.
_CPU_TOKENS_S = {"bfloat16": 263.0, "float32": 123.0}
_CPU_CORES, _CPU_PARAMETERS = 2, 134_515_008
# Tokens computed at once on a CPU, where nothing is gained by more.
CPU_TOKENS = 2048


def memory(student: dict[str, Any], train: Any, hardware: Hardware) -> dict[str, Any]:
    """What training takes and how fast it goes.

    Args:
        student: its description. train: the recipe's `train` section.

    Returns:
        {"fits", "peak_bytes", "parts": bytes by component, "tokens_s", "batch", "reason", "advice"}; peak_bytes is None
        and fits true for a student without a shape; tokens_s is None where it is not known; advice may be None. batch,
        of fused layers on a GPU: {"tokens": computed at once, "layers_kept", "longest": tokens of the longest example,
        "longest_layers_kept": then; -1 with the layers' inputs in the host's memory}, else None.
    """
    train = for_machine(train, hardware.gpu is not None)
    said = _SAID[train.method].format(bits=train.bits, size=8 * _bytes(train))
    if "shape" not in student:
        speed = _tokens_s(student, train, hardware)
        reason = "its description has no shape, so its memory is not planned"
        return {
            "fits": True,
            "peak_bytes": None,
            "parts": {},
            "tokens_s": speed,
            "batch": None,
            "reason": reason,
            "advice": None,
        }
    room, where = _room(hardware)
    parts, batch = _parts(student, train, hardware), None
    speed = _tokens_s(student, train, hardware)
    if hardware.gpu and is_fused(student, train):
        free = room - parts["weights"] - parts["trained"]
        shape, gpu, read = student["shape"], hardware.gpu, bytes_read(train)
        tokens = choose_batch(shape, train.rank, free, gpu, read)
        batch = batch_of(shape, train.rank, free, tokens, train.max_length)
        parts = _fused_parts(student, train, batch, parts)
        if gpu.flops:
            speed = 1 / _seconds_a_token(shape, tokens, batch["layers_kept"], gpu, read)
    peak = sum(parts.values())
    taken, limit = f"{said} takes about {peak / GIB:.1f}", f"the {room / GIB:.1f} GiB of {where}"
    reason = f"{taken} of {limit}" if peak <= room else f"{taken} GiB, more than {limit}"
    if batch and peak <= room:
        reason += f": {batch_said(batch, student['shape']['layers'])}"
    return {
        "fits": peak <= room,
        "peak_bytes": peak,
        "parts": parts,
        "tokens_s": speed,
        "batch": batch,
        "reason": reason,
        "advice": None if peak <= room else _advice(student, train, hardware, room),
    }


def for_machine(train: Any, gpu: bool) -> Any:
    """The recipe's `train` section with what it leaves to the machine: the type of the weights.

    bfloat16 on a GPU, and on a CPU with AVX-512. Without it PyTorch 2.13 multiplies bfloat16 in a plain loop: on two
    cores of an EPYC of 2021 the 135M student trained at 4 tokens/s.
    """
    if train.dtype != "auto":
        return train
    import torch

    slow = not gpu and torch.backends.cpu.get_cpu_capability() != "AVX512"
    return train.model_copy(update={"dtype": "float32" if slow else "bfloat16"})


def is_fused(student: dict[str, Any], train: Any) -> bool:
    """Whether student/kernels/fused_layers.py trains it: it looks at the layers themselves again once they are loaded."""
    return (
        train.method != "full"
        and train.bits == 4
        and not train.dropout
        and student.get("shape", {}).get("model_type") in FUSED
    )


def activation_bytes(shape: dict[str, Any], rank: int = 16, element: int = 2) -> tuple[int, int]:
    """Bytes that one token leaves behind in a fused layer that keeps everything, and in one that keeps its input."""
    queries, pairs = shape["heads"] * shape["head_dim"], 2 * shape["kv_heads"] * shape["head_dim"]
    low = padded_rank(rank)
    gate_up = 2 * (shape["intermediate"] + low)
    numbers = 2 * shape["hidden"] + 2 * queries + pairs + gate_up + 7 * low
    return numbers * element + 4 * shape["heads"], shape["hidden"] * element


def layers_to_keep(
    shape: dict[str, Any], tokens: int, free: int, rank: int = 16, element: int = 2
) -> int:
    """How many fused layers can keep their activations, at most all, when `tokens` tokens are computed at once.

    Args:
        free: bytes that are left beside the weights, the adapters, their gradients and the optimiser's state.
        element: bytes of a number of the activations.

    Returns:
        The number, or -1 where not even the layers' inputs fit; then offload them or take fewer tokens.
    """
    whole, least = activation_bytes(shape, rank, element)
    left = free - _working(shape, tokens, element) - shape["layers"] * tokens * least
    if left < 0:
        return -1
    return min(shape["layers"], left // (tokens * (whole - least)))


def batch_of(
    shape: dict[str, Any], rank: int, free: int, tokens: int, longest: int, element: int = 2
) -> dict[str, int]:
    """`batch` of `memory`, when `tokens` are computed at once and the longest example has `longest`.

    Args:
        free, element: as of `layers_to_keep`.
    """
    return {
        "tokens": tokens,
        "layers_kept": layers_to_keep(shape, tokens, free, rank, element),
        "longest": longest,
        "longest_layers_kept": layers_to_keep(shape, longest, free, rank, element),
    }


def choose_batch(
    shape: dict[str, Any],
    rank: int,
    free: int,
    gpu: Gpu | None,
    bytes_read: float,
    element: int = 2,
) -> int:
    """How many tokens to compute at once: more amortise the dequantisation of the weights, fewer leave room for layers
    that keep their activations. The fewest that are within 1 % of the fastest.

    Args:
        free, element: as of `layers_to_keep`. bytes_read: of one weight as it is stored.
    """
    if gpu is None:
        return CPU_TOKENS
    cost = {}
    for tokens in range(512, 16384 + 1, 512):
        kept = layers_to_keep(shape, tokens, free, rank, element)
        if kept >= 0:
            cost[tokens] = _seconds_a_token(shape, tokens, kept, gpu, bytes_read)
    least = min(cost.values(), default=0)
    return next((tokens for tokens, seconds in cost.items() if seconds <= 1.01 * least), 512)


def _working(shape: dict[str, Any], tokens: int, element: int = 2) -> int:
    """Bytes of one weight as it is multiplied, and of what a layer's backward pass holds at a time beside what was
    kept."""
    weight = element * (2 * shape["intermediate"] + 64) * (shape["hidden"] + 64)
    return weight + element * tokens * (5 * shape["intermediate"] + 6 * shape["hidden"])


def _seconds_a_token(
    shape: dict[str, Any], tokens: int, kept: int, gpu: Gpu, bytes_read: float
) -> float:
    flops, bandwidth = (gpu.flops or _H100[0]), (gpu.bandwidth or _H100[1])
    weights, again = _in_layers(shape), 1 - max(kept, 0) / shape["layers"]
    products = 4 * weights / (_FUSED_OF_PEAK * flops) * (1 + _AGAIN * again)
    written = 2 * weights * (bytes_read + 2) / (_OF_BANDWIDTH * bandwidth)  # both passes
    return products + written * (1 + 0.5 * again) / tokens


def _linear(shape: dict[str, Any]) -> list[tuple[int, int]]:
    """The sizes of a layer's linear maps."""
    hidden, queries = shape["hidden"], shape["heads"] * shape["head_dim"]
    keys, size = shape["kv_heads"] * shape["head_dim"], shape["intermediate"]
    sizes = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    return sizes + [(hidden, size)] * 2 + [(size, hidden)]


def _in_layers(shape: dict[str, Any]) -> int:
    return shape["layers"] * sum(a * b for a, b in _linear(shape))


def _fused_parts(
    student: dict[str, Any], train: Any, batch: dict[str, int], parts: dict[str, int]
) -> dict[str, int]:
    """Bytes at the peak with fused layers: of the chosen batch, or of the longest example if that takes more."""
    shape = student["shape"]
    whole, least = activation_bytes(shape, train.rank)
    tokens, kept = batch["tokens"], batch["layers_kept"]
    layers = kept * whole + (shape["layers"] - kept) * least if kept >= 0 else 0
    peaks = [(tokens * layers, _working(shape, tokens))]
    # An example is never cut: the longest is computed alone, at the least with every layer run again and the layers'
    # inputs on the host.
    peaks.append((0, _working(shape, train.max_length)))
    activations, working = max(peaks, key=sum)
    return {**parts, "kept_activations": activations, "working_activations": working}


def batch_said(batch: dict[str, Any], layers: int) -> str:
    def kept(number: int) -> str:
        if number < 0:
            return "every layer run again, their inputs in the host's memory"
        return "all layers kept" if number >= layers else f"{number} of {layers} layers kept"

    said = f"{batch['tokens']:,} tokens at a time with {kept(batch['layers_kept'])}"
    if batch["longest"] > batch["tokens"]:
        said += f", an example of {batch['longest']:,} with {kept(batch['longest_layers_kept'])}"
    return said


def _parts(
    student: dict[str, Any], train: Any, hardware: Hardware, **changed: Any
) -> dict[str, int]:
    """Bytes at the peak of a training step of the modules as they come, by component.

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
    in_layers = _in_layers(shape)
    others = student["parameters"] - in_layers
    adapter = settings["rank"] * shape["layers"] * sum(a + b for a, b in _linear(shape))
    working = 2 * queries + 2 * keys + 4 * shape["intermediate"] + 4 * hidden
    size = _bytes(train)
    kept = hidden if hardware.gpu else working
    trained = (1 + _STATES) * (2 if method == "qlora" else 4) * adapter
    stored = _stored(train) if method == "qlora" else size
    return {
        "weights": int(in_layers * stored + others * size),
        "trained": _STATES * size * student["parameters"] if method == "full" else trained,
        "kept_activations": 2 * tokens * kept * shape["layers"],
        "working_activations": 2 * tokens * working,
    }


def _stored(train: Any) -> float:
    """Bytes of a quantised weight."""
    return _NF4 if train.bits == 4 else 1.0


def bytes_read(train: Any) -> float:
    return _stored(train) if train.method == "qlora" else _bytes(train)


def _bytes(train: Any) -> int:
    """Of one weight that is not quantised."""
    return 4 if train.dtype == "float32" else 2


def _room(hardware: Hardware) -> tuple[int, str]:
    """Bytes that training may use, and of what: a student is trained on one GPU."""
    if hardware.gpu:
        return hardware.gpu.memory - _RESERVE, f"one {hardware.gpu.name}"
    return int(0.9 * (hardware.host_memory or 0)), "this host's memory"


def _tokens_s(student: dict[str, Any], train: Any, hardware: Hardware) -> float | None:
    gpu: Gpu | None = hardware.gpu
    if gpu is None and hardware.cores:
        of_measured = hardware.cores / _CPU_CORES * _CPU_PARAMETERS / student["parameters"]
        return _CPU_TOKENS_S[train.dtype] * of_measured
    if gpu is None or gpu.flops is None:
        return None
    return _OF_PEAK * gpu.flops / (_OPERATIONS[train.method] * student["parameters"])


def _advice(student: dict[str, Any], train: Any, hardware: Hardware, room: int) -> str:
    """The first smaller way of training that fits."""
    four_bits, short = {"method": "qlora"}, {"max_length": min(2048, train.max_length)}
    single, said = {"batch_size": 1}, "4-bit weights (QLoRA)"
    smaller: list[tuple[dict[str, Any], str]] = [(four_bits, said)]
    if hardware.gpu and is_fused(student, train):
        # One example at a time is what is counted there.
        smaller += [
            (short, f"train.max_length={short['max_length']}"),
            (four_bits | short, f"{said} and train.max_length={short['max_length']}"),
        ]
    else:
        smaller = [
            (single, "train.batch_size=1"),
            *smaller,
            (four_bits | single, f"{said} and train.batch_size=1"),
            (
                four_bits | single | short,
                f"{said}, train.batch_size=1 and train.max_length={short['max_length']}",
            ),
        ]
    for change, words in smaller:
        needed = _least(student, train, hardware, change)
        if needed <= room:
            return f"{words} would take about {needed / GIB:.1f} GiB"
    return (
        f"even with {words} it takes about {needed / GIB:.1f} GiB: a GPU with more memory is needed"
    )


def _least(student: dict[str, Any], train: Any, hardware: Hardware, change: dict[str, Any]) -> int:
    """Bytes at the peak with some settings changed; of fused layers with everything run again."""
    parts = _parts(student, train, hardware, **change)
    if hardware.gpu and is_fused(student, train):
        longest = change.get("max_length", train.max_length)
        return parts["weights"] + parts["trained"] + _working(student["shape"], longest)
    return sum(parts.values())
