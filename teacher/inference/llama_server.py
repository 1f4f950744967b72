"""llama.cpp's server on one GGUF file."""

import contextlib
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from teacher.inference.endpoint import Endpoint
from teacher.inference.host import cores, host_memory, thread_policy
from teacher.inference.llamacpp import binary, built_for_cpu
from teacher.inference.process import Program, ServerProcess, free_port
from teacher.inference.replicas import run_replicas

# Loading the 43 GB of a 70B student from a slow disk takes minutes. A server that ends at once is reported at once.
_READY_SECONDS = 600
_DRAIN_SECONDS = 20
# llama.cpp reads a long prompt in batches, and a large model on few cores takes minutes for one batch.
_STALL_SECONDS = 1800
# MiB of host memory for prompts that left their slot; llama.cpp's own 8,192 let a server of 270 MB grow to 4 GB. All
# servers together take no more than this share of the machine's memory.
_PROMPT_CACHE, _PROMPT_CACHE_SHARE = 1024, 1 / 16
# On a CPU, llama.cpp's flash attention decodes 8 conversations of 1,500 tokens at 235 ms a step, without it at 108.
_CPU_OPTIONS = ["--flash-attn", "off"]
# Drafts 8 tokens: those that followed the last 4 earlier in the conversation. A call repeats names and ids, and on a
# CPU a token of a larger batch costs a quarter: 140 requests took 218 steps instead of 611 and 10 % less CPU time
# (benchmarks/README.md). The distribution that is sampled from stays the same.
_DRAFTS = ["--spec-type", "ngram-simple"]
_DRAFTS += ["--spec-ngram-simple-size-n", "4", "--spec-ngram-simple-size-m", "8"]


@contextlib.contextmanager
def serve(
    model: Path,
    log: Path,
    slots: int,
    context: int,
    template: Path | None = None,
    *,
    projector: Path | None = None,
    port: int | None = None,
    key: str | None = None,
    ready_seconds: float | None = None,
    stall_seconds: float | None = None,
    replicas: int = 1,
    drafts: bool = False,
    report: Callable[[str], None] = print,
) -> Iterator[Endpoint]:
    """llama.cpp's server for the time of the block, or several of them side by side.

    A server samples the tokens of all its slots on one thread, which several servers on a GPU do at the same time.

    Args:
        model: the GGUF file.
        log: the file to which the output is appended; several servers have their number added to its name.
        slots: requests decoded together, by all servers.
        context: tokens that each slot can hold.
        template: a chat template file that replaces the one inside the GGUF.
        projector: the GGUF of the vision tower, for a vision-language model.
        port, key: of the API, of several servers the first one's; by default a free port and a random key.
        ready_seconds, stall_seconds: as `Program`'s.
        replicas: servers.
        drafts: whether tokens are drafted from the conversation on a CPU. llama.cpp gives no log-probabilities of them.
        report: receives a message when one of several servers is given up.

    Raises:
        StageError: a server does not start.
    """
    key = key or secrets.token_urlsafe(24)
    programs = [
        program(
            model,
            slots,
            context,
            template,
            projector=projector,
            port=own_port,
            key=key,
            ready_seconds=ready_seconds,
            stall_seconds=stall_seconds,
            replicas=replicas,
            drafts=drafts,
        )
        for own_port in [port or free_port(), *(free_port() for _ in range(1, replicas))]
    ]
    url = f"http://127.0.0.1:{programs[0].port}/v1"
    endpoint = Endpoint(url, key, "model", engine="llama.cpp")
    if replicas > 1:
        with run_replicas(programs, None, endpoint, log, report):
            yield endpoint
        return
    server = ServerProcess(programs[0], endpoint, log)
    endpoint.restart = server.restart_if_dead
    with server:
        yield endpoint


def program(
    model: Path,
    slots: int,
    context: int,
    template: Path | None = None,
    *,
    port: int,
    key: str,
    projector: Path | None = None,
    ready_seconds: float | None = None,
    stall_seconds: float | None = None,
    replicas: int = 1,
    drafts: bool = False,
) -> Program:
    """One of so many servers that share the slots and the machine. Arguments as `serve`'s."""
    own_slots = -(-slots // replicas)
    command = [str(binary("llama-server")), "--model", str(model), "--alias", "model"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--metrics", "--jinja", "--offline"]
    command += ["--parallel", str(own_slots), "--ctx-size", str(own_slots * context)]
    cache = min(_PROMPT_CACHE, int(host_memory() * _PROMPT_CACHE_SHARE / replicas) >> 20)
    command += ["--cache-ram", str(cache)]
    command += ["--threads", str(max(1, cores() // replicas))] if replicas > 1 else []
    if built_for_cpu():
        command += _CPU_OPTIONS + (_DRAFTS if drafts else [])
    command += ["--chat-template-file", str(template)] if template else []
    command += ["--mmproj", str(projector)] if projector else []
    return Program(
        name="llama-server",
        command=command,
        port=port,
        environment={"LLAMA_API_KEY": key, **thread_policy()},
        ready_seconds=ready_seconds or _READY_SECONDS,
        drain_seconds=_DRAIN_SECONDS,
        stall_seconds=stall_seconds or _STALL_SECONDS,
        running=("llamacpp:requests_processing", "llamacpp:requests_deferred"),
        # The token counter grows only when a reply has ended; this one grows with every decoding step.
        produced=("llamacpp:n_decode_total",),
    )
