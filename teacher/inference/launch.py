"""Opens the teacher: an API that is already running, or a server of its own (llama.cpp or vLLM)."""

import asyncio
import contextlib
import difflib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from schemas.api_key import key_for, may_have_key
from schemas.api_url import host, on_this_machine, problem, without_secrets
from schemas.error_text import one_line
from schemas.errors import InputError, StageError
from schemas.recipe import Serve
from schemas.trace import Served
from teacher.inference import llama_server, llamacpp, vllm_server
from teacher.inference.api import Answer, describe, get, model_entries
from teacher.inference.endpoint import NO_KEY, Endpoint
from teacher.models import catalog

KEY = "STILLHOUSE_TEACHER_KEY"
# Tokens of one conversation with a teacher in llama.cpp, which reserves memory for all of them at its start.
_LLAMA_CONTEXT = 4096
_CHECK_SECONDS = 5
# Names of models that a message lists: an API may serve hundreds.
_NAMES = 12

Report = Callable[[str], None]


@contextlib.contextmanager
def open_teacher(
    teacher: dict[str, Any],
    options: Serve,
    *,
    log: Path,
    concurrency: int,
    report: Report,
    logprobs: bool = False,
    key: str | None = None,
) -> Iterator[Endpoint]:
    """Yields the teacher's endpoint: a running API if `options.url` or the teacher names one, else a server of its own.

    Args:
        teacher: its description (schemas/teacher.schema.json).
        log: the file for the output of the teacher's own server.
        concurrency: requests that the server gets at once.
        report: receives messages about the progress of a start.
        logprobs: whether requests ask for log-probabilities.
        key: of a server of its own; None for a random one.

    Raises:
        InputError: a key is missing, the API does not serve the model, or an engine is not installed.
        StageError: the API cannot be reached, or the server does not start.
    """
    if is_api(teacher, options):
        yield connect(teacher, options.url or teacher["source"]["url"], options.model)
    else:
        with _own_server(
            teacher,
            options,
            log=log,
            concurrency=concurrency,
            report=report,
            key=key,
            drafts=not logprobs,
        ) as endpoint:
            yield endpoint


def is_api(teacher: dict[str, Any], options: Serve) -> bool:
    """Whether another process serves the teacher."""
    return bool(options.url) or teacher["engine"] == "openai"


def connect(
    teacher: dict[str, Any], url: str, model: str | None = None, *, must_list: bool = True
) -> Endpoint:
    """The endpoint of a teacher that is already served at a URL such as http://gpu-7:8000/v1.

    Args:
        model: the name that the API has for the teacher (serve.model); None takes the teacher's `served_name`, or finds
            the name in the API's list of models.
        must_list: False accepts a given name that the API does not list.

    Raises:
        InputError: the URL has a password or a query, the key is missing or refused, or the API does not list the name.
        StageError: the API cannot be reached.
    """
    if found := problem(url):
        raise InputError(f"{without_secrets(url)}: {found}")
    url = url.rstrip("/")
    return asyncio.run(_connect(teacher, url, key_of(teacher, url), model, must_list))


async def _connect(
    teacher: dict[str, Any], url: str, key: str, model: str | None, must_list: bool
) -> Endpoint:
    given = model or teacher.get("served_name")
    try:
        listing = await _listing(teacher, url, key)
    except (InputError, StageError):
        if must_list or not given:
            raise
        served: Served = {"host": host(url), "model": given, "described_as": teacher["name"]}
        return Endpoint(url, key, given, served=served)
    names = None if listing is None else list(model_entries(listing) or {})
    name = given if given and not must_list else _served_name(teacher, url, names, model)
    engine, served = await describe(url, key, name, teacher["name"], listing)
    return Endpoint(url, key, name, engine=engine, served=served)


@contextlib.contextmanager
def keep_alive(endpoint: Endpoint, report: Report) -> Iterator[None]:
    """Restarts a dead server of this process for the time of the block, as clients in other processes cannot.

    A server that is given up is reported; its clients end when their patience does.
    """
    closing = threading.Event()

    def watch() -> None:
        while endpoint.restart and not closing.wait(_CHECK_SECONDS):
            try:
                endpoint.restart()
            except StageError as error:
                if not closing.is_set():
                    report(str(error))
                return

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        closing.set()


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
    if teacher["engine"] == "llama.cpp" and options.replica_count > 1:
        raise InputError(
            f"serve.replicas: found {options.replicas}, expected 1: several servers of llama.cpp have no common address"
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
    drafts: bool = False,
) -> contextlib.AbstractContextManager[Endpoint]:
    """A server of this process. By default it has a free port and a random key."""
    if teacher["engine"] == "llama.cpp":
        return llama_server.serve(
            llamacpp.server_weights(teacher, report),
            log,
            slots=concurrency,
            context=min(teacher["context"], options.max_model_len or _LLAMA_CONTEXT),
            template=catalog.template(teacher),
            port=port,
            key=key,
            ready_seconds=options.ready_timeout_s,
            stall_seconds=options.stall_s,
            replicas=options.replica_count,
            drafts=drafts,
            report=report,
        )
    weights = str(catalog.fetch(teacher, report))
    return vllm_server.serve(teacher, weights, options, log=log, report=report, port=port, key=key)


def _write_key(path: Path, key: str) -> Path:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key + "\n")
    return path


def key_of(teacher: dict[str, Any], url: str) -> str:
    """STILLHOUSE_TEACHER_KEY, else the teacher's own variable where the URL may have it.

    Raises:
        InputError: the former would be sent unencrypted to another machine, or an API behind TLS has no key.
    """
    if key := key_for(url, KEY):
        return key
    # Its key is for the vendor's API, so that a server at another address gets it only where that is safe.
    variable = teacher.get("key")
    if variable and may_have_key(url):
        if key := os.environ.get(variable):
            return key
        if urlsplit(url).scheme == "https" and not on_this_machine(url):
            raise InputError(f"{variable}: is not set, expected the key of {url}")
    return NO_KEY


async def list_models(teacher: dict[str, Any], url: str, key: str) -> list[str] | None:
    """The names of the models that an API lists; None if the API has no such list.

    Raises:
        InputError: the API refuses the key.
        StageError: the address cannot be reached, or is not that of an OpenAI-compatible API.
    """
    answer = await _listing(teacher, url, key)
    return None if answer is None else list(model_entries(answer) or {})


async def _listing(teacher: dict[str, Any], url: str, key: str) -> Answer | None:
    """The API's answer with its list of models, or None; raises as `list_models`."""
    try:
        answer = await get(f"{url}/models", key)
    except StageError as error:
        raise StageError(
            f"{url}: cannot be reached, no answer ({error}): is the server up and the address right?"
        ) from None
    if answer.status in (401, 403):
        names = " or ".join(dict.fromkeys([KEY, teacher.get("key", KEY)]))
        raise InputError(f"{url}: the key was refused ({answer.status}): expected it in {names}")
    if answer.status in (404, 405, 501):
        return None
    if model_entries(answer) is None:
        raise StageError(
            f"{url}/models: expected a list of models, found {one_line(answer.text, 60) or 'nothing'} with status"
            f" {answer.status}: the address of an OpenAI-compatible API usually ends in /v1"
        )
    return answer


def _served_name(
    teacher: dict[str, Any], url: str, names: list[str] | None, model: str | None
) -> str:
    """The name that the API has for the teacher.

    It is `model` (serve.model), the teacher's `served_name`, else the teacher's own name or, if the API lists one model
    only, that model's.
    """
    chosen = model or teacher.get("served_name")
    if names is None:
        return chosen or teacher["name"]
    if chosen:
        # Ollama lists a model with its tag and serves it without.
        if chosen in names or f"{chosen}:latest" in names:
            return chosen
        place = "serve.model" if model else f"the `served_name` of {teacher['name']}"
        raise InputError(
            f"{url}: lists {_some(names, chosen)}, expected {chosen} ({place}): set serve.model to one that it lists"
        )
    known = [n for n in names if n in (teacher["name"], teacher["source"].get("hub"))]
    if len(names) == 1 or known:
        return (known or names)[0]
    raise InputError(
        f"{url}: serves {_some(names, teacher['name'])}, expected {teacher['name']}: set serve.model, or the teacher's"
        " `served_name`, to one of them"
    )


def _some(names: list[str], like: str) -> str:
    """Names as a message lists them: all of a few; of many those that are most like a name, and their number."""
    if len(names) <= _NAMES:
        return ", ".join(one_line(name, 80) for name in names) or "no model"
    nearest = difflib.get_close_matches(like, names, _NAMES, cutoff=0)
    shown = ", ".join(one_line(name, 80) for name in nearest)
    return f"{len(names)} models, such as {shown}"
