"""vLLM: its arguments, its environment, one server of it or several behind vllm-router.

It lives in an environment of its own, .venv-vllm (`make vllm`), because its pins collide with Prefect's;
STILLHOUSE_VLLM names another one. Arguments are those of vLLM 0.32 (tests/teacher/inference/test_vllm.py asks vLLM's own parser).
It is started as `python -m vllm.entrypoints.openai.api_server`: the `vllm` command looks for a package of its own name
and does not start in the CPU build.
"""

import contextlib
import json
import os
import secrets
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import InputError
from teacher.dialects.base import for_teacher
from teacher.inference.endpoint import Endpoint
from teacher.inference.process import Program, ServerProcess, free_port
from teacher.inference.replicas import replicas
from teacher.inference.vllm_log import StartUp, reason
from teacher.models import catalog

MODULE = "vllm.entrypoints.openai.api_server"
PROJECT = Path(__file__).parents[2]
RAY_PORT = 6379

# How long vLLM lets requests end after SIGTERM; after that and some seconds its processes are killed.
_SHUTDOWN_SECONDS = 120
# Of the KV cache of each rank on a CPU, where vLLM would take nine tenths of the memory for each.
_CPU_KV_GIB = 4

# vLLM and its router name their processes, and setproctitle writes the name over the environment that /proc shows,
# where a later run looks for the mark of what an earlier one left (flows/run_directory.py). This keeps it to the arguments.
_MARK_STAYS = {"SPT_NOENV": "1"}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How vLLM serves the teacher: the recipe's section `serve` (schemas/recipe.py), where each field is explained."""

    tensor_parallel: int | None = None
    decode_context_parallel: int | None = None
    data_parallel: int = 1
    expert_parallel: bool = False
    replicas: int = 1
    nodes: int = 1
    max_model_len: int | None = None
    kv_cache_dtype: str = "auto"
    gpu_memory_utilization: float = 0.9
    ready_timeout_s: float = 3600
    stall_s: float = 600
    arguments: tuple[str, ...] = ()

    @property
    def ranks(self) -> int:
        """GPUs that one server uses on one machine."""
        return (self.tensor_parallel or 1) * self.data_parallel


def interpreter() -> Path:
    """The Python that has vLLM: STILLHOUSE_VLLM (a python, or a virtual environment's directory), else .venv-vllm.

    Raises:
        InputError: there is none; says what makes it.
    """
    chosen = os.environ.get("STILLHOUSE_VLLM")
    if chosen:
        path = Path(chosen).expanduser()
        python = path / "bin" / "python" if path.is_dir() else path
        if not os.access(python, os.X_OK):
            raise InputError(
                f"STILLHOUSE_VLLM={chosen}: expected a python or the directory of a virtual environment"
            )
        return python.absolute()
    home = PROJECT / ".venv-vllm"
    if not (home / ".ready").is_file():
        raise InputError(
            f"{home}: no vLLM here: `make vllm` installs it, or set STILLHOUSE_VLLM to the environment that has it"
        )
    return home / "bin" / "python"


def arguments(teacher: dict[str, Any], weights: str, options: Options, port: int) -> list[str]:
    """What follows `python -m vllm.entrypoints.openai.api_server`. The key is not in it: see `environment`."""
    where = ["--model", weights, "--host", "127.0.0.1", "--port", str(port)]
    # What is polled would fill the log.
    quiet = ["--disable-access-log-for-endpoints", "/health,/metrics"]
    return where + quiet + _settings(teacher, weights, options)


def shown_command(teacher: dict[str, Any], weights: str, options: Options) -> str:
    """The commands that a person would type to serve the teacher, one a line."""
    serve = ["vllm", "serve", weights]
    environment = (
        'VLLM_API_KEY="$STILLHOUSE_TEACHER_KEY" '
        f"VLLM_ENGINE_READY_TIMEOUT_S={options.ready_timeout_s:.0f}"
    )
    lines = []
    if options.nodes > 1:
        lines += [
            f"ray start --head --port={RAY_PORT}",
            f"ray start --address=FIRST_MACHINE:{RAY_PORT}  # on each of the other machines",
        ]
    for replica in range(options.replicas):
        gpus = ""
        if options.replicas > 1:
            gpus = f"CUDA_VISIBLE_DEVICES={_devices(options, replica)} "
        port = [] if options.replicas == 1 else ["--port", str(8001 + replica)]
        command = shlex.join(serve + port + _settings(teacher, weights, options))
        lines.append(f"{gpus}{environment} {command}")
    if options.replicas > 1:
        urls = [f"http://127.0.0.1:{8001 + replica}" for replica in range(options.replicas)]
        lines.append(shlex.join(["vllm-router", *_routing(urls, 8000)]))
    return "\n".join(lines)


def environment(options: Options, key: str, replica: int = 0) -> dict[str, str]:
    """What vLLM's processes find in their environment beside this one's."""
    made = {
        "VLLM_API_KEY": key,
        "VLLM_ENGINE_READY_TIMEOUT_S": f"{options.ready_timeout_s:.0f}",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        **_MARK_STAYS,
        # A directory named vllm where the command was called is not vLLM.
        "PYTHONSAFEPATH": "1",
        # Kernels are built at the first start by the ninja beside the interpreter.
        "PATH": f"{interpreter().parent}{os.pathsep}{os.environ.get('PATH', '')}",
        # Of no effect on a GPU.
        "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", str(_CPU_KV_GIB)),
    }
    cores = _cores(options, replica)
    if cores and "VLLM_CPU_OMP_THREADS_BIND" not in os.environ:
        made["VLLM_CPU_OMP_THREADS_BIND"] = cores
    if options.replicas > 1:
        made["CUDA_VISIBLE_DEVICES"] = _devices(options, replica)
    return made


@contextlib.contextmanager
def serve(
    teacher: dict[str, Any],
    weights: str,
    options: Options,
    log: Path,
    say: Say,
    port: int | None = None,
    key: str | None = None,
) -> Iterator[Endpoint]:
    """vLLM for the time of the block: one server, or several of them behind a router.

    Args:
        weights: a directory, or a repository of a hub.
        log: where the output goes; of several servers, to names made from it.
        say: told how far the start is. port, key: of the endpoint; any where they are not given.

    Raises:
        InputError: vLLM, its router or Ray is not installed.
        StageError: it does not start.
    """
    python = interpreter()
    key = key or secrets.token_urlsafe(24)
    if options.nodes > 1 and not (python.parent / "ray").is_file():
        raise InputError(
            f"serve.nodes: {options.nodes} machines need Ray: `{python} -m pip install ray`, then `ray start` on each"
        )
    port = port or free_port()
    endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", key, _served_name(teacher))
    if options.replicas > 1:
        router = _router(options, port)
        programs = [
            _program(teacher, weights, options, free_port(), key, _prefixed(say, replica), replica)
            for replica in range(options.replicas)
        ]
        with replicas(programs, router, endpoint, log, say):
            yield endpoint
        return
    server = ServerProcess(_program(teacher, weights, options, port, key, say), endpoint, log)
    endpoint.restart = server.restart_if_dead
    with server:
        yield endpoint


def _program(
    teacher: dict[str, Any],
    weights: str,
    options: Options,
    port: int,
    key: str,
    say: Say,
    replica: int = 0,
) -> Program:
    return Program(
        "vLLM",
        [str(interpreter()), "-m", MODULE, *arguments(teacher, weights, options, port)],
        port,
        environment(options, key, replica),
        options.ready_timeout_s,
        _SHUTDOWN_SECONDS + 30,
        options.stall_s,
        running=("vllm:num_requests_running", "vllm:num_requests_waiting"),
        produced=("vllm:generation_tokens_total", "vllm:prompt_tokens_total"),
        listen=lambda: StartUp(say),
        reason=reason,
    )


def _settings(teacher: dict[str, Any], weights: str, options: Options) -> list[str]:
    """The arguments that do not say where. Later ones win, so a recipe's own come last."""
    said = teacher.get("vllm", {})
    made = ["--served-model-name", _served_name(teacher)]
    if weights == teacher["source"].get("hub") and "revision" in teacher["source"]:
        made += ["--revision", teacher["source"]["revision"]]
    made += ["--tensor-parallel-size", str(options.tensor_parallel or 1)]
    if options.nodes > 1:
        # Layers are split between machines, each layer within one: vLLM's guide to parallelism.
        made += ["--pipeline-parallel-size", str(options.nodes)]
        made += ["--distributed-executor-backend", "ray"]
    if (options.decode_context_parallel or 1) > 1:
        made += ["--decode-context-parallel-size", str(options.decode_context_parallel)]
    if options.data_parallel > 1:
        made += ["--data-parallel-size", str(options.data_parallel)]
    if options.expert_parallel:
        made += ["--enable-expert-parallel"]
    # "auto": the longest that fits, at most the model's own.
    made += ["--max-model-len", str(options.max_model_len or "auto")]
    if options.kv_cache_dtype != "auto":
        made += ["--kv-cache-dtype", options.kv_cache_dtype]
    made += ["--gpu-memory-utilization", f"{options.gpu_memory_utilization:g}"]
    made += ["--shutdown-timeout", str(_SHUTDOWN_SECONDS)]
    if teacher["capabilities"]["vision"] and "--language-model-only" not in options.arguments:
        made += ["--mm-encoder-tp-mode", "data"]
        if "images" in teacher:
            limit = json.dumps({for_teacher(teacher).picture: teacher["images"]["max_count"]})
            made += ["--limit-mm-per-prompt", limit]
    if template := catalog.template(teacher):
        made += ["--chat-template", str(template)]
    if "tool_parser" in said:
        made += ["--enable-auto-tool-choice", "--tool-call-parser", said["tool_parser"]]
    if "reasoning_parser" in said:
        made += ["--reasoning-parser", said["reasoning_parser"]]
    if said.get("trust_remote_code"):
        made += ["--trust-remote-code"]
    return [*made, *said.get("arguments", []), *options.arguments]


def _router(options: Options, port: int) -> Callable[[list[str]], Program]:
    """What makes the router's program of the addresses of its servers."""
    if options.nodes > 1:
        raise InputError(
            "serve: found replicas and nodes above 1, expected one of them: start each server on its machines and"
            " vllm-router before them, and give its address as serve.url"
        )
    router = interpreter().parent / "vllm-router"
    if not router.is_file():
        raise InputError(
            f"serve.replicas: {options.replicas} servers need vllm-router:"
            f" `{interpreter()} -m pip install vllm-router`"
        )
    metrics = ["--prometheus-port", str(free_port())]
    return lambda urls: Program(
        "vllm-router",
        [str(router), *_routing(urls, port), *metrics],
        port,
        _MARK_STAYS,
        health="/liveness",  # its /health says 503 while one server is gone
    )


def _routing(urls: list[str], port: int) -> list[str]:
    made = ["--worker-urls", *urls, "--policy", "cache_aware"]
    made += ["--host", "127.0.0.1", "--port", str(port)]
    # The client has the patience (generate.timeout_s) and sends again; here nothing is cut off.
    made += ["--request-timeout-secs", "86400"]
    made += ["--worker-startup-timeout-secs", "60", "--worker-startup-check-interval", "1"]
    # A server that is gone refuses at once and is left out soon; one that is busy may be slow to say that it is well.
    made += ["--health-check-interval-secs", "2", "--health-check-timeout-secs", "30"]
    made += ["--health-failure-threshold", "1", "--cb-failure-threshold", "3"]
    # Without it, prompts that begin alike would all go to one server until it has 64 more than another.
    return [*made, "--balance-abs-threshold", "8"]


def _served_name(teacher: dict[str, Any]) -> str:
    return teacher.get("served_name") or teacher["name"]


def _devices(options: Options, replica: int) -> str:
    """The GPUs of one of several servers: its part of those that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    numbers = [replica * options.ranks + rank for rank in range(options.ranks)]
    if visible == [""]:
        return ",".join(map(str, numbers))
    if len(visible) < options.replicas * options.ranks:
        raise InputError(
            f"CUDA_VISIBLE_DEVICES: found {len(visible)} GPUs, expected {options.replicas * options.ranks}:"
            f" {options.replicas} replicas of {options.ranks}"
        )
    return ",".join(visible[number] for number in numbers)


def _cores(options: Options, replica: int) -> str:
    """VLLM_CPU_OMP_THREADS_BIND, a group of cores for each rank: vLLM's own choice is one NUMA node for each.

    Empty where a single rank may have vLLM's choice, or there are fewer cores than ranks.
    """
    cores, groups = sorted(os.sched_getaffinity(0)), options.replicas * options.ranks
    size = len(cores) // groups
    if groups == 1 or not size:
        return ""
    first = replica * options.ranks
    return "|".join(
        ",".join(str(core) for core in cores[group * size : (group + 1) * size])
        for group in range(first, first + options.ranks)
    )


def _prefixed(say: Say, replica: int) -> Say:
    return lambda text: say(f"replica {replica}: {text}")
