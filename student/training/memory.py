"""Computes the memory and the speed of training a student on one GPU or on the host, before anything is loaded.

The parts are sums over the student's shape. Against peaks measured on an H100 they are within 2 % for the fused layers
(student/kernels/fused_layers.py) at 2,048 tokens, and up to 7 % above them in long sequences (benchmarks/qlora.md). For
stock TRL and PEFT they are within 5 % (QLoRA of rank 16 in 2,048 tokens, 4 bits: 32B at batches of 4 and 8 26.9 and
33.9 GiB, 70B at a batch of 4 50.6 GiB).
"""

from typing import Any, TypedDict

from schemas.recipe import Train
from student.kernels.families import FUSED, padded_rank
from teacher.inference.host import multiplies_bfloat16
from teacher.planning.hardware import GIB, Gpu, Hardware

# NF4 with double quantisation: 4 bits, 8 for each 64 values and 32 for each 256 of those (QLoRA, arXiv:2305.14314).
_NF4 = (4 + 8 / 64 + 32 / (64 * 256)) / 8
# A gradient and Adam's two moments beside each trained weight, in its data type. PEFT keeps an adapter in float32; TRL
# converts it to bfloat16 where the weights are quantised.
_STATES = 3
_METHODS = {
    "qlora": "QLoRA on {bits}-bit weights",
    "lora": "LoRA on {size}-bit weights",
    "full": "training all {size}-bit weights",
}
# Bytes of a GPU for CUDA's context and for fragmentation in the allocator, as on an H100.
_RESERVE = 2 * GIB
# TRL with Liger's kernels and full activation checkpointing on an H100, 2,048 tokens, 4 bits: 2,419 tokens/s of 32B,
# 1,188 of 70B. 6 floating point operations per parameter and token allow 4,050 and 1,880 at 790 TFLOP/s, 0.8 of the
# peak.
_OF_PEAK = 0.8 * 0.6
_OPERATIONS = {"qlora": 6, "lora": 6, "full": 8}
# The fused layers on an H100 and an H200 (benchmarks/qlora.md): without dequantisation 0.55 to 0.59 of the data sheet's
# rate for the 4 operations per weight and token; a layer that is recomputed costs 37 % more; weights are written at
# 0.83 of the data sheet's bandwidth; 0.05 s of a step are the optimiser and what larger products gain.
_FUSED_OF_PEAK, _RECOMPUTED, _OF_BANDWIDTH, _STEP_SECONDS = 0.57, 0.37, 0.83, 0.05
# An H200 took 0.66 (32B) and 0.61 (70B) of NF4's time for a step with products in FP8 (benchmarks/qlora.md).
_FP8_TIME = 0.66
# The H100's rates replace those of an unknown GPU: only their ratio matters for the choice of a batch.
_H100 = (989e12, 3.35e12)
# Two CPU cores on the 135M student: 203,193 tokens of examples, 3 epochs, in 683 s in bfloat16, nothing else running;
# in float32 4.8 ms of CPU time a token, busy for 0.8 of the time (benchmarks/README.md).
_CPU_TOKENS_S = {"bfloat16": 890.0, "float32": 330.0}
_CPU_CORES, _CPU_PARAMETERS = 2, 134_515_008
# Tokens computed at once on a CPU, where more make training no faster.
CPU_TOKENS = 2048


class Batch(TypedDict):
    """A micro-batch of the fused layers on a GPU.

    Attributes:
        tokens: computed at once.
        layers_kept: layers that keep their activations; -1 where even the layers' inputs are in the host's memory.
        longest: tokens of the longest example, which may exceed `tokens`.
        longest_layers_kept: as layers_kept, for the longest example.
    """

    tokens: int
    layers_kept: int
    longest: int
    longest_layers_kept: int


class TrainingMemory(TypedDict):
    """The memory and speed of training, as `student` in plan.json has them.

    Attributes:
        fits: True also for a student without a shape.
        peak_bytes: None for a student without a shape.
        parts: bytes by component.
        tokens_s: tokens per second; None where it is not known.
        batch: None without fused layers or without a GPU.
        reason: why it fits or does not.
        advice: a smaller way of training, if it does not fit.
    """

    fits: bool
    peak_bytes: int | None
    parts: dict[str, int]
    tokens_s: float | None
    batch: Batch | None
    reason: str
    advice: str | None


def memory(student: dict[str, Any], train: Train, hardware: Hardware) -> TrainingMemory:
    """The memory that training takes, and its speed.

    Args:
        student: its description (schemas/student.schema.json).
        train: the recipe's `train` section.
        hardware: the machine that trains.
    """
    train = resolve_dtype(train, hardware.gpu is not None)
    method = _METHODS[train.method].format(bits=train.bits, size=8 * _dense_bytes(train))
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
    parts = _parts(student, train, hardware)
    batch: Batch | None = None
    speed = _tokens_s(student, train, hardware)
    if hardware.gpu and is_fused(student, train):
        free = room - parts["weights"] - parts["trained"]
        shape, gpu, weight_bytes = student["shape"], hardware.gpu, stored_weight_bytes(train)
        tokens = choose_batch(shape, train.rank, free, gpu, weight_bytes)
        batch = batch_of(shape, train.rank, free, tokens, train.max_length)
        parts = _fused_parts(student, train, batch, parts)
        if gpu.flops:
            speed = 1 / _seconds_per_token(shape, tokens, batch["layers_kept"], gpu, weight_bytes)
    peak = sum(parts.values())
    usage, limit = f"{method} takes about {peak / GIB:.1f}", f"the {room / GIB:.1f} GiB of {where}"
    reason = f"{usage} of {limit}" if peak <= room else f"{usage} GiB, more than {limit}"
    if batch and peak <= room:
        reason += f": {describe_batch(batch, student['shape']['layers'])}"
    return {
        "fits": peak <= room,
        "peak_bytes": peak,
        "parts": parts,
        "tokens_s": speed,
        "batch": batch,
        "reason": reason,
        "advice": None if peak <= room else _advice(student, train, hardware, room),
    }


def resolve_dtype(train: Train, gpu: bool) -> Train:
    """The recipe's `train` section with the data type of the weights in place of `auto`.

    It is bfloat16 on a GPU and on a CPU that multiplies it (AVX-512 BF16), else float32. With AVX-512 alone bfloat16 is
    converted at each product: the 135M student's layers took 8.9 ms a token, and 7.1 in float32. Without AVX-512
    PyTorch 2.13 multiplies it in a scalar loop: 4 tokens/s on two cores of an EPYC of 2021.
    """
    if train.dtype != "auto":
        return train
    slow = not gpu and not multiplies_bfloat16()
    return train.model_copy(update={"dtype": "float32" if slow else "bfloat16"})


def is_fused(student: dict[str, Any], train: Train) -> bool:
    """Whether the student trains with fused layers. fused_layers.install decides again from the loaded layers."""
    return (
        train.method != "full"
        and not train.dropout
        and student.get("shape", {}).get("model_type") in FUSED
    )


def activation_bytes(shape: dict[str, Any], rank: int = 16, element: int = 2) -> tuple[int, int]:
    """Bytes per token of a fused layer that keeps all its activations, and of one that keeps only its input."""
    queries, pairs = shape["heads"] * shape["head_dim"], 2 * shape["kv_heads"] * shape["head_dim"]
    low = padded_rank(rank)
    gate_up = 2 * (shape["intermediate"] + low)
    numbers = 2 * shape["hidden"] + 2 * queries + pairs + gate_up + 7 * low
    return numbers * element + 4 * shape["heads"], shape["hidden"] * element


def layers_to_keep(
    shape: dict[str, Any], tokens: int, free: int, rank: int = 16, element: int = 2
) -> int:
    """The number of fused layers that can keep their activations, at most all, when `tokens` are computed at once.

    Args:
        free: bytes that are left beside the weights, the adapters, their gradients and the optimiser's state.
        element: bytes of one element of the activations.

    Returns:
        The number; -1 where not even the layers' inputs fit, so that they must be offloaded or `tokens` reduced.
    """
    whole, least = activation_bytes(shape, rank, element)
    left = free - _working(shape, tokens, element) - shape["layers"] * tokens * least
    if left < 0:
        return -1
    return min(shape["layers"], left // (tokens * (whole - least)))


def batch_of(
    shape: dict[str, Any], rank: int, free: int, tokens: int, longest: int, element: int = 2
) -> Batch:
    """The batch in which `tokens` are computed at once and the longest example has `longest` tokens.

    Args:
        free, element: as for `layers_to_keep`.
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
    weight_bytes: float,
    element: int = 2,
) -> int:
    """The number of tokens to compute at once: the fewest whose speed is within 1 % of the fastest.

    More tokens amortise the dequantisation of the weights; fewer leave memory for layers that keep their activations.

    Args:
        free, element: as for `layers_to_keep`.
        weight_bytes: of one weight as it is stored.
    """
    if gpu is None:
        return CPU_TOKENS
    cost = {}
    for tokens in range(512, 16384 + 1, 512):
        kept = layers_to_keep(shape, tokens, free, rank, element)
        if kept >= 0:
            cost[tokens] = _seconds_per_token(shape, tokens, kept, gpu, weight_bytes)
    least = min(cost.values(), default=0)
    return next((tokens for tokens, seconds in cost.items() if seconds <= 1.01 * least), 512)


def _working(shape: dict[str, Any], tokens: int, element: int = 2) -> int:
    """Bytes of a layer's backward pass beside the kept activations: one dequantised weight, and temporary tensors."""
    weight = element * (2 * shape["intermediate"] + 64) * (shape["hidden"] + 64)
    return weight + element * tokens * (5 * shape["intermediate"] + 6 * shape["hidden"])


def _seconds_per_token(
    shape: dict[str, Any], tokens: int, kept: int, gpu: Gpu, weight_bytes: float
) -> float:
    """Seconds of training per token, by the rates of fused layers on an H100.

    kept: layers that keep their activations. weight_bytes: of one weight as it is stored.
    """
    flops, bandwidth = (gpu.flops or _H100[0]), (gpu.bandwidth or _H100[1])
    weights, again = in_layers(shape), 1 - max(kept, 0) / shape["layers"]
    products = 4 * weights / (_FUSED_OF_PEAK * flops) * (1 + _RECOMPUTED * again)
    moved = 2 * (weight_bytes + 2) * (1 + 0.5 * again)  # dequantised in both passes
    if weight_bytes == 1 and gpu.fp8_products:
        products *= _FP8_TIME
        moved = 2  # transposed in the backward pass
    written = weights * moved / (_OF_BANDWIDTH * bandwidth)
    return products + (written + _STEP_SECONDS) / tokens


def _linear(shape: dict[str, Any]) -> list[tuple[int, int]]:
    """(inputs, outputs) of each linear map of a layer."""
    hidden, queries = shape["hidden"], shape["heads"] * shape["head_dim"]
    keys, size = shape["kv_heads"] * shape["head_dim"], shape["intermediate"]
    sizes = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    return sizes + [(hidden, size)] * 2 + [(size, hidden)]


def in_layers(shape: dict[str, Any]) -> int:
    """The number of weights in the linear maps of all layers."""
    return shape["layers"] * sum(a * b for a, b in _linear(shape))


def _fused_parts(
    student: dict[str, Any], train: Train, batch: Batch, parts: dict[str, int]
) -> dict[str, int]:
    """Bytes at the peak with fused layers: of the chosen batch, or of the longest example if that takes more."""
    shape = student["shape"]
    whole, least = activation_bytes(shape, train.rank)
    tokens, kept = batch["tokens"], batch["layers_kept"]
    layers = kept * whole + (shape["layers"] - kept) * least if kept >= 0 else 0
    peaks = [(tokens * layers, _working(shape, tokens))]
    # An example is never cut. The longest is computed alone, in the least memory with every layer recomputed and the
    # layers' inputs on the host.
    peaks.append((0, _working(shape, train.max_length)))
    activations, working = max(peaks, key=sum)
    return {**parts, "kept_activations": activations, "working_activations": working}


def describe_batch(batch: Batch, layers: int) -> str:
    """The batch in words. layers: of the student."""

    def kept(number: int) -> str:
        if number < 0:
            return "every layer recomputed, their inputs in the host's memory"
        return "all layers kept" if number >= layers else f"{number} of {layers} layers kept"

    text = f"{batch['tokens']:,} tokens at a time with {kept(batch['layers_kept'])}"
    if batch["longest"] > batch["tokens"]:
        text += f", an example of {batch['longest']:,} with {kept(batch['longest_layers_kept'])}"
    return text


def _parts(
    student: dict[str, Any], train: Train, hardware: Hardware, **changes: Any
) -> dict[str, int]:
    """Bytes at the peak of a training step of stock TRL, by component. changes: settings that replace those of `train`.

    On a GPU each layer keeps its input and is recomputed in the backward pass (activation checkpointing). The layer
    that is computed needs its queries, keys, values and attention output, four activations of the MLP, and four hidden
    states. The loss is computed in chunks, so that logits take little.
    """
    shape = student["shape"]
    settings = {
        name: getattr(train, name) for name in ("method", "rank", "batch_size", "max_length")
    }
    settings |= changes
    method, tokens = settings["method"], settings["batch_size"] * settings["max_length"]
    hidden, queries = shape["hidden"], shape["heads"] * shape["head_dim"]
    keys = shape["kv_heads"] * shape["head_dim"]
    quantisable = in_layers(shape)
    others = student["parameters"] - quantisable
    adapter = settings["rank"] * shape["layers"] * sum(a + b for a, b in _linear(shape))
    working = 2 * queries + 2 * keys + 4 * shape["intermediate"] + 4 * hidden
    size = _dense_bytes(train)
    kept = hidden if hardware.gpu else working
    trained = (1 + _STATES) * (2 if method == "qlora" else 4) * adapter
    stored = _quantised_bytes(train) if method == "qlora" else size
    return {
        "weights": int(quantisable * stored + others * size),
        "trained": _STATES * size * student["parameters"] if method == "full" else trained,
        "kept_activations": 2 * tokens * kept * shape["layers"],
        "working_activations": 2 * tokens * working,
    }


def stored_weight_bytes(train: Train) -> float:
    """Bytes of one weight of a layer as it is stored."""
    return _quantised_bytes(train) if train.method == "qlora" else _dense_bytes(train)


def _quantised_bytes(train: Train) -> float:
    return _NF4 if train.bits == 4 else 1.0


def _dense_bytes(train: Train) -> int:
    """Bytes of one weight that is not quantised."""
    return 4 if train.dtype == "float32" else 2


def _room(hardware: Hardware) -> tuple[int, str]:
    """Bytes that training may use, and whose memory they are. A student is trained on one GPU."""
    if hardware.gpu:
        return hardware.gpu.memory - _RESERVE, f"one {hardware.gpu.name}"
    return int(0.9 * (hardware.host_memory or 0)), "this host's memory"


def _tokens_s(student: dict[str, Any], train: Train, hardware: Hardware) -> float | None:
    """Tokens per second of stock TRL; None where the machine's rates are not known."""
    gpu: Gpu | None = hardware.gpu
    if gpu is None and hardware.cores:
        scale = hardware.cores / _CPU_CORES * _CPU_PARAMETERS / student["parameters"]
        return _CPU_TOKENS_S[train.dtype] * scale
    if gpu is None or gpu.flops is None:
        return None
    return _OF_PEAK * gpu.flops / (_OPERATIONS[train.method] * student["parameters"])


def _advice(student: dict[str, Any], train: Train, hardware: Hardware, room: int) -> str:
    """Names the first smaller way of training that fits."""
    four_bits, short = {"method": "qlora"}, {"max_length": min(2048, train.max_length)}
    single, qlora = {"batch_size": 1}, "4-bit weights (QLoRA)"
    smaller: list[tuple[dict[str, Any], str]] = [(four_bits, qlora)]
    if hardware.gpu and is_fused(student, train):
        # There the batch size does not count: memory is planned for one example at a time.
        smaller += [
            (short, f"train.max_length={short['max_length']}"),
            (four_bits | short, f"{qlora} and train.max_length={short['max_length']}"),
        ]
    else:
        smaller = [
            (single, "train.batch_size=1"),
            *smaller,
            (four_bits | single, f"{qlora} and train.batch_size=1"),
            (
                four_bits | single | short,
                f"{qlora}, train.batch_size=1 and train.max_length={short['max_length']}",
            ),
        ]
    for change, words in smaller:
        needed = _least(student, train, hardware, change)
        if needed <= room:
            return f"{words} would take about {needed / GIB:.1f} GiB"
    return (
        f"even with {words} it takes about {needed / GIB:.1f} GiB: a GPU with more memory is needed"
    )


def _least(
    student: dict[str, Any], train: Train, hardware: Hardware, change: dict[str, Any]
) -> int:
    """Bytes at the peak with some settings changed; for fused layers with every layer recomputed."""
    parts = _parts(student, train, hardware, **change)
    if hardware.gpu and is_fused(student, train):
        longest = change.get("max_length", train.max_length)
        return parts["weights"] + parts["trained"] + _working(student["shape"], longest)
    return sum(parts.values())
