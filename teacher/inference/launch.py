"""Opens the teacher: an API that is already running, or a server of its own (llama.cpp or vLLM)."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from schemas.error_text import one_line
from schemas.errors import InputError, StageError
from schemas.recipe import Serve
from teacher.inference import llamacpp, vllm_server
from teacher.inference.endpoint import Endpoint, on_this_machine
from teacher.inference.llama_server import LlamaServer
from teacher.models import catalog

KEY = "STILLHOUSE_TEACHER_KEY"
# Tokens of one conversation with a teacher in llama.cpp, which reserves memory for all of them at its start.
_LLAMA_CONTEXT = 4096
_CHECK_SECONDS = 5
_LIST_SECONDS = 30

Report = Callable[[str], None]


@contextlib.contextmanager
def open_teacher(
    teacher: dict[str, Any], options: Serve, *, log: Path, concurrency: int, report: Report
) -> Iterator[Endpoint]:
    """Yields the teacher's endpoint: a running API if `options.url` or the teacher names one, else a server of its own.

    Args:
        teacher: its description (schemas/teacher.schema.json).
        log: the file for the output of the teacher's own server.
        concurrency: requests that the server gets at once.
        report: receives messages about the progress of a start.

    Raises:
        InputError: a key is missing, the API does not serve the model, or an engine is not installed.
        StageError: the API cannot be reached, or the server does not start.
    """
    if options.url or teacher["engine"] == "openai":
        yield connect(teacher, options.url or teacher["source"]["url"])
    else:
        with _own_server(
            teacher, options, log=log, concurrency=concurrency, report=report
        ) as endpoint:
            yield endpoint


def connect(teacher: dict[str, Any], url: str) -> Endpoint:
    """The endpoint of a teacher that is already served at a URL such as http://gpu-7:8000/v1.

    Raises:
        InputError: the key is missing or refused, or none of the models that the API lists has the teacher's name.
        StageError: the API cannot be reached.
    """
    url = url.rstrip("/")
    key = _key(teacher, url)
    name = teacher.get("served_name")
    return Endpoint(url, key, name or _model_name(teacher, url, key))


def run_forever(
    teacher: dict[str, Any],
    options: Serve,
    *,
    log: Path,
    concurrency: int,
    report: Report,
    port: int | None = None,
) -> None:
    """Serves the teacher until SIGTERM or Ctrl-C, and restarts it when it dies: `stillhouse serve TEACHER`.

    The API's key is STILLHOUSE_TEACHER_KEY, or a new one in a file beside the log that only its owner can read.

    Raises:
        InputError, StageError: as `open_teacher`; also StageError when the server has died too often.
    """
    if teacher["engine"] == "openai":
        raise InputError(
            f"{teacher['name']}: is already served at {teacher['source']['url']}: expected a teacher with weights"
        )

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous_handler = signal.signal(signal.SIGTERM, interrupt)
    try:
        key = os.environ.get(KEY) or None
        with _own_server(
            teacher,
            options,
            log=log,
            concurrency=concurrency,
            report=report,
            port=port,
            key=key,
        ) as endpoint:
            key_place = KEY
            if not key:
                key_place = str(_write_key(log.with_name("teacher.key"), endpoint.key))
            report(
                f"{endpoint.model} is served at {endpoint.url}, its key is in {key_place}, its log: {log}"
            )
            while True:
                time.sleep(_CHECK_SECONDS)
                if endpoint.restart:
                    endpoint.restart()
    except KeyboardInterrupt:
        report("stopped")
    finally:
        signal.signal(signal.SIGTERM, previous_handler)


def _own_server(
    teacher: dict[str, Any],
    options: Serve,
    *,
    log: Path,
    concurrency: int,
    report: Report,
    port: int | None = None,
    key: str | None = None,
) -> contextlib.AbstractContextManager[Endpoint]:
    """A server of this process. By default it has a free port and a random key."""
    if teacher["engine"] == "llama.cpp":
        return LlamaServer(
            llamacpp.server_weights(teacher, report),
            log,
            slots=concurrency,
            context=min(teacher["context"], options.max_model_len or _LLAMA_CONTEXT),
            template=catalog.template(teacher),
            port=port,
            key=key,
            ready_seconds=options.ready_timeout_s,
            stall_seconds=options.stall_s,
        )
    weights = str(catalog.fetch(teacher, report))
    return vllm_server.serve(teacher, weights, options, log=log, report=report, port=port, key=key)


def _write_key(path: Path, key: str) -> Path:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key + "\n")
    return path


def _key(teacher: dict[str, Any], url: str) -> str:
    """STILLHOUSE_TEACHER_KEY, else the teacher's own variable, never sent over plain HTTP to another machine."""
    if os.environ.get(KEY):
        return os.environ[KEY]
    variable = teacher.get("key")
    if variable and (urlsplit(url).scheme == "https" or on_this_machine(url)):
        if os.environ.get(variable):
            return os.environ[variable]
        if not on_this_machine(url):
            raise InputError(f"{variable}: is not set, expected the key of {url}")
    # Self-hosted servers often need no key, but the client has to send one.
    return "EMPTY"


async def list_models(teacher: dict[str, Any], url: str, key: str) -> list[str] | None:
    """The names of the models that an API lists; None if the API has no such list.

    Raises:
        InputError: the API refuses the key.
        StageError: the address cannot be reached, or is not that of an OpenAI-compatible API.
    """
    session = aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=aiohttp.ClientTimeout(_LIST_SECONDS),
        trust_env=not on_this_machine(url),
    )
    try:
        async with session, session.get(f"{url}/models") as reply:
            status, body = reply.status, await reply.read()
    except (aiohttp.ClientError, OSError, ValueError) as error:  # a TimeoutError is an OSError
        cause = one_line(str(error), 120) or type(error).__name__
        raise StageError(
            f"{url}: cannot be reached, no answer ({cause}): is the server up and the address right?"
        ) from None
    if status in (401, 403):
        names = " or ".join(dict.fromkeys([KEY, teacher.get("key", KEY)]))
        raise InputError(f"{url}: the key was refused ({status}): expected it in {names}")
    if status in (404, 405, 501):
        return None
    try:
        ids = [entry["id"] for entry in json.loads(body)["data"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        text = body.decode(errors="replace").replace(key or "\n", "***")
        raise StageError(
            f"{url}/models: expected a list of models, found {one_line(text, 60) or 'nothing'} with status {status}:"
            " the address of an OpenAI-compatible API usually ends in /v1"
        ) from None
    return [name for name in ids if isinstance(name, str)]


def _model_name(teacher: dict[str, Any], url: str, key: str) -> str:
    """The name that the API has for the teacher: the teacher's own or, if it lists one model only, that model's."""
    names = asyncio.run(list_models(teacher, url, key))
    if names is None:
        return teacher["name"]
    known = [n for n in names if n in (teacher["name"], teacher["source"].get("hub"))]
    if len(names) == 1 or known:
        return (known or names)[0]
    raise InputError(
        f"{url}: serves {', '.join(names) or 'no model'}, expected {teacher['name']}: set the teacher's `served_name`"
        " to one of them"
    )
