"""The pre-flight of a served teacher: is what answers at a URL the teacher that was meant, and all of it?

    stillhouse check-teacher http://127.0.0.1:8000/v1 --model teacher --teacher kimi-k2.5 --domain legal

A parser that was not switched on, another chat template or a gateway that drops a field costs nothing at the start and
a generation at the end. Each check asks for one thing that a faithful teacher does, and its failure says what to do.
The requests are what a generation would send (teacher/dialects/base.py); calls are judged as the server gave them, before
any repair.

Requests: 1 for health; 1 a tool of the domain; 2 in each of two modes for the thinking toggle; 2 for each of 3 round
trips (one more where a reply is tried again); 1 with a picture; 1 a row of the reference (about 20 by default); 2 for
prompt tokens. That is about 50 for the legal domain and a teacher that thinks and sees, 8 at a time.

schema_accuracy and tool_call_f1 are defined by Moonshot AI's K2 Vendor Verifier: teacher/preflight/vendor_verifier.py has both.
"""

import asyncio
import textwrap
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from urllib.parse import urlsplit

from schemas.errors import InputError, StageError
from schemas.files import write_jsonl
from teacher.domain import pack as packs
from teacher.domain.pack import Domain
from teacher.inference import launch
from teacher.inference.client import Client
from teacher.inference.endpoint import Endpoint
from teacher.inference.journal import Journal
from teacher.models import catalog
from teacher.preflight import checks as fidelity_checks
from teacher.preflight import inputs, vendor_verifier
from teacher.preflight.checks import Check, result
from teacher.preflight.target import Limits, Served
from teacher.preflight.vendor_verifier import Row

# In the order in which they are reported.
NAMES = (
    "health",
    "model_name",
    "strict_tool_call",
    "thinking_toggle",
    "reasoning_round_trip",
    "tool_round_trip",
    "image",
    "schema_accuracy",
    "tool_call_f1",
    "prompt_tokens",
)
_WORDS = {True: "ok", False: "FAILED", None: "skipped"}

T = TypeVar("T")


def run(
    url: str,
    model: str,
    teacher: str,
    domain: str,
    *,
    mode: str | None = None,
    tokenizer: Path | None = None,
    reference_file: Path | None = None,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """`check` of a URL, with everything given as a person gives it.

    Args:
        url: base address of the API, such as http://127.0.0.1:8000/v1; its key is where `serving.served` finds it.
        model: the name it is served under.
        teacher, domain: names or files, as `catalog.load` and `domain.load` take them.

    Raises:
        InputError: no such teacher, domain, mode, tokenizer or reference; an address that is none.
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise InputError(f"{url}: expected the address of an API, such as http://127.0.0.1:8000/v1")
    description = catalog.load(teacher, catalog.TEACHERS, "teacher")
    return check(
        launch.connect({**description, "served_name": model}, url),
        description,
        packs.load(domain),
        mode=mode,
        tokenizer=tokenizer,
        reference_file=reference_file,
        limits=limits,
    )


def check(
    endpoint: Endpoint,
    teacher: dict[str, Any],
    domain: Domain,
    *,
    mode: str | None = None,
    tokenizer: Path | None = None,
    reference_file: Path | None = None,
    limits: Limits | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Asks a served teacher for all that it claims to do.

    Args:
        teacher: what it is judged by (schemas/teacher.schema.json).
        mode: the mode that a generation will use; None for the teacher's default.
        tokenizer: directory of the teacher's tokenizer; without it prompt tokens are not counted.
        reference_file: `reference.read` says what it holds; None for the proven tasks of the domain.
        seed: another one takes other tasks and draws another picture.

    Returns:
        The result (schemas/fidelity.schema.json). A server that is gone, refuses or talks nonsense is a failed check.

    Raises:
        InputError: no such mode, a tokenizer or a reference that is none.
    """
    started = time.monotonic()
    thinking = teacher["capabilities"]["thinking"]
    rows = vendor_verifier.of_domain(domain, seed, thinking)
    judged = vendor_verifier.read(reference_file) if reference_file else rows
    count = inputs.token_counter(teacher, tokenizer) if tokenizer else None

    async def scene(served: Served) -> dict[str, Any]:
        checks = await _checks(served, domain, rows, judged, count, seed)
        return {
            "version": 1,
            "url": endpoint.url,
            "model": endpoint.model,
            "teacher": teacher["name"],
            "mode": served.mode,
            "domain": domain.name,
            "passed": all(check["passed"] is not False for check in checks),
            "requests": served.client.sent,
            "seconds": round(time.monotonic() - started, 1),
            "checks": checks,
            "detected": dict(served.detected),
        }

    return _with_served(scene, endpoint, teacher, mode, limits)


def record(
    endpoint: Endpoint,
    teacher: dict[str, Any],
    domain: Domain,
    to: Path,
    *,
    mode: str | None = None,
    limits: Limits | None = None,
    seed: int = 0,
) -> int:
    """Writes a reference: the requests of `reference.of_domain` and whether this endpoint, the official API, calls.

    Args as `check`'s. Returns the number of rows.

    Raises:
        StageError: the endpoint is lost, or gives no message to one of the requests.
    """
    rows = vendor_verifier.of_domain(domain, seed, teacher["capabilities"]["thinking"])
    replies = _with_served(
        lambda served: served.ask_all([row["request"] for row in rows]),
        endpoint,
        teacher,
        mode,
        limits,
    )
    for reply in replies:
        if reply.message is None:
            raise StageError(f"{endpoint.url}: a request of the reference failed: {reply.error}")
    answered = zip(rows, replies, strict=True)
    write_jsonl(to, ({**row, "calls": vendor_verifier.calls(reply)} for row, reply in answered))
    return len(rows)


def lines(found: dict[str, Any]) -> list[str]:
    """A result as a terminal shows it."""
    mode = f", {found['mode']}" if found["mode"] else ""
    shown = [
        f"{found['url']}: {found['model']}, judged as {found['teacher']}{mode}, on {found['domain']}"
    ]
    for each in found["checks"]:
        head = f"  {_WORDS[each['passed']]:8}{each['name']:22}"
        shown += textwrap.wrap(
            each["detail"], 110, initial_indent=head, subsequent_indent=" " * len(head)
        )
    if found["detected"]:
        counts = ", ".join(f"{name} {count}" for name, count in found["detected"].items())
        shown.append(f"  known failures seen in its replies: {counts}")
    failed = [each["name"] for each in found["checks"] if each["passed"] is False]
    verdict = f"failed: {', '.join(failed)}" if failed else "no check failed"
    shown.append(f"{verdict} ({found['requests']} requests, {found['seconds']:g} s)")
    return shown


def _with_served(
    scene: Callable[[Served], Awaitable[T]],
    endpoint: Endpoint,
    teacher: dict[str, Any],
    mode: str | None,
    limits: Limits | None,
) -> T:
    """What `scene` does with the served teacher. Its replies are remembered for as long as that."""
    limits = limits or Limits()

    async def play(journal: Journal) -> T:
        identity = {"model": endpoint.model, "revision": "pre-flight"}
        async with Client(
            endpoint, identity, journal, limits.concurrency, limits.timeout_s
        ) as client:
            return await scene(Served(client, endpoint, teacher, mode, limits))

    with TemporaryDirectory() as directory:
        journal = Journal(Path(directory))
        try:
            return asyncio.run(play(journal))
        finally:
            journal.close()


async def _checks(
    served: Served,
    domain: Domain,
    rows: list[Row],
    judged: list[Row],
    count: inputs.Count | None,
    seed: int,
) -> list[Check]:
    """All checks in the order of NAMES; those that need a teacher that answers are skipped where none does.

    rows: of the domain. judged: those whose replies are judged.
    """
    health, model_name = await fidelity_checks.health(served)
    checks = {"health": health, "model_name": model_name}
    if health["passed"] and model_name["passed"] is not False:
        parts = (
            (("strict_tool_call",), fidelity_checks.strict_tool_call(served, domain)),
            (("thinking_toggle",), fidelity_checks.thinking_toggle(served)),
            (
                ("reasoning_round_trip", "tool_round_trip"),
                fidelity_checks.round_trips(served, domain, seed),
            ),
            (("image",), inputs.image(served, seed)),
            (("schema_accuracy", "tool_call_f1"), fidelity_checks.metrics(served, judged)),
            (("prompt_tokens",), inputs.prompt_tokens(served, rows, count)),
        )
        for found in await asyncio.gather(*(_guarded(names, part) for names, part in parts)):
            checks |= {each["name"]: each for each in found}
    unasked = "not asked: see health and model_name"
    return [checks.get(name) or result(name, None, unasked) for name in NAMES]


async def _guarded(names: tuple[str, ...], part: Coroutine[Any, Any, list[Check]]) -> list[Check]:
    """A check during which the server is lost has failed."""
    try:
        return await part
    except StageError as error:
        return [result(name, False, f"{error}: see the server's log") for name in names]
