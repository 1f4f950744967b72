"""What an API says of itself: the models that it lists, its program and version. It goes into the traces' provenance.

A server's texts are not trusted: each is cut to one short line, and the key is removed from it.
"""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from schemas.api_url import host, on_this_machine
from schemas.error_text import one_line
from schemas.errors import StageError
from schemas.trace import Served

# The programs whose command-line options an advice can name; any other API is "openai".
Engine = Literal["vllm", "llama.cpp", "openai"]

_LIST_SECONDS, _PROBE_SECONDS = 30, 10
_TEXT = 120
# What /v1/models says in `owned_by`, and the path that says the program's version.
_OWNERS: dict[str, Engine] = {"vllm": "vllm", "llamacpp": "llama.cpp"}
_VERSION_PATHS = ("/version", "/api/version", "/props")
_SHORTEST_KEY = 8
_LARGEST_REPLY = 4 * 2**20


@dataclass(frozen=True)
class Answer:
    """An answer to a GET request: status, headers (names in lower case), and the body as JSON, if it is JSON."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""
    value: Any = None


async def get(url: str, key: str, seconds: float = _LIST_SECONDS) -> Answer:
    """The answer to a GET request with the key. A server on this machine is never asked through a proxy.

    Raises:
        StageError: the address cannot be reached.
    """
    try:
        # As in the client of the requests (teacher/inference/client.py), so that both take the same way.
        async with (
            asyncio.timeout(seconds),
            httpx.AsyncClient(
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=seconds,
                trust_env=not on_this_machine(url),
                follow_redirects=True,
            ) as session,
            session.stream("GET", url) as reply,
        ):
            body = b""
            async for chunk in reply.aiter_bytes():
                body += chunk
                if len(body) > _LARGEST_REPLY:
                    break
            status, headers = reply.status_code, dict(reply.headers)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise StageError(one_line(str(error), 120) or type(error).__name__) from None
    text = body.decode(errors="replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    return Answer(status, headers, without_key(text, key), value)


def model_entries(answer: Answer) -> dict[str, dict[str, Any]] | None:
    """The models of an answer of /v1/models, by name: {"data": [{"id"}]} or the list alone. None if it is no list."""
    value = answer.value if answer.status == 200 else None
    data = value.get("data") if isinstance(value, dict) else value
    if not isinstance(data, list) or any(
        not isinstance(entry, dict) or "id" not in entry for entry in data
    ):
        return None
    return {entry["id"]: entry for entry in data if isinstance(entry["id"], str)}


async def describe(
    url: str, key: str, model: str, described_as: str, listing: Answer | None
) -> tuple[Engine, Served]:
    """The engine of an API and what the API says of itself and of a model.

    Args:
        url: the base URL. model: the model's name in the API. described_as: the name of the teacher's description.
        listing: the answer of /v1/models, if the API has that list.
    """
    answers = await asyncio.gather(
        *(_probe(url.removesuffix("/v1") + path, key) for path in _VERSION_PATHS)
    )
    entry = ((model_entries(listing) if listing else None) or {}).get(model, {})
    owner = entry.get("owned_by")
    version, ollama, props = (
        answer.value if answer.status == 200 and isinstance(answer.value, dict) else {}
        for answer in answers
    )
    header = next(
        (a.headers["server"] for a in (listing, *answers) if a and "server" in a.headers), ""
    )
    engine = _OWNERS.get(owner) if isinstance(owner, str) else None
    program = header
    if isinstance(props.get("build_info"), str) or header == "llama.cpp":
        engine, program = "llama.cpp", f"llama.cpp {props.get('build_info', '')}"
    elif isinstance(version.get("version"), str):
        name = "vLLM" if engine == "vllm" else header
        program = f"{name} {version['version']}"
    elif isinstance(ollama.get("version"), str):
        program = f"Ollama {ollama['version']}"
    # The path of the weights on the server's disk is cut to its last part; a name on the hub stays.
    weights = entry.get("root") or props.get("model_path")
    if isinstance(weights, str) and (weights.startswith(("/", "~", ".")) or "\\" in weights):
        weights = weights.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    said = {"server": program, "owned_by": owner, "weights": weights}
    served: Served = {
        "host": host(url),
        "model": one_line(model, _TEXT),
        "described_as": described_as,
    }
    texts = {name: _clean(text, key) for name, text in said.items() if isinstance(text, str)}
    return engine or "openai", served | {name: text for name, text in texts.items() if text}  # type: ignore[return-value]


def _clean(text: str, key: str) -> str:
    """A server's text as one short line of printable characters."""
    printable = "".join(
        character for character in text if character.isprintable() or character.isspace()
    )
    return one_line(without_key(printable, key), _TEXT)


def without_key(text: str, key: str) -> str:
    """A text with the key replaced. A placeholder such as EMPTY or "x" is no secret, and may be part of a name."""
    return text.replace(key, "***") if len(key) >= _SHORTEST_KEY else text


async def _probe(url: str, key: str) -> Answer:
    """The answer at a path that a server need not have; an empty one if there is none."""
    try:
        return await get(url, key, _PROBE_SECONDS)
    except StageError:
        return Answer(0)


def describe_served(served: Served) -> str:
    """What an API serves, in a line: "gpt-5-mini at api.example.com (vLLM 0.32.0, owned by x, weights y)"."""
    said = [
        served.get("server"),
        f"owned by {served['owned_by']}" if "owned_by" in served else None,
        f"weights {served['weights']}" if "weights" in served else None,
    ]
    details = ", ".join(text for text in said if text)
    return f"{served['model']} at {served['host']}{f' ({details})' if details else ''}"
