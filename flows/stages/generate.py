"""generate: the teacher attempts each task; every attempt is a trace.

    stillhouse generate RUN

Serves the teacher, or uses the API of serve.url. Writes traces.jsonl. Each reply is stored in journal/ as it arrives,
so that no reply is requested twice.
"""

import contextlib
import shutil
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

from flows.activity import Numbers
from flows.estimate import Estimate, planned_seconds, teacher_gpus
from flows.progress import log, step, track
from flows.request_lines import count_tokens, request_lines
from flows.run_context import RunContext
from flows.stages.stage import Stage
from schemas.errors import GateError
from schemas.files import read_json, read_jsonl, write_json, write_jsonl
from schemas.task import Task
from schemas.trace import Maker, Message, Trace, failure_reason
from teacher.dialects.base import for_teacher
from teacher.domain import tasks
from teacher.domain.drift_tasks import like_task
from teacher.domain.prompts import demonstration
from teacher.inference import launch
from teacher.inference.api import describe_served
from teacher.inference.client import Client
from teacher.inference.endpoint import Endpoint
from teacher.inference.journal import Journal
from teacher.inference.late_start import run_with_late_server
from teacher.inference.pace import Pace
from teacher.models import catalog
from teacher.preflight import run
from teacher.preflight.target import Limits
from teacher.rollout import agent_loop, blind_baseline
from teacher.rollout.guidance import choose_guidance
from teacher.rollout.scheduler import rollouts

# Settings of `serve` that have no influence on which requests are answered.
_NOT_SERVING = {"price_per_gpu_hour", "ready_timeout_s", "stall_s"}


def _serving(context: RunContext) -> dict[str, Any]:
    """The settings that decide which requests the server can answer."""
    planned = read_json(context.path("plan.json"))["teacher"]["options"]
    serve = context.recipe.serve.model_copy(update=planned)
    settings = serve.model_dump(mode="json", exclude=_NOT_SERVING)
    return {**settings, "timeout_s": context.recipe.generate.timeout_s}


def _has_nothing_to_ask_again(context: RunContext) -> bool:
    """Whether no request failed, or all that failed would fail again: the server's settings are the same."""
    result = (context.run.receipt("generate") or {}).get("result", {})
    return not result.get("failures") or result.get("serving") == _serving(context)


# Worked examples come from seeds that no task has: tasks.sample counts up from the first seed of the split.
_EXAMPLE_SEEDS = 400_000_000


@partial(
    Stage,
    name="generate",
    reads=("generate", "filter.agreement?", "serve.model"),
    also_reads=("serve",),  # where and how the teacher runs, not what it replies
    models=("teacher",),
    earlier={"plan": "tasks/train.jsonl"},  # plan.json depends on the machine
    outputs=("traces.jsonl",),
    holds=_has_nothing_to_ask_again,
)
def generate(context: RunContext) -> dict[str, Any]:
    settings = context.recipe.generate
    # The plan chose what the recipe leaves open.
    planned = read_json(context.path("plan.json"))["teacher"]["options"]
    serve = context.recipe.serve.model_copy(update=planned)
    opened: list[Endpoint] = []
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
        counts = run_with_late_server(start, partial(_attempt_tasks, context, api))
        log(
            f"{counts['traces']} traces of {counts['tasks']} tasks, {counts['passed']} passed their checks;"
            f" {counts['requests']} requests sent, {counts['replayed']} replies taken from the journal"
        )
        for line in request_lines(counts):
            log(f"  {line}")
        return {**counts, "restarts": sum(endpoint.restarts for endpoint in opened)}


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
            served_as={**_serving(context), **(endpoint.served or {})},
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


def _identity(context: RunContext) -> dict[str, str]:
    """What identifies the model in the journal's keys. What an API says of itself is no part of it.

    A new field here would make every reply of an older journal be requested, and paid for, once more.
    """
    identity = {
        "model": context.teacher["name"],
        "revision": catalog.revision(context.teacher),
    }
    # Another name in the API is another model.
    model = context.recipe.serve.model
    return identity | {"served_model": model} if model else identity


def _maker(context: RunContext, api: Endpoint | None) -> Maker:
    """The teacher as its traces name it: by what its API says, else by its description."""
    teacher = context.teacher
    licence = teacher["licence"]["id"]
    if api is None or api.served is None:
        return {
            "model": teacher["name"],
            "revision": catalog.revision(teacher),
            "engine": teacher["engine"],
            "licence": licence,
        }
    return {
        "model": api.served["model"],
        "revision": None,
        "engine": api.engine,
        "licence": licence,
        "served": api.served,
    }


async def _attempt_tasks(
    context: RunContext, api: Endpoint | None, find_endpoint: Callable[[], Awaitable[Endpoint]]
) -> dict[str, Any]:
    """Writes the traces of all attempts and returns the counts for the stage's receipt.

    Args:
        api: the teacher's API; None for a server of this run, which `find_endpoint` starts.
    """
    settings = context.recipe.generate
    todo = cast(list[Task], list(read_jsonl(context.path("tasks", "train.jsonl"))))
    identity, maker = _identity(context), _maker(context, api)
    serving = _serving(context)
    loop = _loop_settings(context, api.url if api else None)
    example_tasks = {
        name: [
            tasks.build(
                context.domain, name, "train", _EXAMPLE_SEEDS + i, image_store=context.image_store
            )
            for i in range(settings.examples)
        ]
        for name in sorted({task["template"] for task in todo})
    }

    def examples(task: Task, hinted: bool) -> list[list[Message]]:
        # A hint gives the solution; one example shows how to follow it.
        chosen = example_tasks[task["template"]][: 1 if hinted else None]
        return [
            demonstration(shown, context.domain, hinted=hinted, image_store=context.image_store)
            for example in chosen
            if (shown := like_task(example, task, context.domain))
        ]

    counts = {"tasks": len(todo), "traces": 0, "passed": 0, "hinted": 0}
    traces: list[Trace] = []
    blind: list[Trace] = []
    all_attempts = context.recipe.filter.agreement is not None
    attempts = len(todo) * settings.attempts
    seconds = planned_seconds(context.directory)
    estimate = Estimate(
        "attempts", "attempts", attempts, seconds, "generate", at_once=settings.concurrency
    )

    numbers = Numbers(price_per_hour=_price_per_hour(context))

    async def ready_endpoint() -> Endpoint:
        numbers.paid_since = time.monotonic()
        endpoint = await find_endpoint()
        estimate.begin()
        return endpoint

    with contextlib.closing(Journal(context.path("journal"))) as journal:
        async with Client(
            ready_endpoint,
            identity,
            journal,
            settings.concurrency,
            settings.timeout_s,
            context.image_store,
            patience=settings.patience_s,
            serving=serving,
            pace=Pace(settings.requests_per_minute, settings.tokens_per_minute),
        ) as client:
            sent_before = 0
            numbers.requests = client
            with track("attempts", attempts, estimate=estimate, numbers=numbers) as advance:
                async for rollout in rollouts(
                    todo,
                    context.domain,
                    client,
                    loop,
                    maker,
                    workers=settings.concurrency,
                    attempts=settings.attempts,
                    hint=settings.hint,
                    examples=examples,
                    all_attempts=all_attempts,
                ):
                    trace = rollout.trace
                    numbers.add(trace, failure_reason(trace["outcome"]))
                    traces.append(trace)
                    counts["traces"] += 1
                    counts["hinted"] += trace["hinted"]
                    counts["passed"] += agent_loop.passed(trace)
                    # A task that is solved needs none of its later attempts.
                    is_last = agent_loop.passed(trace) and not all_attempts
                    pieces = settings.attempts - rollout.attempt if is_last else 1
                    # While nothing is sent, the attempts come from the journal.
                    advance(pieces, replayed=client.sent == sent_before)
                    sent_before = client.sent
            traces.sort(key=lambda trace: trace["id"])
            if settings.blind:
                blind = await blind_baseline.check(
                    traces,
                    todo,
                    context.domain,
                    client,
                    loop,
                    maker,
                    workers=settings.concurrency,
                    examples=examples,
                )
    write_jsonl(context.path("traces.jsonl"), traces)
    return {
        **counts,
        **({"blind": len(blind)} if blind else {}),
        "requests": client.asked,
        "replayed": sum(len(trace["calls"]) for trace in (*traces, *blind)) - client.asked,
        "tokens": count_tokens(traces),
        "detected": agent_loop.count_detected(traces),
        "without_logprobs": client.without_logprobs,
        "in_flight": {"lowest": client.slots.lowest, "most": settings.concurrency},
        "retries": dict(client.retries),
        "waited_s": round(client.waited),
        "failures": dict(client.failures),
        "serving": serving,
    }


def _price_per_hour(context: RunContext) -> float | None:
    """The price of the teacher's GPUs; None where the recipe has no price or the plan no GPUs."""
    price = context.recipe.serve.price_per_gpu_hour
    gpus = teacher_gpus(read_json(context.path("plan.json")))
    return price * gpus if price and gpus else None


def _loop_settings(context: RunContext, url: str | None) -> agent_loop.Settings:
    """How the teacher's episodes are run. url: of its API; None for a server of this run."""
    settings, teacher = context.recipe.generate, context.teacher
    sampling = catalog.sampling(teacher, settings.mode)
    return agent_loop.Settings(
        max_steps=min(settings.max_steps, context.domain.spec["budgets"]["steps"]),
        max_tokens=settings.max_tokens,
        temperature=sampling["temperature"]
        if settings.temperature is None
        else settings.temperature,
        top_p=sampling["top_p"] if settings.top_p is None else settings.top_p,
        mode=settings.mode or teacher.get("mode"),
        dialect=for_teacher(teacher, url),
        images=context.teacher_grounding,
        image_store=context.image_store,
        image_limits=teacher.get("images"),
        logprobs=settings.logprobs,
        guidance=choose_guidance(
            constrain=settings.constrain,
            few=settings.toolbox == "few",
            call_prefix=teacher.get("call_prefix", ""),
        ),
    )
