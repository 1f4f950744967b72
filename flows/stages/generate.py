"""generate: the teacher attempts each task; every attempt is a trace.

    stillhouse generate RUN

Serves the teacher, or uses the API of serve.url. Writes traces/, in shards that are closed as their episodes end. Each
reply is stored in journal/ as it arrives, so that no reply is requested twice.
"""

import contextlib
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from flows.activity import Numbers
from flows.estimate import Estimate, planned_seconds, teacher_gpus
from flows.generation.driver import play_by_workers
from flows.generation.episodes import Counts, Teacher, planned_serve, play, serving, wanted
from flows.generation.shards import (
    DIRECTORY,
    Shard,
    ShardReceipt,
    cut,
    mark_blind,
    read_receipt,
    remove_all_but,
)
from flows.progress import log, step, track
from flows.request_lines import request_lines
from flows.run_context import RunContext
from flows.stages.other_packs import other_packs
from flows.stages.stage import Stage
from schemas.errors import GateError, StageError
from schemas.files import dumps, read_json, sha256_text, write_json
from schemas.row_file import RowFile
from schemas.task import Task
from schemas.trace import Trace, failure_reason
from teacher.inference import launch
from teacher.inference.api import describe_served
from teacher.inference.endpoint import Endpoint
from teacher.inference.journal import Journal
from teacher.inference.late_start import run_with_late_server
from teacher.preflight import run
from teacher.preflight.target import Limits
from teacher.rollout import blind_baseline
from teacher.rollout.rewrite import add_counts


def _has_nothing_to_ask_again(context: RunContext) -> bool:
    return _would_fail_again(context, (context.run.receipt("generate") or {}).get("result", {}))


def _would_fail_again(context: RunContext, result: Mapping[str, Any]) -> bool:
    """Whether no request failed, or all that failed would fail again: the server's settings are the same.

    result: of the stage or of a shard.
    """
    return not result.get("failures") or result.get("serving") == serving(context)


@partial(
    Stage,
    name="generate",
    reads=("generate", "filter.agreement?", "filter.per_task", "serve.model", "tasks.rewrite"),
    # Where and how the teacher runs, not what it replies; and whether there are dialogues, as the tasks say.
    also_reads=("serve", "tasks.kinds"),
    models=("teacher",),
    earlier={"plan": "tasks/train.jsonl"},  # plan.json depends on the machine
    outputs=(DIRECTORY,),
    digests=other_packs,
    holds=_has_nothing_to_ask_again,
)
def generate(context: RunContext) -> dict[str, Any]:
    settings, serve = context.recipe.generate, planned_serve(context)
    opened: list[Endpoint] = []
    key = secrets.token_urlsafe(24)  # of a server of this run; workers get it before it starts
    with contextlib.ExitStack() as stack:

        def open_teacher() -> Endpoint:
            with step(
                "starting the teacher's server" if not serve.url else "connecting to the API"
            ):
                return stack.enter_context(
                    launch.open_teacher(
                        context.teacher,
                        serve,
                        log=context.path("logs", "teacher.log"),
                        concurrency=settings.concurrency,
                        report=log,
                        logprobs=settings.logprobs > 0,
                        key=key,
                    )
                )

        def start() -> Endpoint:
            """The teacher for the first request that the journal has no reply to."""
            endpoint = api or open_teacher()
            opened.append(endpoint)
            if settings.preflight:
                _preflight(context, endpoint)
            return endpoint

        # Traces name what an API says of itself, so it is asked even if every reply is in the journal.
        api = open_teacher() if launch.is_api(context.teacher, serve) else None
        if api and api.served:
            log(f"the teacher is {describe_served(api.served)}")
        counts = _play_all(context, api, start, key)
    log(
        f"{counts['traces']} traces of {counts['tasks']} tasks, {counts['passed']} passed their checks;"
        f" {counts['requests']} requests sent, {counts['replayed']} replies taken from the journal"
    )
    for line in request_lines(counts):
        log(f"  {line}")
    return {**counts, "restarts": sum(endpoint.restarts for endpoint in opened)}


def _play_all(
    context: RunContext, api: Endpoint | None, start: Callable[[], Endpoint], key: str
) -> dict[str, Any]:
    """Plays the shards that are not there yet and returns the counts of all for the stage's receipt."""
    settings, directory = context.recipe.generate, context.directory
    tasks: RowFile[Task] = RowFile(context.path("tasks", "train.jsonl"))
    shards = cut(len(tasks), settings.shard)
    teacher = _teacher(context, api)
    receipts = {
        shard: receipt
        for shard in shards
        if (receipt := read_receipt(directory, shard)) and _is_current(context, receipt, teacher)
    }
    remove_all_but(directory, receipts)
    missing = [shard for shard in shards if shard not in receipts]
    if receipts and missing:
        log(f"{len(receipts)} of {len(shards)} shards of traces are done already")
    taken = Counts()
    if missing:
        is_local = settings.runner == "local"
        numbers = Numbers(price_per_hour=_price_per_hour(context), requests=taken)
        if is_local:
            receipts |= _play_here(context, teacher, missing, start, numbers, taken)
        else:
            receipts |= play_by_workers(
                context, teacher, missing, start, key=key, numbers=numbers, counts=taken
            )
    _check_sums(receipts, len(tasks))
    _mark_blind(context, tasks, receipts)
    return _summary(context, receipts, taken)


def _teacher(context: RunContext, api: Endpoint | None) -> Teacher:
    url, engine, served = (api.url, api.engine, api.served) if api else (None, None, None)
    depends_on = [generate.inputs(context), url and served, wanted(context)]
    return Teacher(sha256_text(dumps(depends_on)), url, engine, served)


def _is_current(context: RunContext, receipt: ShardReceipt, teacher: Teacher) -> bool:
    """Whether a shard need not be played: its inputs are the same, and what failed would fail again."""
    return receipt["inputs"] == teacher.inputs and _would_fail_again(context, receipt)


def _play_here(
    context: RunContext,
    teacher: Teacher,
    shards: Sequence[Shard],
    start: Callable[[], Endpoint],
    numbers: Numbers,
    counts: Counts,
) -> dict[Shard, ShardReceipt]:
    """Plays the shards in this process, all at once, so that no shard waits for the end of another."""
    settings = context.recipe.generate
    attempts = sum(shard.count for shard in shards) * settings.attempts
    estimate = Estimate(
        "attempts",
        "attempts",
        attempts,
        planned_seconds(context.directory),
        "generate",
        at_once=settings.concurrency,
    )

    async def work(find_endpoint: Callable[[], Awaitable[Endpoint]]) -> list[ShardReceipt]:
        async def ready_endpoint() -> Endpoint:
            numbers.paid_since = time.monotonic()
            endpoint = await find_endpoint()
            estimate.begin()
            return endpoint

        with track("attempts", attempts, estimate=estimate, numbers=numbers) as advance:

            def on_episode(trace: Trace, pieces: int, replayed: bool) -> None:
                numbers.add(trace, failure_reason(trace["outcome"]))
                advance(pieces, replayed=replayed)

            journal = Journal(context.path("journal"))
            return await play(
                context,
                teacher,
                shards,
                ready_endpoint,
                counts=counts,
                on_episode=on_episode,
                journal=journal,
            )

    return dict(zip(shards, run_with_late_server(start, work), strict=True))


def _price_per_hour(context: RunContext) -> float | None:
    """The price of the teacher's GPUs; None where the recipe has no price or the plan no GPUs."""
    price = context.recipe.serve.price_per_gpu_hour
    gpus = teacher_gpus(read_json(context.path("plan.json")))
    return price * gpus if price and gpus else None


def _check_sums(receipts: Mapping[Shard, ShardReceipt], tasks: int) -> None:
    """Raises StageError unless each task that was handed out came back, passed or under a named rejection."""
    for shard, receipt in receipts.items():
        back = receipt["returned"] + sum(receipt["rejected"].values())
        if not receipt["asked"] == back == shard.count:
            raise StageError(
                f"shard {shard.number}: found {receipt['asked']} tasks asked and {back} returned or rejected, expected"
                f" {shard.count} of both"
            )
    if (asked := sum(receipt["asked"] for receipt in receipts.values())) != tasks:
        raise StageError(f"the shards have {asked} tasks, expected {tasks}")


def _mark_blind(
    context: RunContext, tasks: RowFile[Task], receipts: Mapping[Shard, ShardReceipt]
) -> None:
    """Notes in the traces which tasks were solved without their images: it takes those of all shards to decide."""
    attempts = [attempt for receipt in receipts.values() for attempt in receipt["blind"]]
    rows: Iterator[Any] = (tasks[index] for index, _ in attempts)
    # Of a task only what decides: there may be very many.
    candidates: Any = [{key: row[key] for key in ("id", "template", "checks")} for row in rows]
    correct = {row["id"] for row, (_, passed) in zip(candidates, attempts, strict=True) if passed}
    answerable = blind_baseline.find_answerable(candidates, correct)
    attempted = {row["id"] for row in candidates}
    for shard, receipt in receipts.items():
        if receipt["blind"]:
            mark_blind(context.directory, shard, receipt, attempted, answerable)


def _summary(
    context: RunContext, receipts: Mapping[Shard, ShardReceipt], taken: Counts
) -> dict[str, Any]:
    rows = list(receipts.values())
    detected: dict[str, Counter[str]] = {}
    for row in rows:
        for name, actions in row["detected"].items():
            detected.setdefault(name, Counter()).update(actions)
    blind = sum(len(row["blind"]) for row in rows)
    rewritten = add_counts(row["rewritten"] for row in rows if "rewritten" in row)
    sub_agents = sum(row.get("sub_agents", 0) for row in rows)
    calls = sum(row["calls"] for row in rows) + (rewritten["asked"] if rewritten else 0)
    most = context.recipe.generate.concurrency
    user_tokens = _sum(row["user_tokens"] for row in rows if "user_tokens" in row)
    return {
        "tasks": sum(row["asked"] for row in rows),
        "traces": sum(row["traces"] for row in rows),
        "passed": sum(row["passed"] for row in rows),
        "hinted": sum(row["hinted"] for row in rows),
        **({"blind": blind} if blind else {}),
        **({"rewritten": rewritten} if rewritten else {}),
        **({"sub_agents": sub_agents} if sub_agents else {}),
        "requests": taken.asked,
        "replayed": calls - taken.asked,
        "tokens": dict(_sum(row["tokens"] for row in rows)),
        **({"user_tokens": dict(user_tokens)} if user_tokens else {}),
        "detected": {name: dict(sorted(detected[name].items())) for name in sorted(detected)},
        "without_logprobs": taken.without_logprobs,
        "in_flight": {"lowest": most if taken.lowest is None else taken.lowest, "most": most},
        "retries": dict(taken.retries),
        "waited_s": round(taken.waited),
        "failures": dict(_sum(row["failures"] for row in rows)),
        "serving": serving(context),
    }


def _sum(rows: Iterator[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row)
    return total


def _preflight(context: RunContext, endpoint: Endpoint) -> None:
    """Checks the served teacher before the run sends it many requests; writes preflight.json.

    Raises:
        GateError: a check failed.
    """
    log("checking the served teacher (generate.preflight)")
    settings, file = context.recipe.generate, context.path("preflight.json")
    journal = context.path("journal", "preflight")
    with step("checking the served teacher"):
        verdict = run.check(
            endpoint,
            context.teacher,
            context.domain,
            mode=settings.mode,
            limits=Limits(settings.concurrency, settings.timeout_s, settings.max_tokens),
            constrained=settings.constrain,
            journal=journal,
            served_as={**serving(context), **(endpoint.served or {})},
        )
    # A server that is mended is asked again, and so is an API, whose owner may have changed it without a sign.
    if endpoint.served or not verdict["passed"]:
        shutil.rmtree(journal)
    write_json(file, verdict)
    for line in run.format_lines(verdict):
        log(f"  {line}")
    failed = [check["name"] for check in verdict["checks"] if check["passed"] is False]
    if failed:
        raise GateError(
            f"{context.teacher['name']}: the served teacher fails {', '.join(failed)}: see {file};"
            " --set generate.preflight=false continues anyway"
        )
