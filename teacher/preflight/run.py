"""Runs the pre-flight: does the model at a URL do everything that the teacher's description claims?

    stillhouse check-teacher http://127.0.0.1:8000/v1 --model teacher --teacher kimi-k2.5 --domain legal

A missing parser, a wrong chat template or a gateway that drops a field goes unnoticed at the start and spoils a whole
generation. Each check tests one ability, and its failure names a remedy. Requests are adapted to the teacher's dialect,
as in a generation (teacher/dialects/base.py); calls are judged before any repair.

Requests: 1 for health; 1 per tool of the domain; 2 in each of two modes for the thinking toggle; 2 for each of 3 round
trips (3 if a reply is retried); 1 with an image; 1 per row of the reference (about 20 by default); 2 for prompt tokens.
For the legal domain and a teacher with vision and thinking these are about 50, of which 8 are in flight at once.

schema_accuracy and tool_call_f1 are metrics of Moonshot AI's K2 Vendor Verifier (teacher/preflight/vendor_verifier.py).
"""

import asyncio
import textwrap
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypedDict, TypeVar

from schemas.api_url import problem, without_secrets
from schemas.errors import InputError, StageError
from schemas.files import dumps, sha256_text, write_jsonl
from teacher.domain import pack as packs
from teacher.domain.pack import Domain
from teacher.inference import launch
from teacher.inference.client import Client
from teacher.inference.endpoint import Endpoint
from teacher.inference.journal import Journal
from teacher.models import catalog
from teacher.preflight import checks, inputs, vendor_verifier
from teacher.preflight.checks import Check, result
from teacher.preflight.target import Limits, Target
from teacher.preflight.vendor_verifier import Row

# The checks in the order in which they are reported.
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
# Seconds without any reply after which the served teacher counts as lost.
_PATIENCE = 120.0
_WORDS = {True: "ok", False: "FAILED", None: "skipped"}

T = TypeVar("T")


class Result(TypedDict):
    """The result of a pre-flight (schemas/fidelity.schema.json).

    detected: counts of the known failures in the replies.
    """

    version: int
    url: str
    model: str
    teacher: str
    mode: str | None
    domain: str
    passed: bool
    requests: int
    seconds: float
    checks: list[Check]
    detected: dict[str, int]


def check_url(
    url: str,
    model: str,
    teacher: str,
    domain: str,
    *,
    mode: str | None = None,
    tokenizer: Path | None = None,
    reference_file: Path | None = None,
    limits: Limits | None = None,
) -> Result:
    """`check` of a URL, with the teacher and the domain by their names.

    Args:
        url: base URL of the API, such as http://127.0.0.1:8000/v1; its key is found as in `launch.connect`.
        model: the name under which the API serves the teacher.
        teacher, domain: names or paths, as `catalog.load` and `pack.load` take them.

    Raises:
        InputError: the URL is invalid, or there is no such teacher, domain, mode, tokenizer or reference.
    """
    if found := problem(url):
        raise InputError(f"{without_secrets(url)}: {found}")
    description = catalog.load(teacher, catalog.TEACHERS, "teacher")
    return check(
        launch.connect(description, url, model, must_list=False),  # model_name is a check
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
    constrained: bool = False,
    seed: int = 0,
    journal: Path | None = None,
    served_as: Mapping[str, Any] | None = None,
) -> Result:
    """Checks that a served teacher does everything that its description claims.

    Args:
        teacher: the description that it is judged by (schemas/teacher.schema.json).
        mode: the mode that a generation will use; None for the teacher's default.
        tokenizer: directory of the teacher's tokenizer; without it, the check prompt_tokens is skipped.
        reference_file: a file for `vendor_verifier.read_reference`; None for the proven tasks of the domain.
        constrained: whether the generation constrains its calls (generate.constrain). The checks of free calls are then
            skipped, because such a teacher cannot make them; those of forced calls and of images remain.
        seed: of the choice of tasks and of the image.
        journal: the directory of the replies' journal, with those of a check that was killed; None for one that is
            removed at the end.
        served_as: what decides how the teacher is served; a reply to other settings is no reply of this teacher.

    Returns:
        The result. A server that is lost, refuses requests or sends invalid answers is a failed check.

    Raises:
        InputError: there is no such mode, or the tokenizer or reference is invalid.
    """
    started = time.monotonic()
    thinking = teacher["capabilities"]["thinking"]
    rows = vendor_verifier.reference_of_domain(domain, seed, thinking)
    reference = vendor_verifier.read_reference(reference_file) if reference_file else rows
    count = inputs.token_counter(teacher, tokenizer) if tokenizer else None

    async def run_checks(target: Target) -> Result:
        results = await _run_checks(
            target,
            domain,
            rows=rows,
            reference=reference,
            count=count,
            constrained=constrained,
            seed=seed,
        )
        return {
            "version": 1,
            "url": endpoint.url,
            "model": endpoint.model,
            "teacher": teacher["name"],
            "mode": target.mode,
            "domain": domain.name,
            "passed": all(check["passed"] is not False for check in results),
            "requests": target.client.sent,
            "seconds": round(time.monotonic() - started, 1),
            "checks": results,
            "detected": dict(target.detected),
        }

    return _with_target(run_checks, endpoint, teacher, mode, limits, journal, served_as)


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
    """Writes a reference: the requests of the domain, and whether this endpoint (the official API) calls a tool.

    Args as `check`'s. Returns the number of rows.

    Raises:
        StageError: the endpoint is lost, or answers one of the requests without a message.
    """
    rows = vendor_verifier.reference_of_domain(domain, seed, teacher["capabilities"]["thinking"])
    replies = _with_target(
        lambda target: target.request_all([row["request"] for row in rows]),
        endpoint,
        teacher,
        mode,
        limits,
    )
    for reply in replies:
        if reply.message is None:
            raise StageError(f"{endpoint.url}: a request of the reference failed: {reply.error}")
    pairs = zip(rows, replies, strict=True)
    write_jsonl(to, ({**row, "calls": vendor_verifier.calls_tool(reply)} for row, reply in pairs))
    return len(rows)


def format_lines(preflight: Result) -> list[str]:
    """The lines that a terminal shows for a result."""
    mode = f", {preflight['mode']}" if preflight["mode"] else ""
    lines = [
        f"{preflight['url']}: {preflight['model']}, judged as {preflight['teacher']}{mode},"
        f" on {preflight['domain']}"
    ]
    for check in preflight["checks"]:
        head = f"  {_WORDS[check['passed']]:8}{check['name']:22}"
        lines += textwrap.wrap(
            check["detail"], 110, initial_indent=head, subsequent_indent=" " * len(head)
        )
    if preflight["detected"]:
        counts = ", ".join(f"{name} {count}" for name, count in preflight["detected"].items())
        lines.append(f"  known failures in its replies: {counts}")
    failed = [check["name"] for check in preflight["checks"] if check["passed"] is False]
    verdict = f"failed: {', '.join(failed)}" if failed else "no check failed"
    lines.append(f"{verdict} ({preflight['requests']} requests, {preflight['seconds']:g} s)")
    return lines


def _with_target(
    work: Callable[[Target], Awaitable[T]],
    endpoint: Endpoint,
    teacher: dict[str, Any],
    mode: str | None,
    limits: Limits | None,
    journal: Path | None = None,
    served_as: Mapping[str, Any] | None = None,
) -> T:
    """The result of `work` on the served teacher, with its replies in a journal."""
    limits = limits or Limits()
    revision = sha256_text(dumps([catalog.revision(teacher), served_as or {}]))
    identity = {"model": endpoint.model, "revision": f"pre-flight {revision}"}

    async def run_work(replies: Journal) -> T:
        async with Client(
            endpoint,
            identity,
            replies,
            limits.concurrency,
            limits.timeout_s,
            patience=_PATIENCE,
        ) as client:
            return await work(Target(client, endpoint, teacher, mode, limits))

    with TemporaryDirectory() as directory, closing(Journal(journal or Path(directory))) as replies:
        return asyncio.run(run_work(replies))


async def _run_checks(
    target: Target,
    domain: Domain,
    *,
    rows: list[Row],
    reference: list[Row],
    count: inputs.Count | None,
    constrained: bool,
    seed: int,
) -> list[Check]:
    """The results of all checks in the order of NAMES. If health or model_name fails, the other checks are skipped.

    Args:
        rows: of the domain; they supply the request of prompt_tokens. reference: the rows that the metrics compare
            with.
    """
    health, model_name = await checks.check_health(target)
    results = {"health": health, "model_name": model_name}
    if health["passed"] and model_name["passed"] is not False:
        parts: list[tuple[tuple[str, ...], Coroutine[Any, Any, list[Check]]]] = [
            (
                ("strict_tool_call",),
                checks.check_strict_tool_call(target, domain, constrained=constrained),
            ),
            (("image",), inputs.check_image(target, seed)),
            (("prompt_tokens",), inputs.check_prompt_tokens(target, rows, count)),
        ]
        if not constrained:
            parts += [
                (("thinking_toggle",), checks.check_thinking_toggle(target)),
                (
                    ("reasoning_round_trip", "tool_round_trip"),
                    checks.check_round_trips(target, domain, seed),
                ),
                (("schema_accuracy", "tool_call_f1"), checks.check_metrics(target, reference)),
            ]
        for part in await asyncio.gather(*(_fail_if_lost(names, part) for names, part in parts)):
            results |= {check["name"]: check for check in part}
        skipped = "not checked: generate.constrain forces the calls"
    else:
        skipped = "not checked: see health and model_name"
    return [results.get(name) or result(name, None, skipped) for name in NAMES]


async def _fail_if_lost(
    names: tuple[str, ...], part: Coroutine[Any, Any, list[Check]]
) -> list[Check]:
    """The results of checks; they count as failed if the server is lost during one of them."""
    try:
        return await part
    except StageError as error:
        return [result(name, False, f"{error}: see the server's log") for name in names]
