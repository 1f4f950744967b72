"""Decides whether a teacher fits on a machine, and what would fit instead.

Under vLLM: weights and KV cache of each GPU. Under llama.cpp: memory of GPUs and host together.

This is arithmetic before anything starts. vLLM's working memory was measured on two machines and is an estimate on
every other, so a fit that depends on less than the estimate's error does not count.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from schemas.errors import InputError
from schemas.recipe import Serve
from teacher.planning.hardware import GIB, Hardware, parse

# vLLM's working memory on a GPU, beside weights and KV cache (activations of the largest batch, CUDA graphs,
# communication buffers, the sampler's logits), from two servers of this shape at TP8 and 8,192 tokens per batch:
# - 8xH100-80GB, 0.95 of 79.18 GiB, few sequences: 27,392 tokens in fp8 = 0.90 GiB left beside 69.27 GiB of weights
#   (github.com/SemiAnalysisAI/InferenceX issue 1587 and its kimik2.5_int4_h100.sh): 5.06 GiB.
# - 8xH200, 0.9 of 139.80 GiB, vLLM's 1,024 sequences: "Available KV cache memory: 46.80 GiB" (vllm-project/recipes,
#   Kimi-K2-Think.md): 9.76 GiB. The difference is attributed to the sequences: 4.7 MiB each, 30 bytes for each of its
#   163,840 logits.
_OVERHEAD = 5.06 * GIB
_PER_SEQUENCE = 4.70 * GIB / 1024
# For each token of a batch beyond 8,192: the outputs of 8 experts and about six more hidden states of 7,168 bf16
# values. This is a guess.
_BATCH, _PER_BATCHED_TOKEN = 8192, 14 * 7168 * 2
# Two measurements predict a third only roughly: a KV cache smaller than this does not count as a fit.
_MARGIN = 2 * GIB
# vLLM's defaults of sequences and tokens per batch by the GPU's memory; an A100 has those of small GPUs (vLLM 0.32,
# engine/arg_utils.py, get_batch_defaults).
_SMALL, _LARGE, _LARGEST = (256, 2048), (1024, 8192), (1024, 16384)

# Machines that are tried as alternatives.
_MACHINES = ("8xH200", "2x8xH100-80GB", "2x8xA100-80GB", "4xB200", "8xB200", "8xMI300X")
_HOST = "cpu-768GB"
# Bytes of weights that llama.cpp reads per second while it decodes one reply, measured with this shape: 13.4 tokens/s
# of a 346 GiB file on one socket of an EPYC 9965 (ikawrakow/ik_llama.cpp 612) are 153 GB/s; 22 tokens/s of a 588 GB
# file on two sockets of EPYC 9355 with the attention on a GPU (ggml-org/llama.cpp issue 14642) are 400 GB/s.
_HOST_BYTES_S = (150e9, 400e9)
# Share of a host's or a GPU's memory that llama.cpp can use for weights and cache; a conservative guess.
_LLAMA_SHARE = 0.92


@dataclass(frozen=True)
class Fit:
    """How a teacher would be served on a machine.

    Attributes:
        max_model_len: tokens of the longest conversation; if the teacher does not fit, of the longest that would.
        concurrency: conversations of the requested length that the KV cache holds at once, in all data parallel copies.
        weights_per_rank, kv_per_rank: bytes on each GPU.
        kv_tokens: tokens that the cache holds in all.
        reason: why it fits or not, in words.
        alternatives: what would fit instead, one line each.
    """

    fits: bool
    tensor_parallel: int
    decode_context_parallel: int
    nodes: int
    max_model_len: int
    concurrency: float
    weights_per_rank: int
    kv_per_rank: int
    kv_tokens: int
    reason: str
    alternatives: tuple[str, ...] = ()


def fit(teacher: dict[str, Any], hardware: Hardware, context: int, options: Serve) -> Fit:
    """How a teacher would be served on a machine, and whether it fits.

    Args:
        teacher: its description, with `memory`.
        context: tokens of the longest conversation; options.max_model_len takes precedence.
        options: the recipe's `serve` section; the degrees and lengths that are None are chosen here.

    Raises:
        InputError: no machine can serve this teacher with the options.
    """
    context = min(options.max_model_len or context, teacher["context"])
    if teacher["engine"] == "llama.cpp":
        fitted = _fit_llama(teacher, hardware, context, options.replica_count)
    else:
        fitted = _fit_vllm(teacher, hardware, context, options)
    if fitted.fits:
        return fitted
    return replace(fitted, alternatives=tuple(_alternatives(teacher, hardware, context, options)))


def chosen(fitted: Fit) -> dict[str, int]:
    """The fields of a recipe's `serve` section that a fit decides."""
    return {
        "tensor_parallel": fitted.tensor_parallel,
        "decode_context_parallel": fitted.decode_context_parallel,
        "nodes": fitted.nodes,
        "max_model_len": fitted.max_model_len,
    }


# ------------------------------------------------------------------------------------- under vLLM


def _fit_vllm(teacher: dict[str, Any], hardware: Hardware, context: int, options: Serve) -> Fit:
    """The fit with the fewest machines; on the most machines if none fits."""
    if hardware.gpu is None:
        reason = f"vLLM serves {teacher['name']} on GPUs; found {hardware}"
        return Fit(
            fits=False,
            tensor_parallel=1,
            decode_context_parallel=1,
            nodes=1,
            max_model_len=0,
            concurrency=0.0,
            weights_per_rank=teacher["memory"]["weights_bytes"],
            kv_per_rank=0,
            kv_tokens=0,
            reason=reason,
        )
    spans = [options.nodes]
    if options.nodes == 1 and options.replica_count == 1:
        spans = list(range(1, hardware.nodes + 1))
    fits = [_fit_server(teacher, hardware, context, options, nodes) for nodes in spans]
    return next((fitted for fitted in fits if fitted.fits), fits[-1])


def _fit_server(
    teacher: dict[str, Any], hardware: Hardware, context: int, options: Serve, nodes: int
) -> Fit:
    """The fit of one server, by vLLM's guide: layers spread over `nodes` machines, each split over a machine's GPUs."""
    gpu, copies = hardware.gpu, options.data_parallel
    assert gpu
    gpus = hardware.count // options.replica_count
    tensor = options.tensor_parallel or _degree(teacher, gpus // copies)
    parts = _context_degree(teacher, tensor, options)
    layers = teacher["memory"]["attention"]["layers"]
    stage = math.ceil(layers / nodes) / layers  # of the machine with the most layers
    weights = stage * _weights(teacher, tensor, copies, options.expert_parallel)
    usable = options.gpu_memory_utilization * gpu.memory
    working = _working_memory(gpu.name, gpu.memory, (*_vllm_arguments(teacher), *options.arguments))
    left = int(usable - weights - working)
    cached = stage * _cache_bytes(teacher, tensor, parts, options.kv_cache_dtype)
    copy_tokens = int(max(0, left) // cached)
    tokens = copy_tokens * copies
    usage = (
        f"{weights / GIB:.1f} GiB of weights and about {working / GIB:.1f} GiB of working memory"
    )
    fits = False
    if tensor * copies > gpus or nodes > hardware.nodes:
        machines = f" on each of {nodes} machines" if nodes > 1 else ""
        others = f" of {options.replica_count}" if options.replica_count > 1 else ""
        reason = f"one server{others} needs {tensor * copies} GPUs{machines}; found {hardware}"
    elif options.kv_cache_dtype == "fp8" and _is_mla(teacher) and not gpu.fp8_mla:
        reason = (
            f"vLLM keeps an MLA cache in fp8 only from compute capability 8.9 on, which {gpu.name}"
            " does not have: set serve.kv_cache_dtype=auto"
        )
    elif left < 0:
        reason = (
            f"{usage} on each GPU are more than the {usable / GIB:.1f} GiB that vLLM may take"
            f" ({options.gpu_memory_utilization:g} of {gpu.memory / GIB:.1f})"
        )
    else:
        fits = left >= _MARGIN and copy_tokens >= context
        reason = (
            f"TP{tensor}{f' with the KV cache in {parts} parts' if parts > 1 else ''}: {usage} leave about"
            f" {left / GIB:.1f} GiB of each GPU for the cache: {count(tokens)} tokens,"
            f" {_conversations(tokens, context)} of {context:,} tokens at once"
        )
        if left < _MARGIN:
            reason += f"; that is less than the error of this estimate ({_MARGIN / GIB:g} GiB)"
    return Fit(
        fits=fits,
        tensor_parallel=tensor,
        decode_context_parallel=parts,
        nodes=nodes,
        max_model_len=min(context, copy_tokens),
        concurrency=round(tokens / context, 1),
        weights_per_rank=int(weights),
        kv_per_rank=max(0, left),
        kv_tokens=tokens,
        reason=reason,
    )


def _degree(teacher: dict[str, Any], gpus: int) -> int:
    """The largest power of two of GPUs that divides the heads, as vLLM requires."""
    heads = teacher["memory"].get("heads", 1024)
    return max(d for d in (2**n for n in range(11)) if d <= max(1, gpus) and heads % d == 0)


def _context_degree(teacher: dict[str, Any], tensor: int, options: Serve) -> int:
    """The decode context parallel degree: parts of the KV cache, by default as many as there would be copies (MLA).

    vLLM 0.32 requires a divisor of the tensor parallel degree; with grouped queries, of the copies of each KV head.
    """
    heads = teacher["memory"].get("heads")
    if heads and heads % tensor:
        raise InputError(
            f"serve.tensor_parallel: found {tensor}, expected a divisor of the {heads} attention heads of"
            f" {teacher['name']}"
        )
    attention = teacher["memory"]["attention"]
    copies = tensor if _is_mla(teacher) else max(1, tensor // attention["kv_heads"])
    if options.decode_context_parallel:
        if tensor % options.decode_context_parallel or options.decode_context_parallel > copies:
            raise InputError(
                f"serve.decode_context_parallel: found {options.decode_context_parallel}, expected a divisor of"
                f" serve.tensor_parallel ({tensor}), {copies} at most"
            )
        return options.decode_context_parallel
    return tensor if _is_mla(teacher) else 1


def _weights(teacher: dict[str, Any], tensor: int, copies: int, by_expert: bool) -> float:
    """Bytes of weights per GPU of one machine: experts split over all GPUs, the rest over a data parallel copy's."""
    total = teacher["memory"]["weights_bytes"]
    routed = teacher["memory"].get("experts", {"count": 1, "bytes": 0})
    experts, expert_bytes = routed["count"], routed["bytes"]
    ranks = tensor * copies
    # Whole experts may not divide evenly: the GPU with the most decides.
    share = math.ceil(experts / ranks) / experts if by_expert and expert_bytes else 1 / ranks
    return (total - expert_bytes) / tensor + expert_bytes * share


def _cache_bytes(teacher: dict[str, Any], tensor: int, context: int, dtype: str) -> int:
    """Bytes of KV cache per token on each GPU of a data parallel copy.

    MLA keeps one latent vector for all heads, so each tensor parallel rank holds all of it; decode context parallelism
    divides the tokens. With grouped queries each rank holds its own KV heads.
    """
    attention, size = teacher["memory"]["attention"], 1 if dtype == "fp8" else 2
    if _is_mla(teacher):
        values = attention["kv_lora_rank"] + attention["rope_head_dim"]
    else:
        values = 2 * attention["head_dim"] * math.ceil(attention["kv_heads"] / tensor)
    return math.ceil(values * size * attention["layers"] / context)


def _working_memory(name: str, memory: int, arguments: tuple[str, ...]) -> float:
    """Bytes that vLLM uses on a GPU beside weights and KV cache."""
    defaults = _LARGEST if memory >= 160 * GIB else _LARGE if memory >= 70 * GIB else _SMALL
    sequences, batched = _SMALL if "A100" in name else defaults
    sequences = _argument(arguments, "--max-num-seqs", sequences)
    batched = _argument(arguments, "--max-num-batched-tokens", batched)
    return _OVERHEAD + sequences * _PER_SEQUENCE + max(0, batched - _BATCH) * _PER_BATCHED_TOKEN


def _argument(arguments: tuple[str, ...], name: str, default: int) -> int:
    """The value of an argument of vLLM, the last one if it is repeated."""
    words = [word for argument in arguments for word in argument.split("=", 1)]
    values = [words[i + 1] for i, word in enumerate(words[:-1]) if word == name]
    return int(values[-1]) if values and values[-1].isdigit() else default


def _vllm_arguments(teacher: dict[str, Any]) -> tuple[str, ...]:
    return tuple(teacher.get("vllm", {}).get("arguments", ()))


def _is_mla(teacher: dict[str, Any]) -> bool:
    return teacher["memory"]["attention"]["kind"] == "mla"


# ------------------------------------------------------------------------------------- under llama.cpp


def _fit_llama(teacher: dict[str, Any], hardware: Hardware, context: int, servers: int) -> Fit:
    """The fit under llama.cpp: whole layers on GPUs, the rest in host memory, one copy of the cache in all servers."""
    weights, room = servers * teacher["memory"]["weights_bytes"], _llama_room(teacher, hardware)
    tokens = int(max(0, room - weights) // _cache_bytes(teacher, 1, 1, "auto"))
    reason = (
        f"{weights / 1e9:.0f} GB of weights in {room / 1e9:.0f} GB of usable memory leave room for"
        f" {count(tokens)} tokens of KV cache, {_conversations(tokens, context)} of {context:,} tokens"
    )
    if hardware.gpu is None:
        reason += f"; {_host_speed(teacher, weights)}"
    return Fit(
        fits=tokens >= context,
        tensor_parallel=1,
        decode_context_parallel=1,
        nodes=1,
        max_model_len=min(context, tokens),
        concurrency=round(tokens / context, 1),
        weights_per_rank=weights,
        kv_per_rank=int(max(0, room - weights)),
        kv_tokens=tokens,
        reason=reason,
    )


def _llama_room(teacher: dict[str, Any], hardware: Hardware) -> float:
    """Bytes for weights and cache. Layers are not split, so the GPU with the most layers limits what all GPUs hold."""
    on_gpus = 0.0
    if hardware.gpu:
        layers = teacher["memory"]["attention"]["layers"] / hardware.count
        on_gpus = hardware.gpu.memory * hardware.count * layers / math.ceil(layers)
    return _LLAMA_SHARE * (on_gpus + (hardware.host_memory or 0))


def host_tokens_s(teacher: dict[str, Any], file_bytes: int) -> tuple[float, float]:
    """Tokens/s of one reply on a CPU host, [low, high]: memory bandwidth over the bytes read per token."""
    active = teacher.get("active_parameters", teacher["parameters"]) / teacher["parameters"]
    slow, fast = _HOST_BYTES_S
    return slow / (file_bytes * active), fast / (file_bytes * active)


def _host_speed(teacher: dict[str, Any], file_bytes: int) -> str:
    slow, fast = host_tokens_s(teacher, file_bytes)
    return f"an estimate of {slow:.0f} to {fast:.0f} tokens/s for one reply at a time"


# ------------------------------------------------------------------------------------- alternatives


def _alternatives(
    teacher: dict[str, Any], hardware: Hardware, context: int, options: Serve
) -> Iterator[str]:
    """Lines about the same machine with other settings, other machines, and llama.cpp."""
    if teacher["engine"] == "vllm":
        yield from _other_settings(teacher, hardware, context, options)
        other = Serve(
            kv_cache_dtype=options.kv_cache_dtype,
            gpu_memory_utilization=options.gpu_memory_utilization,
            expert_parallel=options.expert_parallel,
            arguments=options.arguments,
        )
        for name in _MACHINES:
            fitted = _fit_vllm(teacher, parse(name), context, other)
            if fitted.fits:
                build = ", with vLLM's build for ROCm behind serve.url" if "MI3" in name else ""
                yield (
                    f"{name}: about {fitted.kv_per_rank / GIB:.0f} GiB of each GPU for the KV cache,"
                    f" {_conversations(fitted.kv_tokens, context)} at once{build}"
                )
    fits, line = _gguf(teacher, hardware, context, "this machine")
    yield line
    if hardware.gpu or not fits:
        fits, line = _gguf(teacher, parse(_HOST), context, "a CPU host with 768 GB of memory")
        if fits:
            yield line


def _other_settings(
    teacher: dict[str, Any], hardware: Hardware, context: int, options: Serve
) -> Iterator[str]:
    """The smallest change of settings with which the teacher fits on this machine, or what the largest one leaves."""
    if hardware.gpu is None:
        return
    share = {"gpu_memory_utilization": 0.95}
    few = {"arguments": (*options.arguments, "--max-num-seqs", "16")}
    fp8 = {"kv_cache_dtype": "fp8"} if hardware.gpu.fp8_mla or not _is_mla(teacher) else {}
    for change in (fp8, share, few, share | few, share | few | fp8):
        fitted = _fit_vllm(teacher, hardware, context, options.model_copy(update=change))
        settings = ", ".join(
            f"serve.{key}={list(value) if isinstance(value, tuple) else value}"
            for key, value in change.items()
        )
        if fitted.fits:
            yield f"this machine with {settings}"
            return
    if fitted.kv_per_rank:
        yield (
            f"not this machine, even with {settings}: about {fitted.kv_per_rank / GIB:.1f} GiB of each GPU for the KV"
            " cache, less than the error of this estimate"
        )


def _gguf(teacher: dict[str, Any], hardware: Hardware, context: int, name: str) -> tuple[bool, str]:
    """Whether a GGUF of the teacher fits on a machine under llama.cpp, and a line with which one or why not."""
    cache, room = _cache_bytes(teacher, 1, 1, "auto") * context, _llama_room(teacher, hardware)
    files = sorted(teacher["memory"].get("gguf", []), key=lambda file: -file["bytes"])
    if not files:
        return False, f"not {name} under llama.cpp: no GGUF of {teacher['name']} is described"
    file = next((file for file in files if file["bytes"] + cache <= room), files[-1])
    bits = 8 * file["bytes"] / teacher["parameters"]
    described = f"{file['quantization']} ({file['bytes'] / 1e9:.0f} GB, {bits:.1f} bits a weight)"
    if file["bytes"] + cache > room:
        return False, (
            f"not {name} under llama.cpp: {described} and {cache / 1e9:.0f} GB of KV cache are more than the"
            f" {room / 1e9:.0f} GB that can be used"
        )
    speed = f", {_host_speed(teacher, file['bytes'])}" if hardware.gpu is None else ""
    return True, (
        f"{name} under llama.cpp with {described}{speed}: a teacher file with engine: llama.cpp, or its server's URL"
        " as serve.url"
    )


def count(number: float) -> str:
    """A number of tokens in readable form, such as 34,210 or 5.7 million."""
    return f"{number / 1e6:.1f} million" if number >= 1e6 else f"{number:,.0f}"


def _conversations(tokens: int, length: int) -> str:
    number = tokens // length
    return "not one conversation" if not number else f"{number} conversation{'s' * (number > 1)}"
