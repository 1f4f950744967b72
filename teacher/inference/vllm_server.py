"""Starts vLLM: its command-line arguments, its environment, one server or several behind vllm-router.

vLLM is installed in an environment of its own, because its pins collide with Prefect's. `make vllm` installs it into
the user's cache and links it as .venv-vllm; STILLHOUSE_VLLM names another environment. The arguments are those of vLLM
0.32 (tests/teacher/inference/test_vllm_server.py checks them with vLLM's own parser). The server is started as
`python -m vllm.entrypoints.openai.api_server`: the `vllm` command looks for a package named vllm, which the CPU build
does not have.
"""

import contextlib
import json
import os
import secrets
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from schemas.errors import InputError
from schemas.recipe import Serve
from teacher.dialects.base import for_teacher
from teacher.inference.endpoint import Endpoint
from teacher.inference.process import Program, ServerProcess, free_port
from teacher.inference.replicas import run_replicas
from teacher.inference.vllm_log import StartProgress, failure_reason
from teacher.models import catalog

MODULE = "vllm.entrypoints.openai.api_server"
PROJECT = Path(__file__).parents[2]
RAY_PORT = 6379

# Seconds that vLLM gives its requests to end after SIGTERM; some seconds later its processes are killed.
_SHUTDOWN_SECONDS = 120
# KV cache of each rank on a CPU. By default vLLM would take nine tenths of the memory for each rank.
_CPU_KV_GIB = 4

# vLLM and its router set their process titles, and setproctitle would overwrite the environment that /proc shows. A
# later run finds there the mark of a server that an earlier run left behind (flows/run_directory.py). With this
# variable, setproctitle overwrites the arguments only.
_KEEP_MARK = {"SPT_NOENV": "1"}

Report = Callable[[str], None]


def interpreter() -> Path:
    """The Python that has vLLM: STILLHOUSE_VLLM (a python, or a virtual environment's directory), else .venv-vllm.

    .venv-vllm is a directory or a link to one in the user's cache; its .ready file is written when the install is
    complete.

    Raises:
        InputError: vLLM is not installed, or only in part; the message names what installs it.
    """
    configured = os.environ.get("STILLHOUSE_VLLM")
    if configured:
        path = Path(configured).expanduser()
        python = path / "bin" / "python" if path.is_dir() else path
        if not os.access(python, os.X_OK):
            raise InputError(
                f"STILLHOUSE_VLLM={configured}: expected a python or the directory of a virtual environment"
            )
        return python.absolute()
    home = PROJECT / ".venv-vllm"
    if not (home / ".ready").is_file():
        raise InputError(
            f"{home}: found no complete vLLM environment: `make vllm` installs it, or set STILLHOUSE_VLLM to the"
            " environment that has it"
        )
    return home / "bin" / "python"


def arguments(teacher: dict[str, Any], weights: str, options: Serve, port: int) -> list[str]:
    """The arguments of `python -m vllm.entrypoints.openai.api_server`. The key is passed by `environment`."""
    address = ["--model", weights, "--host", "127.0.0.1", "--port", str(port)]
    # These endpoints are polled, and would fill the log.
    quiet = ["--disable-access-log-for-endpoints", "/health,/metrics"]
    return address + quiet + _model_arguments(teacher, weights, options)


def shell_commands(teacher: dict[str, Any], weights: str, options: Serve) -> str:
    """The shell commands that serve the teacher by hand, one per line."""
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
    for replica in range(options.replica_count):
        gpus = ""
        if options.replica_count > 1:
            gpus = f"CUDA_VISIBLE_DEVICES={_devices(options, replica)} "
        port = [] if options.replica_count == 1 else ["--port", str(8001 + replica)]
        command = shlex.join(serve + port + _model_arguments(teacher, weights, options))
        lines.append(f"{gpus}{environment} {command}")
    if options.replica_count > 1:
        urls = [f"http://127.0.0.1:{8001 + replica}" for replica in range(options.replica_count)]
        lines.append(shlex.join(["vllm-router", *_router_arguments(urls, 8000)]))
    return "\n".join(lines)


def environment(options: Serve, key: str, replica: int = 0) -> dict[str, str]:
    """The variables that vLLM's processes get in addition to this process's environment."""
    variables = {
        "VLLM_API_KEY": key,
        "VLLM_ENGINE_READY_TIMEOUT_S": f"{options.ready_timeout_s:.0f}",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        **_KEEP_MARK,
        # Keeps a directory named vllm in the working directory from being imported.
        "PYTHONSAFEPATH": "1",
        # vLLM builds kernels at its first start with the ninja installed beside the interpreter.
        "PATH": f"{interpreter().parent}{os.pathsep}{os.environ.get('PATH', '')}",
        # Without effect on a GPU.
        "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", str(_CPU_KV_GIB)),
    }
    cores = _cores(options, replica)
    if cores and "VLLM_CPU_OMP_THREADS_BIND" not in os.environ:
        variables["VLLM_CPU_OMP_THREADS_BIND"] = cores
    if options.replica_count > 1:
        variables["CUDA_VISIBLE_DEVICES"] = _devices(options, replica)
    return variables


@contextlib.contextmanager
def serve(
    teacher: dict[str, Any],
    weights: str,
    options: Serve,
    *,
    log: Path,
    report: Report,
    port: int | None = None,
    key: str | None = None,
) -> Iterator[Endpoint]:
    """Runs vLLM for the time of the block: one server, or `options.replicas` servers behind a router.

    Args:
        weights: a directory, or a repository on the Hugging Face hub.
        log: the file for the output; with several servers, the router's, beside which each server has its own.
        report: receives messages about the progress of the start.
        port, key: of the endpoint; by default a free port and a random key.

    Raises:
        InputError: vLLM, its router or Ray is not installed.
        StageError: a server does not start.
    """
    python = interpreter()
    key = key or secrets.token_urlsafe(24)
    if options.nodes > 1 and not (python.parent / "ray").is_file():
        raise InputError(
            f"serve.nodes: {options.nodes} machines need Ray: `{python} -m pip install ray`, then `ray start` on each"
        )
    port = port or free_port()
    endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", key, _served_name(teacher), engine="vllm")
    if options.replica_count > 1:
        programs = [
            _program(
                teacher,
                weights,
                options,
                port=free_port(),
                key=key,
                report=_with_replica_number(report, replica),
                replica=replica,
            )
            for replica in range(options.replica_count)
        ]
        with run_replicas(programs, _router(options, port), endpoint, log, report):
            yield endpoint
        return
    program = _program(teacher, weights, options, port=port, key=key, report=report)
    server = ServerProcess(program, endpoint, log)
    endpoint.restart = server.restart_if_dead
    with server:
        yield endpoint


def _program(
    teacher: dict[str, Any],
    weights: str,
    options: Serve,
    *,
    port: int,
    key: str,
    report: Report,
    replica: int = 0,
) -> Program:
    return Program(
        name="vLLM",
        command=[str(interpreter()), "-m", MODULE, *arguments(teacher, weights, options, port)],
        port=port,
        environment=environment(options, key, replica),
        ready_seconds=options.ready_timeout_s,
        drain_seconds=_SHUTDOWN_SECONDS + 30,
        stall_seconds=options.stall_s,
        running=("vllm:num_requests_running", "vllm:num_requests_waiting"),
        produced=("vllm:generation_tokens_total", "vllm:prompt_tokens_total"),
        listen=lambda: StartProgress(report),
        reason=failure_reason,
    )


def _model_arguments(teacher: dict[str, Any], weights: str, options: Serve) -> list[str]:
    """All arguments except the address. vLLM takes the last of repeated arguments, so the recipe's own come last."""
    own = teacher.get("vllm", {})
    words = ["--served-model-name", _served_name(teacher)]
    if weights == teacher["source"].get("hub") and "revision" in teacher["source"]:
        words += ["--revision", teacher["source"]["revision"]]
    words += ["--tensor-parallel-size", str(options.tensor_parallel or 1)]
    if options.nodes > 1:
        # Layers are distributed over the machines, and each layer is split within one (vLLM's guide to parallelism).
        words += ["--pipeline-parallel-size", str(options.nodes)]
        words += ["--distributed-executor-backend", "ray"]
    if (options.decode_context_parallel or 1) > 1:
        words += ["--decode-context-parallel-size", str(options.decode_context_parallel)]
    if options.data_parallel > 1:
        words += ["--data-parallel-size", str(options.data_parallel)]
    if options.expert_parallel:
        words += ["--enable-expert-parallel"]
    # "auto" takes the longest context that fits, at most the model's own.
    words += ["--max-model-len", str(options.max_model_len or "auto")]
    if options.kv_cache_dtype != "auto":
        words += ["--kv-cache-dtype", options.kv_cache_dtype]
    words += ["--gpu-memory-utilization", f"{options.gpu_memory_utilization:g}"]
    words += ["--shutdown-timeout", str(_SHUTDOWN_SECONDS)]
    words += ["--enable-prompt-tokens-details"]  # usage says how many tokens the prefix cache held
    if teacher["capabilities"]["vision"] and "--language-model-only" not in options.arguments:
        words += ["--mm-encoder-tp-mode", "data"]
        if "images" in teacher:
            limit = json.dumps(
                {for_teacher(teacher).image_modality: teacher["images"]["max_count"]}
            )
            words += ["--limit-mm-per-prompt", limit]
    if template := catalog.template(teacher):
        words += ["--chat-template", str(template)]
    if "tool_parser" in own:
        words += ["--enable-auto-tool-choice", "--tool-call-parser", own["tool_parser"]]
    if "reasoning_parser" in own:
        words += ["--reasoning-parser", own["reasoning_parser"]]
    if own.get("trust_remote_code"):
        words += ["--trust-remote-code"]
    return [*words, *own.get("arguments", []), *options.arguments]


def _router(options: Serve, port: int) -> Callable[[list[str]], Program]:
    """The function that returns the router's program for a list of its servers' addresses."""
    if options.nodes > 1:
        raise InputError(
            "serve: found both replicas and nodes above 1, expected only one of them: start each server on its machines"
            " and vllm-router in front of them, and set serve.url to the router's address"
        )
    router = interpreter().parent / "vllm-router"
    if not router.is_file():
        raise InputError(
            f"serve.replicas: {options.replica_count} servers need vllm-router:"
            f" `{interpreter()} -m pip install vllm-router`"
        )
    metrics = ["--prometheus-port", str(free_port())]
    return lambda urls: Program(
        name="vllm-router",
        command=[str(router), *_router_arguments(urls, port), *metrics],
        port=port,
        environment=_KEEP_MARK,
        health="/liveness",  # its /health answers 503 while one server is down
    )


def _router_arguments(urls: list[str], port: int) -> list[str]:
    words = ["--worker-urls", *urls, "--policy", "cache_aware"]
    words += ["--host", "127.0.0.1", "--port", str(port)]
    # The client applies the timeout (generate.timeout_s) and retries; the router cuts nothing off.
    words += ["--request-timeout-secs", "86400"]
    words += ["--worker-startup-timeout-secs", "60", "--worker-startup-check-interval", "1"]
    # A server that is down refuses at once and is left out soon; a busy server may be slow to answer a health check.
    words += ["--health-check-interval-secs", "2", "--health-check-timeout-secs", "30"]
    words += ["--health-failure-threshold", "1", "--cb-failure-threshold", "3"]
    # Without it, prompts with a common prefix would all go to one server until it has 64 requests more than another.
    return [*words, "--balance-abs-threshold", "8"]


def _served_name(teacher: dict[str, Any]) -> str:
    return teacher.get("served_name") or teacher["name"]


def _ranks(options: Serve) -> int:
    """GPUs that one server uses on one machine."""
    return (options.tensor_parallel or 1) * options.data_parallel


def _devices(options: Serve, replica: int) -> str:
    """CUDA_VISIBLE_DEVICES of one of several servers: its share of the GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    ranks = _ranks(options)
    numbers = [replica * ranks + rank for rank in range(ranks)]
    if visible == [""]:
        return ",".join(map(str, numbers))
    if len(visible) < options.replica_count * ranks:
        raise InputError(
            f"CUDA_VISIBLE_DEVICES: found {len(visible)} GPUs, expected {options.replica_count * ranks}:"
            f" {options.replica_count} replicas of {ranks}"
        )
    return ",".join(visible[number] for number in numbers)


def _cores(options: Serve, replica: int) -> str:
    """VLLM_CPU_OMP_THREADS_BIND: a group of cores for each rank, because vLLM by default takes a NUMA node for each.

    Empty for a single rank, which keeps vLLM's default, or if there are fewer cores than ranks.
    """
    ranks = _ranks(options)
    cores, groups = sorted(os.sched_getaffinity(0)), options.replica_count * ranks
    size = len(cores) // groups
    if groups == 1 or not size:
        return ""
    first = replica * ranks
    return "|".join(
        ",".join(str(core) for core in cores[group * size : (group + 1) * size])
        for group in range(first, first + ranks)
    )


def _with_replica_number(report: Report, replica: int) -> Report:
    return lambda text: report(f"replica {replica}: {text}")
