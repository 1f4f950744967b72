"""A served teacher, whichever way: an API that is there already, llama.cpp's server, or vLLM."""

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
from teacher.inference import llamacpp, vllm_server
from teacher.inference.endpoint import Endpoint, on_this_machine
from teacher.inference.process import LlamaServer
from teacher.models import catalog

KEY = "STILLHOUSE_TEACHER_KEY"
# Tokens of a conversation with a teacher in llama.cpp, which reserves memory for all of them.
_LLAMA_CONTEXT = 4096
_LOOK_SECONDS = 5
_LIST_SECONDS = 30

Say = Callable[[str], None]


@contextlib.contextmanager
def open_teacher(
    teacher: dict[str, Any],
    options: vllm_server.Options,
    url: str | None,
    log: Path,
    concurrency: int,
    say: Say,
) -> Iterator[Endpoint]:
    """The teacher for the time of the block.

    Args:
        url: an API that serves it already; the teacher's own source where its engine is openai.
        log: where the output of a server of our own goes. concurrency: requests it gets at once.
        say: told how far a start is.

    Raises:
        InputError: a key is missing, the API serves no such model, or an engine is not installed.
        StageError: the API is not there, or the server does not start.
    """
    if url or teacher["engine"] == "openai":
        yield served(teacher, url or teacher["source"]["url"])
    else:
        with _own(teacher, options, log, concurrency, say) as endpoint:
            yield endpoint


def served(teacher: dict[str, Any], url: str) -> Endpoint:
    """The teacher behind an API that is served already, such as http://gpu-7:8000/v1.

    Raises:
        InputError: the key is missing or refused, or the API lists several models and none by the teacher's name.
        StageError: nothing answers.
    """
    url = url.rstrip("/")
    key = _key(teacher, url)
    name = teacher.get("served_name")
    return Endpoint(url, key, name or _only_model(teacher, url, key))


def run_forever(
    teacher: dict[str, Any],
    options: vllm_server.Options,
    log: Path,
    concurrency: int,
    say: Say,
    port: int | None = None,
) -> None:
    """Serves the teacher until SIGTERM or Ctrl-C, and starts it again when it dies: `stillhouse serve TEACHER`.

    Its key is STILLHOUSE_TEACHER_KEY, or a new one in a file beside the log that only its owner can read.

    Raises:
        InputError, StageError: as `open_teacher`; StageError too when it has died too often.
    """
    if teacher["engine"] == "openai":
        raise InputError(
            f"{teacher['name']}: is served already, by {teacher['source']['url']}: expected a teacher with weights"
        )

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        key = os.environ.get(KEY) or None
        with _own(teacher, options, log, concurrency, say, port, key) as endpoint:
            where = KEY
            if not key:
                where = str(_write_key(log.with_name("teacher.key"), endpoint.key))
            say(
                f"{endpoint.model} is served at {endpoint.url}, its key is in {where}, its log: {log}"
            )
            while True:
                time.sleep(_LOOK_SECONDS)
                if endpoint.restart:
                    endpoint.restart()
    except KeyboardInterrupt:
        say("stopped")
    finally:
        signal.signal(signal.SIGTERM, before)


def _own(
    teacher: dict[str, Any],
    options: vllm_server.Options,
    log: Path,
    concurrency: int,
    say: Say,
    port: int | None = None,
    key: str | None = None,
) -> contextlib.AbstractContextManager[Endpoint]:
    """A server of our own, at a port and under a key where they are given."""
    if teacher["engine"] == "llama.cpp":
        context = min(teacher["context"], options.max_model_len or _LLAMA_CONTEXT)
        weights, template = llamacpp.server_weights(teacher, say), catalog.template(teacher)
        return LlamaServer(
            weights,
            log,
            concurrency,
            context,
            template,
            port,
            key,
            options.ready_timeout_s,
            options.stall_s,
        )
    weights = catalog.fetch(teacher, say)
    return vllm_server.serve(teacher, str(weights), options, log, say, port, key)


def _write_key(path: Path, key: str) -> Path:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key + "\n")
    return path


def _key(teacher: dict[str, Any], url: str) -> str:
    """STILLHOUSE_TEACHER_KEY, else the teacher's own variable; that one never over an open line."""
    if os.environ.get(KEY):
        return os.environ[KEY]
    named = teacher.get("key")
    if named and (urlsplit(url).scheme == "https" or on_this_machine(url)):
        if os.environ.get(named):
            return os.environ[named]
        if not on_this_machine(url):
            raise InputError(f"{named}: is not set, expected the key of {url}")
    # Servers of one's own often want none, and the client sends something.
    return "EMPTY"


async def listed(teacher: dict[str, Any], url: str, key: str) -> list[str] | None:
    """The models that an API lists; None where it has no such list.

    Raises:
        InputError: it refuses the key.
        StageError: it is not there, or is no such API.
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
        found = one_line(str(error), 120) or type(error).__name__
        raise StageError(
            f"{url}: cannot be reached, no answer ({found}): is the server up and the address right?"
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


def _only_model(teacher: dict[str, Any], url: str, key: str) -> str:
    """The name that the API knows the teacher by, from its list of models."""
    names = asyncio.run(listed(teacher, url, key))
    if names is None:
        return teacher["name"]
    known = [n for n in names if n in (teacher["name"], teacher["source"].get("hub"))]
    if len(names) == 1 or known:
        return (known or names)[0]
    raise InputError(
        f"{url}: serves {', '.join(names) or 'no model'}: expected {teacher['name']},"
        " or the teacher's `served_name` to say which"
    )
