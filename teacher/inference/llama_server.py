"""llama.cpp's server on one GGUF file."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from teacher.inference.endpoint import Endpoint
from teacher.inference.llamacpp import binary, built_for_cpu
from teacher.inference.process import Program, ServerProcess, free_port

# Loading the 43 GB of a 70B student from a slow disk takes minutes. A server that ends at once is reported at once.
_READY_SECONDS = 600
_DRAIN_SECONDS = 20
# llama.cpp reads a long prompt in batches, and a large model on few cores takes minutes for one batch.
_STALL_SECONDS = 1800
# OpenMP's threads spin while they wait for each other. Beside one other busy process on two cores that makes the server
# 1.5 times slower than threads that sleep, which cost up to a tenth where nothing else runs.
_POLICY = "OMP_WAIT_POLICY"
# MiB of host memory for prompts that left their slot; llama.cpp's own 8,192 let a server of 270 MB grow to 4 GB.
_PROMPT_CACHE = 1024
# On a CPU, llama.cpp's flash attention decodes 8 conversations of 1,500 tokens at 235 ms a step, without it at 108.
_CPU_OPTIONS = ["--flash-attn", "off"]


class LlamaServer(ServerProcess):
    """A llama.cpp server.

    Args:
        model: the GGUF file.
        log: the file to which the server's output is appended.
        slots: requests decoded together.
        context: tokens that each slot can hold.
        template: a chat template file that replaces the one inside the GGUF.
        projector: the GGUF of the vision tower, for a vision-language model.
        port, key: of the API; by default a free port and a random key.
        ready_seconds, stall_seconds: as `Program`'s.
    """

    def __init__(
        self,
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
    ) -> None:
        port, key = port or free_port(), key or secrets.token_urlsafe(24)
        command = [str(binary("llama-server")), "--model", str(model), "--alias", "model"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--metrics"]
        command += ["--parallel", str(slots), "--ctx-size", str(slots * context)]
        command += ["--jinja", "--offline", "--cache-ram", str(_PROMPT_CACHE)]
        command += _CPU_OPTIONS if built_for_cpu() else []
        command += ["--chat-template-file", str(template)] if template else []
        command += ["--mmproj", str(projector)] if projector else []
        program = Program(
            name="llama-server",
            command=command,
            port=port,
            environment={"LLAMA_API_KEY": key, _POLICY: os.environ.get(_POLICY, "passive")},
            ready_seconds=ready_seconds or _READY_SECONDS,
            drain_seconds=_DRAIN_SECONDS,
            stall_seconds=stall_seconds or _STALL_SECONDS,
            running=("llamacpp:requests_processing", "llamacpp:requests_deferred"),
            # The token counter grows only when a reply has ended; this one grows with every decoding step.
            produced=("llamacpp:n_decode_total",),
        )
        endpoint = Endpoint(
            f"http://127.0.0.1:{port}/v1", key, "model", self.restart_if_dead, engine="llama.cpp"
        )
        super().__init__(program, endpoint, log)


@contextlib.contextmanager
def serve(
    model: Path,
    log: Path,
    slots: int,
    context: int,
    template: Path | None = None,
    *,
    projector: Path | None = None,
) -> Iterator[Endpoint]:
    """A llama.cpp server for the time of the block. Arguments as `LlamaServer`'s."""
    with LlamaServer(model, log, slots, context, template, projector=projector) as endpoint:
        yield endpoint
